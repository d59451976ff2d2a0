"""Nothing that names the patient, the place or the day, in any byte that is written or said."""

import gzip
import subprocess
import sys
from pathlib import Path

import dicom_series as series
import pytest

from bids_flair.errors import ExitCode

SECRETS = {
    part.lower().encode()
    for value in series.PATIENT.values()
    for part in (value, *value.replace('^', ' ').replace(',', ' ').split())
    # Shorter ones turn up by chance in the pictures of a report.
    if len(part) >= 6
}


def contents(folder: Path):
    """Every file's path and bytes, as they are and decompressed."""
    for path in folder.rglob('*'):
        if path.is_file():
            content = path.read_bytes()
            yield path, content
            if content[:2] == b'\x1f\x8b':
                yield path, gzip.decompress(content)


def assert_nobody_is_named(path: Path, content: bytes) -> None:
    found = [secret for secret in SECRETS if secret in content.lower()]
    assert not found, f'{path}: {found}'


def bids_flair(tmp_path: Path, scans: Path, *options: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable, '-m', 'bids_flair', tmp_path / 'ds', tmp_path / 'out', 'participant',
        '--participant-label', '01', '--dicom', scans, '-w', tmp_path / 'work', *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_secrets_are_in_the_scans(study):
    whole = b''.join(content for _, content in contents(study)).lower()
    assert all(secret in whole for secret in SECRETS)


def test_dataset(convert, study, caplog):
    for path, content in contents(convert(study)):
        assert_nobody_is_named(path, content)
    assert_nobody_is_named(Path('log'), caplog.text.encode())


def test_messages_of_a_run_that_goes_wrong(study, tmp_path):
    (lost, *_) = sorted((study / 'a').rglob('*-0005.dcm'))
    lost.unlink()
    done = bids_flair(tmp_path, study, '-vvv', '--debug')
    assert done.returncode == ExitCode.DATA_UNUSABLE
    assert 'slices are missing' in done.stderr
    assert_nobody_is_named(Path('stderr'), (done.stdout + done.stderr).encode())


@pytest.mark.slow
def test_from_dicom_to_a_synthetic_flair_with_one_command(tmp_path, dolls, tiny_model):
    """A simulated head as DICOM: what comes out is complete, and names nobody."""
    import nibabel as nib
    import numpy as np

    scans = tmp_path / 'scans'
    img = nib.load(dolls / 'sub-01/anat/sub-01_T2w.nii.gz')
    data = img.get_fdata()
    voxels = np.round(data / data.max() * 4000).astype(np.uint16)[..., None]
    series.write_classic(scans / 'T2w', voxels, img.affine, {**series.T2W, 'SeriesNumber': 1})
    done = bids_flair(tmp_path, scans, '--nprocs', '1', '-v', '--model', str(tiny_model))
    assert done.returncode == ExitCode.DONE, done.stderr
    anat = tmp_path / 'out/sub-01/anat'
    assert (anat / 'sub-01_space-T2w_desc-synth_FLAIR.nii.gz').exists()
    for folder in ('ds', 'out', 'work'):
        for path, content in contents(tmp_path / folder):
            assert_nobody_is_named(path, content)
    assert_nobody_is_named(Path('stderr'), (done.stdout + done.stderr).encode())
