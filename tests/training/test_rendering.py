"""Heads that are scanned while training."""

import numpy as np
import pytest

from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.regressor import STYLE_QUANTILES
from bids_flair.training.corpus import BORDER, LESION
from bids_flair.training.rendering import draw_site, prepare_head, read_head

FLAIR = CONTRASTS.index('FLAIR')


@pytest.fixture(scope='module')
def person(tmp_path_factory):
    return read_head(prepare_head(3, tmp_path_factory.mktemp('heads')))


def test_another_site_shows_the_same_tissue_differently(person):
    corner = np.array(person.depth.shape) // 2 - 16
    first, again, other = (
        person.cut(np.random.default_rng(seed), corner, 32) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.values, again.values)
    assert not np.allclose(first.values, other.values)
    # The diffusion maps are the head's own.
    np.testing.assert_array_equal(first.values[2:5], other.values[2:5])


def test_white_matter_is_one_and_fluid_dark_in_flair(person):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        cut = person.whole(rng, draw_site(rng))
        fractions = np.asarray(person.fractions)
        white, ventricle = (fractions[k] > 250 for k in (1, 5))
        for i in (0, 1, 4, FLAIR):
            assert np.median(cut.values[i][white]) == pytest.approx(1, abs=0.12)
        assert np.median(cut.values[FLAIR][ventricle]) < 0.4
        assert np.median(cut.values[1][ventricle]) > 1.6


def test_a_cut_is_a_part_of_the_whole(person):
    corner = np.array([40, 50, 30])
    cut = person.cut(np.random.default_rng(0), corner, 24)
    box = tuple(slice(c, c + 24) for c in corner)
    np.testing.assert_array_equal(cut.depth, person.depth[box])
    np.testing.assert_array_equal(cut.values[2] > 0, person.diffusion[0][box] > 0)


def test_places_are_of_their_kind(person):
    for kind in (BORDER, LESION):
        where = person.places[kind]
        assert len(where) > 100
        assert (person.kind[tuple(where.T)] == kind).all()


def test_the_sample_stands_for_the_whole(person):
    """The style that training sees is the style of the scan, to its darkest voxels."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        cut = person.whole(rng, draw_site(rng))
        inside = cut.depth > 0
        for i in (0, 1):
            whole = np.quantile(cut.values[i][inside], STYLE_QUANTILES)
            sample = np.quantile(cut.sample[cut.sample_depth > 0, i], STYLE_QUANTILES)
            np.testing.assert_allclose(sample, whole, rtol=0.08, atol=0.04)
