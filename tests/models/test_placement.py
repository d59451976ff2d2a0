"""Contrasts that share a grid and do not lie on each other are moved, and nothing else is."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from small_heads import make_doll

from bids_flair.models.blocks import cut_box
from bids_flair.models.inference import synthesis_of
from bids_flair.models.placement import into_place
from bids_flair.simulation.anatomy import load_anatomy, shipped
from bids_flair.simulation.contrasts import simulate


@pytest.fixture(scope='module')
def head():
    """All contrasts of a simulated brain, half as large as in life, and where it is."""
    made = simulate(load_anatomy(shipped()[0]), np.random.default_rng(5), 2.0, brain_only=True)
    return {name: made.contrasts[name] * made.brain for name in made.contrasts}, made.brain


def away(image, degrees, mm):
    """The same image, turned about its centre and moved."""
    linear = Rotation.from_euler('xyz', degrees, degrees=True).as_matrix()
    centre = (np.array(image.shape) - 1) / 2
    return affine_transform(image, from_matvec(linear, centre - linear @ centre + mm), order=1)


@pytest.mark.parametrize('degrees, mm', [((0, 0, 0), (0, 2, -2)), ((4, -3, 6), (3, 0, 2))])
def test_what_is_misplaced_is_moved_onto_the_first(head, degrees, mm):
    images, brain = head
    misplaced = {name: away(images[name], degrees, mm) for name in ('S0', 'MD')}
    given = {'T1w': images['T1w'], 'T2w': images['T2w'], **misplaced}
    placed, warnings = into_place(given, brain)
    assert len(warnings) == 1
    assert 'S0 and MD lay ' in warnings[0] and 'off T1w' in warnings[0]
    for name in ('T1w', 'T2w'):
        np.testing.assert_array_equal(placed[name], images[name])
    for name in misplaced:
        before, after = (
            np.corrcoef(volume[brain], images[name][brain])[0, 1]
            for volume in (misplaced[name], placed[name])
        )
        assert before < 0.8 and after > 0.9


def test_another_persons_image_is_told(head):
    images, brain = head
    other = simulate(load_anatomy(shipped()[1]), np.random.default_rng(6), 2.0, brain_only=True)
    t2w = other.contrasts['T2w'] * other.brain
    # Brain upon brain, as a registration would lay them.
    middles = (np.argwhere(volume).mean(0) for volume in (t2w, brain))
    t2w = cut_box(t2w, np.rint(np.subtract(*middles)).astype(int).tolist(), brain.shape)
    for lost in (t2w, away(images['T2w'], (0, 0, 90), (0, 0, 0))):
        placed, warnings = into_place({'T1w': images['T1w'], 'T2w': lost}, brain)
        assert len(warnings) == 1
        assert 'T2w and T1w have nothing in common' in warnings[0]
        np.testing.assert_array_equal(placed['T2w'], lost)


def test_what_is_in_place_is_left_alone(head):
    images, brain = head
    given = {name: images[name] for name in ('MD', 'FA', 'S0', 'T2w', 'T1w')}
    placed, warnings = into_place(given, brain)
    assert not warnings
    for name, image in given.items():
        np.testing.assert_array_equal(placed[name], image)


def test_what_shows_nothing_has_no_place(head):
    images, brain = head
    given = {'T1w': images['T1w'], 'T2w': np.zeros_like(images['T2w']), 'FA': brain * 0.4}
    placed, warnings = into_place(given, brain)
    assert not warnings
    assert placed.keys() == given.keys()


def test_a_misplaced_t2w_gives_the_flair_that_it_gives_in_its_place():
    arrays, affine = make_doll(4)
    mask = nib.Nifti1Image((arrays['T1w'] > 0).astype(np.uint8), affine)
    names = ('T1w', 'T2w')
    given = {name: nib.Nifti1Image(arrays[name], affine) for name in names}
    expected = synthesis_of(given, mask, 'simulated')
    given['T2w'] = nib.Nifti1Image(np.roll(arrays['T2w'], 2, 1), affine)
    made = synthesis_of(given, mask, 'simulated')
    assert not any('T2w' in text for text in expected.warnings)
    assert any('T2w lay ' in text for text in made.warnings)
    brain = arrays['T1w'] > 0
    both = (image.flair.get_fdata()[brain] for image in (expected, made))
    assert np.corrcoef(*both)[0, 1] > 0.9
