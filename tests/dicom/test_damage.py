"""DICOM that is not whole, or not of one visit: said, by name of the series, before conversion."""

import shutil
from pathlib import Path

import dicom_series as series
import numpy as np
import pydicom
import pytest

from bids_flair.dicom.headers import find_series
from bids_flair.errors import BidsFlairError, ExitCode


@pytest.fixture
def refused(convert, tmp_path):
    """Convert folders that cannot be; give what is said. Nothing may have been written."""

    def run(*folders: Path) -> str:
        with pytest.raises(BidsFlairError) as caught:
            convert(*folders)
        assert caught.value.code == ExitCode.DATA_UNUSABLE
        assert not (tmp_path / 'ds').exists()
        for text in ('Mustermann', 'Friederike', 'PID7654321', '19610213'):
            assert text not in str(caught.value)
        return str(caught.value)

    return run


@pytest.fixture
def t1w(tmp_path) -> list[Path]:
    return series.write_classic(
        tmp_path / 'T1', series.phantom(), series.affine('oblique'), series.T1W
    )


@pytest.fixture
def dwi(tmp_path) -> list[Path]:
    voxels = series.phantom(len(series.BVALS))
    return series.write_classic(tmp_path / 'dwi', voxels, series.affine('axial'), series.DWI)


def test_a_slice_inside_is_missing(refused, t1w):
    t1w[5].unlink()
    said = refused(t1w[0].parent)
    assert 'series 2 (t1_mprage_sag)' in said
    assert 'slices are missing' in said
    assert '5.00 mm' in said


def test_the_first_slice_is_missing(refused, t1w):
    t1w[0].unlink()
    assert 'begins with instance number 2' in refused(t1w[0].parent)


@pytest.mark.parametrize('lost', [0, 11])
def test_the_scanner_counts_more_slices(refused, t1w, lost):
    for path in t1w:
        header = pydicom.dcmread(path)
        block = header.private_block(0x2001, 'Philips Imaging DD 001', create=True)
        block.add_new(0x18, 'SL', len(t1w))
        header.save_as(path)
    t1w[lost].unlink()
    assert '11 slices where the scanner counts 12' in refused(t1w[0].parent)


def test_a_slice_of_one_volume_is_missing(refused, dwi):
    dwi[30].unlink()
    said = refused(dwi[0].parent)
    assert 'series 5 (DTI 8 dir)' in said
    assert 'most slices 9 times, but slice 7 8 times' in said


def test_a_volume_is_missing(refused, dwi):
    for path in dwi[24:36]:
        path.unlink()
    assert 'no volume after instance number' in refused(dwi[0].parent)


@pytest.mark.parametrize('kept', [0.999, 0.5, 0.02, 0.0])
def test_a_file_is_cut_short(refused, t1w, kept):
    content = t1w[7].read_bytes()
    t1w[7].write_bytes(content[: int(len(content) * kept)])
    assert str(t1w[7]) in refused(t1w[0].parent)


def test_a_gzipped_file_is_cut_short(refused, tmp_path):
    paths = series.write_classic(
        tmp_path / 'z', series.phantom(), series.affine('axial'), series.T1W, zipped=True
    )
    paths[2].write_bytes(paths[2].read_bytes()[:-300])
    assert str(paths[2]) in refused(tmp_path / 'z')


def test_an_enhanced_file_announces_more_frames_than_it_describes(refused, tmp_path):
    (path,) = series.write_enhanced(
        tmp_path / 'e', series.phantom(), series.affine('axial'), series.T1W
    )
    header = pydicom.dcmread(path)
    del header.PerFrameFunctionalGroupsSequence[4]
    header.save_as(path)
    assert 'announces 12 frames and describes 11' in refused(tmp_path / 'e')


def test_an_enhanced_file_is_missing_a_frame(refused, tmp_path):
    (path,) = series.write_enhanced(
        tmp_path / 'e', series.phantom(), series.affine('axial'), series.T1W
    )
    header = pydicom.dcmread(path)
    del header.PerFrameFunctionalGroupsSequence[4]
    header.NumberOfFrames = 11
    header.PixelData = np.delete(header.pixel_array, 4, 0).tobytes()
    header.save_as(path)
    assert 'slices are missing' in refused(tmp_path / 'e')


@pytest.mark.parametrize('field', ['PatientID', 'StudyInstanceUID'])
def test_two_patients_or_studies_are_mixed(refused, t1w, tmp_path, field):
    other = {**series.T2W, field: '9.9', 'FrameOfReferenceUID': '9.8'}
    series.write_classic(tmp_path / 'other', series.phantom(), series.affine('axial'), other)
    said = refused(t1w[0].parent, tmp_path / 'other')
    assert str(t1w[0].parent) in said
    assert str(tmp_path / 'other') in said
    assert '--session-label' in said


def test_two_stacks_under_one_series(refused, tmp_path):
    header = {**series.T1W, 'SeriesInstanceUID': '1.2.3.7'}
    series.write_classic(tmp_path / 'x', series.phantom(), series.affine('axial'), header)
    moved = series.affine('axial')
    moved[0, 3] += 40
    paths = series.write_classic(tmp_path / 'y', series.phantom(), moved, header)
    for path in paths:
        shutil.move(path, tmp_path / 'x' / f'more-{path.name}')
    assert 'do not lie behind one another' in refused(tmp_path / 'x')


def test_no_dicom_at_all(tmp_path):
    (tmp_path / 'readme.txt').write_text('nothing')
    with pytest.raises(BidsFlairError, match='No DICOM file') as caught:
        find_series([tmp_path])
    assert caught.value.code == ExitCode.INPUT_MISSING


def test_nothing_that_is_wanted(convert, tmp_path):
    header = {**series.T1W, 'ImageType': ['ORIGINAL', 'PRIMARY', 'LOCALIZER']}
    series.write_classic(tmp_path / 'x', series.phantom(), series.affine('axial'), header)
    with pytest.raises(BidsFlairError, match='No series') as caught:
        convert(tmp_path / 'x')
    assert caught.value.code == ExitCode.NOTHING_MATCHED


def test_a_series_that_is_not_taken_may_be_incomplete(convert, t1w, tmp_path):
    header = {**series.T1W, 'ImageType': ['ORIGINAL', 'PRIMARY', 'LOCALIZER'], 'SeriesNumber': 1}
    others = series.write_classic(
        tmp_path / 'loc', series.phantom(), series.affine('axial'), header
    )
    others[4].unlink()
    assert convert(t1w[0].parent, tmp_path / 'loc').exists()
