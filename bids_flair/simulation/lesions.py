"""Pathology: white-matter lesions, lacunes, perivascular spaces, masses with oedema.

Each function moves tissue fractions of a `Head` in place, towards one of `PATHOLOGY` or fluid.
Lengths are in mm, in the frame of the head's affine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bids_flair.simulation.anatomy import Head
from bids_flair.simulation.artefacts import smooth_field
from bids_flair.simulation.physics import PATHOLOGY, TISSUES

COLUMN = {name: TISSUES.index(name) for name in TISSUES}
PARENCHYMA = ('white', 'cortex', 'deep', 'pallidum')


@dataclass(frozen=True)
class Place:
    """Where things are in a head, per held voxel.

    Attributes
    ----------
    mm : numpy.ndarray
        float32, (voxels, 3): position.
    from_ventricle, from_cortex : numpy.ndarray
        float32, (voxels,): distance, mm.
    """

    mm: np.ndarray
    from_ventricle: np.ndarray
    from_cortex: np.ndarray


def survey(head: Head) -> Place:
    """Positions and distances, these measured every 2 mm or more and interpolated."""
    step = max(1, round(2 / head.voxel_mm))
    index = np.argwhere(head.inside)
    mm = (index * head.voxel_mm + head.affine[:3, 3]).astype(np.float32)
    coarse = ((index - step // 2) / step).T
    distances = []
    for name in ('ventricle', 'cortex'):
        there = head.fraction(name)[step // 2 :: step, step // 2 :: step, step // 2 :: step] > 0.5
        away = ndimage.distance_transform_edt(~there, sampling=step * head.voxel_mm)
        away = away.astype(np.float32)
        distances.append(ndimage.map_coordinates(away, coarse, order=1, mode='nearest'))
    return Place(mm, *distances)


def move(
    head: Head, rows: np.ndarray, amount: np.ndarray, target: str, sources: tuple[str, ...]
) -> None:
    """Turn `amount` (0 to 1) of the `sources` in voxels `rows` into `target`."""
    columns = [COLUMN[name] for name in sources]
    taken = head.fractions[np.ix_(rows, columns)] * amount[:, None].astype(np.float32)
    head.fractions[np.ix_(rows, columns)] -= taken
    head.fractions[rows, COLUMN[target]] += taken.sum(1)


def _near(place: Place, centre: np.ndarray, reach: float) -> np.ndarray:
    rows = np.flatnonzero(np.abs(place.mm[:, 0] - centre[0]) < reach)
    rows = rows[np.abs(place.mm[rows, 1] - centre[1]) < reach]
    return rows[np.abs(place.mm[rows, 2] - centre[2]) < reach]


def blob(
    rng: np.random.Generator,
    place: Place,
    centre: np.ndarray,
    radius: float,
    edge: float,
    roughness: float = 0.25,
) -> tuple[np.ndarray, np.ndarray]:
    """Irregular ellipsoid: the voxels near it, and 0 to 1 how much each is inside.

    Its radius varies with direction (`roughness`, relative), its surface is `edge` mm soft.
    """
    stretch = np.exp(rng.normal(0, 0.25, 3))
    stretch /= np.cbrt(stretch.prod())
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rows = _near(place, centre, 2.2 * radius + 2 * edge)
    offset = (place.mm[rows] - centre) @ axes / stretch
    distance = np.linalg.norm(offset, axis=1)
    direction = offset / np.maximum(distance, 1e-3)[:, None]
    waves = rng.normal(0, 2.5, (6, 3))
    bumps = np.sin(direction @ waves.T + rng.uniform(0, 2 * np.pi, 6)).sum(1) / np.sqrt(3)
    outside = (distance - radius * (1 + roughness * bumps)) / edge
    inside = 1 / (1 + np.exp(np.clip(4 * outside, -30, 30)))
    held = inside > 0.02
    return rows[held], inside[held].astype(np.float32)


def choose_centre(rng: np.random.Generator, place: Place, odds: np.ndarray) -> np.ndarray | None:
    """One position drawn with the given odds per voxel; None where all are zero."""
    total = np.cumsum(odds, dtype=np.float64)
    if total[-1] == 0:
        return None
    return place.mm[np.searchsorted(total, rng.uniform(0, total[-1]))]


def add_focal_lesions(rng: np.random.Generator, head: Head, place: Place, count: int) -> None:
    """Ovoid lesions, periventricular, deep and juxtacortical (multiple sclerosis)."""
    white = head.fractions[:, COLUMN['white']] > 0.7
    regions = {
        'periventricular': white & (place.from_ventricle < 6),
        'deep': white & (place.from_ventricle > 6) & (place.from_cortex > 4),
        'juxtacortical': white & (place.from_cortex < 3),
    }
    for kind in rng.choice(list(regions), count, p=[0.5, 0.3, 0.2]):
        centre = choose_centre(rng, place, regions[kind])
        if centre is None:
            continue
        radius = np.clip(rng.lognormal(np.log(2.4), 0.5), 1.3, 9)
        rows, inside = blob(rng, place, centre, radius, rng.uniform(0.4, 1.5))
        amount = inside * rng.uniform(0.7, 1.0)
        move(head, rows, amount, 'lesion', ('white', 'deep', 'pallidum'))
        move(head, rows, amount * rng.uniform(0.1, 0.7), 'lesion', ('cortex',))
        _lose_tissue(rng, head, rows, rng.uniform(0, 1) * inside**2)


def add_confluent_lesions(
    rng: np.random.Generator, head: Head, place: Place, burden: float
) -> None:
    """Caps, bands and patches around the ventricles (small-vessel disease); `burden` 0 to 1."""
    texture = smooth_field(rng, head.shape, rng.uniform(7, 14) / head.voxel_mm)[head.inside]
    reach = 3 + 9 * burden
    level = burden * 1.2 - 1.2 + 2.4 * np.exp(-((place.from_ventricle / reach) ** 2))
    patches = smooth_field(rng, head.shape, 9 / head.voxel_mm)[head.inside]
    scattered = (patches > 3.0 - burden) & (place.from_cortex > 3)
    amount = 1 / (1 + np.exp(-3.5 * (level + 0.8 * texture - 0.6)))
    amount = np.where(scattered, np.maximum(amount, 0.9), amount)
    amount *= np.clip((place.from_cortex - 1.5) / 2, 0, 1) * rng.uniform(0.7, 1.0)
    rows = np.flatnonzero(amount > 0.02)
    move(head, rows, amount[rows], 'lesion', ('white',))
    severity = rng.uniform(0, 1) * np.clip(0.7 + 0.4 * texture[rows], 0, 1)
    _lose_tissue(rng, head, rows, severity * amount[rows] ** 2)


def _lose_tissue(
    rng: np.random.Generator, head: Head, rows: np.ndarray, severity: np.ndarray
) -> None:
    """From nothing (0) to a black hole in T1w (1): longer T1 and T2, and free water in between.

    Free water is what T2w shows and FLAIR does not: lesions of one patient that are brighter than
    others in T2w are hardly brighter in FLAIR. Little of it, though: those that T1w and T2w show
    like fluid are as bright in FLAIR as others.
    """
    move(head, rows, severity, 'oedema', ('lesion',))
    move(head, rows, rng.uniform(0, 0.25) * severity, 'sulcus', ('lesion', 'oedema'))


def add_halo(rng: np.random.Generator, head: Head, place: Place) -> None:
    """The thin, faint rim that most adults have along the ventricles."""
    amount = rng.uniform(0.05, 0.3) * np.exp(-((place.from_ventricle / 2.5) ** 2))
    rows = np.flatnonzero(amount > 0.02)
    move(head, rows, amount[rows], 'lesion', ('white',))


def add_lacunes(rng: np.random.Generator, head: Head, place: Place, count: int) -> None:
    """Fluid-filled cavities of 3 to 12 mm with a rim of gliosis."""
    likely = head.fractions[:, [COLUMN['white'], COLUMN['deep']]].sum(1) > 0.8
    likely &= place.from_cortex > 4
    for _ in range(count):
        centre = choose_centre(rng, place, likely)
        if centre is None:
            continue
        radius = rng.uniform(1.5, 5)
        rows, inside = blob(rng, place, centre, radius + rng.uniform(0.8, 2), 1.0, 0.15)
        move(head, rows, inside * 0.9, 'lesion', ('white', 'deep', 'pallidum'))
        rows, inside = blob(rng, place, centre, radius, 0.6, 0.1)
        move(head, rows, inside, 'sulcus', (*PARENCHYMA, 'lesion'))


def add_perivascular_spaces(
    rng: np.random.Generator, head: Head, place: Place, count: int
) -> None:
    """Thin fluid-filled tubes in basal ganglia and the centrum semiovale."""
    deep = head.fractions[:, COLUMN['deep']] > 0.8
    semiovale = (head.fractions[:, COLUMN['white']] > 0.95) & (place.from_cortex > 5)
    odds = deep * 10.0 + semiovale
    for _ in range(count):
        centre = choose_centre(rng, place, odds)
        if centre is None:
            continue
        along = rng.normal((0, 0, 1.5), 1)
        along /= np.linalg.norm(along)
        rows = _near(place, centre, 8)
        offset = place.mm[rows] - centre
        across = np.linalg.norm(offset - np.outer(offset @ along, along), axis=1)
        size = max(head.voxel_mm, 1.0)
        amount = rng.uniform(0.1, 0.5) * np.exp(-((across / size) ** 2))
        amount *= np.abs(offset @ along) < rng.uniform(2, 6)
        move(head, rows, amount / size**2, 'sulcus', PARENCHYMA)


def add_mass(rng: np.random.Generator, head: Head, place: Place) -> None:
    """A tumour, often with a necrotic core, in oedema that spreads along the white matter."""
    centre = choose_centre(rng, place, head.fractions[:, COLUMN['white']] > 0.7)
    if centre is None:
        return
    core = rng.uniform(5, 20)
    if rng.random() < 0.8:
        rows, inside = blob(rng, place, centre, core + rng.uniform(6, 24), 3.0, 0.35)
        move(head, rows, inside * 0.95, 'oedema', ('white', 'lesion'))
        move(head, rows, inside * rng.uniform(0, 0.4), 'oedema', ('cortex', 'deep', 'pallidum'))
    rows, inside = blob(rng, place, centre, core, 1.5, 0.3)
    move(head, rows, inside, 'tumour', (*PARENCHYMA, 'oedema', 'lesion', 'sulcus', 'ventricle'))
    if rng.random() < 0.5:
        rows, inside = blob(rng, place, centre, core * rng.uniform(0.4, 0.8), 1.2, 0.35)
        move(head, rows, inside, 'necrosis', ('tumour',))


def add_pathology(rng: np.random.Generator, head: Head) -> None:
    """Draw what a person has and put it into the head; about a fifth have next to nothing."""
    place = survey(head)
    add_halo(rng, head, place)
    add_perivascular_spaces(rng, head, place, int(rng.integers(0, 12)))
    if rng.random() < 0.65:
        add_focal_lesions(rng, head, place, int(rng.geometric(0.05)))
    if rng.random() < 0.45:
        add_confluent_lesions(rng, head, place, rng.beta(1.2, 2.5))
    if rng.random() < 0.15:
        add_lacunes(rng, head, place, int(rng.integers(1, 4)))
    if rng.random() < 0.35:
        add_mass(rng, head, place)


def lesion_fraction(head: Head) -> np.ndarray:
    """How much of each held voxel is pathology, float32 (voxels,)."""
    return head.fractions[:, [COLUMN[name] for name in PATHOLOGY]].sum(1)
