"""Whether a series is whole, by its headers: every slice of every volume, evenly spaced."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_flair.dicom.headers import Frame, Series
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.gradients import B0_THRESHOLD

SAME_SLICE_MM = 0.05
SPACING_TOLERANCE = 0.1
LATERAL_TOLERANCE_MM = 1.0
# Numbers that begin further up are those of a part of a series, exported on purpose.
SHARE_LOST_AT_THE_START = 0.1


@dataclass(frozen=True)
class Extent:
    """What an image made of a series must look like.

    Attributes
    ----------
    slices, volumes : int
    first, last : Frame or None
        The outermost slices; None for mosaics, whose slices have no position of their own.
    computed : int
        How many of the volumes the scanner computed from others, as Philips adds a trace.
    """

    slices: int
    volumes: int
    first: Frame | None
    last: Frame | None
    computed: int = 0


def check_series(series: Series) -> Extent:
    """Prove that nothing of a series is missing, as far as headers can tell.

    Raises
    ------
    BidsFlairError
        With ExitCode.DATA_UNUSABLE, naming the series and what is missing from it.
    """
    if len(series.frames) != series.announced:
        raise _broken(
            series, f'announces {series.announced} frames and describes {len(series.frames)}'
        )
    if any(frame.position is None or frame.orientation is None for frame in series.frames):
        if series.tiles == 1:
            raise _broken(series, 'does not say where its slices lie')
        _check_numbers(series, series.frames)
        return Extent(series.tiles, len(series.frames), None, None)
    stacks = _stacks(series)
    _check_counts(series, stacks)
    _check_spacing(series, stacks)
    for stack in stacks:
        _check_numbers(series, stack)
    if len(stacks[0]) == 1:
        _check_start(series)
    volumes = len(stacks[0])
    computed = sum(is_computed(frame) for frame in stacks[0])
    return Extent(len(stacks), volumes, stacks[0][0], stacks[-1][0], computed)


def is_computed(frame: Frame) -> bool:
    """Whether the scanner made a weighted slice from others: it has no direction of its own."""
    weighted = frame.bvalue is not None and frame.bvalue >= B0_THRESHOLD
    return frame.isotropic or (
        weighted and frame.direction is not None and not any(frame.direction)
    )


def _stacks(series: Series) -> list[list[Frame]]:
    """Frames by slice, in the order of the slices along their normal."""
    orientations = np.array([frame.orientation for frame in series.frames])
    if np.abs(orientations - orientations[0]).max() > 0.01:
        raise _broken(series, 'has slices in more than one orientation')
    normal = np.cross(orientations[0][:3], orientations[0][3:])
    positions = np.array([frame.position for frame in series.frames])
    _check_line(series, positions, normal)
    along = positions @ normal
    order = np.argsort(along, kind='stable')
    steps = np.diff(along[order]) > SAME_SLICE_MM
    parts = np.split(order, np.flatnonzero(steps) + 1)
    return [[series.frames[i] for i in part] for part in parts]


def _check_line(series: Series, positions: np.ndarray, normal: np.ndarray) -> None:
    across = positions - np.outer(positions @ normal, normal)
    if np.abs(across - across.mean(0)).max() > LATERAL_TOLERANCE_MM:
        raise _broken(series, 'holds slices that do not lie behind one another')


def _check_counts(series: Series, stacks: Sequence[Sequence[Frame]]) -> None:
    counts = np.array([len(stack) for stack in stacks])
    usual = int(np.bincount(counts).argmax())
    wrong = np.flatnonzero(counts != usual)
    if wrong.size:
        slices = ', '.join(f'slice {i + 1} {counts[i]} times' for i in wrong[:5])
        raise _broken(
            series,
            f'has most slices {usual} times, but {slices}: instances are missing or doubled',
        )
    if series.expected and len(stacks) != series.expected:
        raise _broken(
            series, f'has {len(stacks)} slices where the scanner counts {series.expected}'
        )


def _check_spacing(series: Series, stacks: Sequence[Sequence[Frame]]) -> None:
    if len(stacks) < 2:
        raise _broken(series, 'has a single slice')
    orientation = np.array(stacks[0][0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.array([stack[0].position for stack in stacks]) @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    wrong = np.flatnonzero(np.abs(steps - usual) > SPACING_TOLERANCE * usual)
    if wrong.size:
        where = ', '.join(f'{i + 1} and {i + 2} ({steps[i]:.2f} mm)' for i in wrong[:5])
        raise _broken(
            series, f'has slices {usual:.2f} mm apart, but not between {where}: slices are missing'
        )


def _check_numbers(series: Series, frames: Sequence[Frame]) -> None:
    """The volumes of one slice are numbered evenly, in whatever order a scanner counts."""
    numbers = np.unique([frame.number for frame in frames])
    if len(numbers) != len(frames) or len(numbers) < 3:
        return
    steps = np.diff(numbers)
    if steps.max() != steps.min():
        after = numbers[int(np.argmax(steps))]
        raise _broken(series, f'has no volume after instance number {after}: it is missing')


def _check_start(series: Series) -> None:
    numbers = sorted(frame.number for frame in series.frames)
    consecutive = numbers[-1] - numbers[0] == len(numbers) - 1
    few = 1 < numbers[0] <= 1 + SHARE_LOST_AT_THE_START * len(numbers)
    if consecutive and few:
        raise _broken(series, f'begins with instance number {numbers[0]}: the first are missing')


def _broken(series: Series, what: str) -> BidsFlairError:
    folders = ', '.join(sorted({str(path.parent) for path in series.files}))
    return BidsFlairError(
        f'{series.title} in {folders} {what}. Copy the series again from the scanner or the '
        'archive; if you do not need it, take its files out of the folder, or refuse it with a '
        'rule (--dicom-rules)',
        ExitCode.DATA_UNUSABLE,
    )
