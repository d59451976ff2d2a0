"""Files of the output that belong to the dataset as a whole, each written in one piece."""

import json
import tempfile
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from bids_flair import __version__
from bids_flair.bids.collect import derivatives_of
from bids_flair.bids.files import write_atomically
from bids_flair.bids.names import RAW
from bids_flair.descriptor import load_descriptor
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings

PAPER = 'Nencka et al., Build-A-FLAIR, arXiv:1901.04871'


def check_writable(folder: Path, what: str) -> None:
    """Make a folder and prove that files can be written to it.

    Raises
    ------
    BidsFlairError
        With ExitCode.CANNOT_WRITE.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b'bids_flair')
    except OSError as error:
        raise BidsFlairError(
            f'{what} {folder} cannot be written to ({error.strerror}); choose another folder or '
            'change its permissions',
            ExitCode.CANNOT_WRITE,
        ) from error


def write_dataset_files(settings: Settings, backend: ModuleType) -> None:
    """Write what makes the output directory a BIDS derivative dataset."""
    out = settings.output_dir
    descriptor = load_descriptor()
    description = json.dumps(dataset_description(settings, backend), indent=2)
    write_atomically(out / 'dataset_description.json', description + '\n')
    write_atomically(out / '.bidsignore', '\n'.join(descriptor.bidsignore) + '\n')
    rows = [f'{label}\t{text}' for label, text in descriptor.descriptions.items()]
    write_atomically(out / 'descriptions.tsv', '\n'.join(['desc_id\tdescription', *rows]) + '\n')
    write_atomically(out / 'README.md', _readme())


def write_citation(settings: Settings, methods: str) -> None:
    """Write the methods prose and the entries it cites into ``logs/``."""
    logs = settings.output_dir / 'logs'
    write_atomically(logs / 'CITATION.md', methods + '\n')
    write_atomically(logs / 'CITATION.bib', read_bibliography())


def read_bibliography() -> str:
    """BibTeX of everything that the methods prose may cite."""
    return files('bids_flair.workflows').joinpath('references.bib').read_text()


def dataset_description(settings: Settings, backend: ModuleType) -> dict[str, Any]:
    """Content of the derivative's ``dataset_description.json``."""
    versions = [f'{name} {number}' for name, number in backend.package_versions().items()]
    bids_dir, raw = settings.bids_dir, read_description(settings.bids_dir)
    links = {} if settings.derivatives_only else {RAW: bids_dir}
    links |= {dataset.name: dataset.folder for dataset in derivatives_of(settings)}
    description = {
        'Name': f'Synthetic FLAIR for {raw.get("Name", bids_dir.name)}',
        'BIDSVersion': '1.10.0',
        'DatasetType': 'derivative',
        'GeneratedBy': [
            {
                'Name': 'bids_flair',
                'Version': __version__,
                'Description': f'backend {backend.NAME}: {", ".join(versions)}',
            }
        ],
        'HowToAcknowledge': f'Please cite {PAPER}, and the methods text in logs/CITATION.md.',
        'SourceDatasets': [source_dataset(folder) for folder in links.values()],
        'DatasetLinks': {name: folder.as_uri() for name, folder in links.items()},
    }
    return description | ({'License': raw['License']} if raw.get('License') else {})


def source_dataset(folder: Path) -> dict[str, str]:
    """Entry of ``SourceDatasets`` for a dataset."""
    source, doi = {'URL': folder.as_uri()}, read_description(folder).get('DatasetDOI')
    return source | ({'DOI': doi} if doi else {})


def read_description(folder: Path) -> dict[str, Any]:
    """Content of a dataset's ``dataset_description.json``; empty where there is none."""
    file = folder / 'dataset_description.json'
    return json.loads(file.read_text(encoding='utf-8-sig')) if file.exists() else {}


def _readme() -> str:
    outputs = load_descriptor().outputs.values()
    rows = '\n'.join(f'- {output.description}' for output in outputs)
    return (
        f'# Synthetic FLAIR\n\nMade by bids_flair {__version__}. The FLAIR images named '
        '`desc-synth` were computed from other contrasts, not acquired. Not for diagnosis.\n\n'
        f'{rows}\n\nOpen `sub-<label>.html` to judge a participant; `logs/CITATION.md` holds the '
        'methods text.\n'
    )
