"""Fixtures for DICOM: a study of a phantom, and the conversion as the command line asks for it."""

from pathlib import Path

import dicom_series as series
import pytest

from bids_flair.cli.dicom_step import convert_dicom
from bids_flair.cli.parser import parse


@pytest.fixture
def study(tmp_path) -> Path:
    """A study with a T1w, a T2w, a FLAIR and a dwi, in a folder with a space in its name."""
    folder = tmp_path / 'my scans'
    phantom, affine = series.phantom, series.affine
    series.write_classic(folder / 'a/T1', phantom(seed=1), affine('sagittal'), series.T1W)
    series.write_classic(folder / 'b', phantom(seed=2), affine('oblique'), series.T2W, zipped=True)
    series.write_enhanced(folder / 'b', phantom(seed=3), affine('axial'), series.FLAIR)
    dwi = phantom(len(series.BVALS), seed=4)
    series.write_classic(folder / 'c', dwi, affine('oblique'), series.DWI)
    (folder / 'notes.txt').write_text('no DICOM\n')
    return folder


@pytest.fixture
def convert(tmp_path):
    """Convert folders into a dataset, as the command line asks for it; give the dataset."""

    def run(*folders: Path, options: tuple = ()) -> Path:
        asked = [tmp_path / 'ds', tmp_path / 'out', 'participant', '-w', tmp_path / 'work']
        asked += ['--participant-label', '01', '--dicom', *folders, *options]
        convert_dicom(parse([str(argument) for argument in asked]))
        return tmp_path / 'ds'

    return run
