"""Derivatives of participants who are nested balls: enough to train on in seconds."""

from pathlib import Path

import nibabel as nib
import numpy as np

# White matter, grey matter, fluid, lesion.
TISSUES = {
    'T1w': (900, 600, 200, 550),
    'T2w': (300, 400, 1200, 620),
    'FLAIR': (200, 250, 30, 310),
    'md': (0.8e-3, 0.9e-3, 2.9e-3, 1.2e-3),
    'fa': (0.45, 0.15, 0.05, 0.2),
    's0': (500, 640, 1500, 800),
}
DIFFUSION = ('md', 'fa', 's0')


def write_participant(data: Path, label: str, contrasts=tuple(TISSUES), shift=0.0) -> None:
    """Nested balls at a place of the participant's own, with a lesion."""
    rng = np.random.default_rng(int(label))
    centre = 19.5 + rng.uniform(-1, 1, (3, 1, 1, 1))
    distance = np.sqrt(((np.indices((40, 40, 40)) - centre) ** 2).sum(0))
    labels = np.select([distance < 4, distance < 14, distance < 17], [3, 1, 2], 0)
    labels[10:13, 17:23, 17:23] = 4
    affine = np.eye(4)
    for name in contrasts:
        values = np.array([0, *TISSUES[name]])[labels] * rng.normal(1, 0.02, labels.shape)
        if name in DIFFUSION:
            stem = f'dwi/sub-{label}_space-T1w_model-tensor_param-{name}_dwimap'
        else:
            space = '' if name == 'T1w' else '_space-T1w'
            stem = f'anat/sub-{label}{space}_desc-preproc_{name}'
        moved = affine + shift * np.eye(4, k=3) * (name == 'T2w')
        save(data / f'sub-{label}' / stem, values, moved)
    save(data / f'sub-{label}/anat/sub-{label}_desc-brain_mask', labels > 0, affine)
    save(data / f'sub-{label}/anat/sub-{label}_label-lesion_mask', labels == 4, affine)


def save(stem: Path, values: np.ndarray, affine: np.ndarray) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(values.astype(np.float32), affine).to_filename(f'{stem}.nii.gz')
    Path(f'{stem}.json').write_text('{}')
