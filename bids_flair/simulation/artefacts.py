"""What a scanner adds: finite resolution, noise, shading."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.interpolate import BSpline, make_interp_spline

# Standard deviation of a cubic B-spline expansion of white noise, per axis: sqrt(151 / 315).
_SPLINE_SD = 0.6924


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: float
) -> np.ndarray:
    """Random field of zero mean and unit standard deviation, smooth over `spacing` voxels.

    Returns
    -------
    numpy.ndarray
        float32, `shape`: a cubic B-spline with one random coefficient every `spacing` voxels.
    """
    bases = [_spline_basis(n, spacing) for n in shape]
    field = rng.standard_normal([basis.shape[1] for basis in bases]).astype(np.float32)
    for axis, basis in enumerate(bases):
        field = apply_along(basis, field, axis)
    return field / np.float32(_SPLINE_SD**3)


@lru_cache(maxsize=256)
def _spline_basis(length: int, spacing: float) -> np.ndarray:
    count = int(np.ceil(length / spacing)) + 3
    knots = np.arange(-3, count + 1, dtype=float)
    where = np.arange(length) / spacing
    return BSpline.design_matrix(where, knots, 3).toarray().astype(np.float32)


def apply_along(matrix: np.ndarray, volume: np.ndarray, axis: int) -> np.ndarray:
    """Multiply every line of a three-dimensional `volume` along `axis` by `matrix`."""
    if axis == 0:
        return (matrix @ volume.reshape(len(volume), -1)).reshape(-1, *volume.shape[1:])
    if axis == 1:
        return matrix @ volume
    return (volume.reshape(-1, volume.shape[-1]) @ matrix.T).reshape(*volume.shape[:-1], -1)


def sampling(length: int, voxel_mm: float, spacing_mm: float, phase: float = 0.0) -> np.ndarray:
    """Matrix that averages `length` voxels into slices `spacing_mm` thick (box profile).

    Returns
    -------
    numpy.ndarray
        (slices, length), rows sum to one; the first slice begins `phase` slices (0 to 1) before
        the first voxel.
    """
    ratio = spacing_mm / voxel_mm
    edges = (np.arange(int(np.ceil(length / ratio + phase)) + 1) - phase) * ratio
    voxels = np.arange(length)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    overlap = np.clip(overlap, 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


def resampling(
    length: int, voxel_mm: float, spacing_mm: float, phase: float = 0.0, shift_mm: float = 0.0
) -> np.ndarray:
    """Matrix back from the slices of `sampling` to voxels, by cubic splines.

    Returns
    -------
    numpy.ndarray
        (length, slices); voxels are read `shift_mm` off their place: a misregistration.
    """
    ratio = spacing_mm / voxel_mm
    count = int(np.ceil(length / ratio + phase))
    wanted = (np.arange(length) + 0.5 + shift_mm / voxel_mm) / ratio + phase - 0.5
    if count < 4:
        return np.eye(count, dtype=np.float32)[np.clip(np.rint(wanted).astype(int), 0, count - 1)]
    spline = make_interp_spline(np.arange(count), np.eye(count), 3)
    return spline(np.clip(wanted, 0, count - 1)).astype(np.float32)


def rician(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of `signal` with Gaussian noise of `sigma` in either channel."""
    real = signal + sigma * rng.standard_normal(signal.shape, np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, np.float32)
    return np.sqrt(real * real + imaginary * imaginary)


def acquire(
    rng: np.random.Generator,
    signal: np.ndarray,
    voxel_mm: float,
    spacing_mm: tuple[float, float, float],
    sigma: float,
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Sample at the scanner's resolution, add noise there, resample back.

    Parameters
    ----------
    rng : numpy.random.Generator
    signal : numpy.ndarray
        Signed signal on the fine grid.
    voxel_mm : float
        Edge of the fine grid's voxels.
    spacing_mm : tuple of float
        Acquired voxel; an axis finer than the grid is left at the grid's resolution.
    sigma : float
        Noise at the acquired resolution.
    shift_mm : tuple of float
        Residual misregistration.

    Returns
    -------
    numpy.ndarray
        float32 magnitude on the fine grid.
    """
    fine, steps = signal.shape, [max(mm, voxel_mm) for mm in spacing_mm]
    phases = rng.uniform(0, 1, 3)
    coarse = signal
    for axis in range(3):
        down = sampling(fine[axis], voxel_mm, steps[axis], phases[axis])
        coarse = apply_along(down, coarse, axis)
    coarse = rician(rng, coarse, sigma)
    for axis in range(3):
        up = resampling(fine[axis], voxel_mm, steps[axis], phases[axis], shift_mm[axis])
        coarse = apply_along(up, coarse, axis)
    return np.clip(coarse, 0, None)
