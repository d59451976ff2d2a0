"""Whole volumes inside an HTML file: the slices as one compressed picture, 8 bits a voxel."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from scipy.ndimage import affine_transform

from bids_flair.reports.figures import Layout

QUALITY = 78


@dataclass(frozen=True)
class Lattice:
    """The isotropic grid that the volumes of a session's viewer share.

    Attributes
    ----------
    shape : tuple of int
        Voxels along right, anterior, superior.
    edge_mm : float
    origin : tuple of float
        World coordinates of the first voxel, in mm; axes are taken as aligned with the world.
    columns : int
        Axial slices beside each other in the picture.
    step : ndarray, shape (3,)
        Voxels of the layout per voxel.
    """

    shape: tuple[int, ...]
    edge_mm: float
    origin: tuple[float, ...]
    columns: int
    step: np.ndarray

    @classmethod
    def over(cls, layout: Layout, edge_mm: float) -> 'Lattice':
        """Lay voxels of an edge, or the layout's own where they are larger, over its box."""
        sizes = nib.affines.voxel_sizes(layout.affine)
        edge = max(edge_mm, float(sizes.min()))
        shape = tuple(np.maximum(1, np.floor(layout.extent_mm / edge)).astype(int).tolist())
        start = [part.start for part in layout.box]
        origin = nib.affines.apply_affine(layout.affine, start)
        columns = max(1, math.ceil(math.sqrt(shape[2] * shape[1] / shape[0])))
        return cls(shape, edge, tuple(float(value) for value in origin), columns, edge / sizes)

    def sample(self, volume: np.ndarray, order: int = 1) -> np.ndarray:
        """Values of a volume in the layout's box at the voxels, float32."""
        if np.allclose(self.step, 1):
            return volume[tuple(slice(n) for n in self.shape)].astype(np.float32)
        return affine_transform(
            volume.astype(np.float32), np.diag(self.step), (self.step - 1) / 2,
            output_shape=self.shape, order=order, mode='nearest',
        )  # fmt: skip

    def tile(self, levels: np.ndarray) -> Image.Image:
        """Lay axial slices out, columns first; within one, x runs right and y down."""
        nx, ny, nz = self.shape
        rows = math.ceil(nz / self.columns)
        sheet = np.zeros((rows * ny, self.columns * nx), np.uint8)
        for z in range(nz):
            row, column = divmod(z, self.columns)
            place = slice(row * ny, (row + 1) * ny), slice(column * nx, (column + 1) * nx)
            sheet[place] = levels[:, :, z].T
        return Image.fromarray(sheet)


def pack(
    volume: np.ndarray, lattice: Lattice, top: float, window: tuple[float, float]
) -> dict[str, Any]:
    """Compress a volume for the viewer.

    Parameters
    ----------
    volume : numpy.ndarray
        In the layout's box, 0 or above.
    lattice : Lattice
    top : float
        Value of level 255; 0 is level 0.
    window : tuple of float
        Values shown black and white at first.
    """
    levels = (lattice.sample(volume) / top * 255).round().clip(0, 255).astype(np.uint8)
    return {'src': _webp(lattice.tile(levels)), 'top': top, 'window': list(window)}


def pack_mask(mask: np.ndarray, lattice: Lattice) -> str:
    """Compress a mask without loss."""
    levels = np.where(lattice.sample(mask, order=0) > 0.5, 255, 0).astype(np.uint8)
    buffer = io.BytesIO()
    lattice.tile(levels).convert('1').save(buffer, 'PNG', optimize=True)
    return f'data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def describe(lattice: Lattice) -> Mapping[str, Any]:
    """What a script has to know to read the pictures."""
    return {
        'shape': lattice.shape,
        'columns': lattice.columns,
        'edge': lattice.edge_mm,
        'origin': lattice.origin,
    }


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, 'WEBP', quality=QUALITY, method=4)
    return f'data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}'
