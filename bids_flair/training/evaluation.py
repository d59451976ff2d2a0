"""How good a network is on people whom it was not trained on, and how sure it may say it is."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from bids_flair.models.inference import predict
from bids_flair.models.network import PatchRegressor
from bids_flair.models.normalisation import CONTRASTS, Normalised
from bids_flair.scoring import best_scale, score
from bids_flair.training.corpus import CHANNELS, LESION, Cut

LOGGER = logging.getLogger(__name__)
SUBSETS = (
    ('T1w', 'T2w'),
    ('T1w',),
    ('T2w',),
    ('MD', 'FA', 'S0'),
    ('T1w', 'T2w', 'MD', 'S0'),
    CONTRASTS,
)
COVERAGE = 0.9
# By how much the interval may be stretched.
STRETCHES = np.round(np.arange(0.3, 4.001, 0.05), 2)


def evaluate(
    network: PatchRegressor, name: str, cut: Cut, device: torch.device
) -> dict[str, object]:
    """Scores of every subset of contrasts that a whole person has.

    Returns
    -------
    dict
        'person', 'mask', and 'inputs': per subset the figures of :func:`bids_flair.scoring.score`
        and under 'covered' (and 'covered_lesions') the share of voxels inside the interval for
        each of `STRETCHES`.
    """
    brain = cut.depth > 0
    true = cut.values[CHANNELS.index('FLAIR')]
    brain &= cut.presence[CHANNELS.index('FLAIR')]
    lesions = (cut.kind == LESION) & brain
    entry = {'person': name, 'mask': 'brain', 'inputs': {}}
    for subset in SUBSETS:
        chosen = [CONTRASTS.index(contrast) for contrast in subset]
        if not all(cut.presence[i].any() for i in chosen):
            continue
        inputs = choose(cut, chosen)
        mean, below, above = predict(network, inputs, brain, device)
        figures = score(mean, true, brain, lesions if lesions.any() else None, cut.values[0])
        scale = best_scale(mean[brain], true[brain])
        error = true / scale - mean
        needed = np.where(error < 0, -error / below.clip(1e-6), error / above.clip(1e-6))
        figures = {key: round(value, 4) for key, value in figures.items()}
        figures['covered'] = _covered(needed[brain])
        if lesions.any():
            figures['covered_lesions'] = _covered(needed[lesions])
        entry['inputs']['+'.join(subset)] = figures
        LOGGER.info('%s from %s: SSIM %.3f', name, '+'.join(subset), figures['ssim'])
    return entry


def choose(cut: Cut, chosen: Sequence[int]) -> Normalised:
    """Some of a whole person's contrasts, as the network takes them."""
    chosen = list(chosen)
    values = np.zeros((len(CONTRASTS), *cut.depth.shape), np.float32)
    presence = np.zeros(values.shape, bool)
    presence[chosen] = cut.presence[chosen] & (cut.depth > 0)
    values[chosen] = cut.values[chosen] * presence[chosen]
    return Normalised(values, presence, {}, ())


def calibrate(entries: Sequence[dict]) -> dict[str, float]:
    """Stretch the interval so that it covers 90 % in the average participant.

    Conformal, a participant being the unit: whichever subset of contrasts, each participant
    counts as much as any other.

    Returns
    -------
    dict
        'stretch', and what it covers in every participant when it is found from the others:
        'coverage' (mean), 'coverage_lesions' (mean over those with lesions), 'participants'.
    """
    if not entries:
        return {'stretch': 1.0}
    people = sorted({_label(entry) for entry in entries})
    covered = {person: _mean_curve(entries, person, 'covered') for person in people}
    lesions = {person: _mean_curve(entries, person, 'covered_lesions') for person in people}
    reached, reached_lesions = [], []
    for person in people:
        others = [covered[other] for other in people if other != person] or [covered[person]]
        k = _stretch(others)
        reached.append(covered[person][k])
        if lesions[person] is not None:
            reached_lesions.append(lesions[person][k])
    found = {
        'stretch': float(STRETCHES[_stretch(list(covered.values()))]),
        'coverage': round(float(np.mean(reached)), 3),
        'participants': len(people),
    }
    if reached_lesions:
        found['coverage_lesions'] = round(float(np.mean(reached_lesions)), 3)
    return found


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


def _covered(needed: np.ndarray) -> list[float]:
    return [round(float((needed <= stretch).mean()), 4) for stretch in STRETCHES]


def _stretch(curves: Sequence[np.ndarray]) -> int:
    enough = np.mean(curves, 0) >= COVERAGE
    return int(np.argmax(enough)) if enough.any() else len(STRETCHES) - 1


def _mean_curve(entries: Sequence[dict], person: str, key: str) -> np.ndarray | None:
    curves = [
        figures[key]
        for entry in entries
        if _label(entry) == person
        for figures in entry['inputs'].values()
        if key in figures
    ]
    return np.mean(curves, 0) if curves else None
