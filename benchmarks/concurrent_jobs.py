#!/usr/bin/env python3
"""Whether two jobs that begin together on one output directory leave a valid dataset.

    benchmarks/concurrent_jobs.py [DATASET] [--times 10]

Each time two programs start at once, each with half of the participants, and share a new output
directory, a new work directory and a new database of the dataset. Afterwards both must have ended
well, every participant must have its image and its report, no part of a file may be left over, and
the official BIDS validator must find no error. Without a dataset two participants are simulated.
Exit code 1 if anything is amiss.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bids_flair.bids.collect import participants_of
from bids_flair.bids.validation import validator_errors
from bids_flair.simulation.dataset import write_dataset

JOBS = 2


def main() -> None:
    """Run as often as asked, print what was amiss."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', type=Path, nargs='?', help='raw BIDS dataset')
    parser.add_argument('--times', type=int, default=10, help='how often (default 10)')
    args = parser.parse_args()
    amiss = 0
    with TemporaryDirectory(prefix='concurrent-') as name:
        folder = Path(name)
        dataset = args.dataset or write_dataset(folder / 'data', 2, 0, 1.5)
        for number in range(1, args.times + 1):
            begun = time.monotonic()
            problems = run_together(dataset, folder / f'run{number}')
            amiss += bool(problems)
            print(
                f'{number}: {"; ".join(problems) or "valid"}, {time.monotonic() - begun:.0f} s',
                flush=True,
            )
    print(f'{args.times - amiss} of {args.times} times a valid dataset')
    sys.exit(amiss > 0)


def run_together(dataset: Path, folder: Path) -> list[str]:
    """Two jobs at once; what was amiss afterwards."""
    labels = participants_of(dataset)
    folder.mkdir()
    logs = [folder / f'{job}.log' for job in range(JOBS)]
    jobs = [_start(dataset, folder, labels[job::JOBS], log) for job, log in enumerate(logs)]
    codes = [job.wait() for job in jobs]
    problems = [
        f'a job ended with {code}: {log.read_text()[-300:].strip()}'
        for code, log in zip(codes, logs, strict=True)
        if code
    ]
    return [*problems, *_look(folder / 'out', labels)]


def _start(dataset: Path, folder: Path, labels: Sequence[str], log: Path) -> subprocess.Popen:
    command = [sys.executable, '-m', 'bids_flair', dataset, folder / 'out', 'participant']
    options = ['-w', folder / 'work', '--bids-database-dir', folder / 'database', '--nprocs', 1]
    whole = [*command, *options, '--participant-label', *labels]
    with log.open('w') as file:
        return subprocess.Popen([str(part) for part in whole], stderr=file)


def _look(out: Path, labels: Sequence[str]) -> Iterator[str]:
    for label in labels:
        if not list((out / f'sub-{label}').rglob('*_desc-synth_FLAIR.nii.gz')):
            yield f'sub-{label} has no synthetic FLAIR'
        if not (out / f'sub-{label}.html').exists():
            yield f'sub-{label} has no report'
    known = {'.bidsignore'}
    yield from (f'{path} is left over' for path in out.rglob('.*') if path.name not in known)
    yield from validator_errors(out)


if __name__ == '__main__':
    main()
