#!/usr/bin/env python3
"""What diffusion adds to T1w and T2w, on simulated people whom no model was trained on.

    benchmarks/diffusion.py --people 12

One line per person, each at a site of its own: SSIM in the brain from T1w + T2w, with MD + S0
beside them, and with FA, too; then the means, and how much was gained, mean and spread.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from bids_flair.models.files import Model, load_model
from bids_flair.models.inference import synthesis_of
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.scoring import score
from bids_flair.training.corpus import Cut
from bids_flair.training.rendering import draw_site, prepare_head, read_head

SETS = (('T1w', 'T2w'), ('T1w', 'T2w', 'MD', 'S0'), ('T1w', 'T2w', 'MD', 'FA', 'S0'))
# Of none of the training seeds, nor of those that a model is scored on while it is trained.
FIRST = 300_000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', default='default')
    parser.add_argument('--people', type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model)
    print('| | ' + ' | '.join('+'.join(names) for names in SETS) + ' |')
    print('|---|' + '---|' * len(SETS))
    scores = []
    for i in range(args.people):
        with tempfile.TemporaryDirectory() as cache:
            head = read_head(prepare_head(FIRST + i, Path(cache)))
        rng = np.random.default_rng([FIRST, i])
        cut = head.whole(rng, draw_site(rng))
        scores.append([ssim(model, cut, names) for names in SETS])
        print(f'| {i} | ' + ' | '.join(f'{value:.3f}' for value in scores[-1]) + ' |', flush=True)
    table = np.array(scores)
    print('| mean | ' + ' | '.join(f'{value:.3f}' for value in table.mean(0)) + ' |')
    for names, gained in zip(SETS[1:], (table[:, 1:] - table[:, :1]).T, strict=True):
        print(
            f'{"+".join(names)}: {gained.mean():+.3f} ± {gained.std(ddof=1):.3f}, '
            f'more in {(gained > 0).sum()} of {len(gained)}'
        )


def ssim(model: Model, cut: Cut, names: Sequence[str]) -> float:
    """As a user would have it: misplaced contrasts, which the simulator draws, are moved."""
    brain, space = cut.depth > 0, np.eye(4)
    images = {name: nib.Nifti1Image(cut.values[CONTRASTS.index(name)], space) for name in names}
    mask = nib.Nifti1Image(brain.astype(np.uint8), space)
    flair = synthesis_of(images, mask, model, 'cpu').flair.get_fdata()
    return score(flair, cut.values[CONTRASTS.index('FLAIR')], brain)['ssim']


if __name__ == '__main__':
    main()
