"""Skull stripping: its parts on phantoms, the whole on the atlas itself and on real scans."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bids_flair.errors import BidsFlairError
from bids_flair.processing import brain_mask
from bids_flair.processing.brain_mask import (
    choose_brain,
    dice,
    extract_brain,
    stored_atlas,
    stripped_mask,
    without_neck,
)
from bids_flair.processing.brain_rim import fit_rim, signed_distance
from bids_flair.processing.brain_surface import inflate

EDGE_MM = 4.0
AFFINE = np.diag([EDGE_MM, EDGE_MM, EDGE_MM, 1])


@pytest.fixture
def phantom():
    """Head of 56^3 voxels of 4 mm: brain of 1.3 l, fluid, skull and scalp around it."""
    rng = np.random.default_rng(0)
    place = (np.indices((56, 56, 56)).T - [28, 28, 28]).T * EDGE_MM
    x, y, z = place / np.array([62, 78, 64])[:, None, None, None]
    radius = np.sqrt(x**2 + y**2 + z**2)
    brain = radius < 1
    data = np.select(
        [brain, radius < 1.05, radius < 1.15, radius < 1.3], [100.0, 30.0, 8.0, 160.0], 1.0
    )
    data += 12 * brain * np.sign(ndimage.gaussian_filter(rng.normal(size=data.shape), 1.5))
    data = ndimage.gaussian_filter(data, 0.5) + rng.normal(size=data.shape)
    return data.astype(np.float32), brain


def test_surface_finds_the_brain_of_a_phantom(phantom):
    data, brain = phantom
    start = ndimage.binary_dilation(brain)
    assert dice(inflate(data, EDGE_MM, start), brain) > 0.93


def test_rim_moves_a_wrong_prior_to_where_the_image_has_it(phantom):
    data, brain = phantom
    error = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=brain.shape), 4)
    prior = signed_distance(brain, EDGE_MM) + 5 * error / error.std() < 0
    after = fit_rim(data, prior, EDGE_MM) < 0
    assert dice(after, brain) > dice(prior, brain) + 0.02


@pytest.mark.parametrize('background', [0, -7])
def test_stripped_image_is_taken_as_it_is(phantom, background):
    data, brain = phantom
    inside = brain.copy()
    inside[28, 28, 28] = False
    img = nib.Nifti1Image(np.where(inside, data, background).astype(np.float32), AFFINE)
    found = extract_brain(img)
    assert found.stripped and np.isnan(found.agreement) and found.warnings == ()
    assert (np.asarray(found.image.dataobj) > 0).tolist() == brain.tolist()
    assert found.volume_l == pytest.approx(brain.sum() * EDGE_MM**3 / 1e6)


def test_head_in_exactly_black_air_is_not_taken_for_stripped(phantom):
    data, _ = phantom
    air = ndimage.gaussian_filter(data, 1) < 5
    assert stripped_mask(nib.Nifti1Image(np.where(air, 0, data), AFFINE)) is None


def test_head_that_fits_a_brains_volume_is_told_by_its_skull(phantom):
    data, brain = phantom
    air = ndimage.distance_transform_edt(~brain) * EDGE_MM > 20
    small = np.diag([*[0.8 * EDGE_MM] * 3, 1])
    assert stripped_mask(nib.Nifti1Image(np.where(air, 0, data), small)) is None


@pytest.mark.parametrize('axes', ['LPS', 'PIR', 'SAL'])
def test_mask_lies_on_the_axes_of_the_image(phantom, axes):
    data, brain = phantom
    lopsided = brain.copy()
    lopsided[:, :20, 30:] = False
    img = nib.Nifti1Image(np.where(lopsided, data, 0), AFFINE)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes)
    )
    turned = extract_brain(img.as_reoriented(turn)).image
    assert nib.aff2axcodes(turned.affine) == tuple(axes)
    back = nib.as_closest_canonical(turned)
    assert (np.asarray(back.dataobj) == np.asarray(extract_brain(img).image.dataobj)).all()


@pytest.mark.parametrize('data', [np.zeros((8, 8, 8, 2)), np.ones((8, 8, 8))])
def test_image_without_a_head_is_refused(data):
    with pytest.raises(BidsFlairError, match='no brain'):
        extract_brain(nib.Nifti1Image(data.astype(np.float32), np.eye(4)))


def test_warnings_name_the_figure_and_the_side():
    mask = np.zeros((10, 10, 10), bool)
    mask[2:8, 2:8, 5:] = True
    poor, small, cut = brain_mask.mask_warnings(mask, 0.41, 0.62)
    assert '0.62' in poor and '0.41 l' in small
    assert 'superior (36 voxels)' in cut and 'inferior' not in cut
    assert list(brain_mask.mask_warnings(np.zeros((4, 4, 4), bool), 1.4, 0.95)) == []


def _displaced(img: nib.Nifti1Image, degrees: float, shift_mm) -> nib.Nifti1Image:
    """The same voxels somewhere else in the world."""
    turn = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(x=np.deg2rad(degrees)), np.asarray(shift_mm, float)
    )
    return nib.Nifti1Image(np.asarray(img.dataobj), turn @ img.affine)


@pytest.mark.slow
@pytest.mark.parametrize('scale', [pytest.param(1e-3, marks=pytest.mark.long), 1e3])
def test_atlas_head_is_found_wherever_it_lies_in_any_unit(scale):
    atlas = stored_atlas()
    data = np.asarray(atlas.head.dataobj) * scale
    img = _displaced(nib.Nifti1Image(data.astype(np.float32), atlas.head.affine), 17, (5, 40, -60))
    found = extract_brain(img)
    assert dice(np.asarray(found.image.dataobj) > 0, np.asarray(atlas.brain.dataobj) > 0.5) > 0.93


@pytest.mark.slow
def test_candidate_that_agrees_best_with_the_atlas_is_taken():
    atlas = stored_atlas()
    brain = np.asarray(atlas.brain.dataobj) > 0.5
    masks = [ndimage.binary_erosion(brain, iterations=4), brain, ndimage.binary_dilation(brain)]
    images = [nib.Nifti1Image(mask.astype(np.uint8), atlas.brain.affine) for mask in masks]
    axes = nib.orientations.axcodes2ornt('LPS')
    turn = nib.orientations.ornt_transform(nib.io_orientation(atlas.head.affine), axes)
    found = choose_brain(atlas.head.as_reoriented(turn), images)
    back = np.asarray(nib.as_closest_canonical(found.image).dataobj) > 0
    np.testing.assert_array_equal(back, brain)
    assert 0.9 < found.agreement < 1 and not found.stripped


def test_of_a_stripped_image_no_candidate_is_taken(phantom):
    data, brain = phantom
    img = nib.Nifti1Image(np.where(brain, data, 0), AFFINE)
    wrong = nib.Nifti1Image(np.ones(brain.shape, np.uint8), AFFINE)
    found = choose_brain(img, [wrong])
    assert found.stripped
    assert (np.asarray(found.image.dataobj) > 0).tolist() == brain.tolist()


def test_neck_is_cut_where_a_head_ends(phantom):
    data, _ = phantom
    long = np.concatenate([np.zeros((56, 56, 40), np.float32), data], 2)
    long[18:38, 18:38, :50] = 100
    cut = without_neck(nib.Nifti1Image(long, AFFINE))
    top = np.flatnonzero((data > 20).any((0, 1)))[-1] + 40
    kept_mm = (top - 96 + cut.shape[2]) * EDGE_MM
    assert kept_mm == pytest.approx(brain_mask.HEAD_HEIGHT_MM, abs=2 * EDGE_MM)
    np.testing.assert_array_equal(np.asarray(cut.dataobj), long[:, :, -cut.shape[2] :])
    assert cut.affine[2, 3] == (96 - cut.shape[2]) * EDGE_MM


def _mask_of(path) -> brain_mask.BrainMask:
    return extract_brain(nib.load(path))


def _common_dice(first: nib.Nifti1Image, second: nib.Nifti1Image) -> float:
    """Dice on the grid of `first`, where `second` has been measured."""
    to_second = np.linalg.inv(second.affine) @ first.affine
    values = np.asarray(second.dataobj, np.float32)
    moved = ndimage.affine_transform(values, to_second, output_shape=first.shape, order=1)
    seen = ndimage.affine_transform(
        np.ones_like(values), to_second, output_shape=first.shape, order=0, cval=0
    )
    measured = seen > 0
    return dice((np.asarray(first.dataobj) > 0) & measured, (moved > 0.5) & measured)


@pytest.mark.slow
@pytest.mark.parametrize(
    'session', ['sub-01/ses-01', pytest.param('sub-04/ses-01', marks=pytest.mark.long)]
)
def test_contrasts_of_one_session_give_one_brain(shared_data, session):
    folder = shared_data / 'open-ms' / session / 'anat'
    stem = session.replace('/', '_')
    t1w, t2w = (_mask_of(folder / f'{stem}_{name}.nii.gz') for name in ('T1w', 'T2w'))
    assert min(t1w.agreement, t2w.agreement) > 0.9
    assert _common_dice(t1w.image, t2w.image) > 0.93


@pytest.mark.slow
@pytest.mark.parametrize('contrast', ['T1w', 'T2w', 'FLAIR'])
def test_real_stripped_images_are_recognised(shared_data, contrast):
    name = f'sub-19_space-MNI152_desc-preproc_{contrast}.nii.gz'
    assert _mask_of(shared_data / 'open-ms-mni' / 'sub-19' / 'anat' / name).stripped
