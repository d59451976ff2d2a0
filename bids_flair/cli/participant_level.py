"""The participant level, from the request to the exit code."""

import logging
import shutil
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bids_flair import __version__
from bids_flair.bids.collect import check_dataset, collect
from bids_flair.bids.dataset import (
    check_writable,
    read_bibliography,
    write_citation,
    write_dataset_files,
)
from bids_flair.bids.feed import feed, prepare_feed, refuse_view
from bids_flair.bids.files import write_atomically
from bids_flair.bids.names import output_path
from bids_flair.bids.preflight import check_session
from bids_flair.bids.session import SessionInputs
from bids_flair.bids.validation import validator_errors
from bids_flair.cli.progress import Follower, step_name
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.logs import NOTICE
from bids_flair.models.probe import probe
from bids_flair.reports.content import FailedSession, SessionReport
from bids_flair.reports.participant import write_report
from bids_flair.reports.records import Record, latest_records, write_record
from bids_flair.reports.session import (
    failed_session,
    pages_of,
    read_sidecar,
    session_report,
)
from bids_flair.settings import Settings
from bids_flair.workflows.backends import load_backend
from bids_flair.workflows.cluster import submits_jobs
from bids_flair.workflows.execution import (
    batches,
    configure_nipype,
    log_folder,
    run_sessions,
)
from bids_flair.workflows.participant import (
    RUN_WF,
    init_session_wf,
    methods_text,
    session_wf_name,
    wanted_images,
)

LOGGER = logging.getLogger('bids_flair')


@dataclass(frozen=True)
class Outcome:
    """What became of a session."""

    inputs: SessionInputs
    code: ExitCode
    page: SessionReport | FailedSession


def run_participant_level(settings: Settings) -> ExitCode:
    """Synthesise a FLAIR for every participant that was asked for.

    Raises
    ------
    BidsFlairError
        If the run as a whole cannot start; a single session's failure only shows in the result.
    """
    LOGGER.log(NOTICE, 'bids_flair %s: %s -> %s', __version__, *_folders(settings))
    _check_input(settings)
    _check_commands(settings)
    backend = load_backend(settings.backend, settings.work_dir)
    found = _probe(settings)
    settings = replace(settings, device=found['device'], inputs=_inputs(settings, found))
    sessions = collect(settings)
    _announce(sessions, settings, found, backend.NAME)
    if settings.feed:
        prepare_feed(sessions, settings)
    if settings.dry_run:
        return ExitCode.DONE
    check_writable(settings.output_dir, 'output directory')
    if settings.clean_workdir:
        _forget_earlier_runs(sessions, settings)
    configure_nipype(settings)
    write_dataset_files(settings, backend)
    methods = _methods(sessions, settings, backend)
    write_citation(settings, methods)
    if settings.boilerplate_only:
        LOGGER.log(NOTICE, 'methods text: %s', settings.output_dir / 'logs' / 'CITATION.md')
        return ExitCode.DONE
    run = f'{time.strftime("%Y%m%d-%H%M%S")}_{uuid.uuid4().hex[:8]}'
    outcomes: list[Outcome] = []
    needed = settings.inputs if found['needs_every_input'] else ()
    for batch in batches(sessions, settings):
        done = _run_batch(batch, settings, backend, run, needed)
        _write_records(done, settings, run)
        outcomes += done
        _write_reports(done, sessions, settings, methods)
        if settings.stop_on_first_crash and any(outcome.code for outcome in outcomes):
            break
    code = _summarise(outcomes, settings)
    if settings.feed:
        _feed(outcomes, settings)
    return code


def _feed(outcomes: Sequence[Outcome], settings: Settings) -> None:
    done = [outcome.inputs for outcome in outcomes if isinstance(outcome.page, SessionReport)]
    failed = [outcome.inputs for outcome in outcomes if isinstance(outcome.page, FailedSession)]
    feed(done, failed, settings)


def _probe(settings: Settings) -> dict[str, Any]:
    """What model and device are; a job's GPU is that of its node, which need not be this one."""
    if not submits_jobs(settings.plugin):
        return probe(settings.model, settings.device)
    device = settings.device if settings.device.startswith('cuda') else 'cpu'
    name = f'{device} of the node where {settings.plugin["plugin"]} runs the step'
    return {**probe(settings.model, 'cpu'), 'device': device, 'device_name': name}


def _inputs(settings: Settings, found: dict[str, Any]) -> tuple[str, ...]:
    """What the model takes of the inputs asked for, or all that it takes."""
    model, takes = settings.model, tuple(found['inputs'])
    asked = settings.inputs or takes
    if found['target'] != 'FLAIR':
        why = (
            f'makes a {found["target"]}, and the participant level writes FLAIRs. Use such a '
            'model in Python: bids_flair.synthesize(images, model=...).'
        )
    elif found['needs_every_input'] and not set(takes) <= set(asked):
        why = f'takes {", ".join(takes)} together: leave out --inputs.'
    elif not set(takes) & set(asked):
        why = f'takes {", ".join(takes)}, and --inputs asks for {", ".join(asked)}.'
    else:
        return tuple(name for name in takes if name in asked)
    raise BidsFlairError(f'--model {model} {why}', ExitCode.WRONG_ARGUMENTS)


def _folders(settings: Settings) -> tuple[str, str]:
    return str(settings.bids_dir), str(settings.output_dir)


def _check_input(settings: Settings) -> None:
    refuse_view(settings.bids_dir)
    if settings.skip_bids_validation or settings.derivatives_only:
        return
    check_dataset(settings.bids_dir)
    for text in validator_errors(settings.bids_dir, settings.bids_database_dir):
        LOGGER.warning('BIDS validator: %s', text)


def _forget_earlier_runs(sessions: Sequence[SessionInputs], settings: Settings) -> None:
    """Empty the work directory of what this program made; it may hold other people's files.

    Where participants were named, of what it made of them: other jobs may be at work on others.
    """
    made = settings.work_dir / RUN_WF
    folders = [made]
    if settings.participants:
        folders = [made / session_wf_name(inputs) for inputs in sessions]
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _check_commands(settings: Settings) -> None:
    if settings.write_graph and shutil.which('dot') is None:
        raise BidsFlairError(
            '--write-graph needs the program dot; install graphviz, or leave the option out',
            ExitCode.COMMAND_MISSING,
        )


def _announce(sessions, settings: Settings, found, backend_name: str) -> None:
    participants = {inputs.participant for inputs in sessions}
    LOGGER.log(
        NOTICE,
        '%d participants, %d sessions; backend %s, model %s on %s; %d processes, %.1f GB',
        len(participants), len(sessions), backend_name, found['model'], found['device_name'],
        settings.nprocs, settings.mem_gb,
    )  # fmt: skip
    for inputs in sessions:
        images = ', '.join(f'{name} ({path.name})' for name, path in inputs.images.items())
        LOGGER.log(NOTICE, '%s: %s', inputs.label, images or 'no image')
        for source, names in _reused(inputs).items():
            LOGGER.log(NOTICE, '%s: taken from %s: %s', inputs.label, source, ', '.join(names))
        for text in inputs.passed_over:
            LOGGER.log(NOTICE, '%s: passed over %s', inputs.label, text)


def _reused(inputs: SessionInputs) -> dict[str, list[str]]:
    """Pipeline to what is taken from it, and how that comes to the reference."""
    found: dict[str, list[str]] = {}
    for name, one in inputs.prepared.items():
        contrast = 'dwi' if name in inputs.tensor_maps else name
        if one.space == inputs.reference_space:
            how = ''
        elif contrast in inputs.positions:
            how = f' (space {one.space}, by {inputs.positions[contrast].name})'
        else:
            how = f' (space {one.space}, to be registered)'
        found.setdefault(one.source.name, []).append(f'{name}{how}')
    return found


def _methods(sessions: Sequence[SessionInputs], settings: Settings, backend) -> str:
    """Prose for the session with most contrasts: it names every step that was taken."""
    usable = [
        inputs
        for inputs in sessions
        if inputs.reference and not inputs.missing_companions and wanted_images(inputs, settings)
    ]
    if not usable:
        return ''
    fullest = max(usable, key=lambda inputs: len(inputs.contrasts))
    return methods_text(init_session_wf(fullest, settings, backend))


def _run_batch(
    batch, settings: Settings, backend, run: str, needed: Sequence[str]
) -> list[Outcome]:
    failed: dict[str, Outcome] = {}
    ready: list[SessionInputs] = []
    for inputs in batch:
        try:
            check_session(inputs)
            _check_images(inputs, settings, needed)
            ready.append(inputs)
        except BidsFlairError as error:
            LOGGER.error('%s FAILED: %s', inputs.label, error)
            failed[inputs.label] = _failure(inputs, str(error), traceback.format_exc(), error.code)
    done: dict[str, Outcome] = {}
    if ready:
        done = _run_ready(ready, settings, backend, run)
    return [(failed | done)[inputs.label] for inputs in batch]


def _check_images(inputs: SessionInputs, settings: Settings, needed: Sequence[str]) -> None:
    wanted = wanted_images(inputs, settings)
    if missing := [name for name in needed if name not in wanted]:
        raise BidsFlairError(
            f'{inputs.label}: lacks {", ".join(missing)}, and {settings.model} takes '
            f'{", ".join(needed)} together; use a model such as the default one, which takes what '
            'is there',
            ExitCode.INPUT_MISSING,
        )
    if not wanted:
        raise BidsFlairError(
            f'{inputs.label}: has none of the inputs asked for ({", ".join(settings.inputs)}), '
            f'only {", ".join(inputs.contrasts)}',
            ExitCode.INPUT_MISSING,
        )


def _run_ready(ready, settings: Settings, backend, run: str) -> dict[str, Outcome]:
    for inputs in ready:
        record = log_folder(inputs, settings, run) / 'bids_flair.toml'
        write_atomically(record, settings.to_toml())
        # What an earlier run left must not pass for this run's result.
        _result_file(inputs, settings).unlink(missing_ok=True)
    steps = {inputs.label: _count_steps(inputs, settings, backend) for inputs in ready}
    with Follower(ready, steps) as follower:
        crashes = run_sessions(ready, settings, backend, run, follower)
    outcomes = {}
    for inputs in ready:
        if inputs.label in crashes:
            first = crashes[inputs.label][0]
            LOGGER.error('%s FAILED: %s', inputs.label, first.message)
            text = '\n\n'.join(crash.text for crash in crashes[inputs.label])
            outcomes[inputs.label] = _failure(inputs, first.message, text)
        elif not _result_file(inputs, settings).exists():
            message = 'was not finished: the run ended before, see the other messages'
            LOGGER.error('%s %s', inputs.label, message)
            outcomes[inputs.label] = _failure(inputs, message, '')
        else:
            outcomes[inputs.label] = _success(inputs, settings, follower.timings[inputs.label])
    return outcomes


def _result_file(inputs: SessionInputs, settings: Settings) -> Path:
    return settings.output_dir / output_path('synthetic_flair', inputs)


def _count_steps(inputs: SessionInputs, settings: Settings, backend) -> int:
    names = init_session_wf(inputs, settings, backend).list_node_names()
    return sum(step_name(name.rpartition('.')[2]) is not None for name in names)


def _success(inputs: SessionInputs, settings: Settings, timings) -> Outcome:
    sidecar = read_sidecar(inputs, settings.output_dir)
    for text in sidecar['Warnings']:
        LOGGER.warning('%s: %s', inputs.label, text)
    trusted = all(report['Trusted'] for report in sidecar['Registrations'])
    page = session_report(inputs, settings.output_dir, timings)
    return Outcome(inputs, ExitCode.DONE if trusted else ExitCode.PARTICIPANT_FAILED, page)


def _failure(
    inputs: SessionInputs, message: str, text: str, code: ExitCode = ExitCode.PARTICIPANT_FAILED
) -> Outcome:
    page = failed_session(inputs, message, text)
    return Outcome(inputs, code, page)


def _write_records(outcomes: Sequence[Outcome], settings: Settings, run: str) -> None:
    for outcome in outcomes:
        page = outcome.page
        if isinstance(page, FailedSession):
            record = Record(message=page.message, traceback=page.traceback)
        else:
            record = Record(timings=tuple(page.timings))
        write_record(record, outcome.inputs.label, log_folder(outcome.inputs, settings, run))


def _write_reports(
    done: Sequence[Outcome], sessions: Sequence[SessionInputs], settings: Settings, methods: str
) -> None:
    """Report of each participant who has a session among `done`, with all of their sessions."""
    for participant in dict.fromkeys(outcome.inputs.participant for outcome in done):
        known = _sessions_of(participant, sessions, settings)
        pages = pages_of(known, settings.output_dir)
        path = settings.output_dir / f'sub-{participant}.html'
        write_report(participant, pages, methods, path, read_bibliography())


def _sessions_of(
    participant: str, sessions: Sequence[SessionInputs], settings: Settings
) -> list[SessionInputs]:
    """A participant's sessions of this run, and of others such as the jobs of an array."""
    own = [inputs for inputs in sessions if inputs.participant == participant]
    if set(latest_records(settings.output_dir, participant)) <= {inputs.label for inputs in own}:
        return own
    return collect(replace(settings, participants=(participant,), sessions=()))


def _summarise(outcomes: Sequence[Outcome], settings: Settings) -> ExitCode:
    for outcome in outcomes:
        inputs = outcome.inputs
        if isinstance(outcome.page, FailedSession):
            LOGGER.log(NOTICE, '%s: FAILED: %s', inputs.label, outcome.page.message)
        else:
            scores = outcome.page.scores
            text = ''.join(
                f', {name} {scores[key]:.3f}'
                for name, key in (('SSIM in brain', 'ssim'), ('correlation', 'corr'))
                if key in scores
            )
            LOGGER.log(NOTICE, '%s: %s%s', inputs.label, outcome.page.flair, text)
    for participant in dict.fromkeys(outcome.inputs.participant for outcome in outcomes):
        LOGGER.log(NOTICE, 'report: %s', settings.output_dir / f'sub-{participant}.html')
    return exit_code([outcome.code for outcome in outcomes])


def exit_code(codes: Sequence[ExitCode]) -> ExitCode:
    """One code for the run: a failure's own where every session failed for that same reason."""
    counts = Counter(codes)
    if set(counts) == {ExitCode.DONE}:
        return ExitCode.DONE
    return codes[0] if len(counts) == 1 else ExitCode.PARTICIPANT_FAILED
