"""All six contrasts of one simulated person on one grid: what a model is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_flair.simulation import artefacts, diffusion, physics
from bids_flair.simulation.anatomy import Anatomy, Head, make_head
from bids_flair.simulation.lesions import add_pathology, lesion_fraction
from bids_flair.simulation.physics import TISSUES, Sequence, Tissue

Triple = tuple[float, float, float]
# Scales at which tissue varies, an octave apart.
SCALES_MM = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Simulation:
    """One person, one grid.

    Attributes
    ----------
    contrasts : dict of str to numpy.ndarray
        'T1w', 'T2w', 'FLAIR', 'S0' (float32, arbitrary units), 'MD' (mm2/s), 'FA'.
    brain, lesions : numpy.ndarray
        bool masks; the lesion mask lies in the brain.
    affine : numpy.ndarray
        (4, 4), RAS, mm.
    """

    contrasts: dict[str, np.ndarray]
    brain: np.ndarray
    lesions: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Scan:
    """One acquisition of a weighted image.

    Attributes
    ----------
    sequence : Sequence
    spacing_mm : tuple of float
        Acquired voxel along R, A, S; slice gaps count as slice thickness.
    snr : float
        White-matter signal over noise in an acquired voxel.
    shading : float
        Standard deviation of the logarithm of the bias field.
    shift_mm : tuple of float
        Misregistration with the reference.
    """

    sequence: Sequence
    spacing_mm: Triple
    snr: float
    shading: float
    shift_mm: Triple = (0.0, 0.0, 0.0)


def draw_variation(
    rng: np.random.Generator, shape: tuple[int, int, int], voxel_mm: float
) -> np.ndarray:
    """Draw how T1 and T2 differ from place to place within every tissue.

    Water and myelin vary at every scale, T1 and T2 mostly together. The standard deviations are
    those with which real white matter varies per octave of scale once noise, which T1w, T2w and
    FLAIR do not share, is set aside: 1 % in T1w, 2 to 3 % in T2w and FLAIR.

    Returns
    -------
    numpy.ndarray
        float32, (2, *shape): relative deviation of T1 and of T2.
    """
    mixing = _draw_mixing(rng)
    variation = np.zeros((2, *shape), np.float32)
    for scale in SCALES_MM:
        if scale < voxel_mm:
            continue
        fields = [artefacts.smooth_field(rng, shape, scale / voxel_mm) for _ in range(2)]
        for k in range(2):
            variation[k] += mixing[k, 0] * fields[0] + mixing[k, 1] * fields[1]
    return variation


def draw_variation_apart(rng: np.random.Generator, count: int) -> np.ndarray:
    """The same in voxels far from each other: float32, (2, count)."""
    mixing = _draw_mixing(rng) * np.float32(np.sqrt(len(SCALES_MM)))
    return mixing @ rng.standard_normal((2, count), np.float32)


def _draw_mixing(rng: np.random.Generator) -> np.ndarray:
    """How T1 (first row) and T2 follow what varies of both, and of T2 alone: float32, (2, 2)."""
    together = rng.uniform(0.4, 0.9)
    t1, t2 = rng.uniform(0.015, 0.045), rng.uniform(0.012, 0.036)
    return np.array([[t1, 0], [t2 * together, t2 * np.sqrt(1 - together**2)]], np.float32)


def weighted_signal(
    head: Head, tissues: dict[str, Tissue], sequence: Sequence, variation: np.ndarray
) -> np.ndarray:
    """Signed signal per held voxel: the sum over compartments, to first order in the variation.

    `variation` is that of `draw_variation`, in the held voxels alone: (2, voxels).
    """
    plain, by_t1, by_t2 = (head.fractions @ s for s in physics.expansion(sequence, tissues))
    return plain + variation[0] * by_t1 + variation[1] * by_t2


def shade(rng: np.random.Generator, head: Head, strength: float) -> np.ndarray:
    """Multiplicative bias field per held voxel."""
    field = artefacts.smooth_field(rng, head.shape, rng.uniform(60, 90) / head.voxel_mm)
    return np.exp(strength * field[head.inside])


def take(
    rng: np.random.Generator,
    head: Head,
    tissues: dict[str, Tissue],
    variation: np.ndarray,
    scan: Scan,
) -> np.ndarray:
    """One weighted image on the head's grid, white matter near 1000 as scanners store it."""
    signal = weighted_signal(head, tissues, scan.sequence, variation)
    white = abs(scan.sequence.signal(tissues['white']))
    signal *= shade(rng, head, scan.shading) * np.float32(1000 / white)
    return artefacts.acquire(
        rng, head.volume(signal), head.voxel_mm, scan.spacing_mm, 1000 / scan.snr, scan.shift_mm
    )


def draw_spacing(rng: np.random.Generator, thick: bool) -> Triple:
    """Acquired voxel: thick slices in a random plane (mostly axial), or near-isotropic."""
    if not thick:
        edge = rng.uniform(0.9, 1.3)
        return edge, edge, edge
    spacing = [rng.uniform(0.5, 1.0)] * 3
    spacing[rng.choice(3, p=[0.1, 0.1, 0.8])] = rng.uniform(2.5, 5.5)
    return tuple(spacing)


def draw_shift(rng: np.random.Generator) -> Triple:
    """Residual misregistration: mostly a fraction of a voxel, now and then a whole one."""
    size = 0.9 if rng.random() < 0.1 else 0.25
    return tuple(rng.normal(0, size, 3))


def draw_scans(
    rng: np.random.Generator, field: float, tissues: dict[str, Tissue]
) -> dict[str, Scan]:
    """Draw the protocol of one site: T1w (the reference, in place), T2w and FLAIR."""
    t1w = physics.draw_t1w(rng, field)
    t1w_thick = not isinstance(t1w, physics.Mprage) and rng.random() < 0.8
    # Where one of T2w and FLAIR is of thick slices, the other mostly is.
    t2w_thick = rng.random() < 0.55
    flair_thick = rng.random() < (0.8 if t2w_thick else 0.25)
    return {
        'T1w': Scan(t1w, draw_spacing(rng, t1w_thick), rng.uniform(20, 60), _residual(rng)),
        'T2w': Scan(
            physics.draw_t2w(rng, t2w_thick),
            draw_spacing(rng, t2w_thick),
            rng.uniform(12, 50),
            _residual(rng),
            draw_shift(rng),
        ),
        'FLAIR': Scan(
            physics.draw_flair(rng, tissues, thick=flair_thick),
            draw_spacing(rng, flair_thick),
            rng.uniform(15, 60),
            _residual(rng),
            draw_shift(rng),
        ),
    }


def _residual(rng: np.random.Generator) -> float:
    """Shading that bias correction leaves."""
    return rng.uniform(0.01, 0.06)


def low_resolution(
    rng: np.random.Generator, head: Head, spacing_mm: float
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Tissue fractions averaged over diffusion voxels.

    Returns
    -------
    fractions : numpy.ndarray
        float32, (tissues, ...).
    back : list of numpy.ndarray
        Matrices that bring a volume back to the head's grid, per axis.
    mm : numpy.ndarray
        (3, ...): the coarse voxels' positions.
    """
    phases, shift = rng.uniform(0, 1, 3), draw_shift(rng)
    edge = max(spacing_mm, head.voxel_mm)
    axes = range(3)
    down = [artefacts.sampling(head.shape[k], head.voxel_mm, edge, phases[k]) for k in axes]
    back = [
        artefacts.resampling(head.shape[k], head.voxel_mm, edge, phases[k], shift[k]) for k in axes
    ]
    shape = tuple(len(matrix) for matrix in down)
    fractions = np.zeros((len(TISSUES), *shape), np.float32)
    for k in np.flatnonzero(head.fractions[:, 1:].any(0)) + 1:
        volume = head.volume(head.fractions[:, k])
        for axis in axes:
            volume = artefacts.apply_along(down[axis], volume, axis)
        fractions[k] = volume
    starts = head.affine[:3, 3] - head.voxel_mm / 2
    lines = [starts[k] + (np.arange(shape[k]) + 0.5 - phases[k]) * edge for k in axes]
    return fractions, back, np.stack(np.meshgrid(*lines, indexing='ij')).astype(np.float32)


def take_diffusion(
    rng: np.random.Generator, head: Head, tissues: dict[str, Tissue]
) -> dict[str, np.ndarray]:
    """MD (mm2/s), FA and S0: a diffusion scan at its own resolution, fitted, then resampled."""
    spacing, directions = rng.uniform(1.8, 2.6), int(rng.choice([12, 16, 20, 30]))
    fractions, back, mm = low_resolution(rng, head, spacing)
    along, coherence = diffusion.fibre_field(rng, mm, mm.shape[1:], spacing)
    s0 = epi_signals(rng, tissues)
    vectors = np.vstack([np.zeros((1, 3)), diffusion.gradient_directions(directions, rng)])
    b = np.r_[0.0, np.full(directions, 1.0)]
    held = fractions.sum(0) > 0.05
    volumes = diffusion.attenuated(
        fractions[:, held], tissues, s0, along[:, held], coherence[held], b, vectors
    )
    shading = artefacts.smooth_field(rng, held.shape, 70 / spacing)[held]
    volumes *= np.exp(_residual(rng) * shading)
    volumes = artefacts.rician(rng, volumes, 1000 / rng.uniform(25, 60))
    maps = {}
    for name, values in zip(
        ('MD', 'FA', 'S0'), diffusion.fit_tensor(volumes, b, vectors), strict=True
    ):
        volume = np.zeros(held.shape, np.float32)
        volume[held] = values
        for axis in range(3):
            volume = artefacts.apply_along(back[axis], volume, axis)
        maps[name] = np.clip(volume, 0, None)
    maps['MD'] *= np.float32(1e-3)
    maps['FA'] = np.minimum(maps['FA'], 1)
    return maps


def epi_signals(rng: np.random.Generator, tissues: dict[str, Tissue]) -> np.ndarray:
    """Signal of every tissue without diffusion weighting, white matter at 1000."""
    s0 = physics.signals(physics.draw_epi(rng), tissues)
    s0 *= 1000 / s0[TISSUES.index('white')]
    # Every echo-planar protocol suppresses fat.
    s0[[TISSUES.index('fat'), TISSUES.index('marrow')]] *= 0.1
    return s0


def simulate(
    anatomy: Anatomy,
    rng: np.random.Generator,
    voxel_mm: float = 1.0,
    *,
    brain_only: bool = False,
) -> Simulation:
    """Simulate one person at one site: anatomy, pathology, tissues and protocols all drawn.

    Parameters
    ----------
    anatomy : Anatomy
        From `load_anatomy`; deformed at random.
    rng : numpy.random.Generator
    voxel_mm : float
        Edge of the isotropic voxels of the result.
    brain_only : bool
        Leave out what is further than 4 mm from the brain: about half the time.

    Returns
    -------
    Simulation
        Weighted images as after registration with the T1w and bias correction: resampled from
        their own resolution, with small residual misregistration and shading.
    """
    field = float(rng.choice([1.5, 3.0]))
    head = make_head(anatomy, rng, voxel_mm, brain_only=brain_only)
    add_pathology(rng, head)
    tissues = physics.draw_tissues(rng, field)
    variation = draw_variation(rng, head.shape, voxel_mm)[:, head.inside]
    contrasts = {
        name: take(rng, head, tissues, variation, scan)
        for name, scan in draw_scans(rng, field, tissues).items()
    }
    contrasts |= take_diffusion(rng, head, tissues)
    brain = head.volume(head.brain) > 0.5
    lesions = (head.volume(lesion_fraction(head)) > 0.5) & brain
    return Simulation(contrasts, brain, lesions, head.affine)
