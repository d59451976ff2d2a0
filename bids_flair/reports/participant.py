"""Participant report: one self-contained HTML file that opens from disk, anywhere."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import Colormap
from PIL import Image
from scipy.ndimage import binary_dilation

from bids_flair.processing.resampling import resample
from bids_flair.reports.charts import (
    count_outside,
    intensity_chart,
    joint_histogram,
    motion_chart,
)
from bids_flair.reports.checks import MOST_MOTION_MM, check_session, collect_warnings, judge
from bids_flair.reports.content import FailedSession, RegistrationView, SessionReport
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
from bids_flair.reports.numbers import format_number
from bids_flair.reports.page import environment, policy, script
from bids_flair.reports.volumes import Lattice, describe, pack, pack_mask
from bids_flair.scoring import best_scale

Loader = Callable[[Path], np.ndarray]

MAX_BYTES = 8_000_000  # pictures shrink until the file is smaller
WIDTH, LEAST_WIDTH = 1700, 400  # pixels
EDGE_MM, LARGEST_EDGE_MM = 1.0, 3.0  # of the viewer's voxels
SURROUNDINGS_MM = 6  # of the brain, kept in the viewer
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
    'interval': (
        '90 % interval holds',
        'share of voxels whose acquired value lies inside it; 0.9 if the uncertainty is honest',
    ),
    'scale': ('Scale', 'factor the synthetic image was multiplied by to fit the acquired one'),
    'lesion_auc_true': ('Lesion AUC, acquired', 'lesion against normal-appearing white matter'),
    'lesion_auc_pred': ('Lesion AUC, synthetic', 'lesion against normal-appearing white matter'),
    'lesion_cnr_true': ('Lesion CNR, acquired', 'contrast-to-noise ratio of lesions'),
    'lesion_cnr_pred': ('Lesion CNR, synthetic', 'contrast-to-noise ratio of lesions'),
}


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


def write_report(
    participant: str,
    sessions: Sequence[SessionReport | FailedSession],
    methods: str,
    path: Path,
    bibliography: str = '',
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
    bibliography : str
        BibTeX of what the methods cite.

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
    html = _render(participant, sessions, methods, bibliography, width)
    while len(html) >= MAX_BYTES and width > LEAST_WIDTH:
        # The 4/3rd power of the width is what the size of these pictures was seen to follow.
        width = max(LEAST_WIDTH, int(0.95 * width * (MAX_BYTES / len(html)) ** 0.75))
        html = _render(participant, sessions, methods, bibliography, width)
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    draft.write_bytes(html)
    return draft.replace(path)


def _render(
    participant: str,
    sessions: Sequence[SessionReport | FailedSession],
    methods: str,
    bibliography: str,
    width: int,
) -> bytes:
    html = (
        environment()
        .get_template('template.html')
        .render(
            participant=participant,
            verdict=judge(sessions),
            warnings=collect_warnings(sessions),
            sections=[
                {'id': f's{index}', 'name': session.name, **_describe(session, width)}
                for index, session in enumerate(sessions, 1)
            ],
            methods=methods,
            bibliography=bibliography,
            policy=policy('viewer.js'),
            script=script('viewer.js'),
        )
    )
    return html.encode()


def _describe(session: SessionReport | FailedSession, width: int) -> dict[str, object]:
    """Gather what the template shows of a session, pictures drawn."""
    if isinstance(session, FailedSession):
        return {'failed': session}
    layout = plan_layout(session.mask, width)
    load = cache(partial(load_cropped, layout=layout))
    return {
        'failed': None,
        'report': session,
        'checks': check_session(session),
        'glance': _glance(session, load, layout),
        'viewer': _viewer(session, load, layout),
        'mask': _show_mask(load(session.reference), layout),
        'registrations': [_compare(view, load, layout) for view in session.registrations],
        'maps': [_show_map(name, load(path), layout) for name, path in session.maps.items()],
        'flair': _show_flair(session, load, layout),
        'std': session.std and _show_uncertainty(load(session.std), layout),
        'scores': _score_rows(session, load, layout),
        'joint': _joint(session, load, layout),
        'motion': _motion(session),
        'intensities': _intensities(session, load, layout),
    }


def _glance(session: SessionReport, load: Loader, layout: Layout) -> list[tuple[str, Picture]]:
    """One axial slice of what went in and what came out, for the first look."""
    middle = len(layout.cuts[2]) // 2
    one = replace(layout, cuts=((), (), (layout.cuts[2][middle],)), width=int(1.3 * layout.width))
    images = {name: load(path) for name, path in session.images.items()}
    images |= {'Synthetic FLAIR': load(session.flair)}
    if session.acquired is not None:
        images['Acquired FLAIR'] = load(session.acquired)
    return [
        (
            name,
            _picture(
                draw(volume, one, brain_window(volume, layout), planes=[2]),
                f'{name}, an axial slice through the middle of the brain',
            ),
        )
        for name, volume in images.items()
    ]


def _viewer(session: SessionReport, load: Loader, layout: Layout) -> dict[str, Any]:
    """Pack the volumes for the slice viewer: all in units of their white matter."""
    edge = min(EDGE_MM * WIDTH / layout.width, LARGEST_EDGE_MM)
    lattice = Lattice.over(layout, edge)
    synthetic = load(session.flair)
    volumes = {'synthetic': ('Synthetic FLAIR', synthetic)}
    shared = None
    if session.acquired is not None:
        acquired, covered = _acquired(session.acquired, synthetic, load, layout)
        volumes['acquired'] = ('Acquired FLAIR', acquired)
        shared = brain_window(np.where(covered, acquired, 0), layout)
    for name, path in session.images.items():
        factor = session.factors.get(name) or _median(load(path), layout)
        volumes[name] = (name, load(path) / factor)
    packed = {
        name: {
            'label': label,
            **_pack(volume, lattice, layout, shared if 'FLAIR' in label else None),
        }
        for name, (label, volume) in volumes.items()
    }
    if session.std is not None:
        high = _highest_std(load(session.std), layout)
        packed['std'] = {
            'label': 'Uncertainty', **pack(load(session.std), lattice, 1.5 * high, (0, high))
        }  # fmt: skip
    inputs = [name for name in packed if name not in ('synthetic', 'std')]
    has_acquired = 'acquired' in packed
    right = 'difference' if has_acquired else ('std' if session.std else 'synthetic')
    content = {
        **describe(lattice),
        'start': _start(layout, lattice),
        'volumes': packed,
        'mask': pack_mask(layout.brain, lattice),
        'left': inputs[0] if inputs else 'synthetic',
        'right': right,
        'limit': DIFFERENCE_LIMIT,
        'mean': float(acquired[covered].mean()) if has_acquired and covered.any() else 1.0,
    }
    choices = {name: volume['label'] for name, volume in packed.items()}
    choices |= {'difference': 'Synthetic − acquired'} if has_acquired else {}
    return {
        # Nothing in it may end the element that holds it.
        'json': Markup(json.dumps(content, ensure_ascii=True).replace('<', '\\u003c')),
        'choices': choices,
        'left': content['left'],
        'right': right,
        'last': [n - 1 for n in lattice.shape],
        'aspects': [
            f'{lattice.shape[a]} / {lattice.shape[b]}' for a, b in ((0, 1), (0, 2), (1, 2))
        ],
        'std': session.std is not None,
    }


def _pack(volume, lattice: Lattice, layout: Layout, window) -> dict[str, Any]:
    window = window or brain_window(volume, layout)
    # What lies far from the brain would take half of the room.
    edge = nib.affines.voxel_sizes(layout.affine).min()
    near = binary_dilation(layout.brain, iterations=max(1, round(SURROUNDINGS_MM / edge)))
    volume = np.where(near, volume, 0)
    top = max(window[1] * 1.3, 1e-6)
    return pack(volume, lattice, top, window)


def _start(layout: Layout, lattice: Lattice) -> list[int]:
    """Where the viewer begins: at the slices in the middle of the rows of still pictures."""
    cuts = [cut[len(cut) // 2] for cut in layout.cuts]
    return [
        int(min(cut / step, n - 1))
        for cut, step, n in zip(cuts, lattice.step, lattice.shape, strict=True)
    ]


def _acquired(
    path: Path, synthetic: np.ndarray, load: Loader, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Acquired FLAIR in the units of the synthetic one, and where in the brain it is."""
    acquired = load(path)
    covered = layout.brain & (acquired != 0)
    scale = best_scale(synthetic[covered], acquired[covered]) if covered.any() else 1.0
    return acquired / max(scale, 1e-12), covered


def _median(volume: np.ndarray, layout: Layout) -> float:
    values = volume[layout.brain]
    return float(np.median(values[values > 0])) if (values > 0).any() else 1.0


def _score_rows(
    session: SessionReport, load: Loader, layout: Layout
) -> list[tuple[str, str, str]]:
    """Name, meaning and value of each score."""
    scores = dict(session.scores)
    if scores and session.acquired and session.low and session.high:
        acquired, covered = _acquired(session.acquired, load(session.flair), load, layout)
        low, high = load(session.low)[covered], load(session.high)[covered]
        values = acquired[covered]
        scores['interval'] = float(((values >= low) & (values <= high)).mean())
    return [
        (*SCORE_MEANINGS.get(name, (name, '')), format_number(value))
        for name, value in sorted(scores.items(), key=_score_order)
    ]


def _joint(session: SessionReport, load: Loader, layout: Layout) -> Markup | None:
    if session.acquired is None:
        return None
    synthetic = load(session.flair)
    acquired, covered = _acquired(session.acquired, synthetic, load, layout)
    if not covered.any():
        return None
    pair = acquired[covered], synthetic[covered]
    return joint_histogram(*pair, top=float(np.percentile(np.concatenate(pair), 99.9)))


def _motion(session: SessionReport) -> Markup | None:
    moved = session.head_motion.get('DisplacementsMm')
    return motion_chart(moved, MOST_MOTION_MM) if moved else None


def _intensities(session: SessionReport, load: Loader, layout: Layout) -> list[dict[str, object]]:
    """Draw each input's distribution beside the range of the training."""
    paths = {**session.images, **session.maps}
    shown = []
    for name in (n for n in session.made_from if n in paths and n in session.intensities):
        values = load(paths[name])[layout.brain] / session.factors.get(name, 1.0)
        figures = session.intensities[name]
        levels = session.intensities['Levels']
        shown.append(
            {
                'name': name,
                'chart': intensity_chart(name, values[values > 0], levels, figures),
                'outside': count_outside(figures),
                'of': len(levels),
            }
        )
    return shown


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
    """Draw the fixed image, and the moving one after and before registration with its edges."""
    fixed = load(view.fixed)
    poses = {}
    if view.moving is not None:
        poses['after registration'] = load(view.moving)
    elif view.native is not None and view.matrix is not None:
        poses['as the registration that failed left it'] = _native(view, layout, view.matrix)
    if view.native is not None:
        poses['before registration'] = _native(view, layout, None)
    return {
        'view': view,
        'fixed': _picture(
            draw(fixed, layout, brain_window(fixed, layout)),
            f'Fixed image that the {view.contrast} was aligned with, in three planes',
        ),
        'poses': [_show_pose(view.contrast, *pose, layout) for pose in poses.items()],
        'scores': [(_spaced(key), format_number(value)) for key, value in view.scores.items()],
    }


def _show_pose(contrast: str, when: str, moving: np.ndarray, layout: Layout) -> dict[str, object]:
    return {
        'when': when,
        'moving': _picture(
            draw(moving, layout, brain_window(moving, layout)),
            f'{contrast} {when}, the same slices',
        ),
        'edges': _picture(
            draw_edges(moving, layout), f'Edges of the {contrast} {when} as yellow lines'
        ),
    }


def _native(view: RegistrationView, layout: Layout, matrix: np.ndarray | None) -> np.ndarray:
    """The moving image as acquired, of a series its first volume, in the layout's box."""
    image = nib.load(view.native)
    values = np.asarray(image.dataobj[..., 0] if image.ndim == 4 else image.dataobj, np.float32)
    box = nib.affines.from_matvec(np.eye(3), [part.start for part in layout.box])
    grid = layout.brain.shape, layout.affine @ box
    volume = nib.Nifti1Image(np.nan_to_num(values, posinf=0, neginf=0), image.affine)
    return np.asarray(resample(volume, grid, matrix).dataobj)


def _spaced(key: str) -> str:
    """'MutualInformation' as 'mutual information'."""
    return ''.join(f' {c.lower()}' if c.isupper() else c for c in key).strip().replace('_', ' ')


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
    high = _highest_std(std, layout)
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


def _highest_std(std: np.ndarray, layout: Layout) -> float:
    return max(float(np.percentile(std[layout.brain], 99)), 1e-6)
