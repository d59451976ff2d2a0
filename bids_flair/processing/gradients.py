"""Diffusion weighting of a series: how it is read, and what may be made of it."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_flair.errors import BidsFlairError, ExitCode

# s/mm2. Scanners write b = 0 as anything up to about 50; above 1500 the tensor no longer describes
# the signal (Jones and Basser, MRM 52, 979, 2004).
B0_THRESHOLD = 50.0
TENSOR_B_LIMIT = 1500.0
FEWEST_DIRECTIONS = 6


@dataclass(frozen=True)
class Gradients:
    """Diffusion weighting of a series.

    Attributes
    ----------
    bvals : ndarray, shape (n,)
        s/mm2; 0 where the file holds less than 50.
    directions : ndarray, shape (n, 3)
        Unit vectors in world coordinates (RAS+); zero where ``bvals`` is.
    """

    bvals: np.ndarray
    directions: np.ndarray

    @property
    def b0(self) -> np.ndarray:
        """Indices of the volumes without diffusion weighting."""
        return np.flatnonzero(self.bvals == 0)

    @property
    def usable(self) -> np.ndarray:
        """Indices of the volumes that a tensor may be fitted to."""
        low = np.flatnonzero(self.bvals <= TENSOR_B_LIMIT)
        return low if self.can_fit(low) else np.arange(len(self.bvals))

    def can_fit(self, volumes: np.ndarray) -> bool:
        """Whether a tensor and S0 can be told from these volumes."""
        bvals, directions = self.bvals[volumes], self.directions[volumes]
        design = np.stack(
            [directions[:, i] * directions[:, j] for i in range(3) for j in range(i, 3)], 1
        )
        weighted = bvals > 0
        return (
            weighted.sum() >= FEWEST_DIRECTIONS
            and bool((~weighted).any())
            and np.linalg.matrix_rank(design[weighted], tol=1e-3) == 6
        )


def read_gradients(dwi: nib.Nifti1Image, bval: Path | str, bvec: Path | str) -> Gradients:
    """Read the gradients of a series and turn them to world coordinates.

    Parameters
    ----------
    dwi : Nifti1Image
        The series, shape (x, y, z, n).
    bval, bvec : path
        In FSL's form: vectors along the image axes, the first one reversed if the affine has a
        positive determinant. Three rows or three columns are accepted.

    Raises
    ------
    BidsFlairError
        If a file is missing or does not fit the series, or no tensor can be fitted with it.
    """
    volumes = dwi.shape[3] if dwi.ndim == 4 else 1
    bvals = np.abs(_read_numbers(bval).ravel())
    vectors = _read_numbers(bvec)
    if vectors.ndim == 2 and vectors.shape[0] == 3:
        vectors = vectors.T
    if bvals.size != volumes or vectors.shape != (volumes, 3):
        raise BidsFlairError(
            f'{bval} holds {bvals.size} b-values and {bvec} an array of shape {vectors.shape}, '
            f'but the series has {volumes} volumes; convert the series again, or leave it out',
            ExitCode.DATA_UNUSABLE,
        )
    bvals = np.where(bvals < B0_THRESHOLD, 0.0, bvals)
    gradients = Gradients(bvals, _world_directions(dwi.affine, bvals, vectors, bvec))
    if not gradients.can_fit(np.arange(volumes)):
        raise BidsFlairError(
            f'{bval}: a tensor needs a b=0 volume and {FEWEST_DIRECTIONS} independent directions; '
            f'this series has {len(gradients.b0)} and {volumes - len(gradients.b0)} weighted '
            'volumes. Leave it out with --bids-filter-file',
            ExitCode.DATA_UNUSABLE,
        )
    return gradients


def _world_directions(affine, bvals, vectors, bvec) -> np.ndarray:
    weighted = bvals > 0
    lengths = np.linalg.norm(vectors, axis=1)
    unusable = weighted & ~(np.isfinite(lengths) & (lengths > 0.1))
    if unusable.any():
        raise BidsFlairError(
            f'{bvec}: volumes {np.flatnonzero(unusable).tolist()} have a b-value but no '
            'direction; convert the series again, or leave it out with --bids-filter-file',
            ExitCode.DATA_UNUSABLE,
        )
    vectors = np.where(weighted[:, None], vectors, 0.0)
    if np.linalg.det(affine[:3, :3]) > 0:
        vectors = vectors * (-1, 1, 1)
    rotation = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    return unit(vectors @ rotation.T)


def write_gradients(
    gradients: Gradients, affine: np.ndarray, bval: Path | str, bvec: Path | str
) -> None:
    """Write gradients in FSL's form, for a series on the grid of `affine`.

    Inverse of :func:`read_gradients`; three rows of vectors.
    """
    rotation = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    vectors = gradients.directions @ rotation
    if np.linalg.det(affine[:3, :3]) > 0:
        vectors = vectors * (-1, 1, 1)
    np.savetxt(bval, gradients.bvals[None], fmt='%g')
    np.savetxt(bvec, vectors.T, fmt='%.8f')


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) of length 1; those of length 0 stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _read_numbers(path: Path | str) -> np.ndarray:
    if not Path(path).exists():
        raise BidsFlairError(
            f'{path}: not found; a diffusion series needs it. Restore it, or leave the series '
            'out with --bids-filter-file',
            ExitCode.INPUT_MISSING,
        )
    try:
        return np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise BidsFlairError(
            f'{path}: not a table of numbers ({error}); convert the series again',
            ExitCode.DATA_UNUSABLE,
        ) from error
