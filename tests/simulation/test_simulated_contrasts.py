"""Resolution, noise, diffusion, and the six contrasts together."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bids_flair.simulation import artefacts, diffusion, load_anatomy, shipped, simulate
from bids_flair.simulation.contrasts import draw_scans, draw_variation
from bids_flair.simulation.physics import TISSUES, draw_tissues, expansion


def test_sampling_and_resampling_keep_a_constant_and_a_straight_line():
    down = artefacts.sampling(40, 1.0, 4.0, phase=0.3)
    up = artefacts.resampling(40, 1.0, 4.0, phase=0.3)
    np.testing.assert_allclose(up @ down @ np.ones(40), 1, atol=1e-5)
    line = np.arange(40.0)
    np.testing.assert_allclose((up @ down @ line)[8:-8], line[8:-8], atol=0.1)


def test_resampling_with_a_shift_reads_beside_the_place():
    down = artefacts.sampling(40, 1.0, 2.0)
    up = artefacts.resampling(40, 1.0, 2.0, shift_mm=1.0)
    line = np.arange(40.0)
    np.testing.assert_allclose((up @ down @ line)[4:-4], line[4:-4] + 1, atol=0.05)


def test_smooth_field_is_smooth_and_of_unit_spread():
    field = artefacts.smooth_field(np.random.default_rng(0), (60, 60, 60), 5)
    assert field.std() == pytest.approx(1, rel=0.1)
    assert np.abs(np.diff(field, axis=0)).max() < 1


def test_rician_noise_has_the_rayleigh_floor():
    noise = artefacts.rician(np.random.default_rng(0), np.zeros((80, 80, 80), np.float32), 2.0)
    assert noise.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)


def test_fitted_tensor_is_that_of_the_tissue():
    rng = np.random.default_rng(0)
    tissues = draw_tissues(rng, 3.0)
    fractions = np.zeros((len(TISSUES), 3), np.float32)
    for voxel, name in enumerate(('white', 'cortex', 'ventricle')):
        fractions[TISSUES.index(name), voxel] = 1
    along = np.tile(np.array([[0.6], [0.0], [0.8]], np.float32), 3)
    vectors = np.vstack([np.zeros((1, 3)), diffusion.gradient_directions(16, rng)])
    b = np.r_[0.0, np.ones(16)]
    volumes = diffusion.attenuated(
        fractions, tissues, np.full(len(TISSUES), 500.0), along, np.ones(3), b, vectors
    )
    md, fa, s0 = diffusion.fit_tensor(volumes, b, vectors)
    expected = [tissues[name] for name in ('white', 'cortex', 'ventricle')]
    np.testing.assert_allclose(md, [t.md for t in expected], rtol=1e-3)
    np.testing.assert_allclose(fa, [t.fa for t in expected], atol=2e-3)
    np.testing.assert_allclose(s0, 500, rtol=1e-3)


def test_gradient_directions_are_unit_and_spread():
    vectors = diffusion.gradient_directions(16, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    np.testing.assert_allclose(np.linalg.eigvalsh(vectors.T @ vectors / 16), 1 / 3, atol=0.1)


def test_white_matter_has_the_texture_of_real_scans():
    """Six real scans, 2 to 4 mm: T1w varies by .9 %, T2w by 2.4 to 3.6 %; T2w and FLAIR alike."""
    textures = [white_matter_texture(np.random.default_rng(seed)) for seed in range(6)]
    spread = np.mean([[band.std() for band in bands.values()] for bands in textures], 0)
    assert 0.006 < spread[0] < 0.02
    assert np.all((spread[1:] > 0.012) & (spread[1:] < 0.04))
    assert np.mean([correlation(bands, 'T2w', 'FLAIR') for bands in textures]) > 0.7
    assert -0.8 < np.mean([correlation(bands, 'T1w', 'T2w') for bands in textures]) < -0.2


def white_matter_texture(rng):
    variation = draw_variation(rng, (40, 40, 40), 1.0)
    tissues = draw_tissues(rng, 3.0)
    bands = {}
    for name, scan in draw_scans(rng, 3.0, tissues).items():
        plain, by_t1, by_t2 = expansion(scan.sequence, tissues)[:, TISSUES.index('white')]
        texture = (variation[0] * by_t1 + variation[1] * by_t2) / plain
        bands[name] = gaussian_filter(texture, 2) - gaussian_filter(texture, 4)
    return bands


def correlation(bands, one, other):
    return np.corrcoef(bands[one].ravel(), bands[other].ravel())[0, 1]


@pytest.fixture(scope='module')
def person():
    return simulate(load_anatomy(shipped()[0]), np.random.default_rng(3), 4.0)


def test_simulation_holds_six_contrasts_on_one_grid(person):
    assert sorted(person.contrasts) == ['FA', 'FLAIR', 'MD', 'S0', 'T1w', 'T2w']
    for volume in person.contrasts.values():
        assert volume.shape == person.brain.shape == person.lesions.shape
        assert volume.dtype == np.float32
        assert np.isfinite(volume).all()
        assert volume.min() >= 0
    assert not (person.lesions & ~person.brain).any()


def test_simulated_values_have_their_units(person):
    brain = person.brain
    assert 0.7e-3 < np.median(person.contrasts['MD'][brain]) < 1.6e-3
    assert 0.05 < np.median(person.contrasts['FA'][brain]) < 0.5
    assert person.contrasts['FA'].max() <= 1
    litres = brain.sum() * abs(np.linalg.det(person.affine)) / 1e6
    assert 0.9 < litres < 2.4


def test_fluid_is_dark_in_flair_and_bright_in_t2w(person):
    md = person.contrasts['MD']
    fluid, tissue = person.brain & (md > 2.2e-3), person.brain & (md < 1e-3)
    for name, sign in (('FLAIR', -1), ('T2w', 1), ('T1w', -1)):
        volume = person.contrasts[name]
        assert sign * (np.median(volume[fluid]) - np.median(volume[tissue])) > 0, name


def test_same_seed_same_person_and_another_seed_another():
    anatomy = load_anatomy(shipped()[0])
    first, again, other = (
        simulate(anatomy, np.random.default_rng(seed), 7.0, brain_only=True) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.contrasts['FLAIR'], again.contrasts['FLAIR'])
    assert first.contrasts['FLAIR'].shape != other.contrasts['FLAIR'].shape
