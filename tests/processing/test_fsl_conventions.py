"""FSL's matrices, files and orders of voxels, against definitions written down here anew."""

import fsl_stand_in
import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy.spatial.transform import Rotation

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing import fsl
from bids_flair.processing.gradients import Gradients
from bids_flair.processing.itk import read_itk, write_itk

OBLIQUE = Rotation.from_euler('xyz', (12, -9, 20), degrees=True).as_matrix()
SHIFT = (-90.0, 40.0, 15.0)
# Neurological (RAS), radiological (LAS), another order of axes, oblique; anisotropic voxels.
AFFINES = {
    'neurological': from_matvec(np.diag([1.0, 1.2, 3.0]), SHIFT),
    'radiological': from_matvec(np.diag([-1.0, 1.2, 3.0]), SHIFT),
    'sagittal': from_matvec(np.array([[0, 0, 1.5], [-1, 0, 0], [0, -1.1, 0]]), SHIFT),
    'oblique': from_matvec(OBLIQUE @ np.diag([0.8, 1.0, 4.0]), SHIFT),
    'oblique radiological': from_matvec(OBLIQUE @ np.diag([-2.0, 2.0, 2.5]), SHIFT),
}
SHAPES = {'fixed': (31, 40, 12), 'moving': (22, 18, 25)}
TRUE = from_matvec(Rotation.from_euler('xyz', (5, 11, -7), degrees=True).as_matrix(), (4, -9, 6))


def image(role: str, kind: str) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(SHAPES[role], np.float32), AFFINES[kind])


def in_fsl_mm(img: nib.Nifti1Image, world: np.ndarray) -> np.ndarray:
    """FSL's coordinates of a point: voxels times edges, the first axis mirrored if det > 0."""
    voxels = np.linalg.solve(img.affine, np.append(world, 1))[:3]
    edges = np.linalg.norm(img.affine[:3, :3], axis=0)
    if np.linalg.det(img.affine) > 0:
        voxels[0] = img.shape[0] - 1 - voxels[0]
    return voxels * edges


@pytest.mark.parametrize('moving_kind', AFFINES)
@pytest.mark.parametrize('fixed_kind', AFFINES)
def test_flirt_matrix_becomes_itk_transform(fixed_kind, moving_kind, tmp_path):
    """A point seen by FSL's matrix and by the converted transform ends in one place."""
    images = {'fixed': image('fixed', fixed_kind), 'moving': image('moving', moving_kind)}
    for role, img in images.items():
        img.to_filename(tmp_path / f'{role}.nii')
    matrix = fsl_stand_in.fsl_matrix(TRUE, images['fixed'], images['moving'])
    np.savetxt(tmp_path / 'flirt.mat', matrix, fmt='%.10f')
    for point in np.random.default_rng(0).normal(0, 60, (5, 3)):
        seen = in_fsl_mm(images['moving'], apply_affine(TRUE, point))
        np.testing.assert_allclose(
            apply_affine(matrix, seen), in_fsl_mm(images['fixed'], point), atol=1e-6
        )
    found = fsl.read_flirt(tmp_path / 'flirt.mat', tmp_path / 'fixed.nii', tmp_path / 'moving.nii')
    np.testing.assert_allclose(found, TRUE, atol=1e-5)
    write_itk(found, tmp_path / 'itk.txt')
    np.testing.assert_allclose(read_itk(tmp_path / 'itk.txt'), TRUE, atol=1e-5)
    ends = tmp_path / 'fixed.nii', tmp_path / 'moving.nii'
    fsl.write_flirt(TRUE, tmp_path / 'start.mat', *ends)
    np.testing.assert_allclose(np.loadtxt(tmp_path / 'start.mat'), matrix, atol=1e-4)


@pytest.mark.parametrize('kind', AFFINES)
def test_header_that_agrees_is_the_identity_for_a_reordered_image(kind, tmp_path):
    """Reordering changes FSL's matrix, and not the transform."""
    img = image('fixed', kind)
    turned = fsl.reorder(img)
    for name, volume in (('a', img), ('b', turned)):
        volume.to_filename(tmp_path / f'{name}.nii')
    matrix = fsl_stand_in.fsl_matrix(np.eye(4), turned, img)
    np.savetxt(tmp_path / 'flirt.mat', matrix, fmt='%.10f')
    found = fsl.read_flirt(tmp_path / 'flirt.mat', tmp_path / 'b.nii', tmp_path / 'a.nii')
    np.testing.assert_allclose(found, np.eye(4), atol=1e-5)


@pytest.mark.parametrize('kind', AFFINES)
def test_reordered_images_are_radiological_and_say_so_twice(kind, tmp_path):
    img = image('fixed', kind)
    data = np.random.default_rng(1).normal(size=img.shape).astype(np.float32)
    turned = fsl.reorder(nib.Nifti1Image(data, img.affine))
    assert nib.aff2axcodes(turned.affine) == ('L', 'A', 'S')
    turned.to_filename(tmp_path / 'a.nii')
    header = nib.load(tmp_path / 'a.nii').header
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert (int(header['qform_code']), int(header['sform_code'])) == (1, 1)
    for voxel in ((0, 0, 0), (3, 7, 5)):
        there = np.round(np.linalg.inv(turned.affine) @ img.affine @ (*voxel, 1))[:3].astype(int)
        assert np.asarray(turned.dataobj)[tuple(there)] == data[voxel]


def ecclog(series, transforms) -> str:
    """As eddy_correct writes it."""
    grid = series.slicer[..., 0]
    text = ''
    for number, transform in enumerate(transforms):
        rows = fsl_stand_in.fsl_matrix(transform, grid, grid)
        text += f'processing series_edc_tmp{number:04d}\n\nFinal result: \n'
        text += ''.join(' '.join(f'{v:.9f}' for v in row) + '  \n' for row in rows) + '\n'
    return text


@pytest.mark.parametrize('kind', AFFINES)
@pytest.mark.parametrize('earlier', [0, 2])
def test_eddy_log_gives_the_motion_of_every_volume(kind, earlier, tmp_path):
    series = nib.Nifti1Image(np.zeros((*SHAPES['moving'], 3), np.float32), AFFINES[kind])
    stretched = from_matvec(np.diag([1.01, 0.98, 1.0]), (0, 2, 0))
    transforms = [np.eye(4), TRUE, stretched]
    stale = ecclog(series, [stretched] * earlier)
    (tmp_path / 'a.ecclog').write_text(stale + ecclog(series, transforms))
    found = fsl.read_eddy_log(tmp_path / 'a.ecclog', series)
    np.testing.assert_allclose(found, transforms, atol=1e-5)


def test_eddy_log_cut_short_is_an_error(tmp_path):
    series = nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4))
    (tmp_path / 'a.ecclog').write_text(ecclog(series, [np.eye(4)] * 2))
    with pytest.raises(BidsFlairError, match='2 transforms for 3 volumes'):
        fsl.read_eddy_log(tmp_path / 'a.ecclog', series)


@pytest.mark.parametrize(
    ('bvals', 'order', 'extra'),
    [
        ((0, 1000, 0, 1000, 3000), [9, 0, 1, 2, 3, 4], 1),
        ((1000, 1000, 0, 1000, 3000), [9, 0, 1, 3, 4], 0),
    ],
)
def test_series_begins_with_the_mean_b0(bvals, order, extra):
    """The volumes hold their number; the mean holds 9, and replaces a b=0 that is alone."""
    data = np.arange(5, dtype=np.float32) * np.ones((3, 3, 3, 5), np.float32)
    data[0, 0, 0, 1] = np.nan
    dwi = nib.Nifti1Image(data, np.eye(4))
    bvals = np.array(bvals, float)
    vectors = np.where(bvals[:, None] > 0, np.arange(15.0).reshape(5, 3), 0)
    b0 = nib.Nifti1Image(np.full((3, 3, 3), 9, np.float32), np.eye(4))
    series, gradients, found = fsl.series_after_b0(dwi, Gradients(bvals, vectors), b0)
    assert np.asarray(series.dataobj)[1, 1, 1].tolist() == order
    assert found == extra
    assert np.isfinite(np.asarray(series.dataobj)).all()
    assert gradients.bvals.tolist() == [0, *bvals[order[1:]]]
    np.testing.assert_array_equal(gradients.directions[1:], vectors[order[1:]])


@pytest.mark.parametrize(
    ('axis', 'times', 'rows'),
    [
        ('j-', [0.04], [[0, -1, 0, 0.04]]),
        ('i', [0.04, 0.06], [[1, 0, 0, 0.04], [-1, 0, 0, 0.06]]),
        (None, [None], [[0, 1, 0, 0.05]]),
        ('j', [0.04, None], [[0, 1, 0, 0.05], [0, -1, 0, 0.05]]),
        ('j', [0.002], [[0, 1, 0, 0.05]]),
    ],
)
def test_acquisition_is_told_to_eddy_in_its_terms(axis, times, rows):
    assert fsl.encoding_rows(axis, times).tolist() == rows


def test_unweighted_volumes_of_the_opposite_image(tmp_path):
    data = np.array([5.0, 100, 7]) * np.ones((2, 2, 2, 3))
    nib.Nifti1Image(data.astype(np.float32), np.eye(4)).to_filename(tmp_path / 'pa.nii')
    (tmp_path / 'bval').write_text('0 1000 5')
    means = [
        float(np.asarray(fsl.unweighted(tmp_path / 'pa.nii', bval).dataobj).mean())
        for bval in (None, tmp_path / 'bval')
    ]
    assert means == pytest.approx([112 / 3, 6])
    (tmp_path / 'bval').write_text('1000 1000 1000')
    with pytest.raises(BidsFlairError, match='no volume without') as error:
        fsl.unweighted(tmp_path / 'pa.nii', tmp_path / 'bval')
    assert error.value.code == ExitCode.DATA_UNUSABLE


def test_pair_is_on_one_even_grid_that_begins_where_it_did():
    """The second image was stored in another order; both show one bright voxel in one place."""
    affine = AFFINES['radiological']
    data = np.zeros((5, 6, 7), np.float32)
    data[1, 2, 3] = 1
    first = nib.Nifti1Image(data, affine)
    both = fsl.pair(first, nib.as_closest_canonical(first))
    assert both.shape == (6, 6, 8, 2)
    np.testing.assert_array_equal(both.affine, affine)
    for number in (0, 1):
        volume = np.asarray(both.dataobj)[..., number]
        np.testing.assert_allclose(volume[:5, :6, :7], data, atol=1e-5)
        np.testing.assert_array_equal(volume[5], volume[4])


def test_box_and_its_affine():
    mask = np.zeros((6, 7, 8), bool)
    mask[2:4, 1, 5:8] = True
    box = fsl.box_of(mask)
    assert mask[box].all() and mask[box].shape == (2, 1, 3)
    affine = AFFINES['oblique']
    moved = fsl.box_affine(affine, box)
    np.testing.assert_allclose(moved @ (0, 0, 0, 1), affine @ (2, 1, 5, 1))
    with pytest.raises(ValueError, match='empty'):
        fsl.box_of(np.zeros((2, 2, 2), bool))
