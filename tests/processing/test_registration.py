"""Registration finds a head wherever it lies, and says so when it does not."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from bids_flair.processing.bias import correct_bias
from bids_flair.processing.registration import (
    best_of,
    follow_rigid,
    mean_distance,
    refined,
    register_rigid,
)
from bids_flair.simulation.anatomy import load_anatomy, shipped
from bids_flair.simulation.contrasts import simulate


@pytest.fixture(scope='module')
def head():
    """T1w, T2w and brain mask of one simulated head on one 3 mm grid."""
    made = simulate(load_anatomy(shipped()[0]), np.random.default_rng(2), 3.0, brain_only=True)
    images = {name: nib.Nifti1Image(made.contrasts[name], made.affine) for name in ('T1w', 'T2w')}
    return images | {'mask': nib.Nifti1Image(made.brain.astype(np.uint8), made.affine)}


def moved(img, matrix):
    """The same voxels, elsewhere in the world."""
    return nib.Nifti1Image(np.asarray(img.dataobj), matrix @ img.affine)


def points_of(mask):
    return apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0))


@pytest.mark.parametrize(
    ('degrees', 'mm'),
    [((0, 0, 0), (0, 0, 0)), ((3, -4, 2), (5, -3, 8)), ((14, 5, -10), (60, -20, 40))],
)  # fmt: skip
def test_another_contrast_is_found_again(head, degrees, mm):
    true = from_matvec(Rotation.from_euler('xyz', degrees, degrees=True).as_matrix(), mm)
    found = register_rigid(head['T1w'], moved(head['T2w'], true), head['mask'])
    assert mean_distance(found.matrix, true, points_of(head['mask'])) < 1.0
    assert found.trusted
    assert found.mutual_information >= found.mutual_information_start


def test_noise_is_not_trusted(head):
    noise = np.random.default_rng(0).rayleigh(100, head['T1w'].shape).astype(np.float32)
    found = register_rigid(head['T1w'], nib.Nifti1Image(noise, head['T1w'].affine), head['mask'])
    assert not found.trusted
    assert 'hardly differs' in found.warnings[0]


def test_same_seed_same_matrix(head):
    turned = moved(head['T2w'], from_matvec(np.eye(3), (3, 2, 1)))
    first, second = (follow_rigid(head['T1w'], turned, head['mask'], seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_scores_are_plain_values_for_a_sidecar(head):
    scores = register_rigid(head['T1w'], head['T2w'], head['mask']).scores()
    assert set(scores) == {
        'MutualInformationStart', 'MutualInformation', 'Peak', 'Overlap', 'Coverage', 'Warnings'
    }  # fmt: skip
    assert scores['Coverage'] == 1.0
    assert all(type(value) in (float, list) for value in scores.values())


def test_bias_field_is_removed(head):
    """What is left of a known field varies far less than the field did."""
    data, mask = np.asarray(head['T1w'].dataobj), np.asarray(head['mask'].dataobj) > 0
    rng = np.random.default_rng(4)
    field = gaussian_filter(rng.normal(size=data.shape), 12, mode='reflect')
    field = np.exp(0.3 * field / field.std()).astype(np.float32)
    clean = np.asarray(correct_bias(head['T1w'], head['mask']).dataobj)
    corrected = correct_bias(nib.Nifti1Image(data * field, head['T1w'].affine), head['mask'])
    usable = mask & (clean > np.percentile(clean[mask], 10))
    left = np.log(np.asarray(corrected.dataobj)[usable] / clean[usable])
    assert left.std() < 0.5 * np.log(field[usable]).std()


def test_empty_mask_is_refused(head):
    empty = nib.Nifti1Image(np.zeros(head['T1w'].shape, np.uint8), head['T1w'].affine)
    with pytest.raises(ValueError, match='empty'):
        correct_bias(head['T1w'], empty)


def test_the_best_of_several_transforms_is_taken(head):
    true = from_matvec(Rotation.from_euler('xyz', (6, 0, 4), degrees=True).as_matrix(), (9, 0, 5))
    wrong = from_matvec(np.eye(3), (0, 25, 0))
    found = best_of(head['T1w'], moved(head['T2w'], true), head['mask'], (wrong, true))
    np.testing.assert_array_equal(found.matrix, true)
    assert found.trusted
    assert not best_of(head['T1w'], moved(head['T2w'], true), head['mask'], (wrong,)).trusted


@pytest.mark.parametrize(('mm', 'counts'), [(1.0, True), (4.0, False)])
def test_a_refinement_counts_unless_it_leads_far_away(head, mm, counts):
    end = from_matvec(np.eye(3), (mm, 0, 0))
    found = refined(head['T1w'], head['T2w'], head['mask'], np.eye(4), end)
    np.testing.assert_array_equal(found.matrix, end if counts else np.eye(4))
