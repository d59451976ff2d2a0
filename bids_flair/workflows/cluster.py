"""What a batch system is asked for each step: memory, processors, a GPU.

Imports nothing of Nipype, so that a command line is refused at once.
"""

import getpass
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Key under which each of Nipype's plugins takes arguments for the submission, of a run and of a
# node; and the program that takes a job back.
ARGUMENTS = {'SLURM': 'sbatch_args', 'SGE': 'qsub_args', 'PBS': 'qsub_args', 'LSF': 'bsub_args'}
CANCEL = {'SLURM': 'scancel', 'SGE': 'qdel', 'PBS': 'qdel', 'LSF': 'bkill'}
OTHER_PLUGINS = (
    'Linear', 'MultiProc', 'LegacyMultiProc', 'IPython', 'SomaFlow', 'OAR', 'Condor',
)  # fmt: skip
# They hand over all jobs and return: a run would be over, and well, before any step has begun.
NOT_WAITING = ('SLURMGraph', 'SGEGraph', 'PBSGraph', 'CondorDAGMan')
MOST_SESSIONS = 16


@dataclass(frozen=True)
class Need:
    """What a step takes at most; memory in GB (1e9 bytes)."""

    mem_gb: float
    n_procs: int = 1
    gpu: bool = False

    @property
    def mib(self) -> int:
        """Memory in units of 2**20 bytes, which batch systems count in."""
        return math.ceil(self.mem_gb * 1e9 / 2**20)

    @property
    def mib_per_slot(self) -> int:
        """Memory of each processor, where a batch system counts it so."""
        return math.ceil(self.mib / self.n_procs)


def submits_jobs(plugin: Mapping[str, Any]) -> bool:
    """Whether steps run elsewhere, as jobs of a batch system that is told what they need."""
    return plugin.get('plugin') in ARGUMENTS


def refusal(name: str) -> str | None:
    """Why a plugin cannot be used; None if it can."""
    if name in NOT_WAITING:
        waiting = name.removesuffix('Graph').removesuffix('DAGMan')
        return f'{name} does not wait for its jobs, so that a failed one goes unseen: {waiting}.'
    known = (*ARGUMENTS, *OTHER_PLUGINS)
    return None if name in known else f'Nipype has no plugin {name!r}: {", ".join(known)}.'


def sessions_at_once(plugin: Mapping[str, Any]) -> int:
    """How many sessions are in one graph: no more than there may be jobs, and a bounded number."""
    return min(plugin.get('plugin_args', {}).get('max_jobs', MOST_SESSIONS), MOST_SESSIONS)


def node_args(plugin: Mapping[str, Any], need: Need) -> dict[str, str]:
    """A node's `plugin_args`, which Nipype appends to those of the run.

    What the run's own arguments or template ask for already is left to them. Its `gpu_args` go to
    steps with a GPU alone.
    """
    name, of_run = plugin['plugin'], plugin.get('plugin_args', {})
    key = ARGUMENTS[name]
    gpu_args = of_run.get('gpu_args', '') if need.gpu else ''
    own = '\n'.join((of_run.get(key, ''), _template(of_run), gpu_args))
    asked = [text for said, text in _REQUESTS[name](need) if not re.search(said, own)]
    return {key: ' '.join(filter(None, [*asked, gpu_args]))}


def set_login_name() -> None:
    """Set LOGNAME, of which Nipype makes the names of jobs, where a container or cron did not."""
    if 'LOGNAME' not in os.environ:
        try:
            os.environ['LOGNAME'] = getpass.getuser()
        except (KeyError, OSError):
            os.environ['LOGNAME'] = f'uid{os.getuid()}'


def _template(of_run: Mapping[str, Any]) -> str:
    """Text of the job template: Nipype takes it as it is, or as the path of a file."""
    template = of_run.get('template', '')
    is_path = template and '\n' not in template and Path(template).is_file()
    return Path(template).read_text() if is_path else template


# Each system's requests: how one that is made already is recognised, and its text.


def _slurm(need: Need) -> list[tuple[str, str]]:
    requests = [
        (r'--mem\b', f'--mem={need.mib}M'),
        (r'(^|\s)(-c|--cpus-per-task)', f'--cpus-per-task={need.n_procs}'),
    ]
    return requests + [(r'--gres|--gpus|(^|\s)-G', '--gres=gpu:1')] * need.gpu


def _sge(need: Need) -> list[tuple[str, str]]:
    # Not h_vmem: it limits addresses, of which PyTorch maps far more than it uses.
    requests = [
        (r'(^|\s)-V\b', '-V'),
        (r'mem_free|_vmem|h_rss|virtual_free', f'-l mem_free={need.mib_per_slot}M'),
    ]
    if need.n_procs > 1:
        requests.append((r'(^|\s)-pe\b', f'-pe smp {need.n_procs}'))
    return requests + [(r'gpus?=', '-l gpu=1')] * need.gpu


def _pbs(need: Need) -> list[tuple[str, str]]:
    chunk = f'select=1:ncpus={need.n_procs}:mem={need.mib}mb' + ':ngpus=1' * need.gpu
    return [(r'(^|\s)-V\b', '-V'), (r'\b(select|nodes|ncpus|p?mem)=', f'-l {chunk}')]


def _lsf(need: Need) -> list[tuple[str, str]]:
    requests = [
        (r'(^|\s)-n\b', f'-n {need.n_procs} -R "span[hosts=1]"'),
        (r'rusage', f'-R "rusage[mem={need.mib}MB]"'),
    ]
    return requests + [(r'(^|\s)-gpu\b|ngpus', '-gpu "num=1"')] * need.gpu


_REQUESTS = {'SLURM': _slurm, 'SGE': _sge, 'PBS': _pbs, 'LSF': _lsf}
