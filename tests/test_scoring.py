"""The figures are those of the definitions, and of the tool beside the checkout."""

import importlib.util

import numpy as np
import pytest

from bids_flair.scoring import auc, score


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (24, 26, 28)
    distance = ((np.indices(shape).T - np.array(shape) / 2).T ** 2).sum(0)
    mask = distance < 100
    true = (rng.normal(100, 20, shape) + 50 * (distance < 20)) * mask
    pred = (0.02 * true + rng.normal(0, 0.3, shape)) * mask
    return pred.astype(np.float32), true.astype(np.float32), mask


@pytest.fixture
def lesion_and_t1w(pair):
    _, true, mask = pair
    rng = np.random.default_rng(1)
    t1w = np.where(true > 130, 60, rng.normal(100, 6, true.shape)) * mask
    return (np.asarray(true) > 150) & mask, t1w


def test_agrees_with_the_shared_tool(shared_data, pair, lesion_and_t1w):
    spec = importlib.util.spec_from_file_location(
        'score_tool', shared_data.parent / 'tools' / 'score.py'
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    expected = tool.scores(*pair, *lesion_and_t1w)
    found = score(*pair, *lesion_and_t1w)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-3), key


def test_a_perfect_prediction_in_other_units(pair):
    _, true, mask = pair
    figures = score(true * 0.013, true, mask)
    assert figures['ssim'] == pytest.approx(1, abs=1e-6)
    assert figures['corr'] == pytest.approx(1, abs=1e-6)
    assert figures['nrmse'] == pytest.approx(0, abs=1e-5)
    assert figures['scale'] == pytest.approx(1 / 0.013, rel=1e-5)


def test_background_counts_for_nothing_but_the_figure_that_says_so(pair):
    pred, true, mask = pair
    pad = ((20, 20),) * 3
    padded = score(np.pad(pred, pad), np.pad(true, pad), np.pad(mask, pad))
    plain = score(pred, true, mask)
    for key in ('ssim', 'psnr_db', 'nrmse', 'corr', 'scale'):
        assert padded[key] == pytest.approx(plain[key], rel=1e-6), key
    assert padded['ssim_volume'] > plain['ssim_volume'] + 0.01


def test_a_constant_scores_no_correlation(pair):
    _, true, mask = pair
    assert score(np.ones_like(true), true, mask)['corr'] == pytest.approx(0, abs=1e-6)
    assert score(np.zeros_like(true), true, mask)['ssim'] < 0.2


def test_auc_of_known_ranks():
    assert auc(np.array([3, 4]), np.array([1, 2])) == 1
    assert auc(np.array([1, 2]), np.array([1, 2])) == 0.5
    assert auc(np.array([1]), np.array([0, 2, 3, 4])) == 0.25


def test_shapes_must_agree(pair):
    pred, true, mask = pair
    with pytest.raises(ValueError, match='one shape'):
        score(pred[1:], true, mask)
    with pytest.raises(ValueError, match='empty'):
        score(pred, true, np.zeros_like(mask))
