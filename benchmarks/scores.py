#!/usr/bin/env python3
"""Plot of how good a model is in people left out, by what it was given.

    benchmarks/scores.py --out docs/scores.png

Every figure comes from the model's card, where it was written when the people were scored.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from bids_flair.models.files import load_model

matplotlib.use('Agg')
from matplotlib import pyplot as plt

FIGURES = {'ssim': 'SSIM in the brain', 'corr': 'correlation in the brain'}
# Marker and colour of real and of simulated people: told apart without colour, too.
KINDS = {'real': ('o', '#2f70c4'), 'simulated': ('^', '#c9621b')}


def main() -> None:
    """Draw one panel per figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', default='default')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    people = load_model(args.model).card['scores_on_people_left_out']
    sets = list(dict.fromkeys(name for entry in people for name in entry['inputs']))
    size = (9, 0.45 * len(sets) + 1.2)
    figure, axes = plt.subplots(1, len(FIGURES), figsize=size, sharey=True, layout='constrained')
    for panel, (key, label) in zip(axes, FIGURES.items(), strict=True):
        draw(panel, people, sets, key)
        panel.set(xlabel=label, xlim=(0.45, 1), yticks=range(len(sets)), yticklabels=sets)
        panel.grid(axis='x', alpha=0.4)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=2, frameon=False)
    figure.savefig(args.out, dpi=110)


def draw(panel, people: list[dict], sets: list[str], key: str) -> None:
    """One point per person, and a line at the mean of each kind of people."""
    for shift, (kind, (marker, colour)) in zip((-0.14, 0.14), KINDS.items(), strict=True):
        chosen = [p for p in people if p['person'].startswith('simulated') == (kind != 'real')]
        for row, name in enumerate(sets):
            values = [p['inputs'][name][key] for p in chosen if name in p['inputs']]
            if not values:
                continue
            heights = np.full(len(values), row + shift)
            panel.scatter(values, heights, marker=marker, color=colour, alpha=0.7)
            panel.vlines(np.mean(values), row + shift - 0.16, row + shift + 0.16, color=colour)
        panel.scatter([], [], marker=marker, color=colour, label=f'{kind} people, one per visit')


if __name__ == '__main__':
    main()
