"""What a dataset holds for each participant and session: the only place that asks BIDS."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from bids.layout import BIDSLayout, BIDSLayoutIndexer, Query

from bids_flair.bids.acquisition import Acquisition, read_acquisition
from bids_flair.bids.companions import Companions
from bids_flair.bids.derivatives import (
    Derivatives,
    find_prepared,
    is_derivative,
    participants_in,
    read_derivatives,
)
from bids_flair.bids.reuse import reuse
from bids_flair.bids.session import SessionInputs
from bids_flair.descriptor import Contrast, load_descriptor
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.gradients import B0_THRESHOLD, FEWEST_DIRECTIONS
from bids_flair.settings import Settings

# Never looked into: nothing in them is queried, and some hold very many files.
IGNORED_FOLDERS = (
    'code|derivatives|models|sourcedata|stimuli|'
    'func|perf|eeg|ieeg|meg|beh|pet|micr|nirs|motion|mrs'
)
LABELS = re.compile(r'(^|/)sub-(?P<participant>[^/_]+)/(ses-(?P<session>[^/_]+)/)?')
DATABASE = 'layout_index.sqlite'
Files = dict[str, list[Path]]


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


def derivatives_of(settings: Settings) -> list[Derivatives]:
    """Derivative datasets to take from; without raw data, BIDS_DIR where it is one itself.

    Raises
    ------
    BidsFlairError
        If there is none and raw data are not to be used, or one is not a derivative dataset.
    """
    given = settings.derivatives
    if settings.derivatives_only and is_derivative(settings.bids_dir):
        given = (str(settings.bids_dir), *given)
    if settings.derivatives_only and not given:
        raise BidsFlairError(
            f'--derivatives-only: {settings.bids_dir} is no derivative dataset; name those to '
            'take images from with --derivatives',
            ExitCode.INPUT_MISSING,
        )
    return read_derivatives(given)


def selected_participants(settings: Settings, known: list[str]) -> list[str]:
    """Labels that were asked for, or all that are known.

    Raises
    ------
    BidsFlairError
        If one that was asked for is not there (ExitCode.NOTHING_MATCHED), naming those that are.
    """
    unknown = sorted(set(settings.participants) - set(known))
    if unknown:
        raise BidsFlairError(
            f'{_data(settings)} has no participant {", ".join(unknown)}; it has {_listed(known)}',
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
    datasets = derivatives_of(settings)
    if settings.derivatives_only:
        participants = selected_participants(settings, participants_in(datasets))
        raw = [[SessionInputs(label, None, {})] for label in participants]
    else:
        participants = selected_participants(settings, participants_of(settings.bids_dir))
        layout = _index(settings, participants)
        files, companions = _find(layout, settings, participants), Companions(settings.bids_dir)
        raw = [_collect_participant(p, files.get(p, {}), companions) for p in participants]
    found = [_with_prepared(sessions, datasets, settings) for sessions in raw]
    if not any(session.reference for sessions in found for session in sessions):
        what = 'prepared' if settings.derivatives_only else 'T1w, T2w or dwi'
        raise BidsFlairError(
            f'{_data(settings)}: no {what} image matches the selection; look at '
            '--participant-label, --session-label and --bids-filter-file',
            ExitCode.NOTHING_MATCHED,
        )
    return [session for sessions in found for session in sessions]


def _with_prepared(
    sessions: list[SessionInputs], datasets: list[Derivatives], settings: Settings
) -> list[SessionInputs]:
    """A participant's sessions with what other pipelines prepared of them."""
    if not datasets:
        return sessions
    participant = sessions[0].participant
    offer = find_prepared(datasets, participant)
    if settings.derivatives_only:
        labels = [s for s in offer.sessions if not settings.sessions or s in settings.sessions]
        sessions = [SessionInputs(participant, label, {}) for label in labels] or sessions
    shared = settings.derivatives_only or len(sessions) == 1
    return [reuse(session, offer, shared=shared) for session in sessions]


def _data(settings: Settings) -> str:
    """What was looked through, for messages."""
    if settings.derivatives_only:
        return ', '.join(str(dataset.folder) for dataset in derivatives_of(settings))
    return str(settings.bids_dir)


def _index(settings: Settings, participants: list[str]) -> BIDSLayout:
    """Index what was asked for only; a database that is kept holds every participant."""
    ignore = [re.compile(r'/\.'), re.compile(rf'/({IGNORED_FOLDERS})(/|$)')]
    if settings.bids_database_dir is None and settings.participants:
        wanted = '|'.join(map(re.escape, participants))
        ignore.append(re.compile(rf'^/sub-(?!({wanted})(/|$))'))
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
    options = {'validate': False, 'indexer': indexer}
    database = settings.bids_database_dir
    if database is None:
        return BIDSLayout(settings.bids_dir, **options)
    if not (database / DATABASE).exists():
        _make_database(settings.bids_dir, database, options)
    layout = BIDSLayout(settings.bids_dir, database_path=database, **options)
    if Path(layout.root) != settings.bids_dir:
        raise BidsFlairError(
            f'--bids-database-dir {database} holds the database of {layout.root}, not of '
            f'{settings.bids_dir}; name another folder',
            ExitCode.WRONG_ARGUMENTS,
        )
    return layout


def _make_database(bids_dir: Path, database: Path, options: dict[str, Any]) -> None:
    """Make a database elsewhere and move it into place, so that no other job reads a part of it.

    Of several jobs that make it at the same time, each makes the same.
    """
    database.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database, prefix='.making') as folder:
        BIDSLayout(bids_dir, database_path=folder, **options)
        (Path(folder) / DATABASE).replace(database / DATABASE)


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


def _find(
    layout: BIDSLayout, settings: Settings, participants: list[str]
) -> dict[str, dict[str | None, Files]]:
    """Participant to session to contrast (or 'fmap') to files: one question for each contrast.

    Asked for every participant anew, pybids would look through the whole dataset as often as
    there are participants.
    """
    field_maps = {name: _pybids_value(v) for name, v in load_descriptor().field_maps.items()}
    of_whom = {'subject': participants} if settings.participants else {}
    found: dict[str, dict[str | None, Files]] = {}
    for contrast, query in {**_queries(settings), 'fmap': field_maps}.items():
        for file in layout.get('filename', **of_whom, **query):
            folder = LABELS.search(Path(file).relative_to(layout.root).as_posix())
            if folder is None or (
                settings.sessions and folder['session'] not in settings.sessions
            ):
                continue
            sessions = found.setdefault(folder['participant'], {})
            sessions.setdefault(folder['session'], {}).setdefault(contrast, []).append(Path(file))
    return found


def _collect_participant(
    label: str, files: dict[str | None, Files], companions: Companions
) -> list[SessionInputs]:
    sessions = [
        _choose(label, session, files[session], companions)
        for session in sorted(files, key=lambda name: name or '')
    ]
    with_inputs = [session for session in sessions if session.reference]
    return with_inputs or sessions[:1] or [SessionInputs(label, None, {})]


def _choose(
    label: str, session: str | None, files: Files, companions: Companions
) -> SessionInputs:
    images: dict[str, Path] = {}
    passed_over: list[str] = []
    bval = bvec = None
    acquisition = Acquisition()
    field_maps = files.pop('fmap', [])
    all_series = files.get('dwi', [])
    for contrast, paths in files.items():
        if contrast == 'dwi':
            paths, without_directions = _with_directions(companions, paths)
            passed_over += [f'{p}: no six diffusion directions' for p in without_directions]
        ranked = paths
        if len(paths) > 1:
            ranked = sorted(paths, key=lambda path: _rank(companions, contrast, path))
        if ranked:
            images[contrast] = ranked[0]
            passed_over += [f'{p}: {ranked[0].name} is taken' for p in ranked[1:]]
    if 'dwi' in images:
        bval, bvec = (companions.nearest(images['dwi'], kind) for kind in ('.bval', '.bvec'))
        acquisition = read_acquisition(companions, images['dwi'], [*field_maps, *all_series])
    return SessionInputs(label, session, images, bval, bvec, acquisition, tuple(passed_over))


def _with_directions(companions: Companions, paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Part series for a tensor from those of b=0 alone; without a bval one may be either."""
    series, others = [], []
    for path in paths:
        bvals = _bvals(companions, path)
        enough = bvals is None or (bvals > B0_THRESHOLD).sum() >= FEWEST_DIRECTIONS
        (series if enough else others).append(path)
    return series, others


def _rank(companions: Companions, contrast: str, path: Path) -> tuple:
    """Sorting key: complete series with most directions first, finest voxels, then the name."""
    if contrast == 'dwi':
        bvals = _bvals(companions, path)
        directions = 0 if bvals is None else int((bvals > B0_THRESHOLD).sum())
        incomplete = bvals is None or companions.nearest(path, '.bvec') is None
        return incomplete, -directions, path.name
    return (*_edges(path), path.name)


def _edges(path: Path) -> tuple[float, float]:
    """Longest voxel edge and voxel volume, rounded; unreadable files come last."""
    try:
        edges = nib.affines.voxel_sizes(nib.load(path).affine)
    except (OSError, nib.filebasedimages.ImageFileError):
        return np.inf, np.inf
    return round(float(edges.max()), 2), round(float(np.prod(edges)), 2)


def _bvals(companions: Companions, path: Path) -> np.ndarray | None:
    companion = companions.nearest(path, '.bval')
    if companion is None:
        return None
    try:
        return np.loadtxt(companion).ravel()
    except ValueError:
        return None


def _listed(labels: list[str], most: int = 20) -> str:
    more = f' and {len(labels) - most} more' if len(labels) > most else ''
    return ', '.join(labels[:most]) + more


def _not_bids(what: str) -> BidsFlairError:
    return BidsFlairError(
        f'not a BIDS dataset: {what} (see https://bids-specification.readthedocs.io)',
        ExitCode.NOT_BIDS,
    )
