"""What other pipelines have prepared of a session: found by name in their derivative datasets."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids.layout import Config, parse_file_entities

from bids_flair.descriptor import load_descriptor
from bids_flair.errors import BidsFlairError, ExitCode

# Their T1w, and all that lies in its space, is turned to the commissures; before version 1.0 they
# called that space T1w.
TURNED, TURNED_BY = 'ACPC', ('qsiprep', 'qsirecon')
# Names for the T1w as acquired.
NATIVE = ('T1w', 'anat')
TRANSFORM = re.compile(r'_from-(?P<source>\w+?)_to-(?P<target>\w+?)_mode-image_xfm\.(txt|mat)$')
ENTITIES = [
    'bids',
    'derivatives',
    Config('bids_flair', entities=[{'name': 'param', 'pattern': r'param-([a-zA-Z0-9+]+)'}]),
]


@dataclass(frozen=True)
class Derivatives:
    """A derivative dataset: the name it goes by here, and its folder."""

    name: str
    folder: Path

    @property
    def turns(self) -> bool:
        """Whether its images lie in a space that is turned to the commissures."""
        return self.name.lower().startswith(TURNED_BY)


@dataclass(frozen=True)
class Prepared:
    """An image as another pipeline left it.

    Attributes
    ----------
    image : str
        'T1w', 'T2w', 'FLAIR', 'mask', 'dwi', 'MD', 'FA' or 'S0'.
    space : str
        Label of the space it lies in; 'T1w' is that of the T1w as acquired.
    session : str or None
        None for what holds for all sessions.
    """

    image: str
    path: Path
    source: Derivatives
    space: str
    session: str | None = None

    @property
    def uri(self) -> str:
        """BIDS URI, resolved by the ``DatasetLinks`` of the output."""
        return f'bids:{self.source.name}:{self.path.relative_to(self.source.folder).as_posix()}'


@dataclass(frozen=True)
class Transform:
    """A transform file: from the points of one space to those of another."""

    path: Path
    source: str
    target: str
    session: str | None = None


@dataclass(frozen=True)
class Offer:
    """All that derivative datasets hold of one participant, in the order of the datasets."""

    images: tuple[Prepared, ...] = ()
    transforms: tuple[Transform, ...] = ()

    @property
    def sessions(self) -> list[str | None]:
        """Sessions that something was prepared of; None where nothing is of a single one."""
        labels = {found.session for found in self.images}
        return sorted(labels - {None}) or ([None] if labels else [])

    def of(self, image: str, session: str | None, *, shared: bool) -> list[Prepared]:
        """What there is of an image in a session, its own first; `shared`: of all sessions too."""
        found = [one for one in self.images if one.image == image]
        own = [one for one in found if one.session == session]
        return own + [one for one in found if shared and one.session is None and one not in own]

    def position(self, space: str, session: str | None) -> Path | None:
        """Transform that resamples an image of `space` onto the T1w as acquired.

        In ITK's direction that file takes points of the T1w to points of `space`.
        """
        for own in (True, False):
            for one in self.transforms:
                fits = one.source == space and one.target in NATIVE
                if fits and (one.session == session if own else one.session is None):
                    return one.path
        return None


def read_derivatives(given: Iterable[str]) -> list[Derivatives]:
    """Datasets from the ``[NAME=]PATH`` of ``--derivatives``, and those nested in them.

    Raises
    ------
    BidsFlairError
        If a folder is not a derivative dataset (ExitCode.NOT_BIDS).
    """
    found: dict[str, Derivatives] = {}
    for text in given:
        name, _, path = text.rpartition('=')
        for dataset in _datasets_in(Path(path), name):
            label, number = dataset.name, 2
            while dataset.name in found:
                dataset = Derivatives(f'{label}{number}', dataset.folder)
                number += 1
            found[dataset.name] = dataset
    return list(found.values())


def is_derivative(folder: Path) -> bool:
    """Whether a folder is the root of a derivative dataset."""
    return _description(folder).get('DatasetType') == 'derivative'


def participants_in(datasets: Sequence[Derivatives]) -> list[str]:
    """Labels of all who have a folder in any of the datasets, sorted."""
    folders = (path for dataset in datasets for path in dataset.folder.glob('sub-*'))
    return sorted({path.name.removeprefix('sub-') for path in folders if path.is_dir()})


def find_prepared(datasets: Sequence[Derivatives], participant: str) -> Offer:
    """Everything of one participant that could stand in for a step of the preprocessing."""
    images, transforms = [], []
    for dataset in datasets:
        for path in _files(dataset.folder / f'sub-{participant}'):
            if match := TRANSFORM.search(path.name):
                session = _entities(path).get('session')
                transforms.append(Transform(path, match['source'], match['target'], session))
            elif path.name.endswith(('.nii', '.nii.gz')):
                images += _images(path, dataset)
    return Offer(tuple(images), tuple(transforms))


def _datasets_in(folder: Path, name: str) -> Iterator[Derivatives]:
    """A dataset, and what it holds in ``derivatives/`` as QSIRecon keeps its results."""
    if not is_derivative(folder):
        raise BidsFlairError(
            f'--derivatives {folder} is not a derivative dataset: its dataset_description.json is '
            'missing or lacks "DatasetType": "derivative". Give the folder in which the sub-* '
            'folders of fMRIPrep, sMRIPrep, QSIPrep or QSIRecon lie.',
            ExitCode.NOT_BIDS,
        )
    generator = _generator(folder)
    yield Derivatives(_label(name or generator or folder.name), folder)
    for nested in sorted(folder.glob('derivatives/*/dataset_description.json')):
        if is_derivative(nested.parent):
            yield Derivatives(_label(nested.parent.name), nested.parent)


def _description(folder: Path) -> Mapping[str, Any]:
    try:
        return json.loads((folder / 'dataset_description.json').read_text(encoding='utf-8-sig'))
    except (OSError, ValueError):
        return {}


def _generator(folder: Path) -> str:
    generated_by = _description(folder).get('GeneratedBy') or [{}]
    return generated_by[0].get('Name', '')


def _label(name: str) -> str:
    """A name that can stand in a BIDS URI."""
    return re.sub(r'[^A-Za-z0-9-]+', '-', name).strip('-').lower() or 'derivatives'


def _files(folder: Path) -> list[Path]:
    kinds = ('anat', 'dwi')
    patterns = [f'{session}{kind}/*' for session in ('', 'ses-*/') for kind in kinds]
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _entities(path: Path) -> dict[str, Any]:
    return parse_file_entities(str(path), config=ENTITIES)


def _images(path: Path, dataset: Derivatives) -> Iterator[Prepared]:
    entities = _entities(path)
    for image, queries in load_descriptor().prepared.items():
        if any(_matches(entities, query) for query in queries):
            space = _space(image, entities, dataset)
            yield Prepared(image, path, dataset, space, entities.get('session'))


def _space(image: str, entities: Mapping[str, Any], dataset: Derivatives) -> str:
    """Where nothing is said, a T2w or FLAIR lies where it was acquired, all else on the T1w."""
    native = image if image in ('T2w', 'FLAIR') else 'T1w'
    space = entities.get('space', native)
    return TURNED if dataset.turns and space in ('T1w', 'T2w') else space


def _matches(entities: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether a file has the entities of a query: null: absent, a list: one of these."""
    return all(
        entities.get(name) in (wanted if isinstance(wanted, list) else [wanted])
        for name, wanted in query.items()
    )
