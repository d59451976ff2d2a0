"""Normalised values mean the same whatever the scanner's units were."""

from itertools import combinations

import numpy as np
import pytest

from bids_flair.models.normalisation import CONTRASTS, coverage, mode, normalise

WHITE = {'T1w': 900.0, 'T2w': 300.0, 'S0': 500.0}
SUBSETS = [s for n in range(1, 7) for s in combinations(CONTRASTS, n)]


@pytest.mark.parametrize('subset', SUBSETS, ids='+'.join)
def test_white_matter_is_one_from_every_subset(phantom, subset):
    result = normalise({name: phantom.arrays[name] for name in subset}, phantom.mask)
    for name in set(subset) & set(WHITE):
        assert result.factors[name] == pytest.approx(WHITE[name], rel=0.05)
    assert result.warnings == ()
    assert [p.any() for p in result.presence] == [name in subset for name in CONTRASTS]


@pytest.mark.parametrize('factor', [0.01, 1000.0])
@pytest.mark.parametrize('name', CONTRASTS)
def test_units_do_not_matter(phantom, name, factor):
    arrays = dict(phantom.arrays)
    expected = normalise(arrays, phantom.mask).values
    arrays[name] = arrays[name] * np.float32(factor)
    np.testing.assert_allclose(normalise(arrays, phantom.mask).values, expected, rtol=1e-3)


def test_md_comes_in_thousandths_and_fa_as_it_is(phantom):
    result = normalise(phantom.arrays, phantom.mask)
    white = phantom.labels == 1
    assert np.median(result.values[2][white]) == pytest.approx(0.8, rel=0.02)
    assert np.median(result.values[3][white]) == pytest.approx(0.45, rel=0.02)


def test_a_t1w_without_grey_white_contrast_is_helped_by_the_t2w(phantom):
    flat = np.where(phantom.labels == 2, phantom.arrays['T1w'] * 1.48, phantom.arrays['T1w'])
    result = normalise({'T1w': flat, 'T2w': phantom.arrays['T2w']}, phantom.mask)
    assert result.factors['T2w'] == pytest.approx(300, rel=0.05)


def test_lesions_do_not_move_the_white_matter(phantom):
    diseased = phantom.arrays['T2w'].copy()
    half = (phantom.labels == 1) & (np.indices(phantom.labels.shape)[0] > 36)
    diseased[half] *= 2
    result = normalise({'T1w': phantom.arrays['T1w'], 'T2w': diseased}, phantom.mask)
    assert result.factors['T2w'] == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize('name', WHITE)
def test_air_in_the_mask_is_not_taken_for_white_matter(phantom, name):
    generous = phantom.mask.copy()
    generous[:20] = True
    air = generous & ~phantom.mask
    assert air.sum() > 0.5 * phantom.mask.sum()
    image = phantom.arrays[name].copy()
    image[air] = 0.01 * WHITE[name] * np.random.default_rng(0).rayleigh(size=air.sum())
    result = normalise({name: image}, generous)
    assert result.factors[name] == pytest.approx(WHITE[name], rel=0.05)


@pytest.mark.parametrize('missing', [0.0, np.nan, np.inf])
def test_a_slab_not_covered_is_absent(phantom, missing):
    cut = phantom.arrays['T2w'].copy()
    cut[:, :, 40:] = missing
    result = normalise({'T1w': phantom.arrays['T1w'], 'T2w': cut}, phantom.mask)
    assert not result.presence[1][:, :, 40:].any()
    assert result.presence[1][:, :, :40].sum() == phantom.mask[:, :, :40].sum()
    assert result.factors['T2w'] == pytest.approx(300, rel=0.05)
    assert np.isfinite(result.values).all()


def test_single_zeros_are_values_and_single_nans_are_not(phantom):
    image = phantom.arrays['FA'].copy()
    image[32, 32, 20], image[32, 32, 44] = 0, np.nan
    covered = coverage(image, phantom.mask)
    assert covered[32, 32, 20]
    assert not covered[32, 32, 44]


def test_where_no_white_matter_is_found_the_brain_median_serves_and_is_told(phantom):
    few = phantom.mask & (np.indices(phantom.mask.shape).sum(0) % 97 == 0)
    result = normalise({'T2w': phantom.arrays['T2w']}, few)
    assert result.factors['T2w'] == pytest.approx(np.median(phantom.arrays['T2w'][few]))
    assert 'T2w' in result.warnings[0]


def test_an_empty_contrast_is_left_out_and_told(phantom):
    arrays = {'T1w': phantom.arrays['T1w'], 'T2w': np.zeros_like(phantom.arrays['T2w'])}
    result = normalise(arrays, phantom.mask)
    assert not result.presence[1].any()
    assert 'T2w' in result.warnings[0]


def test_the_mode_is_that_of_the_larger_part():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(100, 5, 6000), rng.normal(140, 5, 3000)])
    assert mode(values) == pytest.approx(100, abs=2)
