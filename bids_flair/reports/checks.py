"""What speaks for and against a synthetic FLAIR, and the verdict that sums it up."""

from collections.abc import Sequence
from typing import NamedTuple

from bids_flair.reports.content import FailedSession, RegistrationView, SessionReport
from bids_flair.reports.numbers import format_number

# Worst first: the order in which levels outweigh each other.
LEVELS = ('failed', 'distrust', 'warnings', 'unknown', 'ok')
# In people whom the model had not seen, from T1w and T2w, correlation was .78 to .90 and SSIM
# .66 to .75 (card of the default model): what lies well below is not what the model usually makes.
LEAST_CORRELATION, LEAST_SSIM = 0.75, 0.55

# Millimetres, a choice: about a voxel of diffusion. A head that lies so far off on average was
# restless, and what that does to single slices no registration undoes.
MOST_MOTION_MM = 2.0


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes
    ----------
    level : str
        One of `LEVELS`; 'unknown' where there is nothing to check against.
    name, finding : str
        What was looked at, and what was found.
    section : str
        Where in the session's part of the report it is shown.
    """

    level: str
    name: str
    finding: str
    section: str


class Verdict(NamedTuple):
    """The report in one line: level is one of `LEVELS`, but never 'unknown'."""

    level: str
    headline: str
    advice: str


def check_session(session: SessionReport) -> list[Check]:
    """Look at a session step by step, in the order of processing."""
    return [
        _check_inputs(session),
        _check_mask(session),
        *(_check_registration(view) for view in session.registrations),
        *_check_motion(session),
        *_check_familiarity(session),
        _check_agreement(session),
    ]


def judge(sessions: Sequence[SessionReport | FailedSession]) -> Verdict:
    """Sum up a participant in one verdict: the worst that happened."""
    failed = [session for session in sessions if isinstance(session, FailedSession)]
    if not sessions:
        return Verdict('failed', 'No synthetic FLAIR', 'No session was processed.')
    if failed:
        of = '' if len(sessions) == 1 else f' for {len(failed)} of {len(sessions)} sessions'
        why = 'The error and its traceback are below.'
        return Verdict('failed', 'No synthetic FLAIR', f'There is none{of}. {why}')
    made = [session for session in sessions if isinstance(session, SessionReport)]
    checks = [check for session in made for check in check_session(session)]
    if doubts := [check for check in checks if check.level == 'distrust']:
        names = ', '.join(dict.fromkeys(f'{check.name} ({check.finding})' for check in doubts))
        return Verdict('distrust', 'Do not trust it', f'{names}.')
    named = [check.name for check in checks if check.level == 'warnings']
    if named or collect_warnings(made):
        what = f'Look first at: {", ".join(dict.fromkeys(named)) or "the inputs"}.'
        return Verdict('warnings', 'Check before use', what)
    compared = all(session.scores for session in made)
    return Verdict(
        'ok',
        'No check raised a warning',
        'The pictures still need eyes.'
        if compared
        else 'There is no acquired FLAIR to compare with: the pictures need eyes.',
    )


def collect_warnings(
    sessions: Sequence[SessionReport | FailedSession],
) -> list[tuple[str, str]]:
    """List all warnings, each with the name of its session and, if any, its registration."""
    found = []
    for session in sessions:
        if isinstance(session, FailedSession):
            continue
        found += [(session.name, text) for text in session.warnings]
        found += [
            (f'{session.name}, registration of the {view.contrast}', text)
            for view in session.registrations
            for text in view.warnings
        ]
    return found


def _check_inputs(session: SessionReport) -> Check:
    unused = [view.contrast for view in session.registrations if not view.trusted]
    unused = [name for name in unused if name != 'FLAIR']
    finding = f'made from {", ".join(session.made_from)}'
    if unused:
        return Check('warnings', 'Inputs', f'{finding}; not used: {", ".join(unused)}', 'inputs')
    if session.missing:
        finding += f'; not found: {", ".join(session.missing)}'
    return Check('ok', 'Inputs', finding, 'inputs')


def _check_mask(session: SessionReport) -> Check:
    warned = any(text.startswith('Brain mask') for text in session.warnings)
    brain, parts = session.brain, []
    if brain.get('VolumeLitres') is not None:
        parts.append(f'{brain["VolumeLitres"]:.2f} l')
    if brain.get('AgreementDice') is not None:  # there is one method for stripped images
        parts.append(f'two methods overlap by {100 * brain["AgreementDice"]:.0f} % (Dice)')
    if warned:
        parts.append('see the warning')
    finding = ', '.join(parts) or 'no warning'
    return Check('warnings' if warned else 'ok', 'Brain mask', finding, 'mask')


def _check_registration(view: RegistrationView) -> Check:
    name = f'Registration of {view.contrast}'
    if not view.trusted:
        return Check('warnings', name, 'failed: the image was not used', 'registration')
    peak = view.scores.get('Peak')
    finding = (
        'no warning'
        if peak is None
        else f'match {format_number(peak)} times that of wrong poses (at least 1.3)'
    )
    return Check('warnings' if view.warnings else 'ok', name, finding, 'registration')


def _check_motion(session: SessionReport) -> list[Check]:
    motion = session.head_motion
    if not motion:
        return []
    mean, largest = motion['MeanDisplacementMm'], motion['LargestDisplacementMm']
    finding = f'{mean:.1f} mm on average, at most {largest:.1f} mm'
    restless = mean > MOST_MOTION_MM
    if restless:
        finding += f' (more than {MOST_MOTION_MM:.0f} mm on average)'
    level = 'warnings' if restless else 'ok'
    return [Check(level, 'Head motion in the diffusion series', finding, 'motion')]


def _check_familiarity(session: SessionReport) -> list[Check]:
    score = session.unfamiliarity
    if score is None:
        return []
    finding = f'unfamiliarity {score:.2f}; up to 1 is like the training'
    level = 'ok' if score <= 1 else 'distrust'
    name = 'Inputs like the training' if score <= 1 else 'Inputs unlike the training'
    return [Check(level, name, finding, 'intensities')]


def _check_agreement(session: SessionReport) -> Check:
    name = 'Agreement with the acquired FLAIR'
    if not session.scores:
        return Check('unknown', name, 'no acquired FLAIR to compare with', 'flair')
    labels = (('ssim', 'SSIM'), ('corr', 'correlation'))
    finding = ', '.join(
        f'{label} {session.scores[key]:.3f}' for key, label in labels if key in session.scores
    )
    low = (
        session.scores.get('corr', 1.0) < LEAST_CORRELATION
        or session.scores.get('ssim', 1.0) < LEAST_SSIM
    )
    if low:
        finding += f' (usual: SSIM above {LEAST_SSIM}, correlation above {LEAST_CORRELATION})'
    return Check('warnings' if low else 'ok', name, f'{finding} in the brain', 'scores')
