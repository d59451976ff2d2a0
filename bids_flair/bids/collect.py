"""What a dataset holds for each participant and session: the only place that asks BIDS."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from bids.layout import BIDSLayout, BIDSLayoutIndexer, Query

from bids_flair.bids.acquisition import Acquisition, read_acquisition
from bids_flair.descriptor import Contrast, load_descriptor
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.gradients import B0_THRESHOLD, FEWEST_DIRECTIONS
from bids_flair.settings import Settings

# Never looked into: nothing in them is queried, and some hold very many files.
IGNORED_FOLDERS = (
    'code|derivatives|models|sourcedata|stimuli|'
    'func|perf|eeg|ieeg|meg|beh|pet|micr|nirs|motion|mrs'
)


@dataclass(frozen=True)
class SessionInputs:
    """The images of one participant in one session (or of one without sessions).

    Attributes
    ----------
    images : dict
        Contrast ('T1w', 'T2w', 'dwi', 'FLAIR') to the one file that is taken.
    bval, bvec : path or None
        Of the diffusion series.
    acquisition : Acquisition
        How the diffusion series was encoded.
    passed_over : tuple of str
        What else was found, and why it is not taken.
    """

    participant: str
    session: str | None
    images: Mapping[str, Path]
    bval: Path | None = None
    bvec: Path | None = None
    acquisition: Acquisition = field(default=Acquisition())
    passed_over: tuple[str, ...] = field(default=())

    @property
    def label(self) -> str:
        """As in file names: ``sub-01`` or ``sub-01_ses-02``."""
        session = f'_ses-{self.session}' if self.session else ''
        return f'sub-{self.participant}{session}'

    @property
    def missing_companions(self) -> tuple[str, ...]:
        """Which of 'bval' and 'bvec' the diffusion series lacks."""
        if 'dwi' not in self.images:
            return ()
        return tuple(kind for kind in ('bval', 'bvec') if getattr(self, kind) is None)

    @property
    def reference(self) -> str | None:
        """The contrast whose space everything is brought to; None if no input is there."""
        return next((c for c in load_descriptor().reference_order if c in self.images), None)


def check_dataset(bids_dir: Path) -> None:
    """Refuse a folder that is not the root of a BIDS dataset.

    Raises
    ------
    BidsFlairError
        With ExitCode.NOT_BIDS.
    """
    description = bids_dir / 'dataset_description.json'
    if not description.is_file():
        raise _not_bids(f'{description} is missing; give the root folder of the dataset')
    try:
        content = json.loads(description.read_text(encoding='utf-8-sig'))
    except ValueError as error:
        raise _not_bids(f'{description} is not JSON ({error}); correct it') from error
    missing = [key for key in ('Name', 'BIDSVersion') if key not in content]
    if missing:
        raise _not_bids(f'{description} lacks {" and ".join(missing)}; add it')
    if not participants_of(bids_dir):
        raise _not_bids(f'{bids_dir} holds no folder sub-<label>')


def participants_of(bids_dir: Path) -> list[str]:
    """Labels of the participants that have a folder, sorted."""
    return sorted(p.name.removeprefix('sub-') for p in bids_dir.glob('sub-*') if p.is_dir())


def selected_participants(settings: Settings) -> list[str]:
    """Labels that were asked for, or all.

    Raises
    ------
    BidsFlairError
        If one that was asked for is not there (ExitCode.NOTHING_MATCHED), naming those that are.
    """
    known = participants_of(settings.bids_dir)
    unknown = sorted(set(settings.participants) - set(known))
    if unknown:
        raise BidsFlairError(
            f'{settings.bids_dir} has no participant {", ".join(unknown)}; '
            f'it has {_listed(known)}',
            ExitCode.NOTHING_MATCHED,
        )
    return list(settings.participants) or known


def collect(settings: Settings) -> list[SessionInputs]:
    """Find every participant's images.

    A session without any input is left out if the participant has another one with inputs;
    a participant without any keeps one entry without images, so that it can be named.

    Raises
    ------
    BidsFlairError
        If a label is unknown, or the filters leave nothing at all.
    """
    participants = selected_participants(settings)
    layout = _index(settings, participants)
    queries = _queries(settings)
    found = [_collect_participant(layout, queries, label, settings) for label in participants]
    if not any(session.reference for sessions in found for session in sessions):
        raise BidsFlairError(
            f'{settings.bids_dir}: no T1w, T2w or dwi image matches the selection; look at '
            '--participant-label, --session-label and --bids-filter-file',
            ExitCode.NOTHING_MATCHED,
        )
    return [session for sessions in found for session in sessions]


def _index(settings: Settings, participants: list[str]) -> BIDSLayout:
    """Index what was asked for only; a database that is kept holds every participant."""
    ignore = [re.compile(r'/\.'), re.compile(rf'/({IGNORED_FOLDERS})(/|$)')]
    if settings.bids_database_dir is None and settings.participants:
        wanted = '|'.join(map(re.escape, participants))
        ignore.append(re.compile(rf'^/sub-(?!({wanted})(/|$))'))
    return BIDSLayout(
        settings.bids_dir,
        validate=False,
        database_path=settings.bids_database_dir,
        indexer=BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore),
    )


def _queries(settings: Settings) -> dict[str, dict[str, Any]]:
    contrasts: Mapping[str, Contrast] = load_descriptor().contrasts
    return {
        name: {
            entity: _pybids_value(value)
            for entity, value in {
                **contrast.query,
                **settings.bids_filters.get(name, {}),
            }.items()
        }
        for name, contrast in contrasts.items()
    }


def _pybids_value(value: Any) -> Any:
    if value is None:
        return Query.NONE
    return Query.ANY if value == '*' else value


def _collect_participant(layout, queries, label: str, settings: Settings) -> list[SessionInputs]:
    files: dict[str | None, dict[str, list[Path]]] = {}
    for contrast, query in queries.items():
        for found in layout.get(subject=label, **query):
            session = found.entities.get('session')
            if settings.sessions and session not in settings.sessions:
                continue
            files.setdefault(session, {}).setdefault(contrast, []).append(Path(found.path))
    sessions = [
        _choose(layout, label, session, files[session])
        for session in sorted(files, key=lambda name: name or '')
    ]
    with_inputs = [session for session in sessions if session.reference]
    return with_inputs or sessions[:1] or [SessionInputs(label, None, {})]


def _choose(layout, label: str, session: str | None, files) -> SessionInputs:
    images: dict[str, Path] = {}
    passed_over: list[str] = []
    bval = bvec = None
    acquisition = Acquisition()
    all_series = files.get('dwi', [])
    for contrast, paths in files.items():
        if contrast == 'dwi':
            paths, without_directions = _with_directions(layout, paths)
            passed_over += [f'{p}: no six diffusion directions' for p in without_directions]
        ranked = sorted(paths, key=lambda path: _rank(layout, contrast, path))
        if ranked:
            images[contrast] = ranked[0]
            passed_over += [f'{p}: {ranked[0].name} is taken' for p in ranked[1:]]
    if 'dwi' in images:
        bval, bvec = (_companion(layout, images['dwi'], kind) for kind in ('bval', 'bvec'))
        others = [*_field_maps(layout, label, session), *all_series]
        acquisition = read_acquisition(layout, images['dwi'], others)
    return SessionInputs(label, session, images, bval, bvec, acquisition, tuple(passed_over))


def _field_maps(layout, label: str, session: str | None) -> list[Path]:
    """Spin-echo images that may tell the distortion of a series."""
    entities = {
        entity: _pybids_value(value) for entity, value in load_descriptor().field_maps.items()
    }
    found = layout.get(subject=label, session=session or Query.NONE, **entities)
    return [Path(file.path) for file in found]


def _with_directions(layout, paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Part series for a tensor from those of b=0 alone; without a bval one may be either."""
    series, others = [], []
    for path in paths:
        bvals = _bvals(layout, path)
        enough = bvals is None or (bvals > B0_THRESHOLD).sum() >= FEWEST_DIRECTIONS
        (series if enough else others).append(path)
    return series, others


def _rank(layout, contrast: str, path: Path) -> tuple:
    """Sorting key: complete series with most directions first, finest voxels, then the name."""
    if contrast == 'dwi':
        bvals = _bvals(layout, path)
        directions = 0 if bvals is None else int((bvals > B0_THRESHOLD).sum())
        incomplete = bvals is None or _companion(layout, path, 'bvec') is None
        return incomplete, -directions, path.name
    return (*_edges(path), path.name)


def _edges(path: Path) -> tuple[float, float]:
    """Longest voxel edge and voxel volume, rounded; unreadable files come last."""
    try:
        edges = nib.affines.voxel_sizes(nib.load(path).affine)
    except (OSError, nib.filebasedimages.ImageFileError):
        return np.inf, np.inf
    return round(float(edges.max()), 2), round(float(np.prod(edges)), 2)


def _bvals(layout, path: Path) -> np.ndarray | None:
    companion = _companion(layout, path, 'bval')
    if companion is None:
        return None
    try:
        return np.loadtxt(companion).ravel()
    except ValueError:
        return None


def _companion(layout, path: Path, kind: str) -> Path | None:
    """The bval or bvec that BIDS' inheritance gives a series."""
    found = layout.get_nearest(path, extension=f'.{kind}', suffix='dwi')
    return Path(found) if found else None


def _listed(labels: list[str], most: int = 20) -> str:
    more = f' and {len(labels) - most} more' if len(labels) > most else ''
    return ', '.join(labels[:most]) + more


def _not_bids(what: str) -> BidsFlairError:
    return BidsFlairError(
        f'not a BIDS dataset: {what} (see https://bids-specification.readthedocs.io)',
        ExitCode.NOT_BIDS,
    )
