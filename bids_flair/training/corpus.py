"""People to train on, normalised once and kept on disk as half-precision volumes."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import (
    binary_dilation,
    distance_transform_edt,
    find_objects,
    label,
)

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.models.blocks import cut_box
from bids_flair.models.inference import Grid, check_grids
from bids_flair.models.normalisation import CONTRASTS, normalise
from bids_flair.models.placement import into_place
from bids_flair.training.cohort import Case

LOGGER = logging.getLogger(__name__)
RIM_MM = 4
ORDINARY, BORDER, LESION, BRIGHT = KINDS = 0, 1, 2, 3
FLUID_T2W, FLUID_FLAIR = 2.0, 0.6
# Brighter in FLAIR, deeper than the cortex and no speck: a lesion, where nobody drew them.
BRIGHT_FLAIR, BRIGHT_DEPTH, BRIGHT_VOXELS = 1.35, 4, 20
PLACES = 20000
SAMPLE = 4000
OTHER_PROTOCOL = 0.15
Curve = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Cut:
    """A cube out of a person.

    Attributes
    ----------
    values, presence : ndarray of float32 and bool, shape (6, X, Y, Z)
    depth, kind : ndarray, shape (X, Y, Z)
    sample : ndarray of float32, shape (n, 6)
        The same contrasts in voxels from all over the head.
    sample_depth : ndarray of float32, shape (n,)
    """

    values: np.ndarray
    presence: np.ndarray
    depth: np.ndarray
    kind: np.ndarray
    sample: np.ndarray
    sample_depth: np.ndarray

    @cached_property
    def brain(self) -> np.ndarray:
        """Flat indices of the voxels of the brain."""
        return np.flatnonzero(self.depth > 0)


@dataclass(frozen=True, eq=False)
class Person:
    """One person as training reads it.

    The volumes stay on disk and are mapped anew whenever one is asked for: a cohort takes neither
    memory nor open files.

    Attributes
    ----------
    folder : Path
        As `write_person` wrote it.
    sample : ndarray of float32, shape (n, 6 + 1)
        Values and depth of voxels from all over the brain.
    places : dict
        Per kind, positions (n, 3) of such voxels in the brain.
    """

    name: str
    folder: Path
    sample: np.ndarray = field(repr=False)
    places: dict[int, np.ndarray] = field(repr=False)

    @property
    def values(self) -> np.ndarray:
        """`CONTRASTS`, normalised; RAS, 1 mm: float16, shape (6, X, Y, Z)."""
        return _mapped(self.folder / 'values.npy')

    @property
    def presence(self) -> np.ndarray:
        """Where each was acquired: bool, shape (6, X, Y, Z)."""
        return _mapped(self.folder / 'presence.npy')

    @property
    def depth(self) -> np.ndarray:
        """Distance from the surface of the brain in mm, negative outside, at most 8: int8."""
        return _mapped(self.folder / 'depth.npy')

    @property
    def kind(self) -> np.ndarray:
        """``ORDINARY``, ``BORDER`` of fluid, ``LESION`` or, where none are marked, ``BRIGHT``."""
        return _mapped(self.folder / 'kind.npy')

    @property
    def brain(self) -> np.ndarray:
        """Flat indices of the voxels of the brain: int32, shape (n,)."""
        return _mapped(self.folder / 'brain.npy')

    def draw_sample(
        self, rng: np.random.Generator, *, foreign: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sample as `cut` changes it, and its depth."""
        sample = self.sample[:, :-1].copy()
        for i, curve in self._draw_transfer(rng, foreign=foreign).items():
            sample[:, i] = curve(sample[:, i])
        return sample, self.sample[:, -1]

    def _draw_transfer(self, rng: np.random.Generator, *, foreign: bool) -> dict[int, Curve]:
        """How another protocol would have shown T1w and T2w; mostly not at all."""
        if rng.random() > OTHER_PROTOCOL or not foreign:
            return {}
        t1w, t2w = self.sample[:, 0], self.sample[:, 1]
        return {
            0: t1w_curve(rng, float(np.percentile(t1w, 2))),
            1: t2w_curve(rng, float(np.percentile(t2w, 98))),
        }

    def whole(self) -> Cut:
        """The whole person, as acquired."""
        return Cut(
            np.asarray(self.values, np.float32),
            np.asarray(self.presence),
            np.asarray(self.depth),
            np.asarray(self.kind),
            self.sample[:, :-1],
            self.sample[:, -1],
        )

    def cut(
        self, rng: np.random.Generator, corner: np.ndarray, size: int, *, foreign: bool = True
    ) -> Cut:
        """A cube, if ``foreign`` now and then as another protocol would have shown it."""
        shape = (size, size, size)
        values = cut_box(self.values, corner, shape).astype(np.float32)
        presence = cut_box(self.presence, corner, shape)
        transfer = self._draw_transfer(rng, foreign=foreign)
        sample = self.sample[:, :-1].copy()
        for i, curve in transfer.items():
            values[i], sample[:, i] = curve(values[i]), curve(sample[:, i])
        return Cut(
            values * presence,
            presence,
            cut_box(self.depth, corner, shape, -8),
            cut_box(self.kind, corner, shape),
            sample,
            self.sample[:, -1],
        )


def prepare_case(case: Case, cache: Path) -> Path:
    """Normalise a real person, at 1 mm, into ``cache`` (made already from the same files: left).

    Raises
    ------
    BidsFlairError
        If the person's images are not on one grid.
    """
    folder = cache / f'{case.name}-{case.fingerprint}'
    if folder.exists():
        return folder
    files = {name: nib.load(path) for name, path in case.images.items()}
    brain_of = files.get('FLAIR', next(iter(files.values())))
    mask = _nonzero(brain_of) if case.mask is None else nib.load(case.mask)
    try:
        reference = check_grids(files, mask)
    except ValueError as error:
        raise BidsFlairError(f'{case.name}: {error}', ExitCode.DATA_UNUSABLE) from error
    grid = Grid.around(reference, mask)
    images = {name: grid.inputs_1mm(image) for name, image in files.items()}
    brain = grid.brain_1mm()
    images, misplaced = into_place(images, brain)
    for text in misplaced:
        LOGGER.warning('%s: %s', case.name, text)
    lesions = np.zeros_like(brain)
    if case.lesions is not None:
        lesions = grid.inputs_1mm(nib.load(case.lesions)) > 0.5
    write_person(folder, images, brain, lesions)
    return folder


def write_person(
    folder: Path,
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    lesions: np.ndarray,
) -> None:
    """Normalise and write one person's volumes, cut to the brain and what is around it."""
    box = box_around(brain, RIM_MM)
    images = {name: image[box] for name, image in images.items()}
    brain, lesions = brain[box], lesions[box] & brain[box]
    depth = depth_of(brain)
    normalised = normalise(images, brain)
    values, presence = normalised.values, normalised.presence
    kind = _kinds(values, depth, lesions)
    rng = np.random.default_rng(0)
    places = {
        f'places{k}': some_places(rng, np.argwhere((kind == k) & brain), PLACES) for k in KINDS
    }
    where = tuple(some_places(rng, np.argwhere(brain), SAMPLE).T)
    sample = np.concatenate([values[:, *where], depth[None, *where]]).T.astype(np.float32)
    arrays = {'values': values.astype(np.float16), 'presence': presence, 'depth': depth}
    arrays |= {'kind': kind, 'sample': sample, 'brain': np.flatnonzero(brain).astype(np.int32)}
    write_arrays(folder, arrays | places)


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a folder of arrays, whole or not at all; the first of several writers wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as scratch:
        part = Path(scratch) / 'part'
        part.mkdir()
        for name, array in arrays.items():
            np.save(part / f'{name}.npy', array)
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def open_case(case: Case, cache: Path) -> Person:
    """Prepare a real person if need be, and open what was prepared."""
    return read_person(prepare_case(case, cache), case.name)


def read_person(folder: Path, name: str = '') -> Person:
    """Open one person's volumes without reading them; the folder's name is the default one."""
    places = {k: np.load(folder / f'places{k}.npy') for k in KINDS}
    return Person(name or folder.name, folder, np.load(folder / 'sample.npy'), places)


def share_samples(people: Sequence[Person]) -> list[Person]:
    """Give all people of one scanner the voxels of all, from which a protocol is told.

    Otherwise what differs between two people, such as how much fluid there is, passes for a
    difference between protocols. Only people with the same contrasts are put together.
    """
    has = [tuple(person.sample.any(0)) for person in people]
    pooled = {
        contrasts: np.concatenate(
            [person.sample for person, own in zip(people, has, strict=True) if own == contrasts]
        )
        for contrasts in set(has)
    }
    rng = np.random.default_rng(0)
    drawn = {key: rng.permutation(sample)[:SAMPLE] for key, sample in pooled.items()}
    return [replace(person, sample=drawn[own]) for person, own in zip(people, has, strict=True)]


def evenness(person: Person) -> float:
    """How far a person varies from voxel to voxel along the least sharp axis of any contrast.

    A share of what it is along that contrast's sharpest axis: .7 to .9 in images of 1 mm, about .5
    in slices of 3 mm.
    """
    found, brain = [], person.depth > RIM_MM // 2
    for value, presence in zip(person.values, person.presence, strict=True):
        steps = []
        for axis in range(3):
            along = np.moveaxis(value.astype(np.float32), axis, 0)
            inside = np.moveaxis(presence & brain, axis, 0)
            both = inside[1:] & inside[:-1]
            steps.append(np.abs(np.diff(along, axis=0))[both].mean() if both.any() else 0.0)
        if min(steps) > 0:
            found.append(min(steps) / max(steps))
    return min(found, default=1.0)


def hash_person(person: Person) -> str:
    """Of a person's normalised volumes: what was trained on, to the bit."""
    return hashlib.sha256(np.ascontiguousarray(person.values).tobytes()).hexdigest()[:16]


def describe(data: Iterable[Path]) -> list[dict[str, str]]:
    """Name, licence and references of datasets, for a model's card."""
    found = []
    for folder in data:
        description = json.loads((folder / 'dataset_description.json').read_text())
        keys = ('Name', 'License', 'HowToAcknowledge')
        found.append({key: description[key] for key in keys if key in description})
    return found


def t1w_curve(rng: np.random.Generator, fluid: float) -> Curve:
    """Monotone change of a T1w's contrast: white matter stays 1, fluid and cortex move."""
    new_fluid, bend = rng.uniform(0.1, 0.7), rng.uniform(-0.5, 0.5)

    def curve(value: np.ndarray) -> np.ndarray:
        below = np.clip((1 - value) / max(1 - fluid, 0.1), 0, 1.5)
        shown = 1 - (1 - new_fluid) * below * (1 + bend * (1 - below))
        return np.where(value < 1, np.maximum(shown, 0), value)

    return curve


def t2w_curve(rng: np.random.Generator, fluid: float) -> Curve:
    """Monotone change of a T2w's contrast: white matter stays 1, fluid and cortex move."""
    new_fluid, bend = rng.uniform(2.2, 6.0), rng.uniform(-0.5, 0.5)

    def curve(value: np.ndarray) -> np.ndarray:
        above = np.clip((value - 1) / max(fluid - 1, 0.5), 0, 1.5)
        return np.where(value > 1, 1 + (new_fluid - 1) * above * (1 + bend * (1 - above)), value)

    return curve


def _kinds(values: np.ndarray, depth: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Fluid is dark in FLAIR and bright in T2w; its border is two voxels to either side."""
    brain, flair = depth > 0, values[CONTRASTS.index('FLAIR')]
    t2w = values[CONTRASTS.index('T2w')]
    fluid = brain & (flair.any() | t2w.any())
    if flair.any():
        fluid &= flair < FLUID_FLAIR
    if t2w.any():
        fluid &= t2w > FLUID_T2W
    border = binary_dilation(fluid, iterations=2) & binary_dilation(brain & ~fluid, iterations=2)
    kind = np.full(brain.shape, ORDINARY, np.uint8)
    kind[border & brain] = BORDER
    if lesions.any():
        kind[lesions] = LESION
    else:
        bright, count = label((flair > BRIGHT_FLAIR) & (depth > BRIGHT_DEPTH))
        large = np.bincount(bright.ravel(), minlength=count + 1) >= BRIGHT_VOXELS
        large[0] = False
        kind[large[bright]] = BRIGHT
    return kind


def depth_of(brain: np.ndarray) -> np.ndarray:
    """Distance from the surface of the brain in mm, negative outside; int8, at most 8."""
    inside = distance_transform_edt(brain)
    outside = distance_transform_edt(~brain)
    return np.clip(inside - outside, -8, 8).astype(np.int8)


def box_around(brain: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The brain's box and so many voxels more."""
    tight = find_objects(brain.astype(np.uint8))[0]
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in tight)


def some_places(rng: np.random.Generator, places: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the positions (n, 3), drawn without replacement."""
    count = min(most, len(places))
    return rng.choice(places, count, replace=False).astype(np.int16)


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode='r')


def _nonzero(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image((np.asarray(image.dataobj) != 0).astype(np.uint8), image.affine)
