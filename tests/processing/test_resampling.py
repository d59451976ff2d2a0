"""Resampling puts values where the world says, and nothing where nothing was measured."""

import ants
import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy.spatial.transform import Rotation

from bids_flair.processing.itk import LPS, matrix_to_ants, read_itk, write_itk
from bids_flair.processing.resampling import covered, resample, resample_labels

TURN = from_matvec(Rotation.from_euler('xyz', (5, -8, 12), degrees=True).as_matrix(), (3, -2, 4))


# Half the edges of voxels of 1 mm.
HALVES = ((40, 40, 40), np.diag([0.5, 0.5, 0.5, 1]))


def smooth_field(points):
    """A function of world position that splines reproduce well."""
    x, y, z = np.moveaxis(points, -1, 0) / 15
    return (2 + np.sin(x) * np.cos(y) + 0.5 * np.sin(z)).astype(np.float32)


def image_of(shape, affine, matrix=None):
    points = apply_affine(affine, np.stack(np.indices(shape), -1))
    matrix = np.eye(4) if matrix is None else matrix
    return nib.Nifti1Image(smooth_field(apply_affine(matrix, points)), affine)


def test_oblique_anisotropic_to_another_grid():
    native = from_matvec(TURN[:3, :3] @ np.diag([-1.0, 1.0, 2.5]), (20, -25, -30))
    img = image_of((40, 50, 24), native, np.linalg.inv(TURN))
    grid = ((30, 30, 30), from_matvec(np.eye(3), (-15, -10, -15)))
    moved = resample(img, grid, TURN)
    inside = covered(img, grid, TURN)
    # Splines bend near the border of the data: compare three voxels inside.
    far = covered(_cropped(img, 3), grid, TURN)
    expected = image_of(grid[0], grid[1]).dataobj
    assert far.sum() > 5000
    np.testing.assert_allclose(np.asarray(moved.dataobj)[far], expected[far], atol=0.01)
    assert (np.asarray(moved.dataobj)[~inside] == 0).all()
    assert 0 < inside.mean() < 1


def _cropped(img, n):
    return img.slicer[n:-n, n:-n, n:-n]


def test_same_grid_is_left_alone():
    img = image_of((10, 11, 12), np.eye(4))
    same = resample(img, (img.shape, img.affine))
    np.testing.assert_array_equal(same.dataobj, img.dataobj)


def test_overshoot_stays_in_range():
    data = np.ones((20, 20, 20), np.float32)
    data[10:] = 100
    values = np.asarray(resample(nib.Nifti1Image(data, np.eye(4)), HALVES).dataobj)
    assert values.min() >= 1
    assert values.max() <= 100


def test_what_was_stripped_stays_zero_and_does_not_ring():
    """Splines across the edge of a stripped brain overshoot far outside it and darken its rim."""
    data = np.zeros((20, 20, 20), np.float32)
    data[10:] = 100
    values = np.asarray(resample(nib.Nifti1Image(data, np.eye(4)), HALVES).dataobj)
    # Halves of voxels, the first of which lies on the centre of voxel 0.
    assert (values[:19] == 0).all()
    np.testing.assert_allclose(values[20:], 100, rtol=1e-5)


def test_single_zeros_are_values():
    img = image_of((20, 20, 20), np.eye(4))
    data = np.asarray(img.dataobj).copy()
    data[10, 10, 10] = 0
    values = np.asarray(resample(nib.Nifti1Image(data, np.eye(4)), HALVES).dataobj)
    assert 0.1 < values[21, 20, 20] < 0.9 * img.dataobj[11, 10, 10]


def test_a_mask_reaches_the_edge_of_its_field_of_view():
    mask = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([3, 3, 3, 1]))
    grid = ((14, 14, 14), from_matvec(np.eye(3), (-2, -2, -2)))
    labels = np.asarray(resample_labels(mask, grid).dataobj)
    np.testing.assert_array_equal(labels > 0, covered(mask, grid))
    assert labels.sum() == 12**3


def test_labels_are_not_blended():
    data = np.zeros((20, 20, 20), np.uint8)
    data[8:12] = 3
    grid = ((33, 33, 33), from_matvec(np.eye(3) * 0.6, (0.1, 0.2, 0.3)))
    labels = np.asarray(resample_labels(nib.Nifti1Image(data, np.eye(4)), grid).dataobj)
    assert set(np.unique(labels)) == {0, 3}


def test_transforms_survive_files_and_ants(tmp_path):
    write_itk(TURN, tmp_path / 'x.txt')
    np.testing.assert_allclose(read_itk(tmp_path / 'x.txt'), TURN, atol=1e-5)
    np.testing.assert_allclose(read_itk(matrix_to_ants(TURN)), TURN, atol=1e-5)


@pytest.mark.parametrize('ending', ['txt', 'mat'])
def test_rigid_transforms_of_other_programs(tmp_path, ending):
    """ANTs' own rigid kind, with a centre of rotation, and in its binary form."""
    transform = ants.create_ants_transform(
        transform_type='Euler3DTransform', center=(10, 20, 30), parameters=(0.1, 0, -0.03, 1, 2, 3)
    )
    ants.write_transform(transform, str(tmp_path / f'x.{ending}'))
    point = np.array([5.0, 6.0, 7.0, 1.0])
    expected = ants.apply_ants_transform_to_point(transform, tuple((LPS @ point)[:3]))
    matrix = read_itk(tmp_path / f'x.{ending}')
    np.testing.assert_allclose((LPS @ matrix @ point)[:3], expected, atol=1e-4)
