#!/usr/bin/env python3
"""Train models of a cohort's own in each of the ways that `group` knows; score those held out.

    benchmarks/own_models.py DERIVATIVES OUT --holdout 01 --start simulated

DERIVATIVES is what the participant level wrote, or named so; everybody else in it is trained on:
with the paper's recipe without dropout, with the default recipe from the beginning, and as
specialists who join the model START (`--fine-tune`). START is scored as it was, too; where the
default model knows the people held out, `simulated` does not. What is finished in OUT is not
trained again.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import torch

from bids_flair.models.files import load_model
from bids_flair.training.cohort import find_cases
from bids_flair.training.corpus import open_case
from bids_flair.training.evaluation import evaluate

FIGURES = ('ssim', 'corr', 'lesion_auc_pred')


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', type=Path, help='BIDS derivatives with a FLAIR')
    parser.add_argument('out', type=Path, help='where the models go')
    parser.add_argument('--inputs', nargs='+', default=['T1w', 'T2w'])
    parser.add_argument('--holdout', nargs='+', required=True, help='labels')
    parser.add_argument('--start', default='default', help='model that the specialists join')
    args = parser.parse_args()
    inputs = ('--inputs', *args.inputs)
    ways = {
        'build-a-flair': ('--recipe', 'build-a-flair', '--dropout', '0', *inputs),
        'default': inputs,
        'fine-tuned': ('--fine-tune', args.start),
    }
    print('| | | SSIM | correlation | lesion AUC |\n|---|---|---|---|---|')
    _print(args.start, _score(args))
    for name, options in ways.items():
        scores = args.out / 'models' / name / 'scores.tsv'
        if not scores.exists():
            _train(args, name, options)
        with scores.open(newline='') as file:
            rows = csv.DictReader(file, delimiter='\t')
            _print(name, {row['participant_id']: row for row in rows})


def _train(args: argparse.Namespace, name: str, options: tuple[str, ...]) -> None:
    command = [sys.executable, '-m', 'bids_flair', args.data, args.out, 'group', '--resume']
    command += ['--work-dir', args.out / 'work', '--model-name', name]
    command += ['--holdout', *args.holdout, *options]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _score(args: argparse.Namespace) -> dict[str, dict]:
    network, cache = load_model(args.start).network, args.out / 'work' / 'bids_flair_group'
    found = {}
    for case in find_cases(args.data):
        if case.participant in args.holdout:
            whole = open_case(case, cache).whole()
            entry = evaluate(
                network, case.name, whole, torch.device('cpu'), subsets=[tuple(args.inputs)]
            )
            found[case.name] = entry['inputs']['+'.join(args.inputs)]
    return found


def _print(way: str, scores: dict[str, dict]) -> None:
    for person, figures in scores.items():
        found = (figures.get(name, 'n/a') for name in FIGURES)
        told = [value if value == 'n/a' else f'{float(value):.3f}' for value in found]
        print(f'| {way} | {person} | ' + ' | '.join(told) + ' |', flush=True)


if __name__ == '__main__':
    main()
