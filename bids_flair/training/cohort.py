"""Who can be trained on: people in a BIDS derivative, what each has, and how they are split."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.models.normalisation import CONTRASTS

LOGGER = logging.getLogger(__name__)
ANATOMICAL = ('T1w', 'T2w', 'FLAIR')
# Of so few, all are needed to train on: nobody is set aside to validate on unasked.
FEWEST_WITH_VALIDATION = 3


@dataclass(frozen=True)
class Case:
    """One session of one participant.

    Attributes
    ----------
    name : str
        'sub-01' or 'sub-01_ses-02'.
    images : mapping of str to Path
        Keys among `CONTRASTS`; all on one grid.
    mask, lesions : Path or None
        Without a mask, the brain is where the FLAIR (or the first image) is not zero.
    """

    name: str
    images: Mapping[str, Path]
    mask: Path | None = None
    lesions: Path | None = None

    @property
    def participant(self) -> str:
        """The label without 'sub-'."""
        return self.name.split('_')[0].removeprefix('sub-')

    @property
    def fingerprint(self) -> str:
        """Changes when any of the files does."""
        files = [*self.images.values(), *filter(None, (self.mask, self.lesions))]
        told = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Split:
    """Whose images a model learns from, is validated on, and is scored on."""

    training: list[Case]
    validation: list[Case]
    holdout: list[Case]


def find_people(data: Path) -> list[Case]:
    """Every session with a preprocessed image in a BIDS derivative, and what it has."""
    cases = []
    for anat in sorted({*data.glob('sub-*/anat'), *data.glob('sub-*/ses-*/anat')}):
        parts = anat.parent.relative_to(data).parts
        name = '_'.join(parts)
        images = {}
        for contrast in CONTRASTS:
            if contrast in ANATOMICAL:
                found = _image(anat, name, f'desc-preproc_{contrast}')
            else:
                ending = f'model-tensor_param-{contrast.lower()}_dwimap'
                found = _image(anat.with_name('dwi'), name, ending)
            if found is not None:
                images[contrast] = found
        if images:
            masks = (_image(anat, name, e) for e in ('desc-brain_mask', 'label-lesion_mask'))
            cases.append(Case(name, images, *masks))
    return cases


def find_cases(data: Path) -> list[Case]:
    """Every session with a FLAIR and another contrast.

    Raises
    ------
    BidsFlairError
        If there is none.
    """
    cases = [case for case in find_people(data) if 'FLAIR' in case.images and len(case.images) > 1]
    if not cases:
        raise BidsFlairError(
            f'{data} holds nobody to train on: *_desc-preproc_FLAIR.nii.gz with other contrasts '
            'on the same grid beside it is what is looked for.',
            ExitCode.INPUT_MISSING,
        )
    return cases


def choose_complete(cases: Sequence[Case], target: str, inputs: Sequence[str]) -> list[Case]:
    """Those that have the target and all of the inputs (or, where none are named, any input).

    Raises
    ------
    BidsFlairError
        If these are fewer than two participants, naming who lacks what; or if a file that is
        needed has no sidecar.
    """
    lacking = {case.name: _lacks(case, target, inputs) for case in cases}
    complete = [case for case in cases if not lacking[case.name]]
    if len({case.participant for case in complete}) < 2:
        wanted = f'{target} and ' + (', '.join(inputs) if inputs else 'another contrast')
        lines = [f'  {name} lacks {", ".join(what)}' for name, what in lacking.items() if what]
        raise BidsFlairError(
            f'Training needs at least two participants with {wanted}; there '
            f'{"is one" if complete else "is none"}.\n'
            + '\n'.join(lines or ['  (nobody found)'])
            + f'\nRun the participant level for participants with an acquired {target} first.',
            ExitCode.INPUT_MISSING,
        )
    for name, what in lacking.items():
        if what:
            LOGGER.warning('%s is left out: it lacks %s', name, ', '.join(what))
    if bare := [f for case in complete for f in case.images.values() if not _sidecar(f).exists()]:
        raise BidsFlairError(
            'Images without a sidecar: ' + ', '.join(map(str, bare)) + '. Write NAME.json beside '
            'each NAME.nii.gz: without it nobody knows how the image was made.',
            ExitCode.INPUT_MISSING,
        )
    return complete


def split_people(
    cases: Sequence[Case], holdout: Iterable[str], validation: Iterable[str], seed: int
) -> Split:
    """Split by participant: all sessions of one go the same way.

    Without labels for ``validation``, one participant is drawn, if three or more are left.

    Raises
    ------
    BidsFlairError
        If a label is nobody's, is asked for twice, or nobody is left to train on.
    """
    known = sorted({case.participant for case in cases})
    aside, validating = set(holdout), set(validation)
    if unknown := sorted((aside | validating) - set(known)):
        raise BidsFlairError(
            f'There is no complete participant {", ".join(unknown)} to hold out or validate on. '
            f'Known: {", ".join(known)}.',
            ExitCode.NOTHING_MATCHED,
        )
    if twice := sorted(aside & validating):
        raise BidsFlairError(
            f'{", ".join(twice)} cannot be held out and be validated on.',
            ExitCode.WRONG_ARGUMENTS,
        )
    rest = [label for label in known if label not in aside | validating]
    if not validating and len(rest) >= FEWEST_WITH_VALIDATION:
        validating = {str(np.random.default_rng(seed).choice(rest))}
        LOGGER.warning('validation participant, drawn at random: %s', *validating)
        rest = [label for label in rest if label not in validating]
    if not rest:
        raise BidsFlairError(
            'Nobody is left to train on: hold out, or validate on, fewer participants.',
            ExitCode.INPUT_MISSING,
        )
    return Split(
        [case for case in cases if case.participant in rest],
        [case for case in cases if case.participant in validating],
        [case for case in cases if case.participant in aside],
    )


def _lacks(case: Case, target: str, inputs: Sequence[str]) -> list[str]:
    lacking = [name for name in (target, *inputs) if name not in case.images]
    if not inputs and set(case.images) <= {target}:
        lacking.append('any other contrast')
    return lacking


def _image(folder: Path, name: str, ending: str) -> Path | None:
    """A participant's file: in the space of the T1w where there are several."""
    for space in ('_space-T1w', ''):
        path = folder / f'{name}{space}_{ending}.nii.gz'
        if path.exists():
            return path
    found = sorted(folder.glob(f'{name}_space-*_{ending}.nii.gz'))
    return found[0] if len(found) == 1 else None


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name.removesuffix('.nii.gz') + '.json')
