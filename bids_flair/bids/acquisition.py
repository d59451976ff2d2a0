"""How a diffusion series was encoded, and which image was encoded the opposite way."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bids_flair.bids.companions import Companions

AXES = 'ijk'
# Cosine of the angle between two phase encodings that count as opposite.
OPPOSITE = -0.9


@dataclass(frozen=True)
class Acquisition:
    """What correcting a series' distortion takes.

    Attributes
    ----------
    axis : str or None
        Phase encoding along the image axes, as in BIDS: 'j', 'j-', ...; None if not known. Without
        a sign in the sidecar (PhaseEncodingAxis) the positive one.
    readout_s : float or None
        Total readout time, s.
    opposite : path or None
        Image without diffusion weighting, or series that holds some, encoded the other way round.
    opposite_bval : path or None
        Which volumes of it are unweighted; all of them if there is no such file.
    opposite_readout_s : float or None
        Its total readout time, s.
    """

    axis: str | None = None
    readout_s: float | None = None
    opposite: Path | None = None
    opposite_bval: Path | None = None
    opposite_readout_s: float | None = None


def read_acquisition(companions: Companions, dwi: Path, others: Sequence[Path]) -> Acquisition:
    """Phase encoding of a series, and the first of some other images that has the opposite one."""
    metadata = sidecar(companions, dwi)
    axis, readout = metadata.get('PhaseEncodingDirection'), readout_of(metadata)
    if axis is None:
        return Acquisition(metadata.get('PhaseEncodingAxis'), readout)
    for other in (path for path in others if path != dwi):
        known = sidecar(companions, other)
        if _meant_for(known, dwi, companions.root) and _cosine(known, other, axis, dwi) < OPPOSITE:
            bval = companions.nearest(other, '.bval')
            return Acquisition(axis, readout, other, bval, readout_of(known))
    return Acquisition(axis, readout)


def readout_of(metadata: dict[str, Any]) -> float | None:
    """Total readout time (s), or what dcm2niix estimated where the vendor does not tell."""
    return metadata.get('TotalReadoutTime', metadata.get('EstimatedTotalReadoutTime'))


def sidecar(companions: Companions, path: Path) -> dict[str, Any]:
    """Metadata of an image by BIDS' inheritance: what lies nearer overrides."""
    metadata: dict[str, Any] = {}
    for file in reversed(companions.of(path, '.json')):
        try:
            metadata |= json.loads(file.read_text(encoding='utf-8-sig'))
        except ValueError:
            # The BIDS validator names it; what it said is not known.
            continue
    return metadata


def _meant_for(metadata: dict[str, Any], dwi: Path, root: Path) -> bool:
    """Whether a field map is not reserved for other images, such as functional ones."""
    intended = metadata.get('IntendedFor')
    if not intended:
        return True
    names = [intended] if isinstance(intended, str) else intended
    inside = dwi.relative_to(root).as_posix()
    return any(inside.endswith(name.rpartition('::')[2].lstrip('/')) for name in names)


def _cosine(metadata: dict[str, Any], other: Path, axis: str, dwi: Path) -> float:
    """Of the angle between the phase encodings of another image and the series; 0 if unknown."""
    other_axis = metadata.get('PhaseEncodingDirection')
    if not other_axis:
        return 0.0
    return float(_world_direction(other, other_axis) @ _world_direction(dwi, axis))


def _world_direction(path: Path, axis: str) -> np.ndarray:
    """Unit vector (RAS+) along which an image is encoded; zero if it cannot be read."""
    try:
        column = nib.load(path).affine[:3, AXES.index(axis[0])]
    except (OSError, nib.filebasedimages.ImageFileError):
        return np.zeros(3)
    return column / np.linalg.norm(column) * (-1 if axis.endswith('-') else 1)
