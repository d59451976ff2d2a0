#!/usr/bin/env python3
"""Memory and processors that each step asks of a scheduler, against what it takes.

    benchmarks/resources.py [DATASET] [--out FOLDER] [--omp-nthreads N] [--device cuda]

Runs one participant, step after step, each in a process of its own as a cluster would run it, and
prints a row for each. Without a dataset, a head is simulated: 1 mm, whole, with T1w, T2w, FLAIR
and diffusion. Memory is the most that the processes of a step held at once (resident, GB of 1e9
bytes); processors are processor seconds by seconds. Exit code 1 if a step took more than it asked
for.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import psutil
from nipype.pipeline.plugins.base import SGELikeBatchManagerBase

from bids_flair.bids.collect import collect
from bids_flair.cli.main import offer_no_templates, set_environment
from bids_flair.settings import Settings
from bids_flair.workflows.backends import load_backend
from bids_flair.workflows.execution import configure_nipype
from bids_flair.workflows.participant import init_run_wf

INTERVAL_S = 0.1
# A process that starts up, reads and writes beside what it computes.
PROCESSORS_MARGIN = 0.15


@dataclass(frozen=True)
class Measured:
    """A step: what it asked for, and what it took."""

    step: str
    mem_gb: float
    n_procs: int
    used_gb: float
    used_procs: float
    seconds: float

    @property
    def held(self) -> bool:
        """Whether it took no more than it asked for."""
        fits = self.used_procs <= self.n_procs + PROCESSORS_MARGIN
        return self.used_gb <= self.mem_gb and fits

    @property
    def row(self) -> str:
        """Of the table."""
        note = '' if self.held else ' **too little asked**'
        return (
            f'| {self.step} | {self.mem_gb:.1f} | {self.used_gb:.2f} | {self.n_procs} '
            f'| {self.used_procs:.1f} | {self.seconds:.0f}{note} |'
        )


class MeasuringPlugin(SGELikeBatchManagerBase):
    """A batch system of one job at a time, which watches it."""

    def __init__(self):
        super().__init__('#!/bin/sh', plugin_args={})
        self.measured: list[Measured] = []

    def _submit_batchtask(self, scriptfile, node):
        start, spent = time.monotonic(), _spent()
        process = psutil.Popen(['sh', scriptfile], stdout=subprocess.DEVNULL)
        used = max(_memory_until_it_ends(process), default=0)
        seconds = time.monotonic() - start
        # Of children that were waited for, so of all that this job started.
        processor_s = _spent() - spent
        self.measured.append(
            Measured(
                node.fullname.partition('.')[2].partition('.')[2], node.mem_gb, node.n_procs,
                used / 1e9, processor_s / seconds, seconds,
            )
        )  # fmt: skip
        number = len(self.measured)
        print(self.measured[-1].row, file=sys.stderr)
        self._pending[number] = node.output_dir()
        return number

    def _is_pending(self, taskid):
        return False


def main() -> int:
    """Run what has to be run, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', type=Path, nargs='?', help='raw BIDS (default: simulated)')
    parser.add_argument('--participant-label', help='default: the first')
    parser.add_argument('--out', type=Path, help='folder for what is made (default: temporary)')
    parser.add_argument('--omp-nthreads', type=int, default=2)
    parser.add_argument('--backend', default='embedded')
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    measured = measure(args, args.out or Path(mkdtemp(prefix='resources-')))
    print('| step | memory asked | used, GB | processors asked | used | seconds |')
    print('|---|---|---|---|---|---|')
    print('\n'.join(m.row for m in measured))
    return int(not all(m.held for m in measured))


def measure(args: argparse.Namespace, out: Path) -> list[Measured]:
    """Run one participant, and measure its steps."""
    dataset = args.dataset or _simulate(out / 'data')
    label = args.participant_label or min(path.name[4:] for path in dataset.glob('sub-*'))
    settings = Settings(
        dataset.absolute(), (out / 'derivatives').absolute(), work_dir=(out / 'work').absolute(),
        participants=(label,), omp_nthreads=args.omp_nthreads, nprocs=args.omp_nthreads,
        device=args.device,
    )  # fmt: skip
    set_environment(settings)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    offer_no_templates(settings.work_dir)
    configure_nipype(settings)
    workflow = init_run_wf(collect(settings), settings, load_backend(args.backend, out))
    plugin = MeasuringPlugin()
    workflow.run(plugin=plugin)
    return plugin.measured


def _simulate(folder: Path) -> Path:
    if not folder.exists():
        options = ['--participants', '1', '--seed', '0', '--voxel-size', '1']
        command = [sys.executable, '-m', 'bids_flair.simulation', folder, *options]
        subprocess.run(command, check=True)
    return folder


def _memory_until_it_ends(process: psutil.Popen) -> Iterator[int]:
    """Resident bytes of a process and all below it, again and again."""
    while process.poll() is None:
        yield sum(_resident(p) for p in [process, *_below(process)])
        time.sleep(INTERVAL_S)


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _spent() -> float:
    """Processor seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == '__main__':
    sys.exit(main())
