"""Held-out people calibrate the interval, each as much as any other."""

import numpy as np
import pytest
import torch

from bids_flair.models.files import load_model
from bids_flair.models.inference import predict
from bids_flair.models.network import Architecture, PatchRegressor
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.scoring import score
from bids_flair.simulation.physics import TISSUES
from bids_flair.training.corpus import LESION, Cut
from bids_flair.training.evaluation import (
    STRETCHES,
    calibrate,
    choose,
    evaluate,
    without_curves,
)
from bids_flair.training.rendering import draw_site, prepare_head, read_head


def _entry(person: str, spread: float, lesions: float | None = None, above: float = 0) -> dict:
    """Errors are normal with that spread, in units of the interval; so are those of lesions.

    ``above`` is how much brighter than predicted lesions are on average.
    """

    def curves(sd: float, mean: float = 0) -> list[list[float]]:
        error = np.random.default_rng(0).normal(mean, sd, 20_000)
        return [[float((side <= s).mean()) for s in STRETCHES] for side in (-error, error)]

    figures = {'ssim': 0.5, 'covered': curves(spread)}
    if lesions is not None:
        figures['covered_lesions'] = curves(lesions, above)
    return {'person': person, 'inputs': {'T1w': figures}}


def test_the_interval_is_stretched_to_nine_tenths():
    found = calibrate([_entry('a', 1.0), _entry('b', 1.0)])
    assert found['below'] == pytest.approx(1.645, abs=0.08)
    assert found['above'] == pytest.approx(1.645, abs=0.08)
    assert found['coverage'] == pytest.approx(0.9, abs=0.02)


def test_coverage_is_measured_on_people_who_did_not_set_it():
    found = calibrate([_entry('a', 0.5), _entry('b', 2.0)])
    # a is covered in full by b's stretch, b by a's only to 0.32 or so.
    assert found['coverage'] == pytest.approx((1.0 + 0.32) / 2, abs=0.03)


def test_the_upper_side_reaches_up_to_lesions_and_the_lower_makes_up_for_it():
    plain = calibrate([_entry('a', 0.5), _entry('b', 0.5)])
    # Lesions are missed: what was acquired lies above what was made.
    found = calibrate([_entry(name, 0.5, lesions=0.7, above=0.3) for name in 'ab'])
    assert found['below'] < plain['below']
    assert found['above'] > plain['above']
    assert found['coverage'] == pytest.approx(0.9, abs=0.02)
    assert found['coverage_lesions'] >= 0.8


def test_sessions_of_a_person_do_not_count_twice():
    once = calibrate([_entry('a', 0.5), _entry('b', 2.0)])
    sessions = [_entry('b_ses-1', 2.0), _entry('b_ses-2', 2.0)]
    twice = calibrate([_entry('a', 0.5), *sessions])
    assert once == twice


def test_every_subset_at_hand_is_scored():
    rng = np.random.default_rng(0)
    shape = (24, 24, 24)
    depth = np.full(shape, -1, np.int8)
    depth[4:-4, 4:-4, 4:-4] = 2
    values = rng.uniform(0.5, 1.5, (len(CONTRASTS), *shape)).astype(np.float32)
    presence = np.zeros(values.shape, bool)
    presence[[0, 1, -1]] = True
    cut = Cut(values, presence, depth, np.zeros(shape, np.uint8), values[:0], values[0, 0, 0])
    network = PatchRegressor(Architecture(levels=2, stem=4, width=8, blocks=1)).eval()
    entry = evaluate(network, 'x', cut, torch.device('cpu'))
    assert set(entry['inputs']) == {'T1w+T2w', 'T1w', 'T2w'}
    shown = without_curves([entry])[0]['inputs']['T1w']
    assert set(shown) == set(score(values[0], values[1], depth > 0))


def slab(brain: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Four centimetres of a brain about the middle of something; all of it says no more."""
    middle = np.nonzero(around)[2].mean()
    return brain & (np.abs(np.arange(brain.shape[2]) - middle) < 20)


@pytest.mark.slow
def test_the_default_model_finds_the_lesions_of_a_head_it_never_saw(tmp_path):
    person = read_head(prepare_head(100_001, tmp_path))
    rng = np.random.default_rng([100_000, 1])
    cut = person.whole(rng, draw_site(rng))
    lesions = (cut.kind == LESION) & (cut.depth > 0)
    brain = slab(cut.depth > 0, lesions)
    inputs = choose(cut, ['T1w', 'T2w'])
    mean, _, _ = predict(load_model('default').network, inputs, brain, torch.device('cpu'))
    found = score(mean, cut.values[-1], brain, lesions & brain, cut.values[0])
    assert found['ssim'] > 0.6
    assert found['lesion_auc_pred'] > found['lesion_auc_true'] - 0.1
    fluid = cut.values[-1][brain] < 0.4
    assert np.median(mean[brain][fluid]) < 0.5


@pytest.mark.slow
def test_the_default_model_tells_oedema_from_fluid(tmp_path):
    """60 ml around a mass, in T1w and T2w not far from fluid; its FLAIR was darker than tissue."""
    person = read_head(prepare_head(100_008, tmp_path))
    rng = np.random.default_rng([100_008, 0])
    cut = person.whole(rng, draw_site(rng))
    brain = slab(cut.depth > 0, person.fractions[TISSUES.index('oedema')] > 200)
    inputs = choose(cut, ['T1w', 'T2w'])
    mean, _, _ = predict(load_model('default').network, inputs, brain, torch.device('cpu'))

    def median(image: np.ndarray, tissue: str) -> float:
        return float(np.median(image[brain & (person.fractions[TISSUES.index(tissue)] > 200)]))

    def oedema(image: np.ndarray) -> float:
        return median(image, 'oedema') / median(image, 'white')

    t1w, t2w, acquired = cut.values[0], cut.values[1], cut.values[-1]
    assert oedema(t1w) < 0.75
    assert oedema(t2w) > 2
    assert oedema(acquired) > 1.2
    assert oedema(mean) > 1.1
    assert median(mean, 'ventricle') < 0.35 * median(mean, 'white')
