"""Reports from what an earlier run left, without computing anything anew."""

import logging
from collections.abc import Sequence
from itertools import groupby

from bids_flair.bids.collect import collect
from bids_flair.bids.dataset import check_writable, read_bibliography
from bids_flair.bids.names import output_path
from bids_flair.bids.session import SessionInputs
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.logs import NOTICE
from bids_flair.reports.cohort import write_cohort_report
from bids_flair.reports.content import FailedSession, SessionReport
from bids_flair.reports.participant import write_report
from bids_flair.reports.records import latest_records
from bids_flair.reports.session import failed_session, session_report
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
        pages = _pages(list(sessions), settings)
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


def _pages(
    sessions: Sequence[SessionInputs], settings: Settings
) -> list[SessionReport | FailedSession]:
    """What is known of each session that was processed."""
    pages: list[SessionReport | FailedSession] = []
    records = latest_records(settings.output_dir, sessions[0].participant)
    for inputs in sessions:
        record = records.get(inputs.label)
        if record and record.failed:
            pages.append(failed_session(inputs, record.message, record.traceback))
        elif inputs.reference and _result_exists(inputs, settings):
            timings = record.timings if record else ()
            pages.append(session_report(inputs, settings.output_dir, timings))
    return pages


def _result_exists(inputs: SessionInputs, settings: Settings) -> bool:
    return (settings.output_dir / output_path('synthetic_flair', inputs)).exists()
