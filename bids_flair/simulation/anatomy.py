"""Heads: stored tissue maps, and new people made from them by random deformation.

A stored anatomy holds one code per 1 mm voxel. A code stands for a mixture of at most two tissues
in quarters (`MIXTURES`), so that the partial volume measured in a real scan fits into one byte
and compresses well. Anatomies are in RAS orientation, in mm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from bids_flair.simulation.artefacts import smooth_field
from bids_flair.simulation.physics import BRAIN, TISSUES

FOLDER = Path(__file__).parent / 'anatomies'
# Fluid outside the brain mask is the same tissue as sulcal fluid, under a code of its own.
PURE = (*TISSUES[:12], 'cistern')
PAIRS = (
    ('white', 'cortex'), ('cortex', 'sulcus'), ('white', 'sulcus'), ('white', 'ventricle'),
    ('white', 'deep'), ('white', 'pallidum'), ('deep', 'pallidum'), ('deep', 'cortex'),
    ('deep', 'ventricle'), ('cortex', 'ventricle'), ('deep', 'sulcus'),
)  # fmt: skip
QUARTERS = (0.25, 0.5, 0.75)


def code_of(first: str, second: str | None = None, quarters: int = 0) -> int:
    """Code of a pure tissue, or of a mixture with `quarters` (1 to 3) fourths of `second`."""
    if second is None:
        return PURE.index(first)
    return len(PURE) + 3 * PAIRS.index((first, second)) + quarters - 1


def _mixtures() -> np.ndarray:
    table = np.zeros((len(PURE) + 3 * len(PAIRS), len(TISSUES) + 1), np.float32)
    for code, name in enumerate(PURE):
        table[code, TISSUES.index('sulcus' if name == 'cistern' else name)] = 1
        table[code, -1] = name in BRAIN
    for first, second in PAIRS:
        for quarters, part in enumerate(QUARTERS, start=1):
            row = table[code_of(first, second, quarters)]
            row[TISSUES.index(first)], row[TISSUES.index(second)] = 1 - part, part
            row[-1] = 1
    return table


MIXTURES = _mixtures()
"""Fraction of every tissue in `TISSUES` order by code; the last column is 1 inside the brain."""


@dataclass(frozen=True)
class Anatomy:
    """A head as codes into `MIXTURES`.

    Attributes
    ----------
    name : str
    codes : numpy.ndarray
        uint8, three dimensions, RAS.
    affine : numpy.ndarray
        Voxel to mm, (4, 4), without rotation.
    """

    name: str
    codes: np.ndarray
    affine: np.ndarray

    @property
    def brain(self) -> np.ndarray:
        """Voxels that are at least half brain (fluid inside the brain mask included)."""
        return (MIXTURES[:, -1] > 0.5)[self.codes]


@dataclass(frozen=True)
class Head:
    """One simulated person on one grid: tissue fractions of the voxels that are not air.

    Attributes
    ----------
    shape, affine
        The grid, RAS, mm, no rotation.
    inside : numpy.ndarray
        bool, `shape`: the voxels held, in C order, by the rows of the next two.
    fractions : numpy.ndarray
        float32, (voxels, tissues) in `TISSUES` order; rows sum to one.
    brain : numpy.ndarray
        float32, (voxels,): how much of the voxel is inside the brain mask.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    inside: np.ndarray
    fractions: np.ndarray
    brain: np.ndarray

    @property
    def voxel_mm(self) -> float:
        return float(self.affine[0, 0])

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Put one value per held voxel back on the grid; air is 0."""
        out = np.zeros(self.shape, values.dtype)
        out[self.inside] = values
        return out

    def fraction(self, *names: str) -> np.ndarray:
        """Summed fraction of the named tissues on the grid."""
        columns = [TISSUES.index(name) for name in names]
        return self.volume(self.fractions[:, columns].sum(1))


def shipped() -> list[str]:
    """Names of the anatomies in the package."""
    return sorted(path.name.removesuffix('.nii.gz') for path in FOLDER.glob('*.nii.gz'))


@cache
def load_anatomy(name: str | Path) -> Anatomy:
    """Read an anatomy, by the name of a shipped one or by path.

    Raises
    ------
    FileNotFoundError
        Where neither exists.
    """
    path = Path(name) if Path(name).suffix else FOLDER / f'{name}.nii.gz'
    image = nib.as_closest_canonical(nib.load(path))
    codes = np.ascontiguousarray(image.dataobj, np.uint8)
    return Anatomy(path.name.removesuffix('.nii.gz'), codes, image.affine)


@dataclass(frozen=True)
class Borders:
    """How sharp the borders between a person's tissues are, and where within a voxel they lie.

    Interpolated codes are softer than the voxels of a scan, and the codes take the darkest cortex
    for half fluid: a head as it is coded has hardly any pure cortex, and sulci that are too wide.

    Attributes
    ----------
    power : float
        Above 1, mixtures become purer.
    weight : numpy.ndarray
        (tissues,): of two tissues in one voxel, the one with the larger weight gains.
    """

    power: float
    weight: np.ndarray

    def draw_anew(self, fractions: np.ndarray) -> np.ndarray:
        """Fractions, shape (voxels, tissues), with these borders; rows sum to one."""
        purer = (fractions * self.weight) ** np.float32(self.power)
        return purer / purer.sum(1, keepdims=True)


def draw_borders(rng: np.random.Generator) -> Borders:
    """Draw a sharpness, and how far the cortex reaches into sulci and into white matter."""
    weight = np.ones(len(TISSUES), np.float32)
    weight[TISSUES.index('sulcus')] = np.exp(rng.uniform(-1.5, 0.3))
    weight[TISSUES.index('white')] = np.exp(rng.uniform(-0.6, 0.6))
    return Borders(rng.uniform(1, 3), weight)


@dataclass(frozen=True)
class Deformation:
    """From a new person's mm to the stored anatomy's mm, about the brain's centre.

    Attributes
    ----------
    centre : numpy.ndarray
        Of the stored brain, mm.
    matrix : numpy.ndarray
        (3, 3): scale, shear and rotation.
    bending : tuple of (float, float)
        (control point distance, standard deviation) of the smooth displacements, mm.
    ventricles : float
        By how much the middle of the brain is enlarged.
    seed : int
        Of the displacements.
    """

    centre: np.ndarray
    matrix: np.ndarray
    bending: tuple[tuple[float, float], ...]
    ventricles: float
    seed: int


def draw_deformation(
    rng: np.random.Generator, anatomy: Anatomy, *, mirror: bool = True
) -> Deformation:
    """Draw a person: size, proportions, tilt, smooth bending and size of the ventricles."""
    brain = np.argwhere(anatomy.brain[::3, ::3, ::3]) * 3
    centre = nib.affines.apply_affine(anatomy.affine, (brain.min(0) + brain.max(0)) / 2)
    scale = rng.uniform(0.92, 1.08) * rng.uniform(0.96, 1.04, 3)
    shear = np.eye(3) + np.triu(rng.uniform(-0.02, 0.02, (3, 3)), 1)
    matrix = rotation(rng.uniform(-8, 8, 3)) @ shear @ np.diag(1 / scale)
    if mirror and rng.random() < 0.5:
        matrix = np.diag([-1, 1, 1]) @ matrix
    bending = ((45.0, rng.uniform(0.5, 2.5)), (20.0, rng.uniform(0.2, 0.8)))
    return Deformation(centre, matrix, bending, rng.uniform(-0.15, 0.35), int(rng.integers(2**31)))


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix about x, then y, then z."""
    x, y, z = np.deg2rad(degrees)
    about_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    about_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    about_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_y) @ np.array(about_x)


def make_head(
    anatomy: Anatomy,
    rng: np.random.Generator,
    voxel_mm: float = 1.0,
    *,
    brain_only: bool = False,
    mirror: bool = True,
) -> Head:
    """Make a new person from a stored anatomy: shape and borders of tissues are drawn.

    Parameters
    ----------
    anatomy : Anatomy
    rng : numpy.random.Generator
    voxel_mm : float
        Edge of the isotropic voxels. Large voxels average several samples of the stored map.
    brain_only : bool
        Keep the brain with 4 mm around it; everything else is air.
    mirror : bool
        Let half of the people be mirror images.

    Returns
    -------
    Head
        Its grid's origin is the centre of the brain.
    """
    deformation, borders = draw_deformation(rng, anatomy, mirror=mirror), draw_borders(rng)
    keep = _kept(anatomy, brain_only)
    shape, affine = _grid(anatomy, deformation, keep, voxel_mm)
    per_edge = int(np.clip(round(voxel_mm / 1.3), 1, 3))
    totals = np.zeros((np.prod(shape), MIXTURES.shape[1]), np.float32)
    steps = (np.arange(per_edge) + 0.5) / per_edge - 0.5
    bends = _bends(deformation, shape, voxel_mm)
    for offset in np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3):
        for rows, points in _points(affine, offset, bends, deformation, anatomy.affine):
            _add_fractions(totals, rows, points, anatomy.codes, keep, borders)
    totals /= per_edge**3
    inside = totals[:, :-1].sum(1) > 0.01
    fractions = totals[inside, :-1]
    fractions[:, 0] += 1 - fractions.sum(1)
    return Head(shape, affine, inside.reshape(shape), fractions, totals[inside, -1])


def _kept(anatomy: Anatomy, brain_only: bool) -> np.ndarray:
    if brain_only:
        return ndimage.binary_dilation(anatomy.brain, iterations=4)
    return ndimage.binary_dilation(anatomy.codes > 0, iterations=1)


def _grid(
    anatomy: Anatomy, deformation: Deformation, keep: np.ndarray, voxel_mm: float
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Smallest grid, with a margin for the bending, that the deformed head fits on."""
    low, high = (
        np.array([edge(np.flatnonzero(keep.any(axes))) for axes in ((1, 2), (0, 2), (0, 1))])
        for edge in (np.min, np.max)
    )
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    corners = nib.affines.apply_affine(anatomy.affine, corners) - deformation.centre
    corners = corners @ np.linalg.inv(deformation.matrix).T
    first = corners.min(0) - 4 if not keep[0].any() else corners.min(0)
    shape = np.ceil((corners.max(0) + 4 - first) / voxel_mm).astype(int)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = first
    return tuple(int(n) for n in shape), affine


def _bends(deformation: Deformation, shape: tuple[int, int, int], voxel_mm: float) -> np.ndarray:
    """Smooth displacements of every voxel, mm: (3, *shape)."""
    rng = np.random.default_rng(deformation.seed)
    return np.stack([
        sum(sd * smooth_field(rng, shape, mm / voxel_mm) for mm, sd in deformation.bending)
        for _ in range(3)
    ])  # fmt: skip


def _points(
    affine: np.ndarray,
    offset: np.ndarray,
    bends: np.ndarray,
    deformation: Deformation,
    source: np.ndarray,
    slab: int = 16,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Positions of the grid's voxels in the stored map (voxels), slab by slab along x."""
    shape, edge = bends.shape[1:], affine[0, 0]
    axes = [(np.arange(n) + offset[k]) * edge + affine[k, 3] for k, n in enumerate(shape)]
    matrix = (deformation.matrix.T / np.diag(source)[:3]).astype(np.float32)
    shift = ((deformation.centre - source[:3, 3]) / np.diag(source)[:3]).astype(np.float32)
    plane = shape[1] * shape[2]
    for start in range(0, shape[0], slab):
        part = slice(start, min(start + slab, shape[0]))
        grid = np.meshgrid(axes[0][part], axes[1], axes[2], indexing='ij')
        mm = np.stack(grid, -1).astype(np.float32).reshape(-1, 3)
        mm *= _towards_middle(mm, deformation.ventricles)[:, None]
        mm += bends[:, part].reshape(3, -1).T
        yield slice(part.start * plane, part.stop * plane), mm @ matrix + shift


def _towards_middle(mm: np.ndarray, amount: float, reach: float = 32.0) -> np.ndarray:
    return 1 - amount * np.exp(-(mm**2).sum(1) / (2 * reach**2))


def _add_fractions(
    totals: np.ndarray,
    rows: slice,
    points: np.ndarray,
    codes: np.ndarray,
    keep: np.ndarray,
    borders: Borders,
) -> None:
    """Tissue fractions at `points`, interpolated (trilinear), added to `totals[rows]`."""
    size = np.array(codes.shape)
    near = np.rint(points).astype(np.int32)
    valid = ((near >= 1) & (near < size - 2)).all(1)
    valid[valid] = keep[tuple(near[valid].T)]
    points = points[valid]
    base = np.floor(points).astype(np.int32)
    weight = points - base
    flat = np.ravel_multi_index(tuple(base.T), codes.shape)
    strides = (codes.shape[1] * codes.shape[2], codes.shape[2], 1)
    found = np.zeros((len(points), MIXTURES.shape[1]), np.float32)
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, weight, 1 - weight), axis=1, dtype=np.float32)
        found += share[:, None] * MIXTURES[codes.ravel()[flat + np.dot(corner, strides)]]
    found[:, :-1] = borders.draw_anew(found[:, :-1])
    totals[rows][valid] += found
