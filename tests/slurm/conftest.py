"""A SLURM that every test here shares, and what it works on."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from one_node import environment, one_node, what_is_missing
from small_heads import make_doll, write_doll

# Edges that the program keeps: the grid stays as small as the doll was made.
EDGE_MM = 1.2


@pytest.fixture(scope='session')
def slurm():
    """Variables of the environment with which SLURM's commands reach it."""
    missing = what_is_missing()
    if missing:
        pytest.skip(f'SLURM ABSENT, NOTHING OF IT IS TESTED: {missing}')
    with one_node() as folder:
        found = environment(folder)
        # As in a container or under cron. Whoever has FSL would see another backend.
        yield {k: v for k, v in found.items() if k not in ('LOGNAME', 'FSLDIR')}


@pytest.fixture(scope='session')
def thumbs(tmp_path_factory) -> Path:
    """A raw dataset of heads the size of a thumb: sub-03 is no head, and fails in a step."""
    root = tmp_path_factory.mktemp('thumbs') / 'data'
    root.mkdir()
    description = {'Name': 'Thumbs', 'BIDSVersion': '1.10.0', 'Authors': ['Simulation']}
    (root / 'dataset_description.json').write_text(json.dumps(description))
    (root / 'README').write_text('Simulated heads, shrunk, for tests.\n')
    images, affine = make_doll(1)
    affine = affine * np.array([EDGE_MM / affine[0, 0]] * 3 + [1])[:, None]
    for label, contrast in (('01', 'T1w'), ('02', 'T2w')):
        write_doll(root / f'sub-{label}', f'sub-{label}', images, affine, [contrast])
    noise = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
    folder = root / 'sub-03' / 'anat'
    folder.mkdir(parents=True)
    nib.Nifti1Image(noise, affine).to_filename(folder / 'sub-03_T1w.nii.gz')
    return root
