"""Diffusion: a fibre field, the signal of every gradient direction, and the tensor seen in it."""

from __future__ import annotations

import numpy as np

from bids_flair.simulation.artefacts import smooth_field
from bids_flair.simulation.physics import TISSUES, Tissue, axial_tensor

# Fibres run straight only in tracts: relative anisotropy of the most and least coherent voxels.
COHERENCE = (0.55, 1.55)


def fibre_field(
    rng: np.random.Generator, mm: np.ndarray, shape: tuple[int, int, int], voxel_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Plausible fibre directions: commissural, projection and association fibres, bent at random.

    Left to right near the midline above the thalamus, foot to head in the brain stem and the
    internal capsule, radial towards the cortex further out, and a smooth random part everywhere.

    Parameters
    ----------
    rng : numpy.random.Generator
    mm : numpy.ndarray
        (3, *shape): position from the brain's centre.
    shape, voxel_mm
        The grid.

    Returns
    -------
    directions : numpy.ndarray
        float32, (3, *shape), unit length.
    coherence : numpy.ndarray
        float32, shape: what the tissue's FA is multiplied by.
    """
    x, y, z = mm
    callosal = np.exp(-((x / 14) ** 2) - ((z - 12) / 12) ** 2) * (np.abs(y) < 45)
    capsular = np.exp(-(((np.abs(x) - 20) / 8) ** 2) - ((y / 18) ** 2) - ((z - 0) / 25) ** 2)
    stem = np.exp(-((x / 14) ** 2) - (((y + 12) / 16) ** 2)) * (z < -15)
    radial = mm / np.maximum(np.linalg.norm(mm, axis=0), 1)
    spread = np.stack([smooth_field(rng, shape, 22 / voxel_mm) for _ in range(3)])
    along = 0.6 * spread + 0.7 * radial * (1 - callosal - capsular)
    along[0] += 3 * callosal
    along[1] += 0.6
    along[2] += 3 * (capsular + stem)
    along /= np.maximum(np.linalg.norm(along, axis=0), 1e-3)
    texture = 0.5 + 0.25 * smooth_field(rng, shape, 9 / voxel_mm) + 0.6 * (callosal + capsular)
    low, high = COHERENCE
    return along.astype(np.float32), low + (high - low) * np.clip(texture, 0, 1)


def gradient_directions(count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` unit vectors spread over the half sphere (spherical Fibonacci lattice, turned)."""
    k = np.arange(count) + 0.5
    up, around = k / count, np.pi * (1 + np.sqrt(5)) * k
    flat = np.sqrt(1 - up**2)
    vectors = np.stack([flat * np.cos(around), flat * np.sin(around), up], 1)
    return vectors @ np.linalg.qr(rng.standard_normal((3, 3)))[0]


def attenuated(
    fractions: np.ndarray,
    tissues: dict[str, Tissue],
    s0: np.ndarray,
    along: np.ndarray,
    coherence: np.ndarray,
    b: np.ndarray,
    directions: np.ndarray,
) -> np.ndarray:
    """Signal of every volume: each compartment decays with its own tensor, then they add.

    Parameters
    ----------
    fractions : numpy.ndarray
        (tissues, voxels) in `TISSUES` order.
    tissues : dict
    s0 : numpy.ndarray
        (tissues,): signal without diffusion weighting.
    along, coherence
        From `fibre_field`, (3, voxels) and (voxels,).
    b : numpy.ndarray
        (volumes,), in 1e3 s/mm2, so that it multiplies diffusivities in 1e-3 mm2/s.
    directions : numpy.ndarray
        (volumes, 3), in the frame of `along`.

    Returns
    -------
    numpy.ndarray
        float32, (volumes, voxels).
    """
    cosine2 = (directions.astype(np.float32) @ along) ** 2
    total = np.zeros((len(b), fractions.shape[1]), np.float32)
    for k, name in enumerate(TISSUES):
        held = np.flatnonzero(fractions[k] > 1e-4)
        if not held.size or s0[k] == 0:
            continue
        tissue, amount = tissues[name], fractions[k, held] * s0[k]
        fa = np.minimum(tissue.fa * coherence[held], 0.9) if name == 'white' else tissue.fa
        axial, radial = axial_tensor(tissue.md, fa)
        for volume, weight in enumerate(b.astype(np.float32)):
            decay = np.exp(-weight * (radial + (axial - radial) * cosine2[volume, held]))
            total[volume, held] += amount * decay
    return total


def fit_tensor(
    volumes: np.ndarray, b: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear least-squares tensor.

    Parameters
    ----------
    volumes : numpy.ndarray
        (volumes, ...).
    b : numpy.ndarray
        (volumes,), in 1e3 s/mm2.
    directions : numpy.ndarray
        (volumes, 3).

    Returns
    -------
    md, fa, s0 : numpy.ndarray
        MD in 1e-3 mm2/s.
    """
    x, y, z = directions.T
    quadratic = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z])
    design = np.vstack([np.ones_like(b), -b * quadratic]).T
    solve = np.linalg.pinv(design).astype(np.float32)
    floor = max(float(volumes[0].max()) * 1e-4, 1e-12)
    logs = np.log(np.maximum(volumes, floor)).reshape(len(volumes), -1)
    log_s0, xx, yy, zz, xy, xz, yz = solve @ logs
    md = (xx + yy + zz) / 3
    squares = xx**2 + yy**2 + zz**2 + 2 * (xy**2 + xz**2 + yz**2)
    fa = np.sqrt(1.5 * np.maximum(squares - 3 * md**2, 0) / np.maximum(squares, 1e-12))
    shape = volumes.shape[1:]
    return (
        np.clip(md, 0, 5).reshape(shape),
        np.clip(fa, 0, 1).reshape(shape),
        np.exp(log_s0).reshape(shape),
    )
