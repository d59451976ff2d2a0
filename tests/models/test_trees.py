"""Trees answer as scikit-learn's do, from patches, whatever block a voxel is in."""

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from bids_flair.models import trees
from bids_flair.models.blocks import predict_blocks, tiles
from bids_flair.models.files import load_model, save_model
from bids_flair.models.inference import predict
from bids_flair.models.normalisation import normalise
from bids_flair.models.trees import HALO, BoostedTrees, TreesArchitecture, features
from bids_flair.training.boosting import keep_trees

CPU = torch.device('cpu')
PAIR = ('T1w', 'T2w')


def grown(seed: int = 0) -> tuple[BoostedTrees, list[HistGradientBoostingRegressor]]:
    """Trees of arbitrary questions, some branches ending early, and scikit-learn's own."""
    shape = TreesArchitecture(PAIR, trees=12, interval_trees=4, depth=4)
    made, rng, first = BoostedTrees(shape), np.random.default_rng(seed), 0
    seen = rng.uniform(0, 2, (2000, 478))
    wanted = seen[:, 62] + np.where(seen[:, 301] > 1, seen[:, 5], -seen[:, 400])
    regressions = []
    for kind, size in enumerate(shape.sizes):
        regression = HistGradientBoostingRegressor(
            max_iter=size, max_depth=4, max_leaf_nodes=9, early_stopping=False, random_state=seed
        ).fit(seen, wanted + kind)
        keep_trees(made, regression, kind, first)
        first += size
        regressions.append(regression)
    return made.eval(), regressions


def block(seed: int = 0, size: int = 7, count: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 2, (count, 4, *(size + 2 * HALO,) * 3)).astype(np.float32)
    x[:, 2:] = rng.random(x[:, 2:].shape) > 0.1
    return torch.from_numpy(x)


def test_trees_answer_as_those_of_scikit_learn():
    made, regressions = grown()
    x = block()
    mean, reach = made(x, None)
    seen = features(x).T.numpy()
    expected, low, high = (regression.predict(seen) for regression in regressions)
    assert expected.std() > 0.1
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_allclose(reach[:, 0], np.maximum(expected - low, 0), atol=1e-5)
    np.testing.assert_allclose(reach[:, 1], np.maximum(high - expected, 0), atol=1e-5)


def test_features_are_values_and_means_of_cubes_around_a_voxel():
    x = block(size=3, count=1)
    values = (x[0, :2] * x[0, 2:]).numpy()
    seen = features(x)[:, 1 * 9 + 2 * 3 + 0].numpy()
    i, j, k = 1 + HALO, 2 + HALO, HALO
    assert len(seen) == 2 * (125 + 57 + 57)
    for c, own in enumerate(np.split(seen, 2)):
        np.testing.assert_allclose(own[62], values[c, i, j, k])
        np.testing.assert_allclose(own[0], values[c, i - 2, j - 2, k - 2])
        np.testing.assert_allclose(own[63], values[c, i, j, k + 1])
        near = values[c, i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2]
        np.testing.assert_allclose(own[125 + 28], near.mean(), rtol=1e-5)
        far = values[c, i - 2 : i + 3, j - 2 : j + 3, k + 2 : k + 7]
        np.testing.assert_allclose(own[125 + 57 + 29], far.mean(), rtol=1e-5)


def test_only_voxels_asked_for_are_answered_some_at_a_time(monkeypatch):
    made, _ = grown()
    x, keep = block(), torch.rand(2, 7, 7, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    everything = made(x, None)
    monkeypatch.setattr(trees, 'CHUNK', 50)
    for some, whole in zip(made(x, None, keep), everything, strict=True):
        torch.testing.assert_close(some, whole[keep.flatten()])


def test_blocks_of_trees_do_not_show(phantom):
    made, _ = grown()
    images = normalise({name: phantom.arrays[name] for name in PAIR}, phantom.mask)
    whole, small = (
        predict_blocks(made, images, phantom.mask, CPU, tiles(phantom.mask, n), n)
        for n in (64, 20)
    )
    assert whole[0][phantom.mask].std() > 0.1
    np.testing.assert_allclose(whole, small, atol=1e-5)


def test_trees_are_read_back_as_they_were_written(phantom, tmp_path):
    made, _ = grown()
    images = normalise({name: phantom.arrays[name] for name in PAIR}, phantom.mask)
    save_model(tmp_path / 'trees.safetensors', made, {'inputs': list(PAIR), 'target': 'FLAIR'})
    again = load_model(tmp_path / 'trees.safetensors').network
    found, expected = (predict(one, images, phantom.mask, CPU) for one in (again, made))
    np.testing.assert_array_equal(found, expected)
