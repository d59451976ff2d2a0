"""FSL's conventions: the order of voxels that its tools expect, its matrices, its text files.

An FSL matrix takes the moving image to the fixed one, in millimetres along the image axes from
the first voxel, the first axis reversed where the affine has a positive determinant.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nitransforms.io.fsl import FSLLinearTransform
from nitransforms.linear import Affine

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.gradients import B0_THRESHOLD, Gradients
from bids_flair.processing.images import load_checked
from bids_flair.processing.resampling import resample

MATRIX_FOLLOWS = 'Final result'
AXES, ASSUMED_AXIS = 'ijk', 'j'
# Total readout times (s) that eddy takes, and one that is usual.
SHORTEST_S, LONGEST_S, NOMINAL_S = 0.01, 0.2, 0.05


def reorder(img: nib.Nifti1Image) -> nib.Nifti1Image:
    """The same voxels in FSL's standard order (LAS), both header transforms set.

    FSL's tools look at the header for left and right only: BET takes the third axis to go up, and
    FLIRT searches around the order in which the voxels come.
    """
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(img.affine), nib.orientations.axcodes2ornt('LAS')
    )
    turned = img.as_reoriented(turn)
    ready = nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine)
    ready.set_sform(turned.affine, 1)
    ready.set_qform(turned.affine, 1)
    return ready


def read_flirt(path: Path | str, fixed: Path | str, moving: Path | str) -> np.ndarray:
    """FLIRT's matrix as one that takes the world of `fixed` to that of `moving` (RAS+, mm).

    `fixed` and `moving` are the images that FLIRT was given: the matrix means nothing without
    their voxel sizes, shapes and handedness.
    """
    return Affine.from_filename(path, fmt='fsl', reference=fixed, moving=moving).matrix


def write_flirt(
    matrix: np.ndarray, path: Path | str, fixed: Path | str, moving: Path | str
) -> None:
    """Write a matrix as FLIRT would have; what `read_flirt` reads."""
    Affine(matrix, reference=fixed).to_filename(path, fmt='fsl', moving=moving)


def read_eddy_log(path: Path | str, series: nib.Nifti1Image) -> np.ndarray:
    """Matrices that eddy_correct found, world of its reference to the world of each volume.

    Parameters
    ----------
    path : path
        Its ``.ecclog``: what FLIRT printed for one volume after the other.
    series : Nifti1Image
        What eddy_correct was given.

    Returns
    -------
    ndarray, shape (volumes, 4, 4)
        RAS+, mm; 12 degrees of freedom.

    Raises
    ------
    BidsFlairError
        If there are not as many matrices as volumes.
    """
    lines = Path(path).read_text().splitlines()
    starts = [i + 1 for i, line in enumerate(lines) if line.startswith(MATRIX_FOLLOWS)]
    volumes = series.shape[3]
    # eddy_correct appends to a log that is there already.
    blocks = ['\n'.join(lines[start : start + 4]) for start in starts[-volumes:]]
    if len(blocks) != volumes:
        raise BidsFlairError(
            f'{path}: eddy_correct found {len(blocks)} transforms for {volumes} volumes; FLIRT '
            'may have failed, see what it printed in the crash report',
            ExitCode.PARTICIPANT_FAILED,
        )
    grid = series.slicer[..., 0]
    matrices = (FSLLinearTransform.from_string(block) for block in blocks)
    return np.stack([matrix.to_ras(moving=grid, reference=grid) for matrix in matrices])


def series_after_b0(
    dwi: nib.Nifti1Image, gradients: Gradients, b0: nib.Nifti1Image
) -> tuple[nib.Nifti1Image, Gradients, int]:
    """The mean b=0, and behind it the volumes that a tensor may be fitted to, float32.

    FSL's tools align a series to its first volume: so that is the image that was registered to
    the reference.

    Returns
    -------
    series, gradients
    extra : int
        Number of leading volumes that were not measured: 1, or 0 where the only b=0 volume is the
        mean itself and so leads the others.
    """
    usable = gradients.usable
    extra = int(len(gradients.b0) > 1)
    behind = usable if extra else usable[gradients.bvals[usable] > 0]
    data = np.empty((*dwi.shape[:3], len(behind) + 1), np.float32)
    data[..., 0] = np.asarray(b0.dataobj)
    for position, index in enumerate(behind, 1):
        data[..., position] = np.asarray(dwi.dataobj[..., index])
    np.nan_to_num(data, copy=False, posinf=0, neginf=0)
    ordered = Gradients(
        np.append(0.0, gradients.bvals[behind]),
        np.vstack([np.zeros(3), gradients.directions[behind]]),
    )
    return nib.Nifti1Image(data, dwi.affine), ordered, extra


def encoding_rows(axis: str | None, readouts_s: Sequence[float | None]) -> np.ndarray:
    """Rows of the file that topup and eddy call acqp: a direction along the image axes, and s.

    Only ratios of readout times and signs relative to each other decide on what comes out: so a
    nominal time stands in for all where one is not known or refused by eddy (below 10 or above
    200 ms), and a phase encoding that is not known runs along the second axis, as nearly always.
    The second row and those after it are of opposite phase encoding.

    Returns
    -------
    ndarray, shape (images, 4)
    """
    axis = axis or ASSUMED_AXIS
    direction = np.eye(3)[AXES.index(axis[0])] * (-1 if axis.endswith('-') else 1)
    if not all(time and SHORTEST_S <= time <= LONGEST_S for time in readouts_s):
        readouts_s = [NOMINAL_S] * len(readouts_s)
    signs = np.where(np.arange(len(readouts_s)) == 0, 1, -1)
    # Adding 0 leaves no negative zeros.
    return np.column_stack([signs[:, None] * direction + 0.0, readouts_s])


def unweighted(path: Path | str, bval: Path | str | None) -> nib.Nifti1Image:
    """Mean of an image's volumes without diffusion weighting: of all if there are no b-values.

    Raises
    ------
    BidsFlairError
        If the file cannot be read, or none of its volumes is unweighted.
    """
    img = load_checked(path)
    data = np.asarray(img.dataobj, np.float32).reshape(*img.shape[:3], -1)
    if bval is not None:
        data = data[..., np.loadtxt(bval).ravel() < B0_THRESHOLD]
    if data.shape[3] == 0:
        raise BidsFlairError(
            f'{path}: holds no volume without diffusion weighting to estimate distortion from; '
            'take it out of the dataset, or correct its bval file',
            ExitCode.DATA_UNUSABLE,
        )
    return nib.Nifti1Image(np.nan_to_num(data.mean(3)), img.affine)


def pair(b0: nib.Nifti1Image, opposite: nib.Nifti1Image) -> nib.Nifti1Image:
    """Two b=0 images as volumes of one, on the grid of the first, even in all directions."""
    moved = resample(opposite, (b0.shape, b0.affine))
    volumes = [np.asarray(img.dataobj, np.float32) for img in (b0, moved)]
    return make_even(nib.Nifti1Image(np.stack(volumes, -1), b0.affine))


def make_even(series: nib.Nifti1Image) -> nib.Nifti1Image:
    """Repeat the last slice where an axis has an odd number of voxels; the rest stays in place.

    topup halves the grid at its coarse levels (b02b0.cnf), and eddy wants the grid of topup.
    """
    more = [(0, size % 2) for size in series.shape[:3]]
    data = np.pad(np.asarray(series.dataobj), [*more, (0, 0)], mode='edge')
    return nib.Nifti1Image(data, series.affine)


def box_of(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box around a mask; raises ValueError where the mask is empty."""
    if not mask.any():
        raise ValueError('the brain mask is empty')
    limits = (np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(slice(int(found[0]), int(found[-1]) + 1) for found in limits)


def box_affine(affine: np.ndarray, box: tuple[slice, slice, slice]) -> np.ndarray:
    """Affine of the part of a grid inside a box."""
    moved = affine.copy()
    moved[:3, 3] = apply_affine(affine, [part.start for part in box])
    return moved
