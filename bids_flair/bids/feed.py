"""A raw dataset once more, with a synthetic FLAIR in every session that lacks one.

For tools that read raw data only. Everything acquired is a symbolic link to the original; the
synthetic images, their sidecars and the description of the dataset are files.
"""

import gzip
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import nibabel as nib
import numpy as np
from bids.layout.writing import build_path

from bids_flair import __version__
from bids_flair.bids.collect import derivatives_of, participants_of
from bids_flair.bids.dataset import check_writable, read_description, source_dataset
from bids_flair.bids.files import write_atomically
from bids_flair.bids.names import RAW, output_path, source_uris
from bids_flair.bids.session import SessionInputs
from bids_flair.descriptor import load_descriptor
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.logs import NOTICE
from bids_flair.settings import Settings

LOGGER = logging.getLogger('bids_flair')
# What tells this program's views from other datasets.
MARK = 'view of a raw dataset, with a synthetic FLAIR where none was acquired'
LINK_NAME = 'bids_flair'
LINKED_FOLDERS = ('phenotype', 'stimuli')
IMAGE, SIDECAR = ('_FLAIR.nii', '_FLAIR.nii.gz'), '_FLAIR.json'
SYNTHETIC = ('_rec-synth_FLAIR.nii.gz', '_rec-synth_FLAIR.json')
# Tools made for acquired images may round to integers: in units of white matter all would be 1.
STEPS_PER_WHITE_MATTER = 1000
COPIED_KEYS = (
    'SynthesisInputs',
    'SynthesisModel',
    'OutOfDistributionScore',
    'MedianUncertainty',
    'Warnings',
)


def prepare_feed(sessions: Sequence[SessionInputs], settings: Settings) -> None:
    """Refuse a folder that holds something else, say what is planned and, unless dry, begin.

    Raises
    ------
    BidsFlairError
        If the folder is not empty and no view of this dataset, or cannot be written to
        (ExitCode.CANNOT_WRITE).
    """
    _refuse_foreign(settings)
    if settings.dry_run:
        planned = [inputs for inputs in sessions if inputs.reference]
        LOGGER.log(NOTICE, 'would feed %s', _summary(planned, [], settings))
        return
    check_writable(settings.feed, 'feed directory')
    # At once, so that of many jobs that begin together none takes it for somebody else's.
    _write_description(settings)


def refuse_view(bids_dir: Path) -> None:
    """Refuse a view as the input: its synthetic images would be taken for acquired ones.

    Raises
    ------
    BidsFlairError
        With ExitCode.WRONG_ARGUMENTS.
    """
    if source := _source_of(bids_dir):
        raise BidsFlairError(
            f'{bids_dir} was made by --feed: give the dataset that it shows, {source}',
            ExitCode.WRONG_ARGUMENTS,
        )


def feed(
    done: Sequence[SessionInputs], failed: Sequence[SessionInputs], settings: Settings
) -> None:
    """Bring the view up to date for the participants of this run.

    Several jobs may do so in one folder at a time. Nothing is removed but links into the raw
    dataset and synthetic images.

    Parameters
    ----------
    done, failed : sequence of SessionInputs
        Sessions that have a synthetic FLAIR among the derivatives, and those without.

    Raises
    ------
    BidsFlairError
        If it cannot be written (ExitCode.CANNOT_WRITE).
    """
    try:
        _write_description(settings)
        view = _View(settings)
        view.update('', dataset_links(settings.bids_dir))
        for participant in dict.fromkeys(inputs.participant for inputs in (*done, *failed)):
            lacking = {inputs.label for inputs in failed}
            view.update(f'sub-{participant}', *_wanted(settings.bids_dir, participant, lacking))
        for participant in set(participants_of(view.root)) - set(
            participants_of(settings.bids_dir)
        ):
            view.update(f'sub-{participant}', {})
        for inputs in done:
            if not acquired_flairs(settings.bids_dir, inputs.participant, inputs.session):
                _write_synthetic(inputs, settings)
    except OSError as error:
        raise BidsFlairError(
            f'the feed directory {settings.feed} cannot be brought up to date ({error}); run the '
            'same command again once that is mended',
            ExitCode.CANNOT_WRITE,
        ) from error
    LOGGER.log(NOTICE, 'fed %s', _summary(done, failed, settings))


def acquired_flairs(bids_dir: Path, participant: str, session: str | None) -> list[Path]:
    """Every image of a session with the suffix FLAIR, whatever else its name says."""
    return [
        path
        for path in _session_files(bids_dir, participant, session)
        if path.name.endswith(IMAGE)
    ]


def dataset_links(bids_dir: Path) -> dict[Path, Path]:
    """What is linked for the dataset as a whole: path in the view to the original.

    The description is not, which is another, nor are sidecars for FLAIRs in general: by BIDS'
    inheritance a synthetic image would have been acquired with what they say.
    """
    files = [
        path
        for path in sorted(bids_dir.iterdir())
        if not path.is_dir()
        if not path.name.startswith('.') or path.name == '.bidsignore'
        if path.name != 'dataset_description.json' and not _is_sidecar(path)
    ]
    for folder in LINKED_FOLDERS:
        files += _files_below(bids_dir / folder)
    return {path.relative_to(bids_dir): path for path in files}


def participant_links(bids_dir: Path, participant: str) -> dict[Path, Path]:
    """What is linked for a participant: path in the view to the original.

    Sidecars for all FLAIRs of the dataset or of the participant are linked into each session with
    an acquired one, where they apply to that and to nothing else.
    """
    subject = bids_dir / f'sub-{participant}'
    links = {
        path.relative_to(bids_dir): path for path in _files_below(subject) if not _is_sidecar(path)
    }
    for session in _sessions(subject):
        files = _session_files(bids_dir, participant, session)
        if not any(path.name.endswith(IMAGE) for path in files):
            continue
        folder, prefix = Path(subject.name), f'{subject.name}_'
        if session:
            folder, prefix = folder / f'ses-{session}', f'{prefix}ses-{session}_'
        for path in (*_sidecars_in(bids_dir), *_sidecars_in(subject)):
            name = folder / (prefix + path.name.removeprefix(f'{subject.name}_'))
            if name in links:
                LOGGER.warning(
                    '%s: the view shows what %s says, not what %s adds to it',
                    name,
                    path,
                    links[name],
                )
            links[name] = path
        own = (path for path in files if _is_sidecar(path) and path.parent != subject)
        links |= {path.relative_to(bids_dir): path for path in own}
    return links


class _View:
    """The folder with the links.

    A link is relative where both folders lie in another one than the root, so that they may be
    moved together; else it is absolute, so that the view alone may be.
    """

    def __init__(self, settings: Settings):
        self.root = settings.feed.resolve()
        self.bids_dir, self.real_bids_dir = settings.bids_dir, settings.bids_dir.resolve()
        common = os.path.commonpath([self.root, self.real_bids_dir])
        self.relative = common != self.root.anchor

    def update(self, folder: str, links: Mapping[Path, Path], kept: Sequence[Path] = ()) -> None:
        """Make the links below a folder (of the root: in it alone), and remove all others.

        ``kept`` are the synthetic files that may stay.
        """
        wanted = {self.root / path: original for path, original in links.items()}
        there = list(_files_below(self.root / folder)) if folder else self._dataset_files()
        keep = {self.root / path for path in kept}
        for path in there:
            if path not in wanted and path not in keep and self._is_ours(path):
                self._remove(path)
        for path, original in wanted.items():
            self._link(path, original)

    def _dataset_files(self) -> list[Path]:
        folders = (self.root / folder for folder in LINKED_FOLDERS)
        below = (path for folder in folders for path in _files_below(folder))
        return [*(path for path in self.root.iterdir() if path.is_symlink()), *below]

    def _is_ours(self, path: Path) -> bool:
        if not path.is_symlink():
            return path.name.endswith(SYNTHETIC)
        target = Path(os.path.normpath(path.parent / path.readlink()))
        return any(target.is_relative_to(root) for root in (self.bids_dir, self.real_bids_dir))

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        for folder in list(path.relative_to(self.root).parents)[:-1]:
            # Not empty, gone already, or just filled by another job: whichever, it is right.
            with suppress(OSError):
                (self.root / folder).rmdir()

    def _link(self, path: Path, original: Path) -> None:
        target = self._target(path, original)
        if path.is_symlink() and str(path.readlink()) == target:
            return
        if path.exists() and not path.is_symlink() and not path.name.endswith(SYNTHETIC):
            LOGGER.warning('%s is a file of its own, it stays as it is', path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
        temporary.symlink_to(target)
        temporary.replace(path)

    def _target(self, path: Path, original: Path) -> str:
        if not self.relative:
            return str(original)
        inside = original.relative_to(self.bids_dir)
        return os.path.relpath(self.real_bids_dir / inside, path.parent)


def _wanted(
    bids_dir: Path, participant: str, failed: set[str]
) -> tuple[dict[Path, Path], list[Path]]:
    """Links of a participant, and the synthetic files that are no longer or not yet wrong.

    What an earlier run made of a session that this one leaves alone stays.
    """
    kept = []
    for session in _sessions(bids_dir / f'sub-{participant}'):
        inputs = SessionInputs(participant, session, {})
        if inputs.label not in failed and not acquired_flairs(bids_dir, participant, session):
            kept += [_synthetic_path(inputs, extension) for extension in ('.nii.gz', '.json')]
    return participant_links(bids_dir, participant), kept


def _sessions(subject: Path) -> list[str | None]:
    """Labels of a participant's sessions, None for what is in none."""
    return [None, *sorted(p.name.removeprefix('ses-') for p in subject.glob('ses-*'))]


def _session_files(bids_dir: Path, participant: str, session: str | None) -> list[Path]:
    subject = bids_dir / f'sub-{participant}'
    if session:
        return list(_files_below(subject / f'ses-{session}'))
    return [
        path
        for path in _files_below(subject)
        if not path.relative_to(subject).parts[0].startswith('ses-')
    ]


def _files_below(folder: Path) -> Iterator[Path]:
    """All files but the hidden ones; links are followed, which datasets are made of at times."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith('.'))


def _sidecars_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob('*FLAIR.json') if _is_sidecar(path))


def _is_sidecar(path: Path) -> bool:
    return f'_{path.name}'.endswith(SIDECAR)


def _write_synthetic(inputs: SessionInputs, settings: Settings) -> None:
    """Write image and sidecar, unless they are there already."""
    derivative = settings.output_dir / output_path('synthetic_flair', inputs)
    sidecar = json.dumps(_sidecar(derivative, inputs, settings), indent=2) + '\n'
    image = _scanner_image(derivative, inputs.images[inputs.reference])
    for extension, content in (('.json', sidecar), ('.nii.gz', image)):
        write_atomically(settings.feed / _synthetic_path(inputs, extension), content)


def _synthetic_path(inputs: SessionInputs, extension: str) -> Path:
    entities = {'subject': inputs.participant, **load_descriptor().feed.entities}
    if inputs.session:
        entities['session'] = inputs.session
    return Path(build_path({**entities, 'extension': extension}, [load_descriptor().feed.pattern]))


def _sidecar(derivative: Path, inputs: SessionInputs, settings: Settings) -> dict[str, Any]:
    made = json.loads(derivative.with_name(derivative.name.split('.')[0] + '.json').read_text())
    contrasts = load_descriptor().contrasts
    sources = [
        uri.replace(f'bids:{RAW}:', 'bids::')
        for name in inputs.contrasts
        if set(contrasts[name].images) & set(made['SynthesisInputs'])
        for uri in source_uris(name, inputs, settings.bids_dir)
    ]
    derived = f'bids:{LINK_NAME}:{derivative.relative_to(settings.output_dir).as_posix()}'
    values = {key: made[key] for key in COPIED_KEYS}
    program = {'Name': 'bids_flair', 'Version': __version__}
    return load_descriptor().feed.metadata(
        {**values, 'Sources': [*sources, derived], 'GeneratedBy': [program]}
    )


def _scanner_image(derivative: Path, reference: Path) -> bytes:
    """The synthetic FLAIR as a scanner's file might be: int16, where the reference image is."""
    made = nib.load(derivative)
    values = np.rint(np.asarray(made.dataobj) * STEPS_PER_WHITE_MATTER)
    values = np.clip(values, 0, np.iinfo(np.int16).max).astype(np.int16)
    image = nib.Nifti1Image(values, made.affine)
    header = nib.load(reference).header
    known = isinstance(header, nib.Nifti1Header)
    code = known and (int(header['sform_code']) or int(header['qform_code']))
    image.set_sform(made.affine, code or 'scanner')
    image.set_qform(made.affine, code or 'scanner')
    if not np.allclose(image.get_qform(), made.affine, atol=1e-3):
        # Sheared, which a qform cannot say: no tool shall read one that lies elsewhere.
        image.set_qform(None)
    image.header.set_xyzt_units('mm', 'sec')
    return gzip.compress(image.to_bytes(), mtime=0)


def _write_description(settings: Settings) -> None:
    raw = read_description(settings.bids_dir)
    own = {
        'Name': f'{raw.get("Name", settings.bids_dir.name)}, with synthetic FLAIR',
        'BIDSVersion': raw.get('BIDSVersion', '1.10.0'),
        'DatasetType': 'raw',
        'GeneratedBy': [
            *raw.get('GeneratedBy', []),
            {'Name': 'bids_flair', 'Version': __version__, 'Description': MARK},
        ],
        'SourceDatasets': [
            *raw.get('SourceDatasets', []),
            source_dataset(settings.bids_dir),
        ],
        'DatasetLinks': {
            **raw.get('DatasetLinks', {}),
            **{dataset.name: dataset.folder.as_uri() for dataset in derivatives_of(settings)},
            LINK_NAME: settings.output_dir.as_uri(),
        },
    }
    # The identifier is that of the original.
    content = {key: value for key, value in raw.items() if key != 'DatasetDOI'} | own
    text = json.dumps(content, indent=2) + '\n'
    write_atomically(settings.feed / 'dataset_description.json', text)


def _source_of(folder: Path) -> Path | None:
    """The dataset that a folder is a view of; None if it is none.

    Raises
    ------
    BidsFlairError
        If the folder is a view and does not say of what.
    """
    try:
        description = read_description(folder)
    except (OSError, ValueError):
        return None
    # Whatever else is wrong with a description is the validator's to say.
    programs = description.get('GeneratedBy') if isinstance(description, dict) else None
    descriptions = [p.get('Description') for p in programs or () if isinstance(p, dict)]
    if MARK not in descriptions:
        return None
    try:
        return Path(unquote(urlparse(description['SourceDatasets'][-1]['URL']).path))
    except (LookupError, TypeError) as error:
        raise BidsFlairError(
            f'{folder}/dataset_description.json no longer says in SourceDatasets what the folder '
            'is a view of: remove the folder, and --feed makes it anew',
            ExitCode.CANNOT_WRITE,
        ) from error


def _refuse_foreign(settings: Settings) -> None:
    feed_dir, bids_dir = settings.feed, settings.bids_dir
    if not feed_dir.exists():
        return
    advice = 'name a folder that is new or empty with --feed'
    if not feed_dir.is_dir():
        raise BidsFlairError(f'{feed_dir} is a file: {advice}', ExitCode.CANNOT_WRITE)
    source = _source_of(feed_dir)
    if source is None and any(not path.name.startswith('.') for path in feed_dir.iterdir()):
        raise BidsFlairError(
            f'{feed_dir} holds other things than what --feed makes, and is left alone: {advice}',
            ExitCode.CANNOT_WRITE,
        )
    # Where the recorded folder is gone, both may have been moved.
    if source and source.is_dir() and source.resolve() != bids_dir.resolve():
        raise BidsFlairError(
            f'{feed_dir} is the view of {source}, not of {bids_dir}: {advice}',
            ExitCode.CANNOT_WRITE,
        )


def _summary(
    done: Sequence[SessionInputs], failed: Sequence[SessionInputs], settings: Settings
) -> str:
    """Which sessions get what, in words."""
    groups: dict[str, list[str]] = {'synthetic FLAIR': [], 'acquired FLAIR kept': [], 'none': []}
    for inputs in (*done, *failed):
        acquired = acquired_flairs(settings.bids_dir, inputs.participant, inputs.session)
        without = 'none' if inputs in failed else 'synthetic FLAIR'
        groups['acquired FLAIR kept' if acquired else without].append(inputs.label)
    parts = [
        f'{len(labels)} {what} ({", ".join(labels)})' for what, labels in groups.items() if labels
    ]
    return f'{settings.feed}: {", ".join(parts)}'
