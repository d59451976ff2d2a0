"""Simulated heads, shrunk: so small that a whole run on one takes a minute."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

# Along which water moves most, everywhere in a doll (world coordinates).
FIBRE = np.array([0.36, 0.48, 0.8])
# Of dolls 1 to 4. At the first one's site fluid stands out in T2w, as it does in life; the fourth
# one's is taken for a scanner that a specialist of the default model knows.
SEEDS = (5, 2, 3, 1)


def write_dolls(root: Path) -> Path:
    """Write the dataset of the fixture `dolls`."""
    root.mkdir(parents=True)
    description = {'Name': 'Dolls', 'BIDSVersion': '1.10.0', 'Authors': ['Simulation']}
    (root / 'dataset_description.json').write_text(json.dumps(description))
    (root / 'README').write_text('Simulated heads, shrunk, for tests.\n')
    for label, wanted in (
        ('01', ('T1w', 'T2w', 'FLAIR', 'dwi')),
        ('02', ('T2w',)),
        ('03', ('dwi',)),
    ):
        write_doll(root / f'sub-{label}', f'sub-{label}', *make_doll(int(label)), wanted)
    return root


def make_doll(number: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All contrasts and maps of a doll, and their affine."""
    from bids_flair.simulation.anatomy import load_anatomy, shipped
    from bids_flair.simulation.contrasts import simulate

    rng = np.random.default_rng(SEEDS[number - 1])
    doll = simulate(load_anatomy(shipped()[0]), rng, 4.0, brain_only=True)
    images = {
        name: np.pad(np.where(doll.brain, values, 0), 3).astype(np.float32)
        for name, values in doll.contrasts.items()
    }
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -1.0 * np.array(images['T1w'].shape)
    return images, affine


def write_doll(folder: Path, label: str, images, affine, wanted) -> None:
    """Write some contrasts of a doll below its participant's folder."""
    for contrast in wanted:
        datatype = 'dwi' if contrast == 'dwi' else 'anat'
        (folder / datatype).mkdir(parents=True, exist_ok=True)
        stem = folder / datatype / f'{label}_{contrast}'
        data = _series(images, stem) if contrast == 'dwi' else images[contrast]
        nib.Nifti1Image(data, affine).to_filename(f'{stem}.nii.gz')


def _series(images, stem: Path) -> np.ndarray:
    """MD and FA of the doll, along one fibre: a b=0 and six directions at b=1000 s/mm2."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [
        (0, 1, golden),
        (0, -1, golden),
        (1, golden, 0),
        (-1, golden, 0),
        (golden, 0, 1),
        (golden, 0, -1),
    ]
    vectors = np.vstack([np.zeros(3), np.array(corners) / np.hypot(1, golden)])
    bvals = np.array([0] + [1000] * len(corners))
    np.savetxt(f'{stem}.bval', [bvals], fmt='%d')
    # The affine has a positive determinant: FSL's vectors are mirrored.
    np.savetxt(f'{stem}.bvec', (vectors * (-1, 1, 1)).T, fmt='%.5f')
    along = images['FA'] / np.sqrt(3 - 2 * images['FA'] ** 2)
    cosines = (vectors @ FIBRE) ** 2
    diffusivity = images['MD'][..., None] * (1 + along[..., None] * (3 * cosines - 1))
    return (images['S0'][..., None] * np.exp(-diffusivity * bvals)).astype(np.float32)


def write_tiny_model(folder: Path, **card) -> Path:
    """Weights of chance, in no time where it does not matter what the FLAIR looks like."""
    from bids_flair.models.files import save_model
    from bids_flair.models.network import Architecture, PatchRegressor

    network = PatchRegressor(Architecture(card['inputs'], levels=2, stem=4, width=8, blocks=1))
    save_model(folder / 'model.safetensors', network, {'target': 'FLAIR', **card})
    return folder
