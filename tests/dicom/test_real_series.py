"""Real series of two vendors, where they lie beside the checkout."""

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_flair.bids.collect import collect
from bids_flair.errors import BidsFlairError
from bids_flair.processing.gradients import read_gradients
from bids_flair.settings import Settings

IDENTIFYING = (b'd2n_Philips', b'R571', b'19800501', b'20210902', b'662491096', b'45053')


@pytest.fixture(scope='session')
def dicom(shared_data) -> Path:
    folder = shared_data / 'dicom'
    if not folder.is_dir():
        pytest.skip(f'REAL DATA ABSENT: no {folder}; this test needs real DICOM')
    return folder


def at(img: nib.Nifti1Image, world: np.ndarray) -> np.ndarray:
    """Values at points in mm, which must be centres of voxels."""
    voxels = nib.affines.apply_affine(np.linalg.inv(img.affine), world)
    assert np.abs(voxels - np.round(voxels)).max() < 0.02
    return np.asarray(img.dataobj)[tuple(np.round(voxels).astype(int).T)]


def points(img: nib.Nifti1Image, every: int = 7) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(0, n, every) for n in img.shape[:3]]), -1)
    return nib.affines.apply_affine(img.affine, grid.reshape(-1, 3))


def test_philips_is_what_the_dataset_of_the_same_person_holds(convert, dicom, shared_data):
    dataset = convert(dicom / 'philips')
    for name in ('anat/sub-01_T1w', 'dwi/sub-01_dwi'):
        ours = nib.load(dataset / f'sub-01/{name}.nii.gz')
        theirs = nib.load(shared_data / f'dwi-philips/sub-01/{name}.nii.gz')
        np.testing.assert_allclose(at(ours, points(theirs)), at(theirs, points(theirs)), rtol=1e-5)
    stems = [root / 'sub-01/dwi/sub-01_dwi' for root in (dataset, shared_data / 'dwi-philips')]
    bvals = [np.loadtxt(f'{stem}.bval') for stem in stems]
    np.testing.assert_array_equal(*bvals)
    gradients = [
        read_gradients(nib.load(f'{stem}.nii.gz'), f'{stem}.bval', f'{stem}.bvec').directions
        for stem in stems
    ]
    cosines = np.abs((gradients[0] * gradients[1]).sum(1))[bvals[0] > 0]
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    for path in dataset.rglob('*'):
        if path.suffix in ('.json', '.tsv', '.md', '.bval'):
            assert not any(text in path.read_bytes() for text in IDENTIFYING), path
    # Philips does not say the polarity.
    assert 'PhaseEncodingDirection' not in json.loads(Path(f'{stems[0]}.json').read_text())


def test_uih_both_phase_encodings(convert, dicom, tmp_path, caplog):
    logging.getLogger('bids_flair').propagate = True
    dataset = convert(dicom / 'uih')
    stems = [dataset / f'sub-01/dwi/sub-01_dir-{way}_dwi' for way in ('AP', 'PA')]
    for stem in stems:
        img = nib.load(f'{stem}.nii.gz')
        assert img.shape == (64, 64, 20, 17)
        assert np.loadtxt(f'{stem}.bval')[0] == pytest.approx(1.25, abs=0.01)
        gradients = read_gradients(img, f'{stem}.bval', f'{stem}.bvec')
        assert gradients.b0.tolist() == [0]
        np.testing.assert_allclose(np.linalg.norm(gradients.directions[1:], axis=1), 1)
        assert not np.loadtxt(f'{stem}.bvec')[:, 0].any()
        assert 'PhaseEncodingDirection' not in json.loads(Path(f'{stem}.json').read_text())
    assert 'PhaseEncodingDirection is left out' in caplog.text
    (session,) = collect(Settings(bids_dir=dataset, output_dir=tmp_path / 'out'))
    assert session.images['dwi'].name == 'sub-01_dir-AP_dwi.nii.gz'
    assert any('dir-PA' in text for text in session.passed_over)


@pytest.mark.parametrize(
    ('series', 'lost', 'message'),
    [
        ('philips/T1w', '1301_0001.dcm', '169 slices where the scanner counts 170'),
        ('philips/T1w', '1301_0080.dcm', '169 slices where the scanner counts 170'),
        ('philips/T1w', '1301_0170.dcm', '169 slices where the scanner counts 170'),
        ('uih/dwi_AP', '00000007.dcm', 'no volume after instance number 6'),
    ],
)
def test_a_file_of_a_real_series_is_missing(convert, dicom, tmp_path, series, lost, message):
    shutil.copytree(dicom / series, tmp_path / 'copy', symlinks=True)
    (tmp_path / 'copy' / lost).unlink()
    with pytest.raises(BidsFlairError, match=message):
        convert(tmp_path / 'copy')
    assert not (tmp_path / 'ds').exists()


def test_a_slice_of_a_real_dwi_is_missing(convert, dicom, tmp_path):
    shutil.copytree(dicom / 'philips/dwi', tmp_path / 'copy')
    (tmp_path / 'copy/2201_1088.dcm').unlink(missing_ok=True)
    (tmp_path / 'copy/2201_1275.dcm').unlink()
    with pytest.raises(BidsFlairError, match='instances are missing'):
        convert(tmp_path / 'copy')


def test_two_real_people_are_mixed(convert, dicom):
    with pytest.raises(BidsFlairError, match='holds 2 patients') as caught:
        convert(dicom / 'philips/T1w', dicom / 'uih')
    assert 'R571' not in str(caught.value)
