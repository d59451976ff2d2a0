"""From DICOM to the dataset that the participant level reads."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bids_flair.bids.dataset import check_writable
from bids_flair.descriptor import load_descriptor
from bids_flair.dicom.convert import convert, find_dcm2niix, scratch_folder
from bids_flair.dicom.geometry import Extent, check_series
from bids_flair.dicom.headers import find_series
from bids_flair.dicom.plan import Item, plan
from bids_flair.dicom.write import Product, paired, product_of, still_to_convert, write_products
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.logs import NOTICE
from bids_flair.settings import Settings

LOGGER = logging.getLogger('bids_flair')


def convert_dicom(settings: Settings) -> None:
    """Convert what ``--dicom`` names into the dataset; with ``--dry-run`` only say what would be.

    Raises
    ------
    BidsFlairError
        If there is no DICOM, nothing in it is wanted, something is damaged or missing, or a file
        would have to be overwritten. Nothing was written then.
    """
    rules = [*settings.dicom_rules.get('rules', ()), *load_descriptor().dicom_rules]
    session = settings.sessions[0] if settings.sessions else None
    (participant,) = settings.participants
    found = find_series(map(Path, settings.dicom))
    items = plan(found, rules, participant, session)
    _announce(items)
    taken = [item for item in items if item.stem]
    if not taken:
        raise BidsFlairError(
            f'No series in {", ".join(settings.dicom)} is taken, for the reasons above; '
            '--dicom-rules decides differently',
            ExitCode.NOTHING_MATCHED,
        )
    extents = {item.stem: check_series(item.series) for item in taken}
    missing = still_to_convert(taken, settings.bids_dir)
    for item in taken:
        if item not in missing:
            LOGGER.log(NOTICE, '%s: was converted before, and is kept', item.stem)
    if missing and not settings.dry_run:
        find_dcm2niix()
        check_writable(settings.bids_dir, 'dataset')
        _convert(missing, extents, settings)


def _announce(items: Sequence[Item]) -> None:
    for item in items:
        target = f'{item.decision.kind}, {item.stem}.nii.gz' if item.stem else 'not taken'
        LOGGER.log(NOTICE, '%s: %s: %s', item.series.title, target, item.decision.reason)
    counts = Counter(item.decision.kind for item in items if item.stem)
    for kind, count in counts.items():
        if count > 1 and kind != 'epi':
            best = 'most directions' if kind == 'dwi' else 'the finest voxels'
            LOGGER.log(
                NOTICE,
                '%d series are %s: all are written; the FLAIR is made from the one with %s, of '
                'equal ones from the first; --bids-filter-file chooses another',
                count, kind, best,
            )  # fmt: skip


def _convert(items: Sequence[Item], extents: dict[str, Extent], settings: Settings) -> None:
    products: list[Product] = []
    with scratch_folder(settings.work_dir) as scratch:
        for number, item in enumerate(items):
            LOGGER.log(NOTICE, '%s: converting', item.series.title)
            folder = scratch / str(number)
            folder.mkdir()
            made = convert(item.series, extents[item.stem], folder)
            products.append(product_of(item, made))
        products, dropped = paired(products)
        for text in dropped:
            LOGGER.warning('%s', text)
        for product in products:
            _warn_of_encoding(product)
        write_products(products, settings.bids_dir, settings.participants[0])


def _warn_of_encoding(product: Product) -> None:
    if product.item.decision.kind in ('dwi', 'epi') and not product.encoding:
        LOGGER.warning(
            '%s: its header does not say in which direction phase was encoded; '
            'PhaseEncodingDirection is left out of %s.json. Add it if you know it',
            product.item.series.title, product.item.stem,
        )  # fmt: skip
