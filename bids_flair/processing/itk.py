"""Between nibabel's world (RAS+) and ITK's (LPS+), in memory and in files.

Every rigid or affine transform of this package is a 4 x 4 matrix that takes world coordinates
(RAS+, mm) of the fixed image to those of the moving image: the direction in which an image is
resampled, and the one that ITK stores.
"""

import os
import tempfile
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
from ants.config import set_ants_deterministic
from nitransforms.linear import Affine

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_ants(img: nib.Nifti1Image) -> ants.ANTsImage:
    """A 3D image for ANTs, float32, with the same world coordinates."""
    affine = LPS @ img.affine
    edges = nib.affines.voxel_sizes(affine)
    return ants.from_numpy(
        np.asarray(img.dataobj, dtype=np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=edges.tolist(),
        direction=affine[:3, :3] / edges,
    )


def from_ants(image: ants.ANTsImage) -> nib.Nifti1Image:
    """Inverse of :func:`to_ants`."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.direction) * np.asarray(image.spacing)
    affine[:3, 3] = image.origin
    return nib.Nifti1Image(image.numpy().astype(np.float32), LPS @ affine)


def shrink(img: nib.Nifti1Image, edge_mm: float) -> nib.Nifti1Image:
    """Smooth an image and resample it to `edge_mm`; edges that are longer already stay."""
    image = to_ants(img)
    edges = np.array(image.spacing)
    target = np.maximum(edges, edge_mm)
    sigmas = np.sqrt(np.maximum(target**2 - edges**2, 0)) / 2.355
    smooth = ants.smooth_image(image, tuple(sigmas), sigma_in_physical_coordinates=True)
    return from_ants(ants.resample_image(smooth, tuple(target), use_voxels=False, interp_type=0))


def optimise(
    fixed: nib.Nifti1Image,
    moving: nib.Nifti1Image,
    start: np.ndarray,
    *,
    kind: str,
    factors: tuple[int, ...],
    iterations: tuple[int, ...],
    mask: nib.Nifti1Image | None = None,
    seed: int = 1,
) -> np.ndarray:
    """Improve a transform by Mattes' mutual information.

    Parameters
    ----------
    start : ndarray, shape (4, 4)
        Fixed world to moving world (RAS+, mm).
    kind : str
        ANTs' name of the transform: 'Rigid', 'Similarity' or 'Affine'.
    factors, iterations : tuple of int
        Per level, coarse to fine: how many voxels become one, and the most iterations.
    mask : Nifti1Image, optional
        On the grid of `fixed`: where the images are compared.

    Returns
    -------
    ndarray, shape (4, 4)
        The same for the same seed, as long as ITK has one thread.
    """
    initial = matrix_to_ants(start)
    # `ants.registration(random_seed=...)` is ignored; this is the way to the seed that does not
    # also forbid every transform whose name lacks "Repro".
    set_ants_deterministic(on=False, seed_value=seed)
    result = ants.registration(
        to_ants(fixed),
        to_ants(moving),
        type_of_transform=kind,
        initial_transform=initial,
        mask=None if mask is None else to_ants(mask),
        mask_all_stages=True,
        aff_metric='mattes',
        aff_iterations=iterations,
        aff_shrink_factors=factors,
        aff_smoothing_sigmas=tuple(factor / 2 for factor in factors),
        aff_random_sampling_rate=0.5,
    )
    matrix = read_itk(result['fwdtransforms'][0])
    for name in {initial, *result['fwdtransforms'], *result['invtransforms']}:
        Path(name).unlink(missing_ok=True)
    return matrix


def matrix_to_ants(matrix: np.ndarray) -> str:
    """Write a (4, 4) RAS+ matrix where ANTs reads it as an initial transform; delete it after."""
    handle, name = tempfile.mkstemp(suffix='.txt')
    os.close(handle)
    write_itk(matrix, name)
    return name


def write_itk(matrix: np.ndarray, path: Path | str) -> None:
    """Write a (4, 4) RAS+ matrix as an ITK text transform."""
    Affine(matrix).to_filename(str(path), fmt='itk')


def read_itk(path: Path | str) -> np.ndarray:
    """Read a (4, 4) RAS+ matrix from an ITK file of a linear transform, text or binary (.mat).

    Whatever its kind (rigid of either sort, affine): the matrix is read off where it takes points.
    """
    transform = ants.read_transform(str(path))
    corners = np.vstack([np.zeros(3), np.eye(3)])
    moved = np.array([ants.apply_ants_transform_to_point(transform, tuple(p)) for p in corners])
    matrix = np.eye(4)
    matrix[:3, :3] = (moved[1:] - moved[0]).T
    matrix[:3, 3] = moved[0]
    return LPS @ matrix @ LPS
