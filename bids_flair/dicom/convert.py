"""One series to one NIfTI image: dcm2niix makes it, and it is held against the headers."""

import gzip
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_flair.dicom.files import open_dicom
from bids_flair.dicom.geometry import Extent, is_computed
from bids_flair.dicom.headers import Frame, Series
from bids_flair.errors import BidsFlairError, ExitCode

POSITION_TOLERANCE_MM = 0.1
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Converted:
    """What dcm2niix made of a series: files in a temporary folder, None where it made none."""

    image: Path
    sidecar: Path
    bval: Path | None = None
    bvec: Path | None = None


def find_dcm2niix() -> str:
    """Path of the program, beside this Python or on the path.

    Raises
    ------
    BidsFlairError
        With ExitCode.COMMAND_MISSING.
    """
    beside = Path(sys.executable).with_name('dcm2niix')
    found = str(beside) if beside.exists() else shutil.which('dcm2niix')
    if found is None:
        raise BidsFlairError(
            '--dicom needs the program dcm2niix; install it with: pip install dcm2niix',
            ExitCode.COMMAND_MISSING,
        )
    return found


@contextmanager
def scratch_folder(*candidates: Path) -> Iterator[Path]:
    """A temporary folder without a space in its path, on which dcm2niix' messages rely.

    Raises
    ------
    BidsFlairError
        With ExitCode.CANNOT_WRITE if every candidate has one.
    """
    for parent in (Path(tempfile.gettempdir()), *candidates):
        if ' ' not in str(parent.resolve()):
            with tempfile.TemporaryDirectory(prefix='dicom_', dir=parent) as folder:
                yield Path(folder).resolve()
            return
    raise BidsFlairError(
        f'{parent}: a temporary folder without a space in its path is needed; set TMPDIR to one',
        ExitCode.CANNOT_WRITE,
    )


def convert(series: Series, extent: Extent, folder: Path) -> Converted:
    """Convert one series.

    Parameters
    ----------
    series : Series
    extent : Extent
        What :func:`bids_flair.dicom.geometry.check_series` found.
    folder : path
        Empty, without a space in its path.

    Raises
    ------
    BidsFlairError
        With ExitCode.DATA_UNUSABLE if dcm2niix fails, or if what it made does not agree with the
        headers in the number of slices or volumes or in where they lie.
    """
    staged = _stage(series, folder / 'series')
    images, sidecars, bvals, bvecs = _run_dcm2niix(series, staged, folder)
    fitting = _fitting(images, series, extent)
    if not fitting and len(images) == extent.volumes == len(series.files):
        joined = _join_volumes(series, extent, folder)
        check_positions(series, extent, nib.load(joined.image))
        return joined
    if len(fitting) != 1:
        shapes = ', '.join('x'.join(map(str, nib.load(path).shape)) for path in images)
        raise _disagrees(
            series,
            f'holds {extent.slices} slices in {extent.volumes} volumes, and dcm2niix made '
            f'{shapes or "nothing"} of it',
        )
    check_positions(series, extent, nib.load(fitting[0]))
    stem = str(fitting[0]).removesuffix('.nii')
    return Converted(
        image=fitting[0],
        sidecar=_of(stem, '.json', sidecars) or _of(stem, '.json', [Path(f'{stem}.json')]),
        bval=_of(stem, '.bval', bvals),
        bvec=_of(stem, '.bvec', bvecs),
    )


def check_positions(series: Series, extent: Extent, image: nib.Nifti1Image) -> None:
    """Hold the corners of the outermost slices against the corners of the image.

    Raises
    ------
    BidsFlairError
        If one lies more than 0.1 mm from where its header puts it.
    """
    if extent.first is None or series.spacing is None:
        return
    shape = np.array(image.shape[:3])
    to_voxels = np.linalg.inv(image.affine)
    corners = [
        corner
        for frame in (extent.first, extent.last)
        for corner in _corners(frame, series.spacing, _plane(series, image.shape))
    ]
    voxels = nib.affines.apply_affine(to_voxels, corners)
    nearest = np.where(voxels > (shape - 1) / 2, shape - 1, 0)
    apart = np.linalg.norm(nib.affines.apply_affine(image.affine, nearest) - corners, axis=1)
    if len(np.unique(nearest, axis=0)) != len(corners) or apart.max() > POSITION_TOLERANCE_MM:
        raise _disagrees(
            series, f'lies {apart.max():.1f} mm from where dcm2niix put it: the geometry is wrong'
        )


def _corners(frame: Frame, spacing: Sequence[float], plane: Sequence[int]) -> list[np.ndarray]:
    """Two opposite corner pixels of a slice, in mm, RAS+."""
    position, orientation = np.array(frame.position), np.array(frame.orientation)
    along_row = orientation[:3] * spacing[1] * (plane[0] - 1)
    along_column = orientation[3:] * spacing[0] * (plane[1] - 1)
    return [LPS_TO_RAS @ point for point in (position, position + along_row + along_column)]


def _stage(series: Series, folder: Path) -> Path:
    """Link the series' files, and nothing else, into a folder: dcm2niix converts whole folders."""
    folder.mkdir(parents=True)
    for number, path in enumerate(series.files):
        target = folder / f'{number:06d}.dcm'
        with path.open('rb') as file:
            gzipped = file.read(2) == b'\x1f\x8b'
        if gzipped:
            with open_dicom(path) as stream, target.open('wb') as copy:
                shutil.copyfileobj(stream, copy)
        else:
            target.symlink_to(path.resolve())
    return folder


def _run_dcm2niix(series: Series, staged: Path, folder: Path) -> tuple[list[Path], ...]:
    """Run dcm2niix as a Nipype node: images, sidecars, b-values, directions."""
    from nipype.interfaces.dcm2nii import Dcm2niix
    from nipype.pipeline import engine as pe

    from bids_flair.workflows.plugin import set_nipype_log_level

    set_nipype_log_level(50)
    interface = Dcm2niix(
        source_dir=str(staged),
        out_filename='image',
        bids_format=True,
        anon_bids=True,
        compress='n',
        merge_imgs=2,
    )
    interface._cmd = find_dcm2niix()
    interface.terminal_output = 'allatonce'
    try:
        outputs = pe.Node(interface, name='dcm2niix', base_dir=str(folder)).run().outputs
    except Exception as error:
        raise _disagrees(series, 'cannot be converted: dcm2niix failed') from error
    kinds = (outputs.converted_files, outputs.bids, outputs.bvals, outputs.bvecs)
    return tuple(_paths(found) for found in kinds)


def _paths(found) -> list[Path]:
    """Nipype gives one file as a text and several as a list."""
    if not found:
        return []
    return [Path(found)] if isinstance(found, str) else [Path(path) for path in found]


def _of(stem: str, extension: str, found: Sequence[Path]) -> Path | None:
    return next((path for path in found if str(path) == stem + extension), None)


def _join_volumes(series: Series, extent: Extent, folder: Path) -> Converted:
    """Convert files that hold one volume each, and lay the volumes behind one another.

    dcm2niix does not always do so with enhanced DICOM, and then knows no gradients either: they
    are taken from the headers, and computed volumes are left out.
    """
    volumes, first = [], None
    frames = [series.frames[v * extent.slices] for v in range(extent.volumes)]
    acquired = [v for v in range(extent.volumes) if not is_computed(frames[v])]
    for v in acquired:
        alone = replace(series, files=(series.files[v],))
        place = folder / f'volume{v}'
        images, sidecars, *_ = _run_dcm2niix(alone, _stage(alone, place / 'series'), place)
        if len(images) != 1 or not _fits(nib.load(images[0]).shape, series, extent, 1):
            raise _disagrees(series, f'cannot be converted: its volume {v + 1} has another shape')
        first = first or (nib.load(images[0]), sidecars[0])
        volumes.append(nib.load(images[0]))
    reference, sidecar = first
    if any(not np.allclose(img.affine, reference.affine, atol=1e-3) for img in volumes):
        raise _disagrees(series, 'has volumes that do not lie on one grid')
    return _write_joined(volumes, [frames[v] for v in acquired], sidecar, folder)


def _write_joined(volumes, frames: Sequence[Frame], sidecar: Path, folder: Path) -> Converted:
    """Write volumes as one image, as precisely as they are, with gradients in FSL's form."""
    scalings = {(img.dataobj.slope, img.dataobj.inter) for img in volumes}
    same = len(scalings) == 1
    data = [img.dataobj.get_unscaled() if same else img.get_fdata('float32') for img in volumes]
    joined = nib.Nifti1Image(np.stack(data, 3), volumes[0].affine)
    joined.header.set_xyzt_units('mm', 'sec')
    if same:
        joined.header.set_slope_inter(*scalings.pop())
    made = Converted(
        folder / 'joined.nii', sidecar, folder / 'joined.bval', folder / 'joined.bvec'
    )
    joined.to_filename(made.image)
    made.bval.write_text(' '.join(f'{frame.bvalue or 0:g}' for frame in frames))
    np.savetxt(made.bvec, fsl_directions(frames, joined.affine).T, fmt='%.6f')
    return made


def fsl_directions(frames: Sequence[Frame], affine: np.ndarray) -> np.ndarray:
    """Directions along the axes of an image, shape (n, 3), as FSL counts them.

    FSL reverses the first axis where the affine has a positive determinant.
    """
    directions = np.array([frame.direction or (0.0, 0.0, 0.0) for frame in frames])
    rotation = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    along = directions @ LPS_TO_RAS @ rotation
    return along * (-1, 1, 1) if np.linalg.det(affine[:3, :3]) > 0 else along


def _fitting(images: Sequence[Path], series: Series, extent: Extent) -> list[Path]:
    """Images with every slice and volume, along whichever axes dcm2niix lays them.

    It turns 3D acquisitions to axial. Of a series with volumes that the scanner computed it makes
    an image without them, which is the one to take, and another with them.
    """
    for volumes in (extent.volumes - extent.computed, extent.volumes):
        found = [path for path in images if _fits(nib.load(path).shape, series, extent, volumes)]
        if found:
            return found
    return []


def _fits(shape: Sequence[int], series: Series, extent: Extent, volumes: int) -> bool:
    wanted = (*_plane(series, shape), extent.slices)
    has_volumes = (shape[3] if len(shape) > 3 else 1) == volumes
    return sorted(shape[:3]) == sorted(wanted) and has_volumes


def _plane(series: Series, shape: Sequence[int]) -> tuple[int, int]:
    """Columns and rows of a slice; only the image tells those of a mosaic."""
    return series.matrix if all(series.matrix) else (shape[0], shape[1])


def write_scrubbed(image: Path, target: Path) -> None:
    """Write a NIfTI image, gzipped, voxel by voxel the same, without the texts in its header.

    Parameters
    ----------
    image : path
        As dcm2niix writes it: NIfTI-1, not compressed.
    target : path
        Ends in .nii.gz.
    """
    with image.open('rb') as file:
        header = nib.Nifti1Header.from_fileobj(file)
        file.seek(int(header['vox_offset']))
        voxels = file.read()
    for name in ('descrip', 'aux_file', 'intent_name', 'db_name', 'data_type'):
        header[name] = b''
    # Right behind the header and a mark that no extension follows.
    header['vox_offset'] = 352
    content = header.binaryblock + b'\0\0\0\0' + voxels
    target.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))


def _disagrees(series: Series, what: str) -> BidsFlairError:
    return BidsFlairError(
        f'{series.title} in {series.files[0].parent} {what}. Copy the series again from the '
        'scanner or the archive; if you do not need it, refuse it with a rule (--dicom-rules)',
        ExitCode.DATA_UNUSABLE,
    )
