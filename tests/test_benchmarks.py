"""The programs behind the figures that README and docs quote."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parent.parent / 'benchmarks').glob('*.py'))


@pytest.mark.parametrize('program', BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_starts(program):
    """None is left behind when what it imports is renamed."""
    done = subprocess.run(
        [sys.executable, program, '--help'], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'usage' in done.stdout
