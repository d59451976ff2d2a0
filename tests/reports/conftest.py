"""A small simulated head whose left and right differ, and a session made from it."""

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import Browser, driver, missing_programs

from bids_flair.reports.content import RegistrationView, SessionReport

SHAPE = (44, 52, 40)
AFFINE = np.array([[-2.0, 0, 0, 44], [0, 2, 0, -52], [0, 0, 2, -40], [0, 0, 0, 1]])  # LAS


LEVELS = (0.1, 0.5, 0.9)


def quantiles(away: float) -> dict[str, list[float]]:
    """Of an input that lies so many standard deviations from the training's mean."""
    mean, sd = [0.7, 1.0, 1.2], [0.1, 0.1, 0.1]
    found = [m + away * s for m, s in zip(mean, sd, strict=True)]
    return {'Found': found, 'TrainingMean': mean, 'TrainingSD': sd}


@dataclass(frozen=True)
class Head:
    """Files of a simulated participant on one LAS grid of 2 mm voxels."""

    folder: Path
    shape: tuple[int, int, int] = SHAPE

    def path(self, name: str) -> Path:
        return self.folder / f'{name}.nii.gz'

    def save(self, values: np.ndarray, path: Path, shift_mm: float = 0) -> Path:
        """Write a volume on the head's grid, or on one that is shifted."""
        affine = AFFINE + np.outer((shift_mm, 0, 0, 0), (0, 0, 0, 1))
        nib.save(nib.Nifti1Image(values, affine), path)
        return path


@pytest.fixture(scope='session')
def head(tmp_path_factory) -> Head:
    """An ellipsoid brain in a brighter skull, ventricles, and a bright lesion on the left."""
    head = Head(tmp_path_factory.mktemp('head'))
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing='ij')
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.75) ** 2 + (z / 0.7) ** 2)
    brain, skull = radius < 1, (radius > 1.1) & (radius < 1.25)
    ventricles = (np.abs(x) < 0.15) & (np.abs(y) < 0.3) & (np.abs(z) < 0.15)
    lesion = (x - 0.4) ** 2 + y**2 + z**2 < 0.15**2  # voxel axis 0 runs to the left
    noise = rng.normal(0, 0.02, SHAPE)
    weighted = {
        'T1w': brain - 0.7 * ventricles - 0.4 * lesion,
        'T2w': brain + 1.5 * ventricles + 0.8 * lesion,
        'FLAIR': brain - 0.9 * ventricles + 0.9 * lesion,
        'S0': brain + 1.2 * ventricles,
    }
    for name, values in weighted.items():
        head.save((300 * (values + 1.5 * skull + noise)).astype(np.float32), head.path(name))
    synthetic = (weighted['FLAIR'] - 0.3 * lesion + noise) * brain
    head.save(synthetic.astype(np.float32), head.path('synthetic'))
    for name, reach in (('low', -0.1), ('high', 0.1)):
        limit = np.maximum((synthetic + reach) * brain, 0)
        head.save(limit.astype(np.float32), head.path(name))
    head.save(np.abs(noise * brain + 0.2 * lesion).astype(np.float32), head.path('std'))
    head.save((8e-4 * brain + 2e-3 * ventricles).astype(np.float32), head.path('MD'))
    head.save((0.4 * brain - 0.35 * ventricles).astype(np.float32), head.path('FA'))
    head.save(brain.astype(np.uint8), head.path('mask'))
    head.save(lesion.astype(np.float32), head.path('lesion'))
    return head


@pytest.fixture(scope='session')
def session(head) -> SessionReport:
    """A session with everything a report can show."""
    return SessionReport(
        participant='01',
        session='a',
        inputs={'T1w': 'sub-01/anat/sub-01_T1w.nii.gz', 'T2w': 'sub-01/anat/sub-01_T2w.nii.gz'},
        made_from=('T1w', 'T2w'),
        missing=('dwi',),
        warnings=('The brain volume is 0.5 l.',),
        mask=head.path('mask'),
        reference=head.path('T1w'),
        registrations=(
            RegistrationView(
                'T2w', head.path('T1w'), head.path('T2w'), {'mutual_information': 0.61}
            ),
            RegistrationView(
                'FLAIR', head.path('T1w'), head.path('FLAIR'), {}, ('The FLAIR is tilted.',)
            ),
        ),
        maps={name: head.path(name) for name in ('MD', 'FA', 'S0')},
        flair=head.path('synthetic'),
        std=head.path('std'),
        acquired=head.path('FLAIR'),
        scores={'psnr_db': 25.31, 'ssim': 0.7131, 'lesion_auc_true': float('nan')},
        details={'Backend': 'embedded'},
        timings=(('synthesising the FLAIR', 9.0),),
        low=head.path('low'),
        high=head.path('high'),
        images={name: head.path(name) for name in ('T1w', 'T2w')},
        brain={'VolumeLitres': 0.5, 'AgreementDice': 0.97},
        unfamiliarity=0.4,
        intensities={'Levels': LEVELS, 'T1w': quantiles(0.0), 'T2w': quantiles(3.0)},
        factors={'T1w': 300.0, 'T2w': 300.0},
        head_motion={
            'DisplacementsMm': [0.0, 1.5, 0.6],
            'MeanDisplacementMm': 0.7,
            'LargestDisplacementMm': 1.5,
        },
    )


@pytest.fixture(scope='session')
def browser(tmp_path_factory):
    """Chromium; without one its tests are skipped, or fail where one is asked for."""
    missing = missing_programs()
    if missing:
        text = f'NO BROWSER: {", ".join(missing)} not installed; reports are not tried in one'
        if os.environ.get('BIDS_FLAIR_BROWSER') == 'required':
            pytest.fail(text)
        pytest.skip(text)
    with driver() as address:
        window = Browser(address, tmp_path_factory.mktemp('profile'))
        window.resize(1400, 1000)
        yield window
        window.close()
