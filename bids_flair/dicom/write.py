"""Converted series into a BIDS dataset, without the patient's name; nothing is overwritten."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bids_flair import __version__
from bids_flair.bids.files import write_atomically
from bids_flair.descriptor import load_descriptor
from bids_flair.dicom.convert import Converted, write_scrubbed
from bids_flair.dicom.plan import Item
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.gradients import B0_THRESHOLD, unit

SOURCE = 'SourceSeriesDigest'
FIELD_MAP = 'pepolar'


@dataclass(frozen=True)
class Product:
    """A converted series and the sidecar it is to be written with."""

    item: Item
    converted: Converted
    sidecar: Mapping[str, Any]

    @property
    def encoding(self) -> str | None:
        """Phase-encoding direction as BIDS writes it, such as 'j-'."""
        return self.sidecar.get('PhaseEncodingDirection')


def still_to_convert(items: Sequence[Item], bids_dir: Path) -> list[Item]:
    """Items of which the dataset does not hold the result already.

    Raises
    ------
    BidsFlairError
        With ExitCode.CANNOT_WRITE if a file is there that this program did not make of the same
        series: it is named, and left alone.
    """
    missing = []
    for item in items:
        target = bids_dir / item.stem
        there = [path for path in _files(target) if path.exists()]
        if not there:
            missing.append(item)
        elif not _is_result(target, item):
            raise BidsFlairError(
                f'{there[0]} is there already and was not made of {item.series.title}; nothing '
                'is overwritten. Name another participant or session, or move the file away',
                ExitCode.CANNOT_WRITE,
            )
    return missing


def product_of(item: Item, converted: Converted) -> Product:
    """Attach the sidecar: of what dcm2niix wrote, the keys that the descriptor lists."""
    written = json.loads(converted.sidecar.read_text(errors='replace'))
    secrets = [secret.lower() for secret in item.series.identifying]
    kept = {
        key: value
        for key, value in written.items()
        if key in load_descriptor().dicom_sidecar_keys and not _tells(value, secrets, written)
    }
    return Product(item, converted, {**kept, SOURCE: item.series.source})


def paired(products: Sequence[Product]) -> tuple[list[Product], list[str]]:
    """Tie b=0 series to the diffusion series that they correct, and drop those that correct none.

    Returns
    -------
    products : list of Product
        With ``B0FieldIdentifier`` and ``IntendedFor`` where there is a pair.
    dropped : list of str
        What was dropped, and why.
    """
    dropped, intended = [], {}
    series = [product for product in products if product.item.decision.kind == 'dwi']
    for product in products:
        if product.item.decision.kind != 'epi':
            continue
        matches = [other for other in series if _are_opposite(product, other)]
        if matches and 'TotalReadoutTime' in product.sidecar:
            intended[product.item.stem] = [other.item.stem for other in matches]
        else:
            dropped.append(
                f'{product.item.series.title}: left out; a field map needs a known phase-encoding '
                'direction opposite to that of the dwi, and a known readout time'
            )
    corrected = {stem for stems in intended.values() for stem in stems}
    tied = []
    for product in products:
        stem, extra = product.item.stem, {}
        if stem in intended:
            targets = [f'bids::{target}.nii.gz' for target in intended[stem]]
            extra = {'B0FieldIdentifier': FIELD_MAP, 'IntendedFor': targets}
        elif stem in corrected:
            extra = {'B0FieldIdentifier': FIELD_MAP, 'B0FieldSource': FIELD_MAP}
        elif product.item.decision.kind == 'epi':
            continue
        tied.append(Product(product.item, product.converted, {**product.sidecar, **extra}))
    return tied, dropped


def write_products(products: Sequence[Product], bids_dir: Path, participant: str) -> None:
    """Write all products, or none: what was written goes again if one fails.

    Raises
    ------
    FileExistsError
        If another program wrote one of the files in the meantime.
    """
    made: list[Path] = []
    try:
        for product in products:
            _write(product, bids_dir / product.item.stem, made)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    _write_dataset(bids_dir, participant)


def _write(product: Product, target: Path, made: list[Path]) -> None:
    """Write one image and what belongs to it; the sidecar, which vouches for it, comes last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    texts = {}
    if product.item.decision.kind == 'dwi':
        texts = gradient_texts(product)
    scrubbed = product.converted.image.with_suffix('.nii.gz')
    write_scrubbed(product.converted.image, scrubbed)
    image, *_ = _files(target)
    made.append(_new(image))
    with scrubbed.open('rb') as source, image.open('wb') as copy:
        shutil.copyfileobj(source, copy)
    texts['.json'] = json.dumps(product.sidecar, indent=2) + '\n'
    for extension, text in texts.items():
        made.append(_new(Path(f'{target}{extension}')))
        made[-1].write_text(text)


def _new(path: Path) -> Path:
    """Claim a path that nothing has."""
    path.open('x').close()
    return path


def gradient_texts(product: Product) -> dict[str, str]:
    """b-values as they are, and directions of length 1, zero where there is no weighting.

    Raises
    ------
    BidsFlairError
        With ExitCode.DATA_UNUSABLE if a volume lacks its b-value or its direction.
    """
    converted, title = product.converted, product.item.series.title
    if converted.bval is None or converted.bvec is None:
        raise _no_gradients(f'{title} has no b-values or directions that dcm2niix can read')
    bvals = np.loadtxt(converted.bval, ndmin=1).ravel()
    vectors = np.loadtxt(converted.bvec, ndmin=2)
    if vectors.shape != (3, bvals.size):
        raise _no_gradients(
            f'{title} has {bvals.size} b-values and {vectors.shape[-1]} directions'
        )
    weighted = bvals >= B0_THRESHOLD
    lengths = np.linalg.norm(vectors, axis=0)
    lost = weighted & ~(np.isfinite(lengths) & (lengths > 0.1))
    if lost.any():
        raise _no_gradients(f'{title}: volumes {np.flatnonzero(lost).tolist()} have no direction')
    vectors = np.where(weighted, unit(np.where(weighted, vectors, 0).T).T, 0.0)
    rows = [' '.join(f'{value:.6g}' for value in row) for row in vectors]
    return {
        '.bval': ' '.join(converted.bval.read_text().split()) + '\n',
        '.bvec': '\n'.join(rows) + '\n',
    }


def _no_gradients(what: str) -> BidsFlairError:
    return BidsFlairError(
        f'{what}. Export it again as enhanced DICOM or with its private elements, or refuse it '
        'with a rule (--dicom-rules)',
        ExitCode.DATA_UNUSABLE,
    )


def _are_opposite(one: Product, other: Product) -> bool:
    if not one.encoding or not other.encoding:
        return False
    return one.encoding[0] == other.encoding[0] and one.encoding != other.encoding


def _files(target: Path) -> list[Path]:
    """Every file that a result may consist of, the image first."""
    extensions = ('.nii.gz', '.nii', '.json', '.bval', '.bvec')
    return [Path(f'{target}{extension}') for extension in extensions]


def _is_result(target: Path, item: Item) -> bool:
    needed = ['.nii.gz', '.json', *(['.bval', '.bvec'] if item.decision.kind == 'dwi' else [])]
    if not all(Path(f'{target}{extension}').exists() for extension in needed):
        return False
    try:
        sidecar = json.loads(Path(f'{target}.json').read_text())
    except ValueError:
        return False
    return sidecar.get(SOURCE) == item.series.source


def _tells(value: Any, secrets: Sequence[str], written: Mapping[str, Any]) -> bool:
    """Whether a text holds something that identifies the patient, the maker's name aside."""
    maker = str(written.get('Manufacturer', '')).lower()
    texts = [str(text).lower() for text in (value if isinstance(value, list) else [value])]
    return any(secret in text for text in texts for secret in secrets if secret != maker)


def _write_dataset(bids_dir: Path, participant: str) -> None:
    """Make the folder a dataset where it is none yet, and list the participant."""
    description = bids_dir / 'dataset_description.json'
    table = bids_dir / 'participants.tsv'
    if not description.exists():
        write_atomically(description, json.dumps(_description(), indent=2) + '\n')
        if not table.exists():
            write_atomically(table, 'participant_id\n')
        if not list(bids_dir.glob('README*')):
            write_atomically(
                bids_dir / 'README.md', f'Converted from DICOM by bids_flair {__version__}.\n'
            )
    if table.exists():
        _add_row(table, f'sub-{participant}')


def _description() -> dict[str, Any]:
    return {
        'Name': 'Converted from DICOM',
        'BIDSVersion': '1.10.0',
        'DatasetType': 'raw',
        'GeneratedBy': [{'Name': 'bids_flair', 'Version': __version__}],
    }


def _add_row(table: Path, participant: str) -> None:
    lines = table.read_text().rstrip('\n').split('\n')
    columns = lines[0].split('\t')
    place = columns.index('participant_id') if 'participant_id' in columns else 0
    if participant not in {line.split('\t')[place] for line in lines[1:]}:
        row = ['n/a'] * len(columns)
        row[place] = participant
        write_atomically(table, '\n'.join([*lines, '\t'.join(row)]) + '\n')
