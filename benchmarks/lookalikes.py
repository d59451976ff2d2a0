#!/usr/bin/env python3
"""Simulated sites that pass for a scanner that a model has specialists for.

From T1w and T2w, those that relate them as a known scanner does; from one of them, those that have
its values about as often. Whether a specialist is heard there, and what its word costs: SSIM in a
layer of 24 mm through the middle of the brain, of the nearest specialist alone, of the other
networks, of the model as it answers, and as it would if nobody asked whether specialist and
general network agree.

    benchmarks/lookalikes.py --sites 12
    benchmarks/lookalikes.py --sites 12 --inputs T1w
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bids_flair.models.blocks import predict_blocks, tiles
from bids_flair.models.committee import (
    STRANGER,
    UNLIKE,
    Committee,
    accord_of,
    distance,
    relations_of,
    unlikeness,
)
from bids_flair.models.files import load_model
from bids_flair.models.normalisation import Normalised
from bids_flair.models.regressor import CPU
from bids_flair.scoring import score
from bids_flair.training.evaluation import choose
from bids_flair.training.rendering import draw_site, prepare_head, read_head

LAYER = 24
# Of none of the training seeds.
FIRST, HEADS = 200_000, 6


def main() -> None:
    """Print one line per site, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='default')
    parser.add_argument('--sites', type=int, default=12)
    parser.add_argument('--inputs', nargs='+', default=['T1w', 'T2w'], choices=['T1w', 'T2w'])
    parser.add_argument('--cache', type=Path, help='folder to keep the simulated heads in')
    args = parser.parse_args()
    most = STRANGER if len(args.inputs) > 1 else UNLIKE
    torch.set_num_threads(1)
    committee = load_model(args.model).network
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch)
        heads = [read_head(prepare_head(FIRST + i, cache)) for i in range(HEADS)]
        print(
            '| distance | agrees by | short of home by | specialist | others | model | unasked |'
        )
        print('|---|---|---|---|---|---|---|')
        rows, drawn = [], 0
        while len(rows) < args.sites:
            rng = np.random.default_rng([FIRST, drawn])
            drawn += 1
            cut = heads[drawn % HEADS].whole(rng, draw_site(rng))
            brain, images = cut.depth > 0, choose(cut, args.inputs)
            away, which = _nearest(committee, args.inputs, images, brain)
            if away < most:
                rows.append((away, *_measure(committee, which, images, brain, cut.values)))
                print('| ' + ' | '.join(f'{value:.3f}' for value in rows[-1]) + ' |', flush=True)
    print('| ' + ' | '.join(f'**{value:.3f}**' for value in np.mean(rows, 0)) + ' |')
    print(f'{len(rows)} of {drawn} sites are within {most} of a known scanner.')


def _nearest(
    committee: Committee, inputs: Sequence[str], images: Normalised, brain: np.ndarray
) -> tuple[float, int]:
    """How far the nearest of the known scanners is, and one of its specialists for these inputs.

    In spreads from two contrasts, a share of the brain from one.
    """
    found = []
    for i, specialist in enumerate(committee.specialists):
        if specialist.architecture.inputs != tuple(inputs):
            continue
        home = getattr(committee, f'home_{i}').double().numpy()
        here = relations_of(images.pick(inputs), brain, inputs)
        found.append((distance(here, home) if len(inputs) > 1 else unlikeness(here, home), i))
    return min(found)


def _measure(
    committee: Committee, which: int, images: Normalised, brain: np.ndarray, values: np.ndarray
) -> tuple[float, ...]:
    specialist = committee.specialists[which]
    accord = accord_of(specialist, committee.generalist, images, brain)
    short = float(committee.accords[which]) - accord
    corners = [c for c in tiles(brain, LAYER) if c[2] == brain.shape[2] // (2 * LAYER) * LAYER]
    layer = np.zeros_like(brain)
    for corner in corners:
        block = tuple(slice(c, c + LAYER) for c in corner)
        layer[block] = brain[block]
    known = {}

    def said_by(network) -> np.ndarray:
        if network not in known:
            known[network] = predict_blocks(network, images, brain, CPU, corners, LAYER)[0]
        return known[network]

    def together(one: Committee) -> np.ndarray:
        return sum(
            v.weight * said_by(v.network) for v in one.voices(images, brain) if np.any(v.weight)
        )

    unasked = Committee(committee.generalist, abroad=committee.abroad)
    for i, one in enumerate(committee.specialists):
        unasked = unasked.joined_by(one, getattr(committee, f'home_{i}').numpy())
    others = Committee(committee.generalist, abroad=committee.abroad)
    made = (said_by(specialist), together(others), together(committee), together(unasked))
    ssim = [score(one, values[-1], layer, None, values[0])['ssim'] for one in made]
    return accord, short, *ssim


if __name__ == '__main__':
    main()
