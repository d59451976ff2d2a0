"""Bringing an image to the reference grid: once, from its own voxels."""

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform, distance_transform_edt, label

SPLINE_ORDER = 3
HOLE_VOXELS = 1000
Grid = tuple[tuple[int, int, int], np.ndarray]


def resample(
    img: nib.Nifti1Image, grid: Grid, matrix: np.ndarray | None = None
) -> nib.Nifti1Image:
    """Resample an intensity image by third-order splines.

    Parameters
    ----------
    img : Nifti1Image
        Three-dimensional, in its native space.
    grid : tuple of shape (3,) and affine (4, 4)
        Where to.
    matrix : ndarray, shape (4, 4), optional
        Takes world coordinates of the grid to those of `img` (RAS+, mm); identity by default.

    Returns
    -------
    Nifti1Image
        float32, on `grid`. Exactly 0 outside the field of view of `img` and in large regions of
        exact zeros, such as those that skull stripping leaves ("not measured"): no spline is laid
        across their edge. Splines overshoot at edges: values are kept inside the range of the
        input.
    """
    data = np.asarray(img.dataobj, dtype=np.float32)
    if matrix is None and img.shape == grid[0] and np.allclose(img.affine, grid[1]):
        return nib.Nifti1Image(data, img.affine)
    holes = large_regions(data == 0)
    whole = spread(data, ~holes) if holes.any() else data
    moved = _apply(nib.Nifti1Image(whole, img.affine), grid, matrix, SPLINE_ORDER, np.float32)
    values = np.asarray(moved.dataobj)
    np.clip(values, data.min(), data.max(), out=values)
    values[~covered(img, grid, matrix)] = 0
    if holes.any():
        empty = resample_labels(nib.Nifti1Image(holes.astype(np.uint8), img.affine), grid, matrix)
        values[np.asarray(empty.dataobj) > 0] = 0
    return nib.Nifti1Image(values, grid[1])


def resample_smooth(img: nib.Nifti1Image, grid: Grid) -> nib.Nifti1Image:
    """Resample what changes slowly, such as a bias field: linear, carried on beyond its edge."""
    return _apply(img, grid, None, 1, np.float32)


def resample_labels(
    img: nib.Nifti1Image, grid: Grid, matrix: np.ndarray | None = None
) -> nib.Nifti1Image:
    """Resample a mask or label image: nearest neighbour, uint8; parameters as `resample`."""
    moved = _apply(img, grid, matrix, 0, np.uint8)
    labels = np.asarray(moved.dataobj)
    labels[~covered(img, grid, matrix)] = 0
    return moved


def large_regions(mask: np.ndarray) -> np.ndarray:
    """The connected pieces of a mask that have at least a thousand voxels."""
    pieces, count = label(mask)
    large = np.bincount(pieces.ravel(), minlength=count + 1) >= HOLE_VOXELS
    large[0] = False
    return large[pieces]


def spread(volume: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Each voxel not covered takes the value of the nearest one that is."""
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return volume[tuple(nearest)]


def covered(img: nib.Nifti1Image, grid: Grid, matrix: np.ndarray | None = None) -> np.ndarray:
    """Where the grid lies inside the field of view of an image.

    Returns
    -------
    ndarray of bool, shape of the grid
        True for grid points that fall inside the outer faces of the image's outer voxels.
    """
    shape, affine = grid
    to_voxels = _to_voxels(img, affine, matrix)
    inside = np.ones(shape, dtype=bool)
    axes = [np.arange(n, dtype=np.float32) for n in shape]
    for row, n in zip(to_voxels[:3], img.shape[:3], strict=True):
        position = (
            row[0] * axes[0][:, None, None]
            + row[1] * axes[1][None, :, None]
            + row[2] * axes[2][None, None, :]
            + row[3]
        )
        inside &= (position >= -0.5) & (position <= n - 0.5)
    return inside


def _apply(img, grid, matrix, order, dtype) -> nib.Nifti1Image:
    shape, affine = grid
    # The outer half voxel is carried on; what lies farther out is for `covered` to cut.
    data = affine_transform(
        np.asarray(img.dataobj, dtype=dtype),
        _to_voxels(img, affine, matrix),
        output_shape=shape,
        order=order,
        mode='nearest',
    )
    return nib.Nifti1Image(data, affine)


def _to_voxels(img: nib.Nifti1Image, affine: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Grid indices to voxel indices of an image, (4, 4)."""
    return np.linalg.inv(img.affine) @ (np.eye(4) if matrix is None else matrix) @ affine
