"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from small_heads import write_dolls, write_tiny_model

# As the program does: ITK is deterministic with one thread only.
os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = '1'
# Nipype would ask the network for a newer version, in every script of a batch system too.
os.environ['NO_ET'] = '1'

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process is left with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


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


@pytest.fixture(scope='session')
def dolls(tmp_path_factory) -> Path:
    """A raw BIDS dataset of three simulated heads, stripped, coarse, half of life size.

    sub-01 has every contrast, sub-02 a T2w alone, sub-03 a dwi alone. So small, a run takes a
    minute; brain extraction and full sizes are tested elsewhere.
    """
    return write_dolls(tmp_path_factory.mktemp('dolls') / 'data')


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> Path:
    """A model of all inputs that takes no time, and makes nothing like a FLAIR."""
    inputs = ('T1w', 'T2w', 'MD', 'FA', 'S0')
    return write_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', inputs=inputs)
