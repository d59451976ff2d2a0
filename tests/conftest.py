"""Fixtures that every test may use."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='session')
def root() -> Path:
    """The checkout: where run.py and data_descriptor.json are."""
    return ROOT


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Real scans beside the checkout; tests that need them skip where they are absent."""
    data = ROOT.parent / 'shared' / 'data'
    if not data.is_dir():
        pytest.skip(f'REAL DATA ABSENT: no {data}; this test needs real scans')
    return data
