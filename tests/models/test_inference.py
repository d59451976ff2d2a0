"""The synthetic FLAIR does not depend on what it should not depend on."""

import copy
from dataclasses import replace
from itertools import combinations

import nibabel as nib
import numpy as np
import pytest
import torch
from small_heads import make_doll

import bids_flair
from bids_flair.models import blocks, inference
from bids_flair.models.familiarity import Familiarity
from bids_flair.models.files import load_model
from bids_flair.models.finishing import (
    BRIGHT,
    FILLED,
    FLUID_FLAIR,
    HELD_BACK,
    filled_in,
    fluid_kept_dark,
    held_back,
    with_detail,
)
from bids_flair.models.inference import pick_device, predict, synthesis_of, synthesize
from bids_flair.models.network import Architecture
from bids_flair.models.normalisation import CONTRASTS, LARGEST_WEIGHTED, Normalised, normalise
from bids_flair.models.regressor import CPU
from bids_flair.scoring import correlation

# Nested balls are no head.
pytestmark = pytest.mark.filterwarnings('ignore:the inputs look unlike')

ANATOMY, INPUTS = ('T1w', 'T2w'), Architecture().inputs


def test_tiles_do_not_show(phantom, small_model, monkeypatch):
    inputs = normalise(phantom.arrays, phantom.mask)
    cpu = torch.device('cpu')
    whole = inference.predict(small_model.network, inputs, phantom.mask, cpu)
    monkeypatch.setattr(blocks, 'TILE', 16)
    tiled = inference.predict(small_model.network, inputs, phantom.mask, cpu)
    for a, b in zip(whole, tiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_interval_is_around_the_flair_and_as_wide_as_the_card_says(phantom, small_model):
    images, mask = phantom.images(*ANATOMY), phantom.mask
    plain = synthesis_of(images, model=small_model)
    wider = replace(
        small_model, card=small_model.card | {'calibration': {'below': 2.0, 'above': 2.0}}
    )
    stretched = synthesis_of(images, model=wider)
    flair, low, high, std = (
        getattr(plain, name).get_fdata()[mask] for name in ('flair', 'low', 'high', 'std')
    )
    assert (low <= flair).all()
    assert (flair <= high).all()
    assert (low >= 0).all()
    np.testing.assert_allclose(stretched.std.get_fdata()[mask], 2 * std, rtol=1e-5)
    np.testing.assert_allclose(
        stretched.high.get_fdata()[mask] - flair, 2 * (high - flair), rtol=1e-3, atol=1e-5
    )


def test_inputs_unlike_the_training_are_warned_of(phantom, small_model):
    images = phantom.images(*ANATOMY)
    inputs = normalise(phantom.arrays, phantom.mask)
    seen = blocks.style(inputs.pick(INPUTS), phantom.mask)
    rng = np.random.default_rng(0)
    styles = seen * np.exp(rng.normal(0, 0.1, (200, len(INPUTS), 1)))
    network = copy.deepcopy(small_model.network)
    network.remember(Familiarity.of(styles, rng))
    model = replace(small_model, network=network)
    known = synthesis_of(images, model=model)
    assert known.unfamiliarity < 1
    assert not known.warnings
    for name, here in known.intensities.items():
        np.testing.assert_allclose(here['found'], seen[INPUTS.index(name)], rtol=0.05)
        assert np.less(np.abs(np.subtract(here['found'], here['mean'])), here['sd']).all()
    mixed_up = {'T1w': images['T2w'], 'T2w': images['T1w']}
    unknown = synthesis_of(mixed_up, model=model)
    assert unknown.unfamiliarity > 1
    assert any('unlike anything' in text for text in unknown.warnings)


def test_detail_is_what_sets_a_voxel_apart_from_those_around_it():
    mask = np.zeros((40, 40, 40), bool)
    mask[4:36, 4:36, 4:36] = True
    image = mask.astype(np.float32)
    np.testing.assert_allclose(with_detail(image, mask, 0.5), image, atol=1e-5)
    image[20, 20, 20] = 2
    image[20, 20, 30] = 0
    found = with_detail(image, mask, 0.5)
    assert found[20, 20, 20] == pytest.approx(2.5, abs=0.02)
    assert found[20, 20, 30] == 0
    assert found[20, 20, 22] < 1 < found[20, 20, 28]
    assert not found[~mask].any()
    np.testing.assert_array_equal(with_detail(image, mask, np.zeros_like(image)), image)


def test_what_is_bright_on_its_own_is_held_back():
    mask = np.zeros((40, 40, 40), bool)
    mask[4:36, 4:36, 4:36] = True
    image = mask.astype(np.float32)
    image[10, 10, 10:12] = BRIGHT - 0.1, BRIGHT
    image[10, 10, 13:15] = 1.5, 1.6
    image[18:34, 18:34, 18:34] = 1.5
    image[4, 4, 4] = 1.5
    found = held_back(image, mask, 1.0)
    np.testing.assert_array_equal(found[image <= BRIGHT], image[image <= BRIGHT])
    expected = BRIGHT + HELD_BACK * (image[10, 10, 13:15] - BRIGHT)
    np.testing.assert_allclose(found[10, 10, 13:15], expected, rtol=1e-5)
    assert found[4, 4, 4] == pytest.approx(BRIGHT + HELD_BACK * 0.3)
    np.testing.assert_allclose(found[22:30, 22:30, 22:30], 1.5, rtol=1e-5)
    half = held_back(image, mask, np.full(mask.shape, 0.5))
    np.testing.assert_allclose(half, (image + found) / 2, rtol=1e-5)
    np.testing.assert_array_equal(held_back(image, mask, 0.0), image)


def test_thin_sulci_are_filled_in_and_wide_fluid_and_what_is_bright_are_not():
    mask = np.zeros((40, 40, 40), bool)
    mask[4:36, 4:36, 4:36] = True
    image = mask.astype(np.float32)
    image[8, 6:34, 6:34] = 0.2
    image[16:34, 6:34, 6:34] = 0.2
    image[12, 20, 20] = 1.4
    found = filled_in(image, mask, 1.0)
    assert 0.3 < found[8, 20, 20] < 0.2 + 0.8 * FILLED
    np.testing.assert_allclose(found[20:30, 10:30, 10:30], 0.2, atol=1e-3)
    np.testing.assert_array_equal(found[image > 1], image[image > 1])
    np.testing.assert_allclose(found[4][mask[4]], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found[~mask], 0)
    half = filled_in(image, mask, np.full(mask.shape, 0.5))
    np.testing.assert_allclose(half, (image + found) / 2, rtol=1e-5)
    np.testing.assert_array_equal(filled_in(image, mask, 0.0), image)


def test_fluid_is_dark_in_the_middle_of_a_wide_ventricle():
    mask = np.ones((40, 40, 40), bool)
    tissue, fluid, oedema = (0.8, 1.2, 1.0), (0.15, 3.4, 0.2), (0.3, 2.8, 1.4)
    t1w, t2w, flair = (np.full(mask.shape, value, np.float32) for value in tissue)
    for part, values in ((slice(4, 18), fluid), (slice(24, 36), oedema)):
        for image, value in zip((t1w, t2w, flair), values, strict=True):
            image[part, part, part] = value
    ventricle, middle = np.s_[4:18, 4:18, 4:18], np.s_[8:14, 8:14, 8:14]
    rng = np.random.default_rng(0)
    t1w[ventricle] += rng.uniform(0, 0.1, t1w[ventricle].shape)
    flair[middle] = 0.9
    images = normalise({'T1w': t1w, 'T2w': t2w}, mask)
    found = fluid_kept_dark(flair, images, mask, 1.0)
    # All of it, though a voxel in twenty is not as dark in T1w as most of the fluid.
    np.testing.assert_allclose(found[middle], FLUID_FLAIR, rtol=1e-5)
    elsewhere = flair.copy()
    elsewhere[middle] = found[middle]
    np.testing.assert_array_equal(found, elsewhere)
    half = fluid_kept_dark(flair, images, mask, np.full(mask.shape, 0.5))
    np.testing.assert_allclose(half, (flair + found) / 2, rtol=1e-5)
    alone = normalise({'T2w': t2w}, mask)
    np.testing.assert_array_equal(fluid_kept_dark(flair, alone, mask, 1.0), flair)
    flair[ventricle] = 1.4
    np.testing.assert_array_equal(fluid_kept_dark(flair, images, mask, 1.0), flair)


def test_twice_the_same(phantom, small_model):
    images = phantom.images(*ANATOMY)
    first, second = (synthesis_of(images, model=small_model) for _ in range(2))
    np.testing.assert_array_equal(first.flair.get_fdata(), second.flair.get_fdata())
    np.testing.assert_array_equal(first.std.get_fdata(), second.std.get_fdata())


@pytest.mark.parametrize('axes', ['LPS', 'ASR', 'IPL'])
def test_the_order_of_axes_does_not_matter(phantom, small_model, axes):
    expected = synthesis_of(phantom.images(*ANATOMY), phantom.mask_image(), small_model).flair
    turned = nib.orientations.ornt_transform(
        nib.io_orientation(phantom.affine), nib.orientations.axcodes2ornt(axes)
    )
    images = {k: v.as_reoriented(turned) for k, v in phantom.images(*ANATOMY).items()}
    mask = phantom.mask_image().as_reoriented(turned)
    result = synthesis_of(images, mask, small_model).flair
    assert nib.aff2axcodes(result.affine) == tuple(axes)
    np.testing.assert_allclose(result.affine, images['T1w'].affine)
    back = nib.as_closest_canonical(result).get_fdata()
    np.testing.assert_allclose(back, expected.get_fdata(), atol=1e-5)


def test_axes_may_differ_from_image_to_mask_only_with_an_error(phantom, small_model):
    mask = phantom.mask_image().as_reoriented(nib.orientations.axcodes2ornt('LAS'))
    with pytest.raises(ValueError, match='mask and T1w are not on one grid'):
        synthesis_of(phantom.images('T1w'), mask, small_model)


def test_the_field_of_view_does_not_matter(phantom, small_model):
    expected = synthesis_of(phantom.images(*ANATOMY), model=small_model).flair.get_fdata()
    padded = {
        name: nib.Nifti1Image(np.pad(phantom.arrays[name], ((3, 0), (0, 5), (1, 2))), np.eye(4))
        for name in ANATOMY
    }
    result = synthesis_of(padded, model=small_model).flair.get_fdata()
    np.testing.assert_allclose(result[3:, :-5, 1:-2], expected, atol=1e-5)


@pytest.mark.parametrize('factor', [0.01, 1000.0])
def test_scanner_units_do_not_matter(phantom, factor):
    expected = synthesize(phantom.images(*INPUTS)).get_fdata()
    for name in INPUTS:
        images = phantom.images(*INPUTS) | {name: phantom.image(name, factor)}
        np.testing.assert_allclose(synthesize(images).get_fdata(), expected, atol=2e-3)


@pytest.mark.parametrize('voxel_mm', [0.8, 1.5])
def test_other_voxel_sizes_give_the_same_brain(phantom, voxel_mm):
    size = round(64 / voxel_mm)
    other = type(phantom)(size, voxel_mm)
    result = synthesize(other.images(*ANATOMY))
    assert result.shape == (size,) * 3
    np.testing.assert_allclose(result.affine, other.affine)
    found = result.get_fdata()
    assert not found[~other.mask].any()
    expected = synthesize(phantom.images(*ANATOMY)).get_fdata()
    for label in (1, 2, 3):
        a, b = (
            np.median(found[other.labels == label]),
            np.median(expected[phantom.labels == label]),
        )
        assert a == pytest.approx(b, abs=0.12)


def test_voxels_of_nearly_1_mm_are_not_resampled(phantom, small_model):
    affine = np.diag([1.03, 0.97, 1.0, 1.0])
    images = {k: nib.Nifti1Image(phantom.arrays[k], affine) for k in ANATOMY}
    expected = synthesis_of(phantom.images(*ANATOMY), model=small_model).flair.get_fdata()
    result = synthesis_of(images, model=small_model).flair.get_fdata()
    np.testing.assert_array_equal(result, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    'subset', [s for n in range(1, 6) for s in combinations(INPUTS, n)], ids='+'.join
)
def test_every_subset_darkens_fluid_but_fa_alone(phantom, subset):
    result = synthesis_of(phantom.images(*subset))
    flair, std = result.flair.get_fdata(), result.std.get_fdata()
    assert result.flair.get_data_dtype() == np.float32
    assert np.isfinite(flair).all()
    assert (flair >= 0).all()
    assert (std[phantom.mask] > 0).all()
    assert not flair[~phantom.mask].any()
    if subset != ('FA',):
        fluid, white = (np.median(flair[phantom.labels == k]) for k in (3, 1))
        assert fluid < 0.75 * white


def test_lesions_are_bright_and_fluid_is_dark(phantom):
    flair = synthesize(phantom.images('T1w', 'T2w')).get_fdata()
    white, _, fluid, lesion = (np.median(flair[phantom.labels == k]) for k in (1, 2, 3, 4))
    assert white == pytest.approx(1, abs=0.15)
    assert fluid < 0.5 * white
    # Nested balls are no head (their score of unfamiliarity is above 3): little is asked of them.
    assert lesion > 1.05 * white


def test_a_lesion_twice_as_bright_in_t2w_as_white_matter_is_bright(phantom):
    arrays = {name: phantom.arrays[name].copy() for name in ('T1w', 'T2w')}
    lesion = phantom.labels == 4
    arrays['T1w'][lesion] *= 580 / 670
    arrays['T2w'][lesion] *= 620 / 530
    images = {name: nib.Nifti1Image(array, phantom.affine) for name, array in arrays.items()}
    flair = synthesize(images).get_fdata()
    assert np.median(flair[lesion]) > 1.05 * np.median(flair[phantom.labels == 1])


def test_fluid_is_dark_at_a_site_that_looks_like_a_known_scanner():
    arrays, affine = make_doll(4)
    images = {name: nib.Nifti1Image(arrays[name], affine) for name in ('T1w', 'T2w')}
    mask = nib.Nifti1Image((arrays['T1w'] > 0).astype(np.uint8), affine)
    flair, t2w = synthesize(images, mask).get_fdata(), arrays['T2w']
    inside = t2w > 0
    fluid = inside & (t2w > np.percentile(t2w[inside], 97))
    tissue = inside & (t2w < np.percentile(t2w[inside], 50))
    assert np.median(flair[fluid]) < 0.75 * np.median(flair[tissue])


def test_no_value_is_larger_than_any_that_was_trained_on():
    values = np.full((len(CONTRASTS), 32, 32, 32), LARGEST_WEIGHTED, np.float32)
    t2w = np.array([name == 'T2w' for name in CONTRASTS])[:, None, None, None]
    images = Normalised(values * t2w, (values > 0) & t2w, {}, ())
    brain = np.ones(values.shape[1:], bool)
    flair, _, _ = predict(load_model('default').network, images, brain, CPU)
    assert flair.max() <= LARGEST_WEIGHTED


def test_a_contrast_with_a_short_field_of_view_still_gives_a_whole_brain(phantom):
    short = phantom.arrays['T2w'].copy()
    short[:, :, 44:] = 0
    images = phantom.images(*ANATOMY) | {'T2w': nib.Nifti1Image(short, phantom.affine)}
    flair = synthesize(images, phantom.mask_image()).get_fdata()
    assert np.median(flair[(phantom.labels == 1) & (short == 0)]) > 0.6


def test_what_a_person_should_look_at_is_a_python_warning(phantom):
    """Nested balls are no head; that they share one grid is all that is right about them."""
    with pytest.warns(UserWarning, match='unlike anything'):
        made = bids_flair.synthesize(phantom.images(*ANATOMY), return_interval=True)
    flair, low, high = (image.get_fdata() for image in made)
    assert (low <= flair).all() and (flair <= high).all()
    assert (low < high)[phantom.mask].mean() > 0.99


def test_what_is_no_volume_is_refused(phantom, small_model):
    with pytest.raises(TypeError, match=r'T2w is to be a nibabel image, not str: .*nibabel\.load'):
        synthesis_of(phantom.images('T1w') | {'T2w': 't2w.nii.gz'}, model=small_model)
    with pytest.raises(TypeError, match='mask is to be a nibabel image, not ndarray'):
        synthesis_of(phantom.images('T1w'), phantom.mask, small_model)
    series = nib.Nifti1Image(np.zeros((4, 4, 4, 7), np.float32), np.eye(4))
    with pytest.raises(ValueError, match=r'T1w is to be one volume, not of shape \(4, 4, 4, 7\)'):
        synthesis_of({'T1w': series}, model=small_model)


def test_the_public_name_is_the_same_function():
    assert bids_flair.synthesize is synthesize


def test_grids_that_differ_are_named(phantom, small_model):
    moved = nib.Nifti1Image(phantom.arrays['MD'], phantom.affine + 0.5 * np.eye(4, k=3))
    with pytest.raises(ValueError, match='MD and T1w are not on one grid'):
        synthesis_of(phantom.images('T1w', 'T2w') | {'MD': moved}, model=small_model)
    cut = nib.Nifti1Image(phantom.arrays['T2w'][1:], phantom.affine)
    with pytest.raises(ValueError, match=r'T2w and T1w .* \(63, 64, 64\)'):
        synthesis_of(phantom.images('T1w') | {'T2w': cut}, model=small_model)


@pytest.mark.parametrize('names, message', [((), 'no image'), (('T2star',), 'T2star')])
def test_contrasts_are_checked(phantom, small_model, names, message):
    with pytest.raises(ValueError, match=message):
        synthesis_of({name: phantom.image('T2w') for name in names}, model=small_model)


def test_a_model_of_inputs_that_go_together_is_given_all_of_them(phantom, small_model):
    model = replace(small_model, card=small_model.card | {'needs_every_input': True})
    with pytest.raises(ValueError, match='MD, FA, S0 is missing'):
        synthesize(phantom.images('T1w', 'T2w'), phantom.mask_image(), model)


def test_an_empty_mask_is_refused(phantom, small_model):
    empty = nib.Nifti1Image(np.zeros(phantom.mask.shape, np.uint8), phantom.affine)
    with pytest.raises(ValueError, match='empty'):
        synthesis_of(phantom.images('T1w'), empty, small_model)


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has CUDA')
def test_a_device_asked_for_is_never_replaced_silently():
    assert pick_device('auto').type in ('cpu', 'mps')
    with pytest.raises(ValueError, match="'cuda' cannot be used"):
        pick_device('cuda')


@pytest.mark.parametrize('name', ['gpu', 'meta', 'cuda:x'])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ValueError, match='use auto, cpu, cuda'):
        pick_device(name)


@pytest.mark.slow
@pytest.mark.parametrize('subject', ['07', pytest.param('19', marks=pytest.mark.long)])
def test_people_trained_on_are_still_reproduced(shared_data, subject):
    folder = shared_data / 'open-ms-mni' / f'sub-{subject}' / 'anat'
    t1w, t2w, flair = (
        nib.load(folder / f'sub-{subject}_space-MNI152_desc-preproc_{c}.nii.gz')
        for c in ('T1w', 'T2w', 'FLAIR')
    )
    true = flair.get_fdata()
    brain = true > 0
    # Four centimetres with most of the ventricles: a whole brain says no more, in four times as
    # long.
    middle = np.flatnonzero(brain.any((0, 1))).mean().astype(int)
    brain[..., : middle - 20] = brain[..., middle + 20 :] = False
    mask = nib.Nifti1Image(brain.astype(np.uint8), flair.affine)
    pred = synthesize({'T1w': t1w, 'T2w': t2w}, mask).get_fdata()
    assert correlation(pred[brain], true[brain]) > 0.7
