"""Trees learn from people what a voxel is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bids_flair.models.inference import predict
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.trees import TreesArchitecture
from bids_flair.training.boosting import Boosting, draw, fit_trees
from bids_flair.training.corpus import LESION, read_person, write_person
from bids_flair.training.evaluation import choose

PAIR = ('T1w', 'T2w')
SHAPE = TreesArchitecture(PAIR, trees=30, interval_trees=30, depth=3)
FEW = Boosting(voxels=4000)


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    """Two heads of one scanner; both contrasts together tell what is bright in the target."""
    folder, people = tmp_path_factory.mktemp('people'), []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        t1w, t2w = rng.choice([1.0, 3.0], (2, 10, 10, 10)).repeat(4, 1).repeat(4, 2).repeat(4, 3)
        images = {'T1w': t1w, 'T2w': t2w, 'FLAIR': 1 + ((t1w < 2) & (t2w > 2))}
        mask = np.zeros(t1w.shape, bool)
        mask[2:-2, 2:-2, 2:-2] = True
        noisy = {
            name: (image * rng.normal(1, 0.05, image.shape)).astype(np.float32)
            for name, image in images.items()
        }
        write_person(folder / str(seed), noisy, mask, np.zeros_like(mask))
        people.append(read_person(folder / str(seed)))
    return people


def test_trees_learn_of_one_person_what_holds_for_another(people):
    trees = fit_trees(people[:1], SHAPE, FEW)
    cut = people[1].whole()
    mask = cut.depth > 0
    mean, below, above = predict(trees, choose(cut, PAIR), mask, torch.device('cpu'))
    target = cut.values[CONTRASTS.index('FLAIR')]
    assert np.corrcoef(mean[mask], target[mask])[0, 1] > 0.95
    inside = (target > mean - below) & (target < mean + above)
    assert 0.8 < inside[mask].mean() < 0.97


def test_the_same_people_give_the_same_trees(people):
    once, twice, other = (fit_trees(people, SHAPE, replace(FEW, seed=s)) for s in (0, 0, 1))
    for key, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[key])
    assert not torch.equal(once.leaf, other.leaf)


def test_what_is_drawn_are_patches_and_the_target_of_the_same_voxels(people):
    cut = people[0].whole()
    boosting = Boosting(lesion=0.0, target='T2w')
    seen, target = draw(np.random.default_rng(0), cut, SHAPE, boosting, 500)
    assert seen.shape == (500, 2 * (125 + 57 + 57))
    # The voxel itself, in T2w: half of them in the head as it lies, half mirrored.
    np.testing.assert_allclose(seen[:, 239 + 62], target)
    assert len(np.unique(target)) > 250


def test_lesions_have_their_share_of_what_is_drawn_and_every_voxel_is_drawn_once_a_side(people):
    cut = people[0].whole()
    kind = np.zeros_like(cut.kind)
    kind[18:21, 18:22, 18:22] = LESION
    target = np.where(kind == LESION, 7, cut.values).astype(np.float32)
    ill = replace(cut, kind=kind, values=target)
    for share, most in ((0.0, 10), (0.1, 60), (0.5, 48 * 2)):
        boosting = Boosting(lesion=share)
        drawn = draw(np.random.default_rng(0), ill, SHAPE, boosting, 600)[1]
        few = (drawn == 7).sum()
        assert few <= most
        assert few >= 0.95 * most or not share
