"""Nipype's plugins, made to notice workers and jobs that were killed."""

import gc
import logging
import shlex
import subprocess
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from nipype.pipeline import plugins
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer

from bids_flair.errors import BidsFlairError
from bids_flair.workflows.cluster import ARGUMENTS, CANCEL, set_login_name

LOGGER = logging.getLogger('bids_flair')

KILLED = (
    'MemoryError: the process that computed this step was killed, most likely because memory ran '
    'out; run fewer participants at once (--nprocs), or give more memory\n'
)
ENDED = (
    'MemoryError: job {} ended without a result: most likely the batch system killed it, for want '
    'of memory or time, or its node cannot see this installation or the work folder; its messages '
    'are in {} or where your arguments send them\n'
)
# What most steps import, for 10 s: loaded once, in the server that workers are forked from.
PRELOADED = ['__main__', 'bids_flair.bids.sink', 'ants', 'dipy.reconst.dti', 'torch']
NIPYPE_LOGGERS = ('nipype.workflow', 'nipype.utils', 'nipype.interface')


class RobustMultiProcPlugin(MultiProcPlugin):
    """As MultiProc, but a node whose worker was killed fails; stock MultiProc waits forever.

    The system kills workers when memory runs out. Workers are forked from a clean server, so that
    they share no CUDA context and no locked lock with the parent; `log_level` is theirs too.
    """

    def __init__(self, plugin_args: dict):
        super().__init__({**plugin_args, 'mp_context': 'forkserver'})
        self._start_workers()
        # Nipype collects garbage before every step, and 0.3 s long looks through all modules.
        gc.freeze()

    def _start_workers(self) -> None:
        self.pool.shutdown(wait=False)
        context = get_context('forkserver')
        context.set_forkserver_preload(PRELOADED)
        self.pool = ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd, self.plugin_args.get('log_level', logging.CRITICAL)),
            mp_context=context,
        )

    def _submit_job(self, node, updatehash=False):
        try:
            return super()._submit_job(node, updatehash)
        except BrokenProcessPool:
            self._start_workers()
            return super()._submit_job(node, updatehash)

    def _async_callback(self, args):
        if args.exception() is None:
            super()._async_callback(args)

    def _get_result(self, taskid):
        future = self._task_obj[taskid]
        if future.done() and future.exception() is not None:
            return {'taskid': taskid, 'result': None, 'traceback': [KILLED]}
        return super()._get_result(taskid)


def batch_plugin(name: str, arguments: dict):
    """Nipype's plugin for a batch system: SLURM, SGE, PBS or LSF.

    As Nipype's, but what the system refuses is said, a job that vanished fails with its reason,
    and no job is left behind where the run as a whole is broken off.
    """
    set_login_name()
    kind = _RobustSlurm if name == 'SLURM' else _RobustBatch
    stock = getattr(plugins, f'{name}Plugin')
    return type(f'{name}Plugin', (kind, stock), {'system': name})(plugin_args=arguments)


class _RobustBatch:
    """What Nipype's plugins for batch systems lack; goes before one of them."""

    system: str
    _folder: Path

    def run(self, graph, config, updatehash=False):
        try:
            super().run(graph, config, updatehash)
        except BaseException:
            for job in self._pending:
                subprocess.run([CANCEL[self.system], str(job)], check=False)
            raise

    def _submit_batchtask(self, scriptfile, node):
        self._folder = Path(scriptfile).parent
        # Of an earlier run: it would pass for that of a job which was killed before it began.
        for stale in Path(node.output_dir()).glob('result_*.pklz'):
            stale.unlink()
        try:
            return super()._submit_batchtask(scriptfile, node)
        except Exception as error:
            arguments = self._arguments(node)
            raise BidsFlairError(
                f'{self.system} took no job for the step {node.fullname}, submitted with '
                f'{arguments!r}: {self._reason(arguments, scriptfile)}'
            ) from error

    def _arguments(self, node) -> str:
        name = ARGUMENTS[self.system]
        return f'{getattr(self, f"_{name}") or ""} {node.plugin_args[name]}'.strip()

    def _reason(self, arguments: str, scriptfile: str) -> str:
        return f'submit {scriptfile} with these yourself to see why'

    def _get_result(self, taskid):
        result = super()._get_result(taskid)
        if result and result.get('hostname') == 'unknown':
            result['traceback'] = [ENDED.format(taskid, self._folder)]
        return result


class _RobustSlurm(_RobustBatch):
    """Where the controller gives no answer, Nipype takes every job for finished."""

    def _reason(self, arguments, scriptfile):
        command = ['sbatch', '--test-only', *shlex.split(arguments), scriptfile]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.stderr.strip()

    def _is_pending(self, taskid):
        command = ['squeue', '--noheader', '--format=%A', '--jobs', str(taskid)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode and 'Invalid job id' not in answer.stderr:
            LOGGER.warning('SLURM does not tell of job %d: %s', taskid, answer.stderr.strip())
            return True
        return str(taskid) in answer.stdout.split()


def set_nipype_log_level(level: int) -> None:
    """Make Nipype say no more than `level` in this process."""
    for name in NIPYPE_LOGGERS:
        logging.getLogger(name).setLevel(level)


def _start_worker(cwd: str, log_level: int) -> None:
    process_initializer(cwd)
    set_nipype_log_level(log_level)
