"""A whole participant through the FSL backend: real FSL where FSLDIR names it, else a stand-in.

The stand-in (see fsl_stand_in.py) keeps FSL's names, units, directions and orders, so that what
surrounds FSL is tested everywhere; FSL's own results are tested where it is installed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsl_stand_in
import nibabel as nib
import numpy as np
import pytest
import small_heads
from nibabel.affines import apply_affine

from bids_flair.errors import ExitCode
from bids_flair.processing.itk import read_itk
from bids_flair.processing.registration import mean_distance
from bids_flair.processing.resampling import resample

pytestmark = pytest.mark.slow
STEM = 'sub-01_space-T1w_'
INSTALLATIONS = {'eddy with topup': (), 'eddy_correct': ('eddy_openmp', 'topup')}


def write_dataset(root: Path) -> Path:
    """The first doll, and a b=0 of opposite phase encoding."""
    images, affine = small_heads.make_doll(1)
    root.mkdir()
    (root / 'dataset_description.json').write_text('{"Name": "Doll", "BIDSVersion": "1.10.0"}')
    small_heads.write_doll(root / 'sub-01', 'sub-01', images, affine, ('T1w', 'T2w', 'dwi'))
    (root / 'sub-01/fmap').mkdir()
    opposite = root / 'sub-01/fmap/sub-01_dir-PA_epi.nii.gz'
    nib.Nifti1Image(images['S0'], affine).to_filename(opposite)
    for stem, axis in (('dwi/sub-01_dwi', 'j'), ('fmap/sub-01_dir-PA_epi', 'j-')):
        sidecar = {'PhaseEncodingDirection': axis, 'TotalReadoutTime': 0.04}
        (root / f'sub-01/{stem}.json').write_text(json.dumps(sidecar))
    return root


@pytest.fixture(
    scope='module',
    params=[
        'eddy with topup',
        pytest.param('eddy_correct', marks=pytest.mark.long),
        pytest.param('real', marks=pytest.mark.fsl),
    ],
)
def fsldir(request, tmp_path_factory) -> Path:
    if request.param == 'real':
        if 'FSLDIR' not in os.environ:
            pytest.skip('FSL ABSENT: FSLDIR is not set; the FSL backend meets a stand-in only')
        return Path(os.environ['FSLDIR'])
    folder = tmp_path_factory.mktemp('fsl') / 'fsl'
    return fsl_stand_in.install(folder, INSTALLATIONS[request.param])


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('data') / 'data')


@pytest.fixture(scope='module')
def work(tmp_path_factory) -> Path:
    """One for both stand-ins, which differ in what they do to diffusion images."""
    return tmp_path_factory.mktemp('work')


@pytest.fixture(scope='module')
def finished(fsldir, dataset, work, tiny_model, tmp_path_factory) -> tuple[Path, Path, str]:
    """Output, work folder and log of a run."""
    folder = tmp_path_factory.mktemp('run')
    work = work / ('real' if str(fsldir) == os.environ.get('FSLDIR') else 'stand_in')
    environment = {**os.environ, 'FSLDIR': str(fsldir), 'FSLOUTPUTTYPE': 'NIFTI_PAIR_GZ'}
    arguments = ['participant', '-w', work, '--nprocs', '2', '--skip-bids-validation']
    command = [sys.executable, '-m', 'bids_flair', dataset, folder / 'out']
    done = subprocess.run(
        [*map(str, [*command, *arguments, '--backend', 'fsl', '-v', '--model', tiny_model])],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == ExitCode.DONE, done.stderr
    return folder / 'out', work, done.stderr


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_the_same_files_as_with_the_embedded_backend(finished):
    folder = finished[0] / 'sub-01'
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.suffix in ('.gz', '.txt') and 'log' not in path.parts
    }
    assert found == {
        *(f'anat/{STEM}desc-{name}_FLAIR.nii.gz'
          for name in ('synth', 'synthlow', 'synthhigh', 'synthstd')),
        f'anat/{STEM}desc-synth_mask.nii.gz',
        'anat/sub-01_desc-preproc_T1w.nii.gz',
        f'anat/{STEM}desc-preproc_T2w.nii.gz',
        'anat/sub-01_desc-brain_mask.nii.gz',
        'anat/sub-01_from-T2w_to-T1w_mode-image_xfm.txt',
        'dwi/sub-01_from-dwi_to-T1w_mode-image_xfm.txt',
        *(f'dwi/{STEM}model-tensor_param-{name}_dwimap.nii.gz' for name in ('md', 'fa', 's0')),
    }  # fmt: skip


def test_what_was_used_is_recorded(finished, fsldir):
    out, _, log = finished
    number = (fsldir / 'etc' / 'fslversion').read_text().partition(':')[0].strip()
    sidecar = json.loads((out / 'sub-01/anat' / f'{STEM}desc-synth_FLAIR.json').read_text())
    assert sidecar['Backend'] == 'fsl'
    assert sidecar['PackageVersions']['FSL'] == number
    assert sidecar['SynthesisInputs'] == ['T1w', 'T2w', 'MD', 'FA', 'S0']
    assert all(report['Trusted'] for report in sidecar['Registrations'])
    assert 0 <= sidecar['HeadMotion']['LargestDisplacementMm'] < 1  # the dolls keep still
    (program,) = json.loads((out / 'dataset_description.json').read_text())['GeneratedBy']
    assert program['Description'].startswith(f'backend fsl: FSL {number}')
    text = (out / 'logs' / 'CITATION.md').read_text()
    assert 'BET [FSL' in text and 'FLIRT' in text and 'eddy' in text and 'DTIFIT' in text
    assert f'FSL {number} in {fsldir}' in log


def test_transforms_lead_to_where_the_images_are(finished):
    """All of a doll's contrasts share one grid: the truth is the identity."""
    folder = finished[0] / 'sub-01'
    mask = nib.load(folder / 'anat/sub-01_desc-brain_mask.nii.gz')
    points = apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0))
    for path in folder.rglob('*_mode-image_xfm.txt'):
        assert mean_distance(read_itk(path), np.eye(4), points) < 1.0, path.name


def test_maps_hold_what_the_doll_was_made_of(finished):
    folder = finished[0] / 'sub-01'
    images, affine = small_heads.make_doll(1)
    mask = nib.load(folder / 'anat/sub-01_desc-brain_mask.nii.gz')
    grid = (mask.shape, mask.affine)
    truth = {
        name: np.asarray(resample(nib.Nifti1Image(images[name], affine), grid).dataobj)
        for name in ('MD', 'FA', 'S0')
    }
    white = (np.asarray(mask.dataobj) > 0) & (truth['FA'] > 0.25)
    for name in ('MD', 'FA', 'S0'):
        found = values(folder / f'dwi/{STEM}model-tensor_param-{name.lower()}_dwimap.nii.gz')
        assert np.median(found[white]) == pytest.approx(np.median(truth[name][white]), rel=0.05)
        assert (found[np.asarray(mask.dataobj) == 0] == 0).all()
        assert found.min() >= 0


def test_fibres_keep_their_direction(finished):
    """DTIFIT's first eigenvector along the image axes, x mirrored, is the doll's fibre."""
    work = finished[1]
    (path,) = work.rglob('dti_V1.nii')
    img = nib.load(path)
    vectors = np.asarray(img.dataobj)
    strong = values(path.with_name('dti_FA.nii')) > 0.4
    mirrored = (-1, 1, 1) if np.linalg.det(img.affine[:3, :3]) > 0 else (1, 1, 1)
    axes = img.affine[:3, :3] / nib.affines.voxel_sizes(img.affine)
    along = np.abs((vectors[strong] * mirrored) @ axes.T @ small_heads.FIBRE)
    assert np.median(along) > 0.97


def test_what_fsl_left_can_be_compared_with_itself(finished, root):
    """The program that measures the agreement of the backends."""
    command = [sys.executable, root / 'benchmarks/backends.py', finished[0], finished[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '| sub-01 | brain masks, Dice | 1.000 |' in done.stdout
    assert '| sub-01 | FA in white matter, % | 0.000 |' in done.stdout
    assert '| sub-01 | synthetic FLAIRs, SSIM | 1.000 |' in done.stdout
