"""Which series becomes which file of the dataset: decided before anything is converted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bids_flair.dicom.headers import Series
from bids_flair.dicom.recognise import Decision, recognise

DATATYPES = {'T1w': 'anat', 'T2w': 'anat', 'FLAIR': 'anat', 'dwi': 'dwi', 'epi': 'fmap'}
DIRECTIONS = ('AP', 'PA', 'LR', 'RL', 'HF', 'FH', 'SI', 'IS')
# The label is free text in BIDS, and no file of this kind may be without one.
UNKNOWN_DIRECTION = 'reversed'


@dataclass(frozen=True)
class Item:
    """A series, what it is taken for, and where it goes.

    Attributes
    ----------
    stem : str or None
        Path below the dataset, without extension; None for what is not taken.
    """

    series: Series
    decision: Decision
    stem: str | None = None


def plan(
    found: Sequence[Series],
    rules: Sequence[Mapping[str, Any]],
    participant: str,
    session: str | None,
) -> list[Item]:
    """Recognise every series and name the file of each that is taken.

    Of several that are one contrast all are taken, numbered ``run-1``, ``run-2`` in the order of
    their series numbers; those that a scanner derived only where there is no original.
    """
    items = [Item(series, recognise(series.fields, rules)) for series in found]
    items = _without_copies(items)
    items = _without_lone_references(items)
    labels = _labels(items)
    counts: dict[tuple[str, str], int] = {}
    for key in labels.values():
        counts[key] = counts.get(key, 0) + 1
    runs: dict[tuple[str, str], int] = {}
    named = []
    for number, item in enumerate(items):
        if number in labels:
            key = labels[number]
            runs[key] = runs.get(key, 0) + 1
            run = runs[key] if counts[key] > 1 else None
            item = replace(item, stem=_stem(item.decision.kind, participant, session, key[1], run))
        named.append(item)
    return named


def _without_copies(items: Sequence[Item]) -> list[Item]:
    """Leave out what the scanner derived from an original that is there."""
    originals = {i.decision.kind: i.series for i in items if not _is_derived(i.series)}
    return [
        replace(
            item,
            decision=Decision(
                None,
                f'derived by the scanner; {originals[item.decision.kind].title} is an original '
                f'{item.decision.kind}',
            ),
        )
        if item.decision.kind in originals and item.decision.kind and _is_derived(item.series)
        else item
        for item in items
    ]


def _without_lone_references(items: Sequence[Item]) -> list[Item]:
    """A b=0 series corrects the distortion of a diffusion series: without one it is no use."""
    if any(item.decision.kind == 'dwi' for item in items):
        return list(items)
    alone = Decision(None, 'echo-planar with b=0 alone, and no diffusion series to correct')
    return [replace(i, decision=alone) if i.decision.kind == 'epi' else i for i in items]


def _is_derived(series: Series) -> bool:
    return str(series.fields.get('image_type') or '').startswith('DERIVED')


def _labels(items: Sequence[Item]) -> dict[int, tuple[str, str]]:
    """Kind and label of the phase encoding of each item that is taken, by its place."""
    several = sum(DATATYPES.get(item.decision.kind) in ('dwi', 'fmap') for item in items) > 1
    labels = {}
    for number, item in enumerate(items):
        kind = item.decision.kind
        if kind is not None:
            label = _direction(item.series) if several and kind in ('dwi', 'epi') else ''
            labels[number] = kind, label or (UNKNOWN_DIRECTION if kind == 'epi' else '')
    return labels


def _direction(series: Series) -> str:
    """The direction that the description names, if it names just one."""
    words = set(str(series.fields.get('description') or '').upper().split())
    named = [direction for direction in DIRECTIONS if direction in words]
    return named[0] if len(named) == 1 else ''


def _stem(
    kind: str, participant: str, session: str | None, direction: str, run: int | None
) -> str:
    entities = [f'sub-{participant}', f'ses-{session}' if session else '']
    folders = [entity for entity in entities if entity]
    entities += [f'dir-{direction}' if direction else '', f'run-{run}' if run else '', kind]
    name = '_'.join(entity for entity in entities if entity)
    return '/'.join([*folders, DATATYPES[kind], name])
