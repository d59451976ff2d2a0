"""From DICOM to a dataset: every voxel where the scanner put it, nobody named, nothing lost."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import dicom_series as series
import nibabel as nib
import numpy as np
import pytest

from bids_flair.bids.validation import _find_validator, validator_errors
from bids_flair.errors import BidsFlairError, ExitCode


def in_world(image: Path, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values of an image at the voxels of another grid, which must be its own in another order."""
    img = nib.load(image)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1)
    world = nib.affines.apply_affine(affine, grid)
    voxels = nib.affines.apply_affine(np.linalg.inv(img.affine), world)
    assert np.abs(voxels - np.round(voxels)).max() < 0.02
    return np.asarray(img.dataobj)[tuple(np.moveaxis(np.round(voxels).astype(int), -1, 0))]


@pytest.mark.parametrize('placed', ['axial', 'sagittal', 'coronal', 'oblique'])
@pytest.mark.parametrize('form', ['classic', 'gzipped', 'enhanced'])
def test_every_voxel_lies_where_the_scanner_put_it(convert, tmp_path, placed, form):
    voxels, affine = series.phantom(), series.affine(placed)
    if form == 'enhanced':
        series.write_enhanced(tmp_path / 'x y', voxels, affine, series.T1W)
    else:
        zipped = form == 'gzipped'
        series.write_classic(tmp_path / 'x y', voxels, affine, series.T1W, zipped=zipped)
    dataset = convert(tmp_path / 'x y')
    written = in_world(dataset / 'sub-01/anat/sub-01_T1w.nii.gz', affine, series.SHAPE)
    np.testing.assert_array_equal(written, voxels[..., 0])


@pytest.mark.parametrize('placed', ['axial', 'sagittal', 'oblique'])
@pytest.mark.parametrize('form', ['classic', 'enhanced', 'volumes apart'])
def test_diffusion(convert, tmp_path, placed, form):
    voxels, affine = series.phantom(len(series.BVALS)), series.affine(placed)
    if form == 'classic':
        series.write_classic(tmp_path / 'dwi', voxels, affine, series.DWI)
    else:
        apart = form == 'volumes apart'
        series.write_enhanced(tmp_path / 'dwi', voxels, affine, series.DWI, apart=apart)
    stem = convert(tmp_path / 'dwi') / 'sub-01/dwi/sub-01_dwi'
    written = in_world(Path(f'{stem}.nii.gz'), affine, series.SHAPE)
    np.testing.assert_array_equal(written, voxels)
    assert np.loadtxt(f'{stem}.bval').tolist() == list(series.BVALS)
    bvec = np.loadtxt(f'{stem}.bvec').T
    assert np.isfinite(bvec).all()
    assert not bvec[0].any()
    np.testing.assert_allclose(np.linalg.norm(bvec[1:], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(
        np.abs((_in_world(bvec, nib.load(f'{stem}.nii.gz')) * series.directions()).sum(1)[1:]),
        1, atol=1e-4,
    )  # fmt: skip


def _in_world(bvec: np.ndarray, img: nib.Nifti1Image) -> np.ndarray:
    """Directions of FSL's convention in the patient's coordinates (LPS+)."""
    rotation = img.affine[:3, :3] / nib.affines.voxel_sizes(img.affine)
    if np.linalg.det(img.affine) > 0:
        bvec = bvec * (-1, 1, 1)
    return bvec @ rotation.T @ series.RAS_TO_LPS


def test_a_whole_study(convert, study):
    dataset = convert(study, options=('--session-label', 'pre'))
    found = {path.relative_to(dataset).as_posix() for path in dataset.rglob('*.*')}
    stem = 'sub-01/ses-pre/{}/sub-01_ses-pre_{}'
    assert found == {
        'dataset_description.json', 'participants.tsv', 'README.md',
        *(stem.format('anat', f'{name}{ext}') for name in ('T1w', 'T2w', 'FLAIR')
          for ext in ('.nii.gz', '.json')),
        *(stem.format('dwi', f'dwi{ext}') for ext in ('.nii.gz', '.json', '.bval', '.bvec')),
    }  # fmt: skip
    assert (dataset / 'participants.tsv').read_text() == 'participant_id\nsub-01\n'
    if _find_validator() is None:
        pytest.skip('bids-validator-deno is not installed (extra: validator)')
    assert validator_errors(dataset) == []


def test_dry_run_says_what_would_be_and_writes_nothing(study, tmp_path):
    before = sorted(tmp_path.rglob('*'))
    done = subprocess.run(
        [
            sys.executable, '-m', 'bids_flair', tmp_path / 'ds', tmp_path / 'out', 'participant',
            '--participant-label', '01', '--dicom', study, '--dry-run', '-w', tmp_path / 'work',
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.DONE, done.stderr
    for line in (
        'series 2 (t1_mprage_sag): T1w, sub-01/anat/sub-01_T1w.nii.gz: ',
        'series 3 (t2_tse_tra): T2w, ',
        'series 4 (t2_space_dark-fluid_sag): FLAIR, ',
        'series 5 (DTI 8 dir): dwi, ',
    ):
        assert line in done.stderr
    assert sorted(tmp_path.rglob('*')) == before


def test_nothing_is_overwritten(convert, study, tmp_path):
    target = tmp_path / 'ds/sub-01/anat/sub-01_T2w.nii.gz'
    target.parent.mkdir(parents=True)
    target.write_bytes(b'mine')
    with pytest.raises(BidsFlairError, match=r'sub-01_T2w\.nii\.gz is there already') as caught:
        convert(study)
    assert caught.value.code == ExitCode.CANNOT_WRITE
    assert target.read_bytes() == b'mine'
    assert [path for path in (tmp_path / 'ds').rglob('*') if path.is_file()] == [target]


def test_a_second_run_goes_on_from_what_is_there(convert, study):
    dataset = convert(study)
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob('*')}
    convert(study)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob('*')} == before
    (dataset / 'sub-01/anat/sub-01_T1w.json').write_text('{}')
    with pytest.raises(BidsFlairError, match='was not made of series 2'):
        convert(study)


def test_a_dataset_is_extended(convert, study, tmp_path):
    (tmp_path / 'ds/sub-09').mkdir(parents=True)
    description = '{"Name": "Ours", "BIDSVersion": "1.8.0"}'
    (tmp_path / 'ds/dataset_description.json').write_text(description)
    (tmp_path / 'ds/participants.tsv').write_text('participant_id\tage\nsub-09\t40\n')
    dataset = convert(study)
    assert (dataset / 'dataset_description.json').read_text() == description
    table = (dataset / 'participants.tsv').read_text()
    assert table == 'participant_id\tage\nsub-09\t40\nsub-01\tn/a\n'


def test_two_t1w_are_both_written_and_said(convert, tmp_path, caplog):
    for number in (2, 7):
        header = {**series.T1W, 'SeriesNumber': number}
        series.write_classic(tmp_path / 'x', series.phantom(), series.affine('axial'), header)
    with caplog.at_level(25, 'bids_flair'):
        logging.getLogger('bids_flair').propagate = True
        dataset = convert(tmp_path / 'x')
    assert {path.name for path in dataset.rglob('*.nii.gz')} == {
        'sub-01_run-1_T1w.nii.gz', 'sub-01_run-2_T1w.nii.gz'
    }  # fmt: skip
    assert '2 series are T1w' in caplog.text


def test_magnitude_and_phase_of_one_series_are_told_apart(convert, tmp_path):
    voxels, affine = series.phantom(), series.affine('axial')
    shared = {**series.T1W, 'SeriesInstanceUID': '1.2.3.6'}
    series.write_classic(tmp_path / 'm', voxels, affine, shared)
    phase = {**shared, 'ImageType': ['ORIGINAL', 'PRIMARY', 'P', 'ND']}
    series.write_classic(tmp_path / 'p', series.phantom(seed=9), affine, phase)
    dataset = convert(tmp_path / 'm', tmp_path / 'p')
    (image,) = dataset.rglob('*.nii.gz')
    np.testing.assert_array_equal(in_world(image, affine, series.SHAPE), voxels[..., 0])


def test_copies_of_a_file_count_once(convert, tmp_path):
    paths = series.write_classic(
        tmp_path / 'x', series.phantom(), series.affine('axial'), series.T1W
    )
    (tmp_path / 'x/copy.dcm').write_bytes(paths[3].read_bytes())
    assert (convert(tmp_path / 'x') / 'sub-01/anat/sub-01_T1w.nii.gz').exists()


def test_rules_of_a_user_go_first(convert, tmp_path):
    series.write_classic(tmp_path / 'x', series.phantom(), series.affine('axial'), series.T1W)
    rules = [
        {'kind': 'T2w', 'reason': 'ours', 'when': {'description': 'mprage', 'echo_time': [2, 3]}}
    ]
    (tmp_path / 'rules.json').write_text(json.dumps({'rules': rules}))
    dataset = convert(tmp_path / 'x', options=('--dicom-rules', tmp_path / 'rules.json'))
    assert (dataset / 'sub-01/anat/sub-01_T2w.nii.gz').exists()


def test_sidecars_and_headers_hold_no_free_text(convert, study):
    dataset = convert(study)
    for image in dataset.rglob('*.nii.gz'):
        header = nib.load(image).header
        for name in ('descrip', 'aux_file', 'intent_name', 'db_name'):
            assert not bytes(header[name]).strip(b'\0'), name
        assert not header.extensions
    sidecar = json.loads((dataset / 'sub-01/anat/sub-01_T1w.json').read_text())
    assert sidecar['EchoTime'] == pytest.approx(0.00298)
    assert not {'SeriesDescription', 'InstitutionName', 'AcquisitionTime'} & set(sidecar)
