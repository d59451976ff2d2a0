"""Settings survive the file that records them."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from bids_flair.settings import Settings

PLAIN = Settings(bids_dir=Path('/data/ds'), output_dir=Path('/data/out'))
FULL = Settings(
    bids_dir=Path('/data/ds'),
    output_dir=Path('/data/out'),
    participants=('01', 'A2'),
    sessions=('pre',),
    bids_filters={'T1w': {'acquisition': 'mprage', 'run': [1, 2]}},
    bids_database_dir=Path('/data/db'),
    dicom=('/scans/a', '/scans/b'),
    dicom_rules={'rules': [{'kind': None, 'reason': 'mine', 'when': {'contrast': None}}]},
    skip_bids_validation=True,
    backend='fsl',
    model='/models/mine.safetensors',
    inputs=('T1w', 'MD'),
    device='cuda:1',
    nprocs=6,
    omp_nthreads=3,
    mem_gb=12.5,
    low_mem=True,
    plugin={'plugin': 'SLURM', 'plugin_args': {'sbatch_args': '--mem=8G'}},
    work_dir=Path('/scratch/w'),
    random_seed=7,
    verbosity=2,
)


@pytest.mark.parametrize('settings', [PLAIN, FULL], ids=['plain', 'full'])
def test_settings_survive_toml(settings):
    assert Settings.from_toml(settings.to_toml()) == settings


def test_what_is_not_set_is_not_written():
    written = tomllib.loads(PLAIN.to_toml())
    assert written['bids_dir'] == '/data/ds'
    assert not {'mem_gb', 'bids_database_dir', 'participants', 'bids_filters'} & set(written)


def test_an_entity_that_must_be_absent_survives_toml():
    filters = {'T1w': {'acquisition': None}}
    settings = dataclasses.replace(PLAIN, bids_filters=filters)
    assert Settings.from_toml(settings.to_toml()).bids_filters == filters


def test_unknown_setting_is_an_error():
    with pytest.raises(TypeError, match='colour'):
        Settings.from_toml('bids_dir = "a"\noutput_dir = "b"\ncolour = "red"\n')


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.nprocs = 2
