#!/usr/bin/env python3
"""Picture of what a model makes of a person beside what the scanner saw.

    benchmarks/picture.py --data DERIVATIVES --person sub-07 --model FOLDER --out docs/sub-07.png

Three planes of T1w, T2w, acquired FLAIR, synthetic FLAIR, their difference and the width of the
90 % interval. Give a model that was not trained on the person; the program refuses otherwise.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch

from bids_flair.models.files import load_model
from bids_flair.models.inference import predict
from bids_flair.scoring import best_scale, score
from bids_flair.training.cohort import find_cases
from bids_flair.training.corpus import LESION, open_case
from bids_flair.training.evaluation import choose

matplotlib.use('Agg')
from matplotlib import pyplot as plt

# Title, colours, darkest and brightest value of every column.
COLUMNS = (
    ('T1w', 'gray', 0, 1.3),
    ('T2w', 'gray', 0, 4),
    ('acquired FLAIR', 'gray', 0, 2),
    ('synthetic FLAIR', 'gray', 0, 2),
    ('synthetic − acquired', 'RdBu_r', -0.8, 0.8),
    ('width of the 90 % interval', 'magma', 0, 1.5),
)


def main() -> None:
    """Predict, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, required=True, help='BIDS derivatives with a FLAIR')
    parser.add_argument('--person', required=True, help='beginning of the name: sub-01_ses-02')
    parser.add_argument('--model', default='default')
    parser.add_argument('--inputs', nargs='+', default=['T1w', 'T2w'])
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    case = next(c for c in find_cases(args.data) if c.name.startswith(args.person))
    if case.name in model.card['training_data']['real']['people']:
        sys.exit(f'{args.model} was trained on {case.name}: such a picture would flatter it.')
    with tempfile.TemporaryDirectory() as cache:
        cut = open_case(case, Path(cache)).whole()
        brain = (cut.depth > 0) & cut.presence[-1]
        inputs = choose(cut, args.inputs)
        mean, below, above = predict(model.network, inputs, brain, torch.device('cpu'))
    true = cut.values[-1] * brain
    synthetic = mean * best_scale(mean[brain], true[brain])
    lesions = (cut.kind == LESION) & brain
    figures = score(mean, true, brain, lesions if lesions.any() else None, cut.values[0])
    stretch = model.card['calibration']
    width = stretch['below'] * below + stretch['above'] * above
    volumes = (*(cut.values[:2] * brain), true, synthetic, synthetic - true, width)
    title = f'{case.name} from {" + ".join(args.inputs)}: SSIM {figures["ssim"]:.2f}'
    if lesions.any():
        title += f', lesion AUC {figures["lesion_auc_pred"]:.2f}'
        title += f' (acquired {figures["lesion_auc_true"]:.2f})'
    _draw(volumes, brain, lesions, title, args.out)


def _draw(
    volumes: tuple[np.ndarray, ...], brain: np.ndarray, lesions: np.ndarray, title: str, out: Path
) -> None:
    """Planes through the middle of the brain; the axial one where there is most lesion."""
    inside = np.argwhere(brain)
    low, high = inside.min(0), inside.max(0) + 1
    box = tuple(slice(*edge) for edge in zip(low, high, strict=True))
    centre = (high - low) // 2
    if lesions.any():
        centre[2] = int(lesions[box].sum((0, 1)).argmax())
    figure, axes = plt.subplots(3, len(volumes), figsize=(2.6 * len(volumes), 8.2))
    for column, volume, (name, colours, darkest, brightest) in zip(
        axes.T, volumes, COLUMNS, strict=True
    ):
        column[0].set_title(name, fontsize=9)
        for axis, panel in enumerate(reversed(column)):
            plane = volume[box].take(centre[axis], axis).T
            panel.imshow(plane, cmap=colours, vmin=darkest, vmax=brightest, origin='lower')
            panel.axis('off')
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=70, pil_kwargs={'optimize': True})


if __name__ == '__main__':
    main()
