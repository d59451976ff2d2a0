"""What is installed is what is in the checkout."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest


@pytest.mark.slow
def test_the_wheel_holds_weights_templates_and_all(root, tmp_path):
    """An editable installation would not miss them."""
    made = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--wheel-dir', tmp_path, root],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with ZipFile(next(tmp_path.glob('*.whl'))) as wheel:
        packed = set(wheel.namelist())
    tracked = subprocess.run(
        ['git', '-C', root, 'ls-files', 'bids_flair'], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {path for path in tracked if Path(path).name != '.gitignore'} <= packed
