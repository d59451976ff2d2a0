"""Nipype's MultiProc, made to notice workers that were killed."""

import logging
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer

KILLED = (
    'MemoryError: the process that computed this step was killed, most likely because memory ran '
    'out; run fewer participants at once (--nprocs), or give more memory\n'
)
NIPYPE_LOGGERS = ('nipype.workflow', 'nipype.utils', 'nipype.interface')


class RobustMultiProcPlugin(MultiProcPlugin):
    """As MultiProc, but a node whose worker was killed fails; stock MultiProc waits forever.

    The system kills workers when memory runs out. Workers are forked from a clean server, so that
    they share no CUDA context and no locked lock with the parent; `log_level` is theirs too.
    """

    def __init__(self, plugin_args: dict):
        super().__init__({**plugin_args, 'mp_context': 'forkserver'})
        self._start_workers()

    def _start_workers(self) -> None:
        self.pool.shutdown(wait=False)
        self.pool = ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd, self.plugin_args.get('log_level', logging.CRITICAL)),
            mp_context=get_context('forkserver'),
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


def set_nipype_log_level(level: int) -> None:
    """Make Nipype say no more than `level` in this process."""
    for name in NIPYPE_LOGGERS:
        logging.getLogger(name).setLevel(level)


def _start_worker(cwd: str, log_level: int) -> None:
    process_initializer(cwd)
    set_nipype_log_level(log_level)
