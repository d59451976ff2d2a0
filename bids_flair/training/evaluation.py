"""How good a network is on people whom it was not trained on, and how sure it may say it is."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from bids_flair.models.inference import predict
from bids_flair.models.network import Architecture
from bids_flair.models.normalisation import CONTRASTS, Normalised
from bids_flair.models.regressor import Predictor
from bids_flair.scoring import best_scale, score
from bids_flair.training.corpus import LESION, Cut

LOGGER = logging.getLogger(__name__)
SUBSETS = (
    ('T1w', 'T2w'),
    ('T1w',),
    ('T2w',),
    ('MD', 'FA', 'S0'),
    ('T1w', 'T2w', 'MD', 'S0'),
    Architecture().inputs,
)
# What the interval holds to either side of the mean, and what of the lesions in all.
COVERAGE, SIDE_COVERAGE, LESION_COVERAGE = 0.9, 0.95, 0.84
# By how much either side of the interval may be stretched.
STRETCHES = np.round(np.arange(0.3, 4.001, 0.05), 2)


def evaluate(
    network: Predictor,
    name: str,
    cut: Cut,
    device: torch.device,
    target: str = 'FLAIR',
    subsets: Sequence[Sequence[str]] = SUBSETS,
) -> dict[str, object]:
    """Scores from every one of the subsets of contrasts that a person has and the network takes.

    Returns
    -------
    dict
        'person', 'mask', and 'inputs': per subset the figures of :func:`bids_flair.scoring.score`
        and under 'covered' (and 'covered_lesions') the shares of voxels that are not below, and
        not above, the interval for each of `STRETCHES`.
    """
    brain = cut.depth > 0
    true = cut.values[CONTRASTS.index(target)]
    brain &= cut.presence[CONTRASTS.index(target)]
    lesions = (cut.kind == LESION) & brain
    entry = {'person': name, 'mask': 'brain', 'inputs': {}}
    for subset in subsets:
        if not set(subset) <= set(network.architecture.inputs):
            continue
        if not all(cut.presence[CONTRASTS.index(contrast)].any() for contrast in subset):
            continue
        inputs = choose(cut, subset)
        mean, below, above = predict(network, inputs, brain, device)
        figures = score(mean, true, brain, lesions if lesions.any() else None, cut.values[0])
        scale = best_scale(mean[brain], true[brain])
        error = true / scale - mean
        needed = np.stack([-error / below.clip(1e-6), error / above.clip(1e-6)])
        figures = {key: round(value, 4) for key, value in figures.items()}
        figures['covered'] = _covered(needed[:, brain])
        if lesions.any():
            figures['covered_lesions'] = _covered(needed[:, lesions])
        entry['inputs']['+'.join(subset)] = figures
        LOGGER.info('%s from %s: SSIM %.3f', name, '+'.join(subset), figures['ssim'])
    return entry


def choose(cut: Cut, names: Sequence[str]) -> Normalised:
    """A whole person as if it had some of its contrasts alone."""
    chosen = [CONTRASTS.index(name) for name in names]
    values = np.zeros((len(CONTRASTS), *cut.depth.shape), np.float32)
    presence = np.zeros(values.shape, bool)
    presence[chosen] = cut.presence[chosen] & (cut.depth > 0)
    values[chosen] = cut.values[chosen] * presence[chosen]
    return Normalised(values, presence, {}, ())


def calibrate(entries: Sequence[dict]) -> dict[str, float]:
    """Stretch the interval so that it covers 90 % in the average participant.

    Conformal, a participant being the unit: whichever the subset of contrasts, each participant
    counts as much as any other. The two sides are stretched by factors of their own; the upper
    one, where lesions are missed, until most of the lesions are covered, too, and the lower one
    then less, so that the whole interval stays at 90 %.

    Returns
    -------
    dict
        'below' and 'above', the factors, and what they cover in every participant when they are
        found from the others: 'coverage' (mean), 'coverage_lesions' (mean over those with
        lesions), 'participants'.
    """
    if not entries:
        return {'below': 1.0, 'above': 1.0}
    people = sorted({_label(entry) for entry in entries})
    covered = {person: _mean_curves(entries, person, 'covered') for person in people}
    lesions = {person: _mean_curves(entries, person, 'covered_lesions') for person in people}
    lesions = {person: curves for person, curves in lesions.items() if curves is not None}
    reached, reached_lesions = [], []
    for person in people:
        others = [other for other in people if other != person] or [person]
        found = _stretch(others, covered, lesions)
        reached.append(_coverage(covered[person], found))
        if person in lesions:
            reached_lesions.append(_coverage(lesions[person], found))
    below, above = _stretch(people, covered, lesions)
    calibration = {
        'below': float(STRETCHES[below]),
        'above': float(STRETCHES[above]),
        'coverage': round(float(np.mean(reached)), 3),
        'participants': len(people),
    }
    if reached_lesions:
        calibration['coverage_lesions'] = round(float(np.mean(reached_lesions)), 3)
    return calibration


def without_curves(entries: Sequence[dict]) -> list[dict]:
    """The scores that a card shows."""
    return [
        entry
        | {
            'inputs': {
                subset: {k: v for k, v in figures.items() if not k.startswith('covered')}
                for subset, figures in entry['inputs'].items()
            }
        }
        for entry in entries
    ]


def _label(entry: dict) -> str:
    """The participant, whichever the session."""
    return entry['person'].split('_')[0]


def _covered(needed: np.ndarray) -> list[list[float]]:
    return [[round(float((side <= k).mean()), 4) for k in STRETCHES] for side in needed]


def _coverage(curves: np.ndarray, stretch: tuple[int, int]) -> float:
    """Share of voxels that are neither below nor above."""
    return float(curves[0][stretch[0]] + curves[1][stretch[1]] - 1)


def _stretch(
    people: Sequence[str],
    covered: Mapping[str, np.ndarray],
    lesions: Mapping[str, np.ndarray],
) -> tuple[int, int]:
    """Which of `STRETCHES` the lower and the upper side need."""
    lower, upper = _mean(covered, people)
    below, above = _first(lower >= SIDE_COVERAGE), _first(upper >= SIDE_COVERAGE)
    with_lesions = [person for person in people if person in lesions]
    if with_lesions:
        in_lesions = _mean(lesions, with_lesions)
        for k in range(above, len(STRETCHES)):
            narrow = _first(lower + upper[k] - 1 >= COVERAGE)
            if in_lesions[0][narrow] + in_lesions[1][k] - 1 >= LESION_COVERAGE:
                return narrow, k
    return below, above


def _mean(curves: Mapping[str, np.ndarray], people: Sequence[str]) -> np.ndarray:
    return np.mean([curves[person] for person in people], 0)


def _first(enough: np.ndarray) -> int:
    return int(np.argmax(enough)) if enough.any() else len(STRETCHES) - 1


def _mean_curves(entries: Sequence[dict], person: str, key: str) -> np.ndarray | None:
    """Over a person's subsets and sessions: (2 sides, stretches)."""
    curves = [
        figures[key]
        for entry in entries
        if _label(entry) == person
        for figures in entry['inputs'].values()
        if key in figures
    ]
    return np.mean(curves, 0) if curves else None
