"""Group report: every quality figure of every participant, in a table and at a glance."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from bids_flair.bids.files import write_atomically
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.reports.checks import LEVELS, Verdict, judge
from bids_flair.reports.content import SessionReport
from bids_flair.reports.numbers import format_number
from bids_flair.reports.page import environment, policy, script
from bids_flair.reports.records import latest_records
from bids_flair.reports.session import session_without_pictures

NAME = 'group_FLAIR'
# Beyond so many interquartile ranges from the quartiles (Tukey), with enough people to tell.
FENCE, FEWEST = 1.5, 5
WIDTH, HEIGHT, LEFT, RIGHT = 640, 74, 16, 16


class Figure(NamedTuple):
    """A column of the table: its name there, for a person, and which end is bad."""

    key: str
    label: str
    meaning: str


COLUMNS = (
    Figure('unfamiliarity', 'Unfamiliarity', 'inputs against the training; up to 1 is familiar'),
    Figure('uncertainty', 'Uncertainty', 'median standard deviation; 1 is white matter'),
    Figure('brain_volume_l', 'Brain volume (l)', 'of the mask'),
    Figure('mask_dice', 'Mask agreement', 'Dice of two ways of finding the brain'),
    Figure('ssim', 'SSIM', 'with the acquired FLAIR, in the brain'),
    Figure('corr', 'Correlation', 'with the acquired FLAIR, in the brain'),
    Figure('psnr_db', 'PSNR (dB)', 'with the acquired FLAIR, in the brain'),
    Figure('nrmse', 'NRMSE', 'error over the mean of the acquired FLAIR'),
    Figure('dwi_motion_mm', 'Head motion (mm)', 'mean displacement in the diffusion series'),
    *(
        Figure(f'{contrast.lower()}_{key}', f'{contrast} {label}', f'registration: {meaning}')
        for contrast in ('T2w', 'dwi', 'FLAIR')
        for key, label, meaning in (
            ('peak', 'match', 'gain over wrong poses; at least 1.3'),
            ('overlap', 'overlap', 'share of the brain that carries signal'),
        )
    ),
)


@dataclass(frozen=True)
class Row:
    """One session: its figures by `COLUMNS`, NaN where there is none."""

    participant: str
    session: str | None
    verdict: Verdict
    inputs: str
    figures: Mapping[str, float]

    @property
    def name(self) -> str:
        """As in file names."""
        return f'sub-{self.participant}' + (f'_ses-{self.session}' if self.session else '')

    @property
    def report(self) -> str:
        """The participant's report, which lies beside the group's."""
        return f'sub-{self.participant}.html'


def write_cohort_report(output_dir: Path) -> Path:
    """Write ``group_FLAIR.tsv`` and ``group_FLAIR.html`` from what the participant level left.

    Raises
    ------
    BidsFlairError
        If it left nothing.
    """
    rows = read_rows(output_dir)
    if not rows:
        raise BidsFlairError(
            f'{output_dir} holds no synthetic FLAIR: run the participant level first',
            ExitCode.INPUT_MISSING,
        )
    columns = [c for c in COLUMNS if any(math.isfinite(row.figures[c.key]) for row in rows)]
    write_atomically(output_dir / f'{NAME}.tsv', _table_text(rows, columns))
    worst = sorted(rows, key=lambda row: LEVELS.index(row.verdict.level))
    html = (
        environment()
        .get_template('cohort.html')
        .render(
            rows=rows,
            columns=columns,
            counts=_counts(rows),
            doubtful=[row for row in worst if row.verdict.level != 'ok'],
            strips=[(column, strip_plot(rows, column)) for column in columns],
            models=_models(output_dir),
            number=format_number,
            finite=math.isfinite,
            policy=policy('cohort.js'),
            script=script('cohort.js'),
        )
    )
    path = output_dir / f'{NAME}.html'
    write_atomically(path, html)
    return path


def read_rows(output_dir: Path) -> list[Row]:
    """One row per session with a result, and per session whose latest run failed."""
    sidecars = sorted(output_dir.glob('sub-*/**/anat/*_desc-synth_FLAIR.json'))
    rows = {row.name: row for row in map(_row, map(session_without_pictures, sidecars))}
    for folder in sorted(output_dir.glob('sub-*/log')):
        participant = folder.parent.name.removeprefix('sub-')
        for label, record in latest_records(output_dir, participant).items():
            if record.failed:
                session = label.partition('_ses-')[2] or None
                verdict = Verdict('failed', 'No synthetic FLAIR', record.message)
                rows[label] = Row(
                    participant, session, verdict, '', dict.fromkeys(_keys(), np.nan)
                )
    return [rows[name] for name in sorted(rows)]


def outliers(values: Sequence[float]) -> np.ndarray:
    """Which values lie beyond the fences; none among few, and never one that is missing."""
    array = np.array(values, float)
    there = np.isfinite(array)
    if there.sum() < FEWEST:
        return np.zeros(len(array), bool)
    low, high = np.percentile(array[there], [25, 75])
    reach = FENCE * (high - low)
    return there & ((array < low - reach) | (array > high + reach))


def strip_plot(rows: Sequence[Row], column: Figure) -> Markup:
    """Draw one point per session, a diamond for an outlier; each leads to its report."""
    values = np.array([row.figures[column.key] for row in rows])
    there = np.isfinite(values)
    low, high = values[there].min(), values[there].max()
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    low, high = low - margin, high + margin
    # Points that share a value are spread by a fixed sequence, the same each time.
    heights = 30 + 18 * (np.modf(np.arange(len(rows)) * 0.618)[0] - 0.5)
    far = outliers(values)
    places = LEFT + (values - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    points = [
        _point(row, column, value, x, y, bool(out))
        for row, value, x, y, out in zip(rows, values, places, heights, far, strict=True)
        if math.isfinite(value)
    ]
    ends = ''.join(
        f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{format_number(value)}</text>'
        for x, anchor, value in ((LEFT, 'start', low), (WIDTH - RIGHT, 'end', high))
    )
    return Markup(
        f'<svg class="chart strip" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}">'
        f'<line class="frame" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="52" y2="52"/>{ends}'
        f'{_box(places[there])}{"".join(points)}</svg>'
    )


def _box(places: np.ndarray) -> str:
    """The middle half of the sessions and their median, where there are enough to tell."""
    if len(places) < FEWEST:
        return ''
    left, middle, right = np.percentile(places, [25, 50, 75])
    return (
        f'<rect class="half" x="{left:.1f}" y="14" width="{right - left:.1f}" height="32"/>'
        f'<line class="median" x1="{middle:.1f}" x2="{middle:.1f}" y1="14" y2="46"/>'
    )


def _point(row: Row, column: Figure, value: float, x: float, y: float, out: bool) -> str:
    shape = (
        f'<path class="far" d="M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8 -8z"/>'
        if out
        else f'<circle class="near" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    )
    text = f'{row.name}: {column.label} {format_number(value)}{", an outlier" if out else ""}'
    anchor = 'end' if x > WIDTH / 2 else 'start'
    beside = x - 11 if x > WIDTH / 2 else x + 11
    name = f'<text x="{beside:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{row.name}</text>'
    return (
        f'<a href="{escape(row.report)}" aria-label="{escape(text)}"><title>{escape(text)}</title>'
        f'{shape}{name if out else ""}</a>'
    )


def _row(session: SessionReport) -> Row:
    figures = {
        'unfamiliarity': session.unfamiliarity,
        'uncertainty': session.uncertainty,
        'brain_volume_l': session.brain.get('VolumeLitres'),
        'mask_dice': session.brain.get('AgreementDice'),
        'dwi_motion_mm': session.head_motion.get('MeanDisplacementMm'),
        **session.scores,
    }
    for view in session.registrations:
        for key in ('Peak', 'Overlap'):
            figures[f'{view.contrast.lower()}_{key.lower()}'] = view.scores.get(key)
    return Row(
        session.participant,
        session.session,
        judge([session]),
        ' + '.join(session.made_from),
        {key: np.nan if figures.get(key) is None else float(figures[key]) for key in _keys()},
    )


def _keys() -> Iterable[str]:
    return (column.key for column in COLUMNS)


def _table_text(rows: Sequence[Row], columns: Sequence[Figure]) -> str:
    lines = [['participant_id', 'session_id', 'verdict', 'inputs', *(c.key for c in columns)]]
    for row in rows:
        session = f'ses-{row.session}' if row.session else 'n/a'
        figures = [row.figures[column.key] for column in columns]
        cells = [f'{value:g}' if math.isfinite(value) else 'n/a' for value in figures]
        head = [f'sub-{row.participant}', session, row.verdict.level, row.inputs or 'n/a']
        lines.append([*head, *cells])
    return '\n'.join('\t'.join(line) for line in lines) + '\n'


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    found = [row.verdict.level for row in rows]
    return {level: found.count(level) for level in reversed(LEVELS) if level in found}


def _models(output_dir: Path) -> list[dict[str, str]]:
    """Models of one's own, best first, each with the report of its training."""
    models = []
    for file in output_dir.glob('models/**/model.json'):
        card = json.loads(file.read_text())
        scores = [f['ssim'] for entry in card['scores'] for f in entry['inputs'].values()]
        top = file.relative_to(output_dir / 'models').parts[0]
        models.append(
            {
                'name': file.parent.relative_to(output_dir / 'models').as_posix(),
                'made': f'{card["target"]} from {" + ".join(card["inputs"])}',
                'ssim': float(np.mean(scores)) if scores else np.nan,
                'scored_on': card['scored_on'],
                'report': f'group_{top}.html',
            }
        )
    return sorted(models, key=lambda model: -np.nan_to_num(model['ssim'], nan=-1))
