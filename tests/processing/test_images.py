"""Bad files are named; good ones get the right grid."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.images import load_checked, load_volume, reference_grid


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).random((20, 22, 24), dtype=np.float32)


def save(data, path, affine=None):
    nib.Nifti1Image(data, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def test_last_axis_of_one_volume_is_dropped_and_nan_is_not_measured(volume, tmp_path):
    volume[3, 4, 5] = np.nan
    img = load_volume(save(volume[..., None], tmp_path / 'a.nii.gz'))
    assert img.shape == volume.shape
    assert img.dataobj[3, 4, 5] == 0
    assert img.dataobj[4, 4, 5] == volume[4, 4, 5]


def test_truncated_gzip_names_the_file(volume, tmp_path):
    path = save(volume, tmp_path / 'cut.nii.gz')
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(BidsFlairError, match=r'cut\.nii\.gz.*truncated') as error:
        load_volume(path)
    assert error.value.code == ExitCode.DATA_UNUSABLE


def test_truncated_plain_nifti_names_the_file(volume, tmp_path):
    path = save(volume, tmp_path / 'cut.nii')
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(BidsFlairError, match=r'cut\.nii.*truncated'):
        load_volume(path)


def test_not_an_image(tmp_path):
    path = tmp_path / 'text.nii.gz'
    path.write_bytes(gzip.compress(b'no image' * 100))
    with pytest.raises(BidsFlairError, match=r'text\.nii\.gz'):
        load_volume(path)


def test_dangling_link_says_what_to_get(tmp_path):
    link = tmp_path / 'sub-01_T1w.nii.gz'
    link.symlink_to('.git/annex/objects/absent')
    with pytest.raises(BidsFlairError, match='datalad get') as error:
        load_checked(link)
    assert error.value.code == ExitCode.INPUT_MISSING


def test_constant_image_is_refused(tmp_path):
    path = save(np.full((5, 5, 5), 7, np.float32), tmp_path / 'flat.nii.gz')
    with pytest.raises(BidsFlairError, match='same value everywhere'):
        load_volume(path)


def test_several_volumes_are_refused(volume, tmp_path):
    path = save(np.stack([volume, volume], -1), tmp_path / 'two.nii.gz')
    with pytest.raises(BidsFlairError, match='one volume is needed'):
        load_volume(path)


def test_qform_and_sform_that_swap_left_and_right(volume, tmp_path):
    img = nib.Nifti1Image(volume, np.eye(4))
    img.set_qform(np.eye(4), 1)
    img.set_sform(np.diag([-1, 1, 1, 1]), 1)
    img.to_filename(tmp_path / 'flip.nii.gz')
    with pytest.raises(BidsFlairError, match='left and right'):
        load_volume(tmp_path / 'flip.nii.gz')


@pytest.mark.parametrize(
    ('edges', 'kept'),
    [((1, 1, 1), True), ((0.8, 0.8, 0.8), True), ((1.19, 1.19, 1.19), True),
     ((1.2, 1.2, 1.2), False), ((0.7, 0.7, 3), False), ((2, 2, 2), False), ((1, 1, 1.15), False)],
)  # fmt: skip
def test_reference_grid(edges, kept):
    affine = np.diag([-edges[0], -edges[1], edges[2], 1.0])
    affine[:3, 3] = 10, 20, -30
    img = nib.Nifti1Image(np.zeros((40, 50, 20), np.float32), affine)
    shape, grid = reference_grid(img)
    if kept:
        assert shape == img.shape
        np.testing.assert_array_equal(grid, affine)
        return
    np.testing.assert_allclose(nib.affines.voxel_sizes(grid), 1, atol=1e-9)
    centre = nib.affines.apply_affine(affine, (np.array(img.shape) - 1) / 2)
    np.testing.assert_allclose(
        nib.affines.apply_affine(grid, (np.array(shape) - 1) / 2), centre, atol=1e-6
    )
    np.testing.assert_allclose(shape, np.array(img.shape) * edges, atol=0.5)
