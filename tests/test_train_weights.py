"""Programs of hours of work, whose commands must be right from the beginning."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_flair.training.__main__ import parse

PROGRAMS = Path(__file__).parents[1] / 'benchmarks'
# Writes down the arguments it was called with, and the model that they ask for.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
while (($#)); do
    case $1 in
        --out) out=$2 ;;
        --name) name=$2 ;;
        participant) mkdir -p "$before" ;;
    esac
    before=$1
    shift
done
if [[ -n ${out:-} ]]; then
    mkdir -p "$out"
    touch "$out/$name.safetensors" "$out/$name.json" "$out/scores.json"
fi
"""


@pytest.fixture
def train(tmp_path) -> Callable[..., list[list[str]]]:
    """Runs a program and gives the trainings that it called."""
    for name in ('python', 'bids_flair'):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / 'calls'
    env = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CALLS': str(log)}

    def run(program: str = 'train_weights') -> list[list[str]]:
        log.write_text('')
        command = [PROGRAMS / program, tmp_path / 'data', tmp_path / 'out']
        subprocess.run(command, env=env, check=True)
        lines = [line.split() for line in log.read_text().splitlines()]
        return [line[2:] for line in lines if line[:2] == ['-m', 'bids_flair.training']]

    return run


@pytest.fixture
def calls(train) -> list[list[str]]:
    return train()


def test_every_training_is_one_that_the_program_knows(calls):
    assert len(calls) == 11
    for call in calls:
        parse(call)


def test_every_model_to_begin_with_is_one_that_is_made(calls):
    for call in calls:
        args = parse(call)
        for model in filter(None, (args.start, *args.abroad)):
            assert Path(model).exists()


def test_everybody_is_left_out_of_one_fold_and_out_of_the_simulated_model(calls):
    left_out = {args.out.name: args.leave_out for args in map(parse, calls)}
    folds = left_out['fold-1'] + left_out['fold-2']
    assert sorted(folds) == sorted(left_out['simulated'])
    assert left_out['default'] == []


def test_what_is_made_is_not_made_again_and_what_is_lost_is(train, tmp_path):
    train()
    assert train() == []
    (tmp_path / 'out/fold-2-general/model.json').unlink()
    (again,) = train()
    assert parse(again).out.name == 'fold-2-general'


def test_each_scanner_is_foreign_once_and_starts_from_what_train_weights_made(train):
    everybody = next(a.leave_out for a in map(parse, train()) if a.out.name == 'simulated')
    calls = [parse(call) for call in train('foreign_scanner')]
    left_out = {args.out.name: args.leave_out for args in calls}
    assert sorted(left_out['without-3T'] + left_out['without-1.5T']) == sorted(everybody)
    for args in calls:
        for model in filter(None, (args.start, *args.abroad)):
            assert Path(model).exists()
