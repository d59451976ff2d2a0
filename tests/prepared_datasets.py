"""Derivative datasets as other pipelines name them: fMRIPrep 25, QSIPrep 1.0, QSIRecon 1.1."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np


def write_description(root: Path, generator: str, version: str = '1.0.0') -> Path:
    """Make the folder of a derivative dataset."""
    root.mkdir(parents=True, exist_ok=True)
    description = {
        'Name': f'{generator} - outputs',
        'BIDSVersion': '1.9.0',
        'DatasetType': 'derivative',
        'GeneratedBy': [{'Name': generator, 'Version': version}],
    }
    (root / 'dataset_description.json').write_text(json.dumps(description))
    return root


def write_image(path: Path, data: np.ndarray | None = None, affine=None) -> Path:
    """Write an image and an empty sidecar; without data one too small to look at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.arange(64, dtype=np.float32).reshape(4, 4, 4) if data is None else data
    nib.Nifti1Image(data, np.eye(4) if affine is None else affine).to_filename(path)
    path.with_name(path.name.split('.')[0] + '.json').write_text('{}')
    return path


def write_fmriprep(root: Path, label: str = '01', session: str = '') -> Path:
    """What fMRIPrep 25 writes into ``anat/`` where there is a T2w; name of what is of interest."""
    write_description(root, 'fMRIPrep', '25.0.0')
    folder, stem = _place(root, label, session)
    for name in (
        'desc-preproc_T1w', 'desc-brain_mask', 'space-T1w_desc-preproc_T2w', 'dseg',
        'space-MNI152NLin2009cAsym_desc-preproc_T1w', 'space-MNI152NLin2009cAsym_desc-brain_mask',
        'desc-ribbon_mask', 'label-GM_probseg',
    ):  # fmt: skip
        write_image(folder / 'anat' / f'{stem}_{name}.nii.gz')
    (folder / 'anat' / f'{stem}_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5').touch()
    return root


def write_qsiprep(
    root: Path, label: str = '01', session: str = '', transform: bool = True
) -> Path:
    """What QSIPrep 1.0 writes: the anatomy of all sessions together, diffusion of each."""
    write_description(root, 'QSIPrep')
    anat, stem = root / f'sub-{label}/anat', f'sub-{label}'
    for name in ('desc-preproc_T1w', 'desc-brain_mask', 'dseg'):
        write_image(anat / f'{stem}_space-ACPC_{name}.nii.gz')
    for pair in ('from-ACPC_to-anat', 'from-anat_to-ACPC'):
        (anat / f'{stem}_{pair}_mode-image_xfm.mat').touch()
    folder, stem = _place(root, label, session)
    dwi = folder / 'dwi' / f'{stem}_acq-realistic_space-ACPC_desc-preproc_dwi.nii.gz'
    write_image(dwi, np.ones((4, 4, 4, 7), np.float32))
    for kind, text in (('bval', '0' + ' 1000' * 6), ('bvec', '\n'.join(['0 1 1 1 1 1 1'] * 3))):
        dwi.with_name(dwi.name.replace('nii.gz', kind)).write_text(text)
    for name in ('desc-preproc_dwiref', 'desc-brain_mask', 'model-eddy_stat-cnr_dwimap'):
        write_image(folder / 'dwi' / f'{stem}_acq-realistic_space-ACPC_{name}.nii.gz')
    return root


def write_qsirecon(root: Path, label: str = '01', session: str = '', s0: bool = False) -> Path:
    """Tensor maps, in a dataset nested in QSIRecon's own."""
    write_description(root, 'QSIRecon')
    nested = write_description(root / 'derivatives/qsirecon-DSIStudio', 'qsirecon')
    folder, stem = _place(nested, label, session)
    for param in ('md', 'fa', 'rd', *(['s0'] if s0 else [])):
        for space in ('ACPC', 'MNI152NLin2009cAsym'):
            name = f'{stem}_acq-realistic_space-{space}_model-tensor_param-{param}_dwimap.nii.gz'
            write_image(folder / 'dwi' / name)
    return root


def _place(root: Path, label: str, session: str) -> tuple[Path, str]:
    parts = [f'sub-{label}', *([f'ses-{session}'] if session else [])]
    return root.joinpath(*parts), '_'.join(parts)
