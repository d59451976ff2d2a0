"""From a diffusion series to MD, FA and S0 on the reference grid."""

from pathlib import Path

import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from nibabel.affines import apply_affine
from scipy.ndimage import map_coordinates, spline_filter
from threadpoolctl import threadpool_limits

from bids_flair.processing.gradients import Gradients, read_gradients, unit
from bids_flair.processing.images import load_checked
from bids_flair.processing.registration import follow_rigid, mask_points, mean_distance, thin
from bids_flair.processing.resampling import SPLINE_ORDER

# mm2/s: faster than free water at body temperature is noise.
LARGEST_MD = 4.0e-3
FIT_CHUNK = 100_000
MOTION_POINTS = 2000


def load_series(
    dwi: Path | str, bval: Path | str, bvec: Path | str
) -> tuple[nib.Nifti1Image, Gradients]:
    """Open a series (its voxels stay on disk) and read its gradients.

    Raises
    ------
    BidsFlairError
        As :func:`bids_flair.processing.images.load_checked` and :func:`read_gradients` do.
    """
    img = load_checked(dwi)
    return img, read_gradients(img, bval, bvec)


def mean_b0(dwi: nib.Nifti1Image, gradients: Gradients) -> nib.Nifti1Image:
    """Mean of the volumes without diffusion weighting, float32."""
    volumes = [np.asarray(dwi.dataobj[..., i], dtype=np.float32) for i in gradients.b0]
    return nib.Nifti1Image(np.mean(volumes, axis=0), dwi.affine)


def estimate_motion(
    dwi: nib.Nifti1Image, gradients: Gradients, b0: nib.Nifti1Image, mask: nib.Nifti1Image
) -> np.ndarray:
    """Head motion of each volume that takes part in the fit.

    Rigid, to the mean b=0. It does not undo the distortions by eddy currents and by the field's
    inhomogeneity.

    Parameters
    ----------
    mask : Nifti1Image
        Brain on the grid of `b0`.

    Returns
    -------
    ndarray, shape (n usable, 4, 4)
        World of the mean b=0 to world of the volume (RAS+, mm).
    """
    motions = []
    for index in gradients.usable:
        volume = nib.Nifti1Image(np.asarray(dwi.dataobj[..., index], np.float32), dwi.affine)
        motions.append(follow_rigid(b0, volume, mask))
    return np.stack(motions)


def brain_displacements(
    motions: np.ndarray, mask: nib.Nifti1Image, to_b0: np.ndarray
) -> np.ndarray:
    """How far each volume's brain lies from where that of the mean b=0 does, in mm.

    Parameters
    ----------
    motions : ndarray, shape (n, 4, 4)
        World of the mean b=0 to world of the volume.
    mask : Nifti1Image
        Brain on the reference grid.
    to_b0 : ndarray, shape (4, 4)
        World of the reference grid to world of the mean b=0.

    Returns
    -------
    ndarray, shape (n,)
        Mean over the brain.
    """
    points = apply_affine(to_b0, thin(mask_points(mask), MOTION_POINTS))
    return np.array([mean_distance(motion, np.eye(4), points) for motion in motions])


def fit_maps(
    dwi: nib.Nifti1Image,
    gradients: Gradients,
    motions: np.ndarray,
    to_b0: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray,
    *,
    threads: int = 1,
) -> dict[str, nib.Nifti1Image]:
    """Fit a tensor on the reference grid, from signals interpolated once out of native space.

    Weighted least squares; S0 is the fit's own signal without weighting.

    Parameters
    ----------
    motions : ndarray, shape (n usable, 4, 4)
        As :func:`estimate_motion` gives them.
    to_b0 : ndarray, shape (4, 4)
        World of the reference grid to world of the mean b=0.
    affine : ndarray, shape (4, 4)
        Of the reference grid.
    mask : ndarray of bool
        Brain on the reference grid.

    Returns
    -------
    dict
        'MD' in mm2/s, 'FA' and 'S0' (units of the series), float32; 0 outside the mask and where
        the series has no signal.
    """
    usable = gradients.usable
    signals = signals_on_grid(dwi, usable, motions, to_b0, affine, mask)
    turned = turn_gradients(gradients, usable, motions @ to_b0)
    model = TensorModel(
        gradient_table(turned.bvals, bvecs=turned.directions, b0_threshold=1),
        fit_method='WLS',
        return_S0_hat=True,
    )
    values = {name: np.zeros(len(signals), np.float32) for name in ('MD', 'FA', 'S0')}
    measured = np.flatnonzero((signals > 0).all(axis=1))
    with threadpool_limits(threads):
        for start in range(0, len(measured), FIT_CHUNK):
            chunk = measured[start : start + FIT_CHUNK]
            fit = model.fit(signals[chunk])
            maps = {'MD': fit.md, 'FA': fit.fa, 'S0': fit.S0_hat}
            for name, vector in possible_values(maps, signals[chunk].max()).items():
                values[name][chunk] = vector
    return {name: fill(vector, mask, affine) for name, vector in values.items()}


def signals_on_grid(
    dwi: nib.Nifti1Image,
    volumes: np.ndarray,
    motions: np.ndarray,
    to_b0: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray,
) -> np.ndarray:
    """Signals of some volumes in the voxels of a mask, interpolated once by third-order splines.

    Parameters
    ----------
    volumes : ndarray of int, shape (n,)
        Indices into the series.
    motions : ndarray, shape (n, 4, 4)
        World of the mean b=0 to the world of each of these volumes.
    to_b0, affine, mask
        As for :func:`fit_maps`.

    Returns
    -------
    ndarray, shape (voxels in `mask`, n)
        float32; 0 where a volume does not reach.
    """
    points = apply_affine(affine, np.argwhere(mask))
    signals = np.empty((len(points), len(volumes)), dtype=np.float32)
    for column, (index, motion) in enumerate(zip(volumes, motions, strict=True)):
        signals[:, column] = _signal_at(dwi, index, apply_affine(motion @ to_b0, points))
    return signals


def turn_gradients(gradients: Gradients, volumes: np.ndarray, matrices: np.ndarray) -> Gradients:
    """Gradients of some volumes, as seen from the grid that the volumes are resampled to.

    A head that turned by R under fixed gradients saw them turned by its inverse. Of an affine
    matrix, the rotation counts that comes closest to it (finite strain; Alexander et al., IEEE
    TMI 20(11), 1131, 2001).

    Parameters
    ----------
    matrices : ndarray, shape (n, 4, 4)
        World of the grid to the world of each volume.
    """
    left, _, right = np.linalg.svd(matrices[:, :3, :3])
    turned = np.einsum('nji,nj->ni', left @ right, gradients.directions[volumes])
    return Gradients(gradients.bvals[volumes], unit(turned))


def possible_values(maps: dict[str, np.ndarray], brightest: float) -> dict[str, np.ndarray]:
    """MD (mm2/s), FA and S0 kept within what can be; `brightest` is that of the signals."""
    limits = {'MD': LARGEST_MD, 'FA': 1.0, 'S0': 4 * brightest}
    return {name: np.clip(np.nan_to_num(values), 0, limits[name]) for name, values in maps.items()}


def _signal_at(dwi: nib.Nifti1Image, index: int, points: np.ndarray) -> np.ndarray:
    """One volume's signal at world points, by third-order splines; 0 outside of it."""
    data = np.asarray(dwi.dataobj[..., index], dtype=np.float32)
    voxels = apply_affine(np.linalg.inv(dwi.affine), points).T
    coefficients = spline_filter(data, order=SPLINE_ORDER, mode='nearest', output=np.float32)
    values = map_coordinates(
        coefficients, voxels, order=SPLINE_ORDER, mode='nearest', prefilter=False
    )
    limits = np.array(data.shape)[:, None] - 0.5
    inside = ((voxels >= -0.5) & (voxels <= limits)).all(axis=0)
    # Where splines overshoot below the noise the smallest positive signal stands in.
    floor = 1e-3 * float(np.percentile(data, 99))
    return np.where(inside & (data.max() > 0), np.clip(values, floor, data.max()), 0)


def fill(values: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """An image that holds `values` in the voxels of a mask and 0 elsewhere, float32."""
    data = np.zeros(mask.shape, dtype=np.float32)
    data[mask] = values
    return nib.Nifti1Image(data, affine)
