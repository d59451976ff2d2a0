"""The program: from the command line to an exit code."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bids_flair.cli.parser import parse
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings

INTERRUPTED = 130
NO_TEMPLATES = 'no_templates'


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program; a failure that a person can act on is printed, not raised."""
    try:
        settings = parse(argv)
        set_environment(settings)
        return int(_run_levels(settings))
    except BidsFlairError as error:
        print(f'bids_flair: {error}', file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        print('bids_flair: interrupted; run the same command to go on', file=sys.stderr)
        return INTERRUPTED


def _run_levels(settings: Settings) -> ExitCode:
    from bids_flair.bids.dataset import check_writable
    from bids_flair.logs import start_logging

    start_logging(settings.verbosity)
    if settings.dicom:
        from bids_flair.cli.dicom_step import convert_dicom

        convert_dicom(settings)
        if settings.dry_run:
            return ExitCode.DONE
    # Before anything else: some libraries write there when they are imported.
    check_writable(settings.work_dir, 'work directory')
    _find_temporary_folder(settings.work_dir)
    offer_no_templates(settings.work_dir)
    if settings.reports_only:
        from bids_flair.cli.reports_only import rebuild_reports

        return rebuild_reports(settings)
    if 'participant' in settings.levels:
        from bids_flair.cli.participant_level import run_participant_level

        code = run_participant_level(settings)
        if code or 'group' not in settings.levels:
            return code
    from bids_flair.cli.group_level import run_group_level

    return run_group_level(settings)


def set_environment(settings: Settings) -> None:
    """What libraries read when they are imported, here and in every worker."""
    threads = str(settings.omp_nthreads)
    os.environ['OMP_NUM_THREADS'] = threads
    # With several threads ITK adds in another order each time: no two registrations would agree.
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = '1'
    # No telemetry, and nothing is fetched.
    os.environ['NO_ET'] = '1'
    os.environ['TEMPLATEFLOW_AUTOUPDATE'] = '0'
    os.environ['TEMPLATEFLOW_HOME'] = str(settings.work_dir / NO_TEMPLATES)
    os.environ.setdefault('MPLCONFIGDIR', str(settings.work_dir / 'matplotlib'))


def offer_no_templates(work_dir: Path) -> None:
    """A TemplateFlow folder without templates, none of which is used.

    niworkflows looks through it whenever it is imported, in every worker: 10 s for the list of all
    templates, which it writes into the home directory if it is given no folder or an empty one.
    """
    folder = work_dir / NO_TEMPLATES
    folder.mkdir(exist_ok=True)
    (folder / 'README').touch()


def _find_temporary_folder(work_dir: Path) -> None:
    """A container may have none that can be written to: then one in the work directory."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folder = work_dir / 'tmp'
        folder.mkdir(exist_ok=True)
        os.environ['TMPDIR'] = str(folder)
