"""A phantom head small enough to know by heart, and a model small enough to run everywhere."""

import nibabel as nib
import numpy as np
import pytest
import torch

from bids_flair.models.files import Model, save_model
from bids_flair.models.network import Architecture, PatchRegressor

# White, grey, fluid, lesion: weighted images in scanner units, MD in mm2/s. T1w and T2w of the
# lesion are to those of white matter as in the lesions of two patients (.81, .68; 1.57, 1.96).
TISSUES = {
    'T1w': (900.0, 600.0, 200.0, 670.0),
    'T2w': (300.0, 400.0, 1200.0, 530.0),
    'MD': (0.8e-3, 0.9e-3, 2.9e-3, 1.2e-3),
    'FA': (0.45, 0.15, 0.05, 0.2),
    'S0': (500.0, 640.0, 1500.0, 800.0),
    'FLAIR': (200.0, 250.0, 30.0, 310.0),
}


class Phantom:
    """Nested ellipsoids; ``labels`` is 0 outside and 1 to 4 for white, grey, fluid, lesion."""

    def __init__(self, size: int = 64, voxel_mm: float = 1.0):
        where = (np.indices((size,) * 3) + 0.5) * voxel_mm - size * voxel_mm / 2
        radius = np.sqrt((where**2 / np.array([1, 1.2, 1])[:, None, None, None]).sum(0))
        labels = np.select([radius < 5, radius < 21, radius < 25, radius < 27], [3, 1, 2, 3], 0)
        away = np.sqrt(((where - np.array([11, 0, 3])[:, None, None, None]) ** 2).sum(0))
        labels[away < 3.5] = 4
        self.labels = labels
        self.affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
        self.mask = labels > 0
        rng = np.random.default_rng(0)
        self.arrays = {
            name: (np.array([0, *values])[labels] * rng.normal(1, 0.02, labels.shape)).astype(
                np.float32
            )
            for name, values in TISSUES.items()
        }

    def image(self, name: str, factor: float = 1.0) -> nib.Nifti1Image:
        return nib.Nifti1Image((self.arrays[name] * factor).astype(np.float32), self.affine)

    def images(self, *names: str) -> dict[str, nib.Nifti1Image]:
        return {name: self.image(name) for name in names}

    def mask_image(self) -> nib.Nifti1Image:
        return nib.Nifti1Image(self.mask.astype(np.uint8), self.affine)


@pytest.fixture(scope='session')
def phantom() -> Phantom:
    return Phantom()


@pytest.fixture(scope='session')
def small_model(tmp_path_factory) -> Model:
    """An untrained model: what must hold of any weights can be shown with these."""
    torch.manual_seed(0)
    network = PatchRegressor(Architecture(levels=3, stem=4, width=8, blocks=1))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp('model') / 'small.safetensors'
    return save_model(path, network, {'inputs': list(TISSUES), 'target': 'FLAIR'})
