"""Written datasets: valid BIDS, honest geometry, honest gradients."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_flair.simulation import diffusion, write_dataset
from bids_flair.simulation.dataset import fsl_vectors


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('raw') / 'ds', participants=2, voxel_mm=7)


def test_every_participant_has_every_file(dataset):
    for label in ('01', '02'):
        for name in ('anat/sub-{}_T1w', 'anat/sub-{}_T2w', 'anat/sub-{}_FLAIR', 'dwi/sub-{}_dwi'):
            stem = dataset / f'sub-{label}' / name.format(label)
            assert nib.load(f'{stem}.nii.gz').get_fdata().max() > 0
            metadata = json.loads(Path(f'{stem}.json').read_text())
            assert 0 < metadata['EchoTime'] < 0.5
            assert metadata['RepetitionTime'] < 20
    rows = (dataset / 'participants.tsv').read_text().splitlines()
    assert [row.split('\t')[0] for row in rows] == ['participant_id', 'sub-01', 'sub-02']


def test_contrasts_have_grids_of_their_own(dataset):
    anat = dataset / 'sub-01' / 'anat'
    t1w, flair = (nib.load(anat / f'sub-01_{c}.nii.gz') for c in ('T1w', 'FLAIR'))
    assert t1w.shape != flair.shape
    assert np.linalg.det(t1w.affine) > 0 > np.linalg.det(flair.affine)
    for image in (t1w, flair):
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-3)


def test_written_tensor_is_plausible_and_vectors_are_unit(dataset):
    stem = dataset / 'sub-01' / 'dwi' / 'sub-01_dwi'
    b, vectors = np.loadtxt(f'{stem}.bval'), np.loadtxt(f'{stem}.bvec')
    data = nib.load(f'{stem}.nii.gz').get_fdata(dtype=np.float32)
    assert data.shape[-1] == len(b) == vectors.shape[1]
    np.testing.assert_allclose(np.linalg.norm(vectors[:, b > 0], axis=0), 1, atol=1e-4)
    assert (vectors[:, b == 0] == 0).all()
    md, fa, s0 = diffusion.fit_tensor(np.moveaxis(data, -1, 0), b / 1e3, vectors.T)
    brain = s0 > 0.5 * np.percentile(s0, 98)
    assert 0.6 < np.median(md[brain]) < 2
    assert 0.03 < np.median(fa[brain]) < 0.5


def test_fsl_vectors_follow_the_determinant():
    vector = np.array([[0.6, 0.8, 0.0]])
    np.testing.assert_allclose(fsl_vectors(vector, np.diag([2.0, 2, 2, 1]))[:, 0], [-0.6, 0.8, 0])
    np.testing.assert_allclose(fsl_vectors(vector, np.diag([-2.0, 2, 2, 1]))[:, 0], [-0.6, 0.8, 0])


def test_same_seed_same_dataset(dataset, tmp_path):
    again = write_dataset(tmp_path / 'again', participants=1, voxel_mm=7)
    name = 'sub-01/anat/sub-01_T2w.nii.gz'
    first, second = (nib.load(folder / name) for folder in (dataset, again))
    np.testing.assert_array_equal(first.dataobj, second.dataobj)
    np.testing.assert_array_equal(first.affine, second.affine)


def test_official_validator_finds_no_error(dataset):
    validator = Path(sys.executable).with_name('bids-validator-deno')
    command = str(validator) if validator.exists() else shutil.which('bids-validator-deno')
    if command is None:
        pytest.skip('bids-validator-deno is not installed (extra "validator")')
    done = subprocess.run([command, str(dataset), '--json'], capture_output=True, text=True)
    issues = json.loads(done.stdout)['issues']['issues']
    assert [issue for issue in issues if issue['severity'] == 'error'] == []
