"""The whole program on real scans, where they lie beside the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_flair.processing.itk import read_itk


def run(data: Path, out: Path, *arguments: str) -> None:
    """Run the participant level; real scans must come through without any failure.

    With one network: what all of them say together of real scans is looked at in
    tests/models/test_inference.py, without half of a run's time.
    """
    command = [sys.executable, '-m', 'bids_flair', data, out / 'out', 'participant']
    options = ['-w', out / 'work', '--nprocs', '2', '--skip-bids-validation', *arguments]
    options += ['--backend', 'embedded', '--model', 'simulated']
    done = subprocess.run(
        [*map(str, command), *map(str, options)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def white_matter(t1w: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Voxels within 8 % of the T1w's brightest peak."""
    inside = t1w[mask]
    counts, edges = np.histogram(inside, 200, np.percentile(inside, [40, 99.5]))
    peak = edges[np.argmax(np.convolve(counts, np.ones(11), 'same'))]
    return mask & (np.abs(t1w - peak) < 0.08 * peak)


@pytest.mark.slow
def test_thick_slices_each_contrast_on_its_own_grid(shared_data, tmp_path):
    """open-ms: 1.5 T, spin-echo T1w, slices of 3 mm, with an acquired FLAIR."""
    run(
        shared_data / 'open-ms', tmp_path,
        '--participant-label', '01', '--session-label', '02',
    )  # fmt: skip
    anat = tmp_path / 'out/sub-01/ses-02/anat'
    stem = 'sub-01_ses-02_'
    flair = nib.load(anat / f'{stem}space-T1w_desc-synth_FLAIR.nii.gz')
    np.testing.assert_allclose(nib.affines.voxel_sizes(flair.affine), 1, atol=1e-3)
    mask = values(anat / f'{stem}desc-brain_mask.nii.gz') > 0
    assert 1.0e6 < mask.sum() < 1.8e6
    sidecar = json.loads((anat / f'{stem}space-T1w_desc-synth_FLAIR.json').read_text())
    assert sidecar['ScoresInBrain']['corr'] > 0.5
    for contrast in ('T2w', 'FLAIR'):
        # One session, one head holder: the scanner's own coordinates are nearly right.
        matrix = read_itk(anat / f'{stem}from-{contrast}_to-T1w_mode-image_xfm.txt')
        centre = nib.affines.apply_affine(flair.affine, np.argwhere(mask).mean(0))
        moved = nib.affines.apply_affine(matrix, centre) - centre
        assert np.linalg.norm(moved) < 3
        assert np.trace(matrix[:3, :3]) > 1 + 2 * np.cos(np.radians(3))


@pytest.mark.slow
@pytest.mark.long
def test_t1w_and_diffusion_only(shared_data, tmp_path):
    """dwi-philips: MD of white matter as in textbooks, where the T1w says it is."""
    run(shared_data / 'dwi-philips', tmp_path)
    folder = tmp_path / 'out/sub-01'
    mask = values(folder / 'anat/sub-01_desc-brain_mask.nii.gz') > 0
    white = white_matter(values(folder / 'anat/sub-01_desc-preproc_T1w.nii.gz'), mask)
    maps = {
        name: values(folder / f'dwi/sub-01_space-T1w_model-tensor_param-{name}_dwimap.nii.gz')
        for name in ('md', 'fa')
    }
    assert 0.6e-3 < np.median(maps['md'][white]) < 0.95e-3
    others = mask & ~white
    assert np.median(maps['fa'][white]) > 2 * np.median(maps['fa'][others])
    assert np.median(maps['md'][white]) < np.median(maps['md'][others])
    assert (folder / 'anat/sub-01_space-T1w_desc-synth_FLAIR.nii.gz').exists()


@pytest.mark.slow
@pytest.mark.fsl
@pytest.mark.parametrize('dataset', ['dwi-philips', 'open-ms'])
def test_fsl_and_embedded_backend_agree(shared_data, root, dataset, tmp_path):
    """Masks, transforms, tensor maps and FLAIRs, as far apart as benchmarks/backends.py allows."""
    if 'FSLDIR' not in os.environ:
        pytest.skip('FSL ABSENT: FSLDIR is not set; how far the backends agree is not measured')
    program = root / 'benchmarks' / 'backends.py'
    command = [sys.executable, program, shared_data / dataset, '--out', tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
