"""Images unlike the training are told from those like it, whichever contrasts there are."""

import numpy as np
import pytest

from bids_flair.models.familiarity import Familiarity


def _styles(rng: np.random.Generator, count: int) -> np.ndarray:
    """Two contrasts, whose quantiles move together, the second absent in every third."""
    common = rng.normal(0, 0.2, (count, 2, 1))
    styles = np.linspace([0.2, 1.0], [1.0, 3.0], 7).T + common + rng.normal(0, 0.05, (count, 2, 7))
    styles[::3, 1] = np.nan
    return styles


@pytest.fixture(scope='module')
def familiarity() -> Familiarity:
    rng = np.random.default_rng(0)
    return Familiarity.of(_styles(rng, 600), rng)


def test_what_is_like_the_training_is_familiar(familiarity):
    scores = [familiarity.score(s) for s in _styles(np.random.default_rng(1), 300)]
    assert np.mean(np.array(scores) < 1) > 0.97


def test_contrasts_mixed_up_are_not(familiarity):
    for style in _styles(np.random.default_rng(2), 30):
        assert familiarity.score(style[::-1]) > 1.5


def test_an_unusual_combination_of_usual_values_is_not(familiarity):
    style = np.linspace([0.2, 1.0], [1.0, 3.0], 7).T
    style[0, ::2] += 0.3
    style[0, 1::2] -= 0.3
    assert familiarity.score(style) > 1


def test_nothing_at_all_is_not(familiarity):
    assert familiarity.score(np.full((2, 7), np.nan)) == np.inf
