"""Reports from what an earlier run left, without computing anything anew."""

import logging
from itertools import groupby

from bids_flair.bids.collect import collect
from bids_flair.bids.dataset import check_writable, read_bibliography
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.logs import NOTICE
from bids_flair.reports.cohort import write_cohort_report
from bids_flair.reports.participant import write_report
from bids_flair.reports.session import pages_of
from bids_flair.settings import Settings

LOGGER = logging.getLogger('bids_flair')


def rebuild_reports(settings: Settings) -> ExitCode:
    """Write the reports of every level asked for.

    Raises
    ------
    BidsFlairError
        If no earlier run is found in the output folder.
    """
    check_writable(settings.output_dir, 'output directory')
    if 'participant' in settings.levels:
        rebuild_participants(settings)
    if 'group' in settings.levels:
        LOGGER.log(NOTICE, 'report: %s', write_cohort_report(settings.output_dir))
    return ExitCode.DONE


def rebuild_participants(settings: Settings) -> None:
    """Write ``sub-*.html`` of the participants that an earlier run worked on."""
    citation = settings.output_dir / 'logs' / 'CITATION.md'
    methods = citation.read_text().strip() if citation.exists() else ''
    written = 0
    for participant, sessions in groupby(collect(settings), lambda inputs: inputs.participant):
        pages = pages_of(list(sessions), settings.output_dir)
        if not pages:
            LOGGER.warning('sub-%s: no earlier run in %s', participant, settings.output_dir)
            continue
        path = settings.output_dir / f'sub-{participant}.html'
        write_report(participant, pages, methods, path, read_bibliography())
        LOGGER.log(NOTICE, 'report: %s', path)
        written += 1
    if not written:
        raise BidsFlairError(
            f'{settings.output_dir} holds no earlier run of these participants: leave out '
            '--reports-only to process them',
            ExitCode.INPUT_MISSING,
        )
