#!/usr/bin/env python3
"""Table of the lesions that a model keeps, and of those that it makes up.

    benchmarks/lesions.py --data DERIVATIVES --people sub-07 --model FOLDER

Counted are connected regions of more than 100 mm3. A marked lesion is visible in T2w if its mean
is over 2 standard deviations above normal-appearing white matter, and is kept if its mean in the
synthetic FLAIR is over 2 above it. Made up is what is brighter than white matter by 3 standard
deviations in the synthetic FLAIR and not in the acquired one, in white matter deeper than the
cortex: more than 2 mm from fluid and 4 mm below the surface. Mode and standard deviation of white
matter are those of the acquired image.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import label

from bids_flair.models.files import load_model
from bids_flair.models.inference import predict
from bids_flair.models.normalisation import mode
from bids_flair.scoring import best_scale, normal_white_matter
from bids_flair.training.cohort import find_cases
from bids_flair.training.corpus import BORDER, LESION, Cut, open_case
from bids_flair.training.evaluation import choose

SMALLEST_MM3, VISIBLE_SDS, BRIGHT_SDS, DEPTH_MM = 100, 2, 3, 4


def main() -> None:
    """Predict, count, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, required=True, help='BIDS derivatives with a FLAIR')
    parser.add_argument('--people', nargs='+', required=True, help='beginnings of the names')
    parser.add_argument('--model', default='default')
    parser.add_argument('--inputs', nargs='+', default=['T1w', 'T2w'])
    args = parser.parse_args()
    model = load_model(args.model)
    cases = [c for c in find_cases(args.data) if c.name.startswith(tuple(args.people))]
    if known := {c.name for c in cases} & set(model.card['training_data']['real']['people']):
        sys.exit(f'{args.model} was trained on {", ".join(sorted(known))}.')
    print('| | marked, visible in T2w | kept | mm3 of those lost | made up | mm3 of these |')
    print('|---|---|---|---|---|---|')
    for case in cases:
        with tempfile.TemporaryDirectory() as cache:
            cut = open_case(case, Path(cache)).whole()
            brain = (cut.depth > 0) & cut.presence[-1]
            inputs = choose(cut, args.inputs)
            synthetic = predict(model.network, inputs, brain, torch.device('cpu'))[0]
        visible, lost = _lost(cut, brain, synthetic)
        made_up = _made_up(cut, brain, synthetic)
        row = (len(visible), len(visible) - len(lost), _list(lost), len(made_up), _list(made_up))
        print(f'| {case.name} | ' + ' | '.join(map(str, row)) + ' |')


def _list(volumes: list[int]) -> str:
    return ', '.join(map(str, sorted(volumes, reverse=True))) or '-'


def _lost(cut: Cut, brain: np.ndarray, synthetic: np.ndarray) -> tuple[list[int], list[int]]:
    """Volumes of the lesions that are visible in T2w, and of those of them that are not kept."""
    marked = (cut.kind == LESION) & brain
    normal = normal_white_matter(cut.values[0], brain, marked)
    lesions, count = label(marked)
    visible, lost = [], []
    for i in range(1, count + 1):
        where = lesions == i
        if where.sum() > SMALLEST_MM3 and _stands_out(cut.values[1], where, normal):
            visible.append(int(where.sum()))
            if not _stands_out(synthetic, where, normal):
                lost.append(visible[-1])
    return visible, lost


def _stands_out(image: np.ndarray, where: np.ndarray, normal: np.ndarray) -> bool:
    return image[where].mean() > mode(image[normal]) + VISIBLE_SDS * image[normal].std()


def _made_up(cut: Cut, brain: np.ndarray, synthetic: np.ndarray) -> list[int]:
    true = cut.values[-1]
    scaled = synthetic * best_scale(synthetic[brain], true[brain])
    normal = normal_white_matter(cut.values[0], brain, cut.kind == LESION)
    bright = mode(true[normal]) + BRIGHT_SDS * true[normal].std()
    wrong = (scaled > bright) & (true <= bright) & (cut.kind != BORDER) & (cut.depth > DEPTH_MM)
    regions, _ = label(wrong)
    volumes = np.bincount(regions.ravel())[1:]
    return volumes[volumes > SMALLEST_MM3].tolist()


if __name__ == '__main__':
    main()
