"""``data_descriptor.json`` as objects: what is asked of a dataset, and what is written for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DESCRIPTOR_FILE = Path(__file__).with_name('data_descriptor.json')


@dataclass(frozen=True)
class DerivedMap:
    """An image that is fitted to a contrast and that the model sees in its place."""

    name: str
    units: str
    description: str


@dataclass(frozen=True)
class Contrast:
    """One kind of image that is looked for in the raw dataset.

    Parameters
    ----------
    role : str
        'input', or 'target' for what the synthetic image is compared with.
    required : bool
        Whether a participant must have it, or else one of its ``stand_ins``.
    units : str
        Units of the raw image's intensities.
    query : mapping
        pybids entities in the language of ``--bids-filter-file``: ``None`` where the entity must
        be absent, '*' where it may have any value, a list for alternatives.
    stand_ins : tuple of str
        Contrasts that take its place as the reference space, best first.
    companions : tuple of str
        Extensions of the files without which the image cannot be used.
    derived : tuple of DerivedMap
        The maps that the model sees instead of the image; empty if it sees the image itself.
    """

    name: str
    description: str
    role: str
    required: bool
    units: str
    query: Mapping[str, Any]
    stand_ins: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    derived: tuple[DerivedMap, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images that the contrast gives the model."""
        return tuple(image.name for image in self.derived) or (self.name,)


@dataclass(frozen=True)
class Output:
    """One kind of file that is written.

    Parameters
    ----------
    pattern : str
        File name for :func:`bids.layout.writing.build_path`. ``subject``, ``session``, ``space``
        and, for a transform, ``from``, ``to`` and ``datatype`` come from the run.
    entities : mapping
        Entities that are the same for every participant.
    sidecar : mapping
        Keys of the JSON sidecar that are the same for every participant,
        besides ``Description``.
    required_keys : tuple of str
        Keys of the sidecar that the run has to supply.
    """

    name: str
    description: str
    pattern: str
    entities: Mapping[str, str]
    sidecar: Mapping[str, Any]
    required_keys: tuple[str, ...]

    def metadata(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Whole sidecar: the description, the fixed keys and those of this run.

        Raises
        ------
        KeyError
            If ``values`` lacks one of ``required_keys``.
        """
        missing = [key for key in self.required_keys if key not in values]
        if missing:
            raise KeyError(f'the sidecar of {self.name} has to hold {", ".join(missing)}')
        return {'Description': self.description, **self.sidecar, **values}


@dataclass(frozen=True)
class Descriptor:
    """The part of the file that concerns data.

    Parameters
    ----------
    contrasts, outputs : mapping
        By name.
    field_maps : mapping
        Query for images that tell the distortion of a diffusion series: of another phase encoding.
    prepared : mapping
        Image to queries for files of other pipelines that can stand in for it.
    feed : Output
        The synthetic FLAIR among raw data.
    descriptions : mapping
        Meaning of each ``desc-<label>``: the rows of ``descriptions.tsv``.
    bidsignore : tuple of str
        Lines of the ``.bidsignore`` beside the outputs.
    dicom_rules : tuple of mappings
        For :func:`bids_flair.dicom.recognise.recognise`.
    dicom_sidecar_keys : frozenset of str
        All that the sidecar of a converted series may hold: what is not known to be harmless
        stays out.
    """

    contrasts: Mapping[str, Contrast]
    outputs: Mapping[str, Output]
    field_maps: Mapping[str, Any]
    prepared: Mapping[str, tuple[Mapping[str, Any], ...]]
    feed: Output
    descriptions: Mapping[str, str]
    bidsignore: tuple[str, ...]
    dicom_rules: tuple[Mapping[str, Any], ...] = ()
    dicom_sidecar_keys: frozenset[str] = frozenset()

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """Images that a model may see, in the order in which it sees them."""
        inputs = (c for c in self.contrasts.values() if c.role == 'input')
        return tuple(image for contrast in inputs for image in contrast.images)

    @property
    def reference_order(self) -> tuple[str, ...]:
        """Contrasts whose space may be the participant's reference space, best first."""
        (required,) = (c for c in self.contrasts.values() if c.required)
        return (required.name, *required.stand_ins)


@cache
def load_descriptor() -> Descriptor:
    """Read the descriptor that ships with the program."""
    data = json.loads(DESCRIPTOR_FILE.read_text())['custom']['data']
    return Descriptor(
        contrasts={name: _contrast(name, entry) for name, entry in data['contrasts'].items()},
        outputs={name: _output(name, entry) for name, entry in data['outputs'].items()},
        field_maps=data['field_maps']['query'],
        prepared={name: tuple(found) for name, found in data['prepared']['queries'].items()},
        feed=_output('feed', data['feed']),
        descriptions=data['descriptions'],
        bidsignore=tuple(data['bidsignore']),
        dicom_rules=tuple(data['dicom']['rules']),
        dicom_sidecar_keys=frozenset(data['dicom']['sidecar_keys']),
    )


def _contrast(name: str, entry: dict[str, Any]) -> Contrast:
    derived = tuple(DerivedMap(map_name, **map_) for map_name, map_ in entry['derived'].items())
    lists = {key: tuple(entry[key]) for key in ('stand_ins', 'companions')}
    return Contrast(name, **{**entry, **lists, 'derived': derived})


def _output(name: str, entry: dict[str, Any]) -> Output:
    return Output(name, **{**entry, 'required_keys': tuple(entry['required_keys'])})
