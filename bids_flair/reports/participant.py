"""Participant report: one self-contained HTML file that opens from disk, anywhere."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import Colormap
from PIL import Image

from bids_flair.reports.figures import (
    DIFFERENCE,
    GREYS,
    PLANES,
    UNCERTAINTY,
    Layout,
    brain_window,
    colour_bar,
    data_uri,
    draw,
    draw_edges,
    load_cropped,
    plan_layout,
)
from bids_flair.scoring import best_scale

Loader = Callable[[Path], np.ndarray]

MAX_BYTES = 8_000_000  # pictures shrink until the file is smaller
WIDTH, LEAST_WIDTH = 1700, 400  # pixels
DIFFERENCE_LIMIT = 0.5  # of the acquired image's mean in the brain

PHYSICAL_WINDOWS = {'MD': (0.0, 3e-3), 'FA': (0.0, 1.0)}
PHYSICAL_LABELS = {
    'MD': ('0', '1.5', '3', 'mean diffusivity in 10⁻³ mm²/s'),
    'FA': ('0', '0.5', '1', 'fractional anisotropy, no unit'),
}
SCORE_MEANINGS = {
    'ssim': ('SSIM', 'structural similarity; 1 is identical'),
    'psnr_db': ('PSNR (dB)', 'peak signal-to-noise ratio; higher is better'),
    'nrmse': ('NRMSE', 'root mean squared error over the acquired mean; 0 is identical'),
    'corr': ('Correlation', 'Pearson; 1 is a linear relation'),
    'ssim_volume': (
        'SSIM, whole volume',
        'background included, which raises it: only for comparison with papers that do not mask',
    ),
    'scale': ('Scale', 'factor the synthetic image was multiplied by to fit the acquired one'),
    'lesion_auc_true': ('Lesion AUC, acquired', 'lesion against normal-appearing white matter'),
    'lesion_auc_pred': ('Lesion AUC, synthetic', 'lesion against normal-appearing white matter'),
    'lesion_cnr_true': ('Lesion CNR, acquired', 'contrast-to-noise ratio of lesions'),
    'lesion_cnr_pred': ('Lesion CNR, synthetic', 'contrast-to-noise ratio of lesions'),
}


@dataclass(frozen=True)
class RegistrationView:
    """One contrast beside the image it was aligned with, both on the reference grid."""

    contrast: str
    fixed: Path
    moving: Path
    scores: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SessionReport:
    """What one session's part of the report shows; all images are on the reference grid.

    Attributes
    ----------
    participant, session
        Labels without ``sub-`` and ``ses-``; no session is None.
    inputs
        Contrast to the path of the file found, as text.
    made_from
        Images that the model saw.
    missing
        Contrasts that were not found.
    warnings
        Sentences for a person; shown first.
    mask, reference
        Brain mask and the image that gives the grid.
    registrations
        One view per contrast that was aligned.
    maps
        Of MD (mm2/s), FA and S0, those computed.
    flair, std, acquired
        Synthetic FLAIR, its uncertainty, and the acquired FLAIR where there is one.
    scores
        What `bids_flair.scoring` found inside the brain mask; empty without acquired FLAIR.
    details
        How it was computed (backend, model, hash, device, versions, time per step).
    """

    participant: str
    session: str | None
    inputs: Mapping[str, str]
    made_from: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    mask: Path
    reference: Path
    registrations: tuple[RegistrationView, ...]
    maps: Mapping[str, Path]
    flair: Path
    std: Path | None
    acquired: Path | None
    scores: Mapping[str, float]
    details: Mapping[str, str]


@dataclass(frozen=True)
class FailedSession:
    """A session without result: what happened, in a sentence and in full."""

    participant: str
    session: str | None
    message: str
    traceback: str


class Verdict(NamedTuple):
    """The report in one line: level is ``ok``, ``warnings`` or ``failed``."""

    level: str
    headline: str
    advice: str


class Picture(NamedTuple):
    """An image ready for HTML."""

    src: str
    alt: str
    width: int
    height: int


class Bar(NamedTuple):
    """A colour bar with labels at its low end, middle and high end."""

    src: str
    low: str
    middle: str
    high: str
    caption: str


def judge(sessions: Sequence[SessionReport | FailedSession]) -> Verdict:
    """Sum up a participant in one verdict; a failure outweighs warnings."""
    failed = sum(isinstance(session, FailedSession) for session in sessions)
    warnings = len(collect_warnings(sessions))
    if not sessions:
        return Verdict('failed', 'Failed', 'No session was processed.')
    if failed:
        of = '' if len(sessions) == 1 else f' for {failed} of {len(sessions)} sessions'
        return Verdict('failed', 'Failed', f'There is no synthetic FLAIR{of}.')
    if warnings:
        things = 'One thing' if warnings == 1 else f'{warnings} things'
        advice = f'{things} to check before the synthetic FLAIR is used.'
        return Verdict('warnings', 'Look at the warnings', advice)
    return Verdict('ok', 'OK', 'No check raised a warning. The pictures still need eyes.')


def collect_warnings(
    sessions: Sequence[SessionReport | FailedSession],
) -> list[tuple[str, str]]:
    """List all warnings, each with the name of its session and, if any, its registration."""
    found = []
    for session in sessions:
        if isinstance(session, FailedSession):
            continue
        found += [(_name(session), text) for text in session.warnings]
        found += [
            (f'{_name(session)}, registration of the {view.contrast}', text)
            for view in session.registrations
            for text in view.warnings
        ]
    return found


def write_report(
    participant: str,
    sessions: Sequence[SessionReport | FailedSession],
    methods: str,
    path: Path,
) -> Path:
    """Write the report of a participant as one HTML file.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    sessions : sequence of SessionReport or FailedSession
    methods : str
        Text for a methods section, in Markdown; shown as it is, to be copied.
    path : Path
        The file to write, whole or not at all.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        An image is not on the grid of the session's brain mask, or that mask is empty.
    """
    width = WIDTH
    html = _render(participant, sessions, methods, width)
    while len(html) >= MAX_BYTES and width > LEAST_WIDTH:
        # The 4/3rd power of the width is what the size of these pictures was seen to follow.
        width = max(LEAST_WIDTH, int(0.95 * width * (MAX_BYTES / len(html)) ** 0.75))
        html = _render(participant, sessions, methods, width)
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    draft.write_bytes(html)
    return draft.replace(path)


def _render(
    participant: str, sessions: Sequence[SessionReport | FailedSession], methods: str, width: int
) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template('template.html').render(
        participant=participant,
        verdict=judge(sessions),
        warnings=collect_warnings(sessions),
        sections=[
            {'id': f's{index}', 'name': _name(session), **_describe(session, width)}
            for index, session in enumerate(sessions, 1)
        ],
        methods=methods,
    )
    return html.encode()


def _name(session: SessionReport | FailedSession) -> str:
    label = f'sub-{session.participant}'
    return label if session.session is None else f'{label}, ses-{session.session}'


def format_number(value: float) -> str:
    """Write a score with three significant digits, or say that it is not defined."""
    return f'{value:#.3g}'.rstrip('.').replace('-', '−') if math.isfinite(value) else 'not defined'


def _describe(session: SessionReport | FailedSession, width: int) -> dict[str, object]:
    """Gather what the template shows of a session, pictures drawn."""
    if isinstance(session, FailedSession):
        return {'failed': session}
    layout = plan_layout(session.mask, width)
    load = cache(partial(load_cropped, layout=layout))
    return {
        'failed': None,
        'report': session,
        'mask': _show_mask(load(session.reference), layout),
        'registrations': [_compare(view, load, layout) for view in session.registrations],
        'maps': [_show_map(name, load(path), layout) for name, path in session.maps.items()],
        'flair': _show_flair(session, load, layout),
        'std': session.std and _show_uncertainty(load(session.std), layout),
        'scores': [
            (*SCORE_MEANINGS.get(name, (name, '')), format_number(value))
            for name, value in sorted(session.scores.items(), key=_score_order)
        ],
    }


def _score_order(score: tuple[str, float]) -> int:
    """As in SCORE_MEANINGS; what is not known there comes last."""
    names = list(SCORE_MEANINGS)
    return names.index(score[0]) if score[0] in names else len(names)


def _picture(image: Image.Image, alt: str) -> Picture:
    return Picture(data_uri(image), alt, image.width, image.height)


def _bar(colours: Colormap, low: str, middle: str, high: str, caption: str) -> Bar:
    return Bar(data_uri(colour_bar(colours)), low, middle, high, caption)


def _show_mask(reference: np.ndarray, layout: Layout) -> Picture:
    image = draw(reference, layout, brain_window(reference, layout), outline=True)
    return _picture(image, 'Reference image in three planes, brain mask drawn as a yellow line')


def _compare(view: RegistrationView, load: Loader, layout: Layout) -> dict[str, object]:
    """Draw both images of a registration, each in its own window, and the moving one's edges."""
    fixed, moving = load(view.fixed), load(view.moving)
    name = view.contrast
    return {
        'view': view,
        'fixed': _picture(
            draw(fixed, layout, brain_window(fixed, layout)),
            f'Fixed image that the {name} was aligned with, in three planes',
        ),
        'moving': _picture(
            draw(moving, layout, brain_window(moving, layout)),
            f'{name} after registration, the same slices',
        ),
        'edges': _picture(draw_edges(moving, layout), f'Edges of the {name} as yellow lines'),
        'scores': [(key, format_number(value)) for key, value in view.scores.items()],
    }


def _show_map(name: str, volume: np.ndarray, layout: Layout) -> dict[str, object]:
    """Draw a diffusion map: MD and FA in a window that is the same in all reports."""
    window = PHYSICAL_WINDOWS.get(name) or brain_window(volume, layout)
    labels = PHYSICAL_LABELS.get(name)
    return {
        'name': name,
        'picture': _picture(draw(volume, layout, window), f'{name} in three planes'),
        'bar': labels and _bar(GREYS, *labels),
    }


def _show_flair(session: SessionReport, load: Loader, layout: Layout) -> dict[str, object]:
    synthetic = load(session.flair)
    if session.acquired is not None:
        return _compare_flair(synthetic, load(session.acquired), layout)
    image = draw(synthetic, layout, brain_window(synthetic, layout))
    return {'alone': _picture(image, 'Synthetic FLAIR in three planes')}


def _compare_flair(
    synthetic: np.ndarray, acquired: np.ndarray, layout: Layout
) -> dict[str, object]:
    """Draw synthetic FLAIR, acquired FLAIR and their difference, plane by plane.

    As in the scores, the synthetic image is first multiplied by the one factor that fits it best
    to the acquired one (least squares through zero, inside the brain mask).
    """
    covered = layout.brain & (acquired != 0)
    scaled = synthetic * best_scale(synthetic[covered], acquired[covered])
    mean = max(float(acquired[covered].mean()), 1e-12) if covered.any() else 1.0
    difference = np.where(covered, (scaled - acquired) / mean, 0)
    window = brain_window(acquired, layout)
    limits = (-DIFFERENCE_LIMIT, DIFFERENCE_LIMIT)
    rows = (
        ('Synthetic', scaled, layout, window, GREYS),
        ('Acquired', acquired, layout, window, GREYS),
        ('Synthetic − acquired', difference, layout, limits, DIFFERENCE),
    )
    planes = [
        {
            'name': plane,
            'rows': [
                (name, _picture(draw(*shown, planes=[index]), f'{name} FLAIR, {plane} slices'))
                for name, *shown in rows
            ],
        }
        for index, plane in enumerate(PLANES)
    ]
    percent = f'{100 * DIFFERENCE_LIMIT:.0f} %'
    bar = _bar(
        DIFFERENCE,
        f'−{percent}: synthetic darker (blue)',
        '0',
        f'+{percent}: synthetic brighter (yellow)',
        'difference in per cent of the mean of the acquired FLAIR in the brain mask',
    )
    return {'alone': None, 'planes': planes, 'bar': bar}


def _show_uncertainty(std: np.ndarray, layout: Layout) -> dict[str, object]:
    high = max(float(np.percentile(std[layout.brain], 99)), 1e-6)
    return {
        'picture': _picture(
            draw(std, layout, (0, high), UNCERTAINTY),
            'Uncertainty of the synthetic FLAIR in three planes: the brighter, the less certain',
        ),
        'bar': _bar(
            UNCERTAINTY,
            '0',
            format_number(high / 2),
            format_number(high),
            'standard deviation; 1 is the FLAIR intensity of white matter',
        ),
    }
