"""Running a workflow, and finding out which sessions failed and why."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nipype import config
from nipype.pipeline import engine as pe

from bids_flair.bids.session import SessionInputs
from bids_flair.errors import BidsFlairError
from bids_flair.settings import Settings
from bids_flair.workflows.cluster import Need, node_args, sessions_at_once, submits_jobs
from bids_flair.workflows.participant import RUN_WF, init_run_wf, session_wf_name
from bids_flair.workflows.plugin import (
    RobustMultiProcPlugin,
    batch_plugin,
    set_nipype_log_level,
)

LOGGER = logging.getLogger('bids_flair')
StatusCallback = Callable[[pe.Node, str], None]
EXCEPTION = re.compile(r'^\s*[\w.]+(Error|Exception)\b')
NODE_OF_CRASH = re.compile(r'^Node: (\S+)', re.MULTILINE)


@dataclass(frozen=True)
class Crash:
    """A node that failed: its full name and Nipype's crash report."""

    node: str
    text: str

    @property
    def message(self) -> str:
        """The last exception, in its own words."""
        lines = [line.rstrip() for line in self.text.splitlines() if line.strip()]
        starts = [i for i, line in enumerate(lines) if EXCEPTION.match(line)]
        message = ' '.join(line.strip() for line in lines[starts[-1] :]) if starts else lines[-1]
        return message.removeprefix('bids_flair.errors.BidsFlairError: ')


def configure_nipype(settings: Settings) -> None:
    """Set what Nipype keeps, how it writes crashes and how much it says."""
    jobs = submits_jobs(settings.plugin)
    config.update_config(
        {
            'execution': {
                'crashfile_format': 'txt',
                'stop_on_first_crash': str(settings.stop_on_first_crash).lower(),
                # A batch system is asked after every job each time; and a file that another
                # machine wrote takes up to a minute to show on a network file system.
                'poll_sleep_duration': '5.0' if jobs else '0.2',
                'job_finished_timeout': '60',
                # Jobs with one work folder would write the same pages.
                'create_report': 'false',
                'check_version': 'false',
                'remove_unnecessary_outputs': 'false',
                'parameterize_dirs': 'false',
            },
            'monitoring': {'enabled': str(settings.resource_monitor).lower()},
        }
    )
    if settings.resource_monitor:
        config.enable_resource_monitor()
    set_nipype_log_level(_log_level(settings))


def log_folder(inputs: SessionInputs, settings: Settings, run: str) -> Path:
    """Where a run leaves its settings and its nodes' crash reports."""
    return settings.output_dir / f'sub-{inputs.participant}' / 'log' / run


def run_sessions(
    sessions: Sequence[SessionInputs],
    settings: Settings,
    backend: ModuleType,
    run: str,
    on_status: StatusCallback,
) -> dict[str, list[Crash]]:
    """Run several sessions side by side.

    Returns
    -------
    dict
        Session label to the nodes that crashed, for those where any did.

    Raises
    ------
    RuntimeError
        If the run as a whole failed without any node saying why.
    """
    workflow = init_run_wf(sessions, settings, backend)
    if submits_jobs(settings.plugin):
        _ask_for_resources(workflow, settings)
    for inputs in sessions:
        _send_crashes_to(workflow.get_node(session_wf_name(inputs)), inputs, settings, run)
    if settings.write_graph:
        graph = settings.output_dir / 'logs' / 'graph.dot'
        workflow.write_graph(str(graph), graph2use='colored', simple_form=True)
    try:
        workflow.run(**_plugin(settings, on_status))
    except Exception as error:
        crashes = _crashes(sessions, settings, run)
        if not crashes:
            raise
        LOGGER.debug('Nipype stopped: %s', error)
        return crashes
    return _crashes(sessions, settings, run)


def batches(
    sessions: Sequence[SessionInputs], settings: Settings
) -> Iterable[list[SessionInputs]]:
    """As many sessions at once as can have a process or a job, so that the graph stays small."""
    jobs = submits_jobs(settings.plugin)
    at_once = sessions_at_once(settings.plugin) if jobs else settings.nprocs
    at_once = 1 if settings.low_mem else at_once
    for start in range(0, len(sessions), at_once):
        yield list(sessions[start : start + at_once])


def _plugin(settings: Settings, on_status: StatusCallback) -> dict[str, Any]:
    name = settings.plugin.get('plugin', 'MultiProc')
    asked = {**settings.plugin.get('plugin_args', {}), 'status_callback': on_status}
    if submits_jobs(settings.plugin):
        return {'plugin': batch_plugin(name, asked)}
    if name != 'MultiProc':
        return {'plugin': name, 'plugin_args': asked}
    arguments = {
        'n_procs': settings.nprocs,
        'memory_gb': settings.mem_gb,
        'raise_insufficient': False,
        'scheduler': 'mem_thread',
        'log_level': _log_level(settings),
    }
    return {'plugin': RobustMultiProcPlugin({**arguments, **asked})}


def _ask_for_resources(workflow: pe.Workflow, settings: Settings) -> None:
    # Nipype makes it too, and fails if another job with this work folder is making it.
    (settings.work_dir / RUN_WF / 'batch').mkdir(parents=True, exist_ok=True)
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        # A job takes longer to start than a sink to write; and one process writes the output.
        node.run_without_submitting |= node.name.startswith('sink_')
        gpu = bool(getattr(node.inputs, 'use_gpu', False))
        node.plugin_args = node_args(settings.plugin, Need(node.mem_gb, node.n_procs, gpu))


def _log_level(settings: Settings) -> int:
    if settings.debug:
        return logging.DEBUG
    return logging.INFO if settings.verbosity > 1 else logging.CRITICAL


def _send_crashes_to(workflow: pe.Workflow, inputs, settings: Settings, run: str) -> None:
    folder = log_folder(inputs, settings, run)
    folder.mkdir(parents=True, exist_ok=True)
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        node.config = {**(node.config or {}), 'execution': {'crashdump_dir': str(folder)}}


def _crashes(sessions, settings: Settings, run: str) -> dict[str, list[Crash]]:
    found = {}
    for inputs in sessions:
        prefix = f'{RUN_WF}.{session_wf_name(inputs)}.'
        crashes = [
            crash
            for crash in _read_crashes(log_folder(inputs, settings, run))
            if crash.node.startswith(prefix)
        ]
        if crashes:
            found[inputs.label] = crashes
    return found


def _read_crashes(folder: Path) -> list[Crash]:
    crashes = []
    for file in sorted(folder.glob('crash-*.txt'), key=lambda path: path.stat().st_mtime):
        text = file.read_text()
        node = NODE_OF_CRASH.search(text)
        if node is None:
            raise BidsFlairError(f'{file}: not a crash report of Nipype')
        crashes.append(Crash(node.group(1), text))
    return crashes
