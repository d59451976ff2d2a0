"""Failures are read as sentences, and sessions are run in bounded numbers."""

from pathlib import Path

import pytest

from bids_flair.bids.session import SessionInputs
from bids_flair.settings import Settings
from bids_flair.workflows.execution import Crash, batches

CRASH = """Node: bids_flair_wf.sub_01_wf.synthesis_wf.synthesize_flair
Working directory: /work

Traceback (most recent call last):
  File "nodes.py", line 546, in run
    raise NodeExecutionError(msg)
nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node x.

Traceback:
\tTraceback (most recent call last):
\t  File "core.py", line 402, in run
\t    runtime = self._run_interface(runtime)
\tbids_flair.errors.BidsFlairError: a.nii.gz: cannot be read
\tto its end.
"""


def test_last_exception_is_the_message():
    assert Crash('n', CRASH).message == 'a.nii.gz: cannot be read to its end.'
    other = CRASH.replace('bids_flair.errors.BidsFlairError', 'ValueError')
    assert Crash('n', other).message == 'ValueError: a.nii.gz: cannot be read to its end.'


@pytest.mark.parametrize(
    ('settings', 'sizes'),
    [
        ({'nprocs': 4, 'omp_nthreads': 1}, [4, 1]),
        ({'nprocs': 2, 'omp_nthreads': 2}, [2, 2, 1]),
        ({'nprocs': 1, 'omp_nthreads': 1}, [1] * 5),
        ({'nprocs': 8, 'omp_nthreads': 1, 'low_mem': True}, [1] * 5),
        ({'nprocs': 1, 'plugin': {'plugin': 'SLURM'}}, [5]),
        ({'nprocs': 8, 'plugin': {'plugin': 'PBS', 'plugin_args': {'max_jobs': 3}}}, [3, 2]),
    ],
)
def test_no_more_sessions_at_once_than_processes(settings, sizes):
    sessions = [SessionInputs(str(n), None, {}) for n in range(5)]
    made = list(batches(sessions, Settings(Path('a'), Path('b'), **settings)))
    assert [len(batch) for batch in made] == sizes
    assert [inputs for batch in made for inputs in batch] == sessions
