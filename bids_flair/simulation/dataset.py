"""Raw BIDS datasets of simulated people: every scan on its own grid, in its own head pose."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

import bids_flair
from bids_flair.simulation import artefacts, diffusion, physics
from bids_flair.simulation.anatomy import Head, load_anatomy, make_head, rotation, shipped
from bids_flair.simulation.contrasts import (
    Scan,
    draw_variation,
    epi_signals,
    low_resolution,
    shade,
    weighted_signal,
)
from bids_flair.simulation.lesions import add_pathology
from bids_flair.simulation.physics import Tissue

DIRECTIONS, UNWEIGHTED, B_VALUE = 16, 2, 1000


@dataclass(frozen=True)
class Pose:
    """Rigid motion from the head's frame to the scanner's: ``scanner = matrix @ head + shift``."""

    matrix: np.ndarray
    shift: np.ndarray

    def then(self, other: Pose) -> Pose:
        """First this motion, then `other`."""
        return Pose(other.matrix @ self.matrix, other.matrix @ self.shift + other.shift)


def draw_pose(rng: np.random.Generator, degrees: float, mm: float) -> Pose:
    """Draw a rigid motion with the given standard deviations."""
    return Pose(rotation(rng.normal(0, degrees, 3)), rng.normal(0, mm, 3))


@dataclass(frozen=True)
class Grid:
    """Where a scanner's voxels lie: shape and affine (scanner mm)."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        return nib.affines.voxel_sizes(self.affine)


def scan_grid(
    head: Head, spacing_mm: tuple[float, float, float], tilt: float, *, flipped: bool
) -> Grid:
    """Axial grid over the whole head, tilted about the left-right axis by `tilt` degrees.

    `flipped` stores left-right reversed (LAS), as DICOM converters write axial slices.
    """
    extent = np.array(head.shape) * head.voxel_mm + 8
    middle = nib.affines.apply_affine(head.affine, (np.array(head.shape) - 1) / 2)
    shape = np.ceil(extent / spacing_mm).astype(int)
    axes = rotation(np.array([tilt, 0, 0])) @ np.diag(
        np.array([-1 if flipped else 1, 1, 1]) * spacing_mm
    )
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = middle - axes @ ((shape - 1) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def observe(
    volume: np.ndarray, frame: np.ndarray, pose: Pose, grid: Grid, order: int = 1
) -> np.ndarray:
    """Sample `volume` (voxel-to-head affine `frame`) where the scanner's voxels meet the head.

    Slices thicker than the volume's voxels are averages over their thickness.
    """
    edge = np.abs(frame[0, 0])
    parts = max(1, round(grid.spacing[2] / edge)) if order == 1 else 1
    to_head = np.eye(4)
    to_head[:3, :3] = pose.matrix.T
    to_head[:3, 3] = -pose.matrix.T @ pose.shift
    to_volume = np.linalg.inv(frame) @ to_head @ grid.affine
    total = np.zeros(grid.shape, np.float32)
    for part in range(parts):
        offset = to_volume[:3, 3] + to_volume[:3, 2] * ((part + 0.5) / parts - 0.5)
        total += ndimage.affine_transform(
            volume, to_volume[:3, :3], offset, grid.shape, np.float32, order
        )
    return total / parts


def weighted_image(
    rng: np.random.Generator,
    head: Head,
    tissues: dict[str, Tissue],
    variation: np.ndarray,
    scan: Scan,
    *,
    flipped: bool,
) -> nib.Nifti1Image:
    """One raw T1w, T2w or FLAIR image."""
    signal = weighted_signal(head, tissues, scan.sequence, variation)
    white = abs(scan.sequence.signal(tissues['white']))
    signal *= shade(rng, head, scan.shading) * np.float32(600 / white)
    grid = scan_grid(head, scan.spacing_mm, rng.uniform(-8, 8) * flipped, flipped=flipped)
    seen = observe(head.volume(signal), head.affine, draw_pose(rng, 2.0, 2.0), grid)
    return _integers(artefacts.rician(rng, seen, 600 / scan.snr), grid)


def diffusion_image(
    rng: np.random.Generator, head: Head, tissues: dict[str, Tissue], spacing_mm: float
) -> tuple[nib.Nifti1Image, np.ndarray, np.ndarray]:
    """Raw diffusion-weighted image, b-values (s/mm2) and vectors as FSL wants them (3, volumes).

    The head moves a little between volumes; the vectors are the scanner's, as they always are.
    """
    edge = max(0.85 * spacing_mm, head.voxel_mm)
    fractions, _, mm = low_resolution(rng, head, edge)
    frame = np.diag([edge, edge, edge, 1.0])
    frame[:3, 3] = mm[:, 0, 0, 0]
    along, coherence = diffusion.fibre_field(rng, mm, mm.shape[1:], edge)
    s0 = epi_signals(rng, tissues) * 0.6
    b = np.r_[np.zeros(UNWEIGHTED), np.full(DIRECTIONS, float(B_VALUE))]
    vectors = np.vstack(
        [np.zeros((UNWEIGHTED, 3)), diffusion.gradient_directions(DIRECTIONS, rng)]
    )
    pose = draw_pose(rng, 2.0, 2.0)
    poses = [draw_pose(rng, 0.3, 0.3).then(pose) for _ in b]
    seen_by_head = np.stack([p.matrix.T @ g for p, g in zip(poses, vectors, strict=True)])
    held = fractions.sum(0) > 0.01
    signals = diffusion.attenuated(
        fractions[:, held], tissues, s0, along[:, held], coherence[held], b / 1e3, seen_by_head
    )
    signals *= np.exp(0.1 * artefacts.smooth_field(rng, held.shape, 70 / edge)[held])
    grid = scan_grid(head, (spacing_mm,) * 3, rng.uniform(-8, 8), flipped=True)
    volumes, sigma = [], 600 / rng.uniform(30, 50)
    for values, volume_pose in zip(signals, poses, strict=True):
        volume = np.zeros(held.shape, np.float32)
        volume[held] = values
        seen = observe(volume, frame, volume_pose, grid, order=3)
        volumes.append(artefacts.rician(rng, seen, sigma))
    image = _integers(np.stack(volumes, -1), grid)
    return image, b, fsl_vectors(vectors, grid.affine)


def fsl_vectors(vectors: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Scanner-frame vectors (volumes, 3) as rows x, y, z in FSL's convention (3, volumes).

    FSL counts along the image's axes, with x reversed where the affine has a positive determinant.
    """
    axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    rows = axes.T @ vectors.T
    if np.linalg.det(axes) > 0:
        rows[0] *= -1
    return rows


def _integers(data: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.clip(np.rint(data), 0, 32767).astype(np.int16), grid.affine)
    image.set_qform(grid.affine, 1)
    image.set_sform(grid.affine, 1)
    image.header.set_xyzt_units('mm', 'sec')
    return image


def draw_raw_scans(
    rng: np.random.Generator, tissues: dict[str, Tissue], voxel_mm: float
) -> dict[str, Scan]:
    """Draw one person's protocol: MPRAGE, thick-slice or 3D T2w, thick-slice FLAIR."""
    cube = (voxel_mm,) * 3

    def slices() -> tuple[float, float, float]:
        return voxel_mm, voxel_mm, max(rng.uniform(3, 4), 1.15 * voxel_mm)

    t2w_thick = rng.random() < 0.7
    t2w = physics.draw_t2w(rng, t2w_thick)
    flair = physics.draw_flair(rng, tissues, thick=True)
    shading = rng.uniform(0.08, 0.2, 3)
    return {
        'T1w': Scan(physics.draw_mprage(rng), cube, rng.uniform(30, 50), shading[0]),
        'T2w': Scan(t2w, slices() if t2w_thick else cube, rng.uniform(35, 60), shading[1]),
        'FLAIR': Scan(flair, slices(), rng.uniform(30, 50), shading[2]),
    }


def sidecar(sequence: physics.Sequence, field: float, *, slices: bool) -> dict[str, object]:
    """BIDS metadata (seconds) of a sequence (milliseconds)."""
    values = asdict(sequence)
    seconds = {'tr': 'RepetitionTime', 'te': 'EchoTime', 'ti': 'InversionTime'}
    out: dict[str, object] = {
        'Manufacturer': 'bids_flair simulation',
        'MagneticFieldStrength': field,
        'MRAcquisitionType': '2D' if slices else '3D',
        'PulseSequenceType': type(sequence).__name__,
    }
    out |= {name: round(values[key] / 1e3, 5) for key, name in seconds.items() if key in values}
    if 'flip' in values:
        out['FlipAngle'] = round(values['flip'], 2)
    return out


def write_participant(
    folder: Path, label: str, rng: np.random.Generator, anatomy: str, voxel_mm: float
) -> None:
    """Simulate one person and write ``sub-<label>`` into `folder`."""
    field = float(rng.choice([1.5, 3.0]))
    head = make_head(load_anatomy(anatomy), rng, voxel_mm, mirror=False)
    add_pathology(rng, head)
    tissues = physics.draw_tissues(rng, field)
    variation = draw_variation(rng, head.shape, head.voxel_mm)[:, head.inside]
    stem = folder / f'sub-{label}'
    for name, scan in draw_raw_scans(rng, tissues, voxel_mm).items():
        sliced = scan.spacing_mm[2] > voxel_mm
        image = weighted_image(rng, head, tissues, variation, scan, flipped=sliced)
        path = stem / 'anat' / f'sub-{label}_{name}.nii.gz'
        _save(image, path, sidecar(scan.sequence, field, slices=sliced))
    spacing = max(rng.uniform(2.0, 2.5), 1.1 * voxel_mm)
    image, bvals, bvecs = diffusion_image(rng, head, tissues, spacing)
    path = stem / 'dwi' / f'sub-{label}_dwi.nii.gz'
    meta = sidecar(physics.draw_epi(rng), field, slices=True)
    _save(image, path, meta | {'PhaseEncodingDirection': 'j-', 'TotalReadoutTime': 0.05})
    np.savetxt(stem / 'dwi' / f'sub-{label}_dwi.bval', bvals[None], fmt='%d')
    np.savetxt(stem / 'dwi' / f'sub-{label}_dwi.bvec', bvecs, fmt='%.6f')


def _save(image: nib.Nifti1Image, path: Path, metadata: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    _write_json(path.with_name(path.name.replace('.nii.gz', '.json')), metadata)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')


def write_dataset(
    out: Path,
    participants: int = 1,
    seed: int = 0,
    voxel_mm: float = 1.5,
) -> Path:
    """Write a raw BIDS dataset of simulated people.

    Parameters
    ----------
    out : Path
        Folder to create; files of an earlier run are overwritten.
    participants : int
        How many people, labelled 01, 02, ...; their heads alternate between the shipped anatomies.
    seed : int
        Same seed, same dataset.
    voxel_mm : float
        Edge of the voxels of the T1w; T2w and FLAIR have thicker slices, diffusion larger voxels.
        7 gives a 32-voxel toy in about a second.

    Returns
    -------
    Path
        `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = shipped()
    rows = ['participant_id\tanatomy']
    for k in range(participants):
        label, anatomy = f'{k + 1:02d}', names[k % len(names)]
        rng = np.random.default_rng([seed, k])
        write_participant(out, label, rng, anatomy, voxel_mm)
        rows.append(f'sub-{label}\t{anatomy}')
    (out / 'participants.tsv').write_text('\n'.join(rows) + '\n')
    _write_json(
        out / 'participants.json',
        {'anatomy': {'Description': 'Tissue map of bids_flair that the head was deformed from'}},
    )
    _write_json(
        out / 'dataset_description.json',
        {
            'Name': 'People simulated by bids_flair',
            'BIDSVersion': '1.10.0',
            'DatasetType': 'raw',
            'License': 'CC0',
            'Authors': ['bids_flair'],
            'GeneratedBy': [{'Name': 'bids_flair.simulation', 'Version': bids_flair.__version__}],
        },
    )
    (out / 'README.md').write_text(
        f'# Simulated people\n\nNobody was scanned: {participants} simulated participants with '
        f'T1w, T2w, FLAIR and diffusion, seed {seed}.\nHeads are random deformations of tissue '
        'maps of real people (see anatomies/README.md in bids_flair.simulation),\nsignals come '
        'from drawn tissue properties and pulse sequences.\n'
    )
    return out
