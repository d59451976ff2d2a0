"""Two jobs at once on one output directory, as an array job has them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# The array of test_slurm.py does so too, at the pace of a scheduler.
pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def twins(dolls, tmp_path) -> Path:
    """Two participants of whom there is little: a T2w of a small head each."""
    data = tmp_path / 'data'
    for label in ('02', '04'):
        (data / f'sub-{label}' / 'anat').mkdir(parents=True)
        image = Path(f'sub-{label}/anat/sub-{label}_T2w.nii.gz')
        shutil.copy(dolls / 'sub-02/anat/sub-02_T2w.nii.gz', data / image)
    for name in ('dataset_description.json', 'README'):
        shutil.copy(dolls / name, data)
    return data


def test_they_leave_a_valid_dataset(root, twins):
    program = root / 'benchmarks' / 'concurrent_jobs.py'
    done = subprocess.run(
        [sys.executable, program, twins, '--times', '1'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '1: valid' in done.stdout
