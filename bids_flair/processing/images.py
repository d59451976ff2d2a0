"""Reading images so that what is wrong with a file is said before anything is computed from it."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_flair.errors import BidsFlairError, ExitCode

ISOTROPY_TOLERANCE = 1.1
EDGES_KEPT_BELOW_MM = 1.2
DEFAULT_EDGE_MM = 1.0
READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError)


def load_volume(path: Path | str) -> nib.Nifti1Image:
    """Read one 3D image as float32; values that are not finite become 0 ("not measured").

    Raises
    ------
    BidsFlairError
        If the file is missing, truncated, not a NIfTI image, empty, or not a single volume.
    """
    img = load_checked(path)
    data = np.asarray(img.dataobj, dtype=np.float32)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise _unusable(path, f'holds an array of shape {data.shape} where one volume is needed')
    data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
    if np.ptp(data) == 0:
        raise _unusable(path, 'holds the same value everywhere')
    return nib.Nifti1Image(data, img.affine)


def load_checked(path: Path | str) -> nib.Nifti1Image:
    """Open a NIfTI image and prove that all of its voxels and its geometry can be used.

    Raises
    ------
    BidsFlairError
        As for :func:`load_volume`, but any number of volumes is accepted.
    """
    path = Path(path)
    if not path.exists():
        hint = (
            f'it links to content that is not here; run: datalad get {path}'
            if path.is_symlink()
            else 'restore the file, or leave it out with --bids-filter-file'
        )
        raise BidsFlairError(f'{path}: not found; {hint}', ExitCode.INPUT_MISSING)
    try:
        img = nib.load(path)
        _read_to_the_end(img)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        nib.filebasedimages.ImageFileError,
    ) as error:
        raise _unusable(
            path, f'cannot be read to its end ({error}); it may be truncated'
        ) from error
    _check_geometry(path, img)
    return img


def reference_grid(img: nib.Nifti1Image) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the grid that everything of a participant is brought to.

    The image's own grid where its voxels are near-isotropic (edges within 10 %) and every edge is
    shorter than 1.2 mm, up to which sMRIPrep has a FLAIR refine surfaces; else 1 mm isotropic
    along the same axes, over the same field of view.
    """
    edges = nib.affines.voxel_sizes(img.affine)
    shape = np.array(img.shape[:3])
    fine = round(edges.max(), 3) < EDGES_KEPT_BELOW_MM
    if fine and edges.max() / edges.min() <= ISOTROPY_TOLERANCE:
        return tuple(int(n) for n in shape), img.affine
    extent = shape * edges
    new_shape = np.maximum(np.round(extent / DEFAULT_EDGE_MM).astype(int), 1)
    linear = img.affine[:3, :3] / edges * DEFAULT_EDGE_MM
    centre = nib.affines.apply_affine(img.affine, (shape - 1) / 2)
    affine = nib.affines.from_matvec(linear, centre - linear @ ((new_shape - 1) / 2))
    return tuple(int(n) for n in new_shape), affine


def _read_to_the_end(img: nib.Nifti1Image) -> None:
    """A gzip stream cut short is noticed only where it ends: read the last voxels."""
    np.asarray(img.dataobj[..., -1])


def _check_geometry(path: Path, img: nib.Nifti1Image) -> None:
    affine = img.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise _unusable(path, 'has no usable orientation in its header')
    header = img.header
    if not isinstance(header, nib.Nifti1Header):
        return
    if header['qform_code'] > 0 and header['sform_code'] > 0:
        conflict = _corner_distance(header.get_qform(), header.get_sform(), img.shape[:3])
        if conflict > 5:
            raise _unusable(
                path,
                f'its qform and sform put the same voxel up to {conflict:.0f} mm apart, so left '
                'and right cannot be told for sure; set both to the right one (fslorient, or '
                'nibabel set_qform)',
            )


def _corner_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance, in mm, that two affines put between them for the same corner voxel."""
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape]), -1).reshape(-1, 3)
    apart = nib.affines.apply_affine(first, corners) - nib.affines.apply_affine(second, corners)
    return float(np.linalg.norm(apart, axis=1).max())


def _unusable(path: Path | str, what: str) -> BidsFlairError:
    return BidsFlairError(
        f'{path}: {what}. Replace the file (convert or copy it again), or leave it out with '
        '--bids-filter-file',
        ExitCode.DATA_UNUSABLE,
    )
