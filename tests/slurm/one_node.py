"""A SLURM of one node, on loopback, from Debian's slurm-wlm and munge."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

NEEDED = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scancel', 'sinfo')
# The node of which there is one has a GPU, as far as SLURM can tell.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SchedulerParameters=batch_sched_delay=0
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={mib} Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
STARTS_WITHIN = 30


def what_is_missing() -> str:
    """Why there can be no SLURM here; empty if there can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f'no {", ".join(missing)}; apt install slurm-wlm munge'
    return '' if os.geteuid() == 0 else 'it is started as root'


@contextmanager
def one_node() -> Iterator[Path]:
    """Start SLURM; its folder, with `slurm.conf`. All of it is stopped at the end."""
    # Not pytest's folder, which the user munge may not enter.
    folder = Path(tempfile.mkdtemp(prefix='slurm-'))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        _start_munge(folder, stack)
        _write_config(folder)
        for daemon in ('slurmctld', 'slurmd'):
            _start(stack, folder, [daemon, '-D', '-f', folder / 'slurm.conf'])
        _await_node(folder)
        stack.callback(_cancel_all, folder)
        yield folder


def environment(folder: Path) -> dict[str, str]:
    """Variables that make SLURM's commands, and what calls them, use this one."""
    return {**os.environ, 'SLURM_CONF': str(folder / 'slurm.conf')}


def _start_munge(folder: Path, stack: ExitStack) -> None:
    key = folder / 'munge.key'
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    user = pwd.getpwnam('munge')
    os.chown(folder, user.pw_uid, user.pw_gid)
    os.chown(key, user.pw_uid, user.pw_gid)
    names = {'key-file': 'key', 'socket': 'socket', 'pid-file': 'pid', 'log-file': 'log'}
    files = [f'--{option}={folder}/munge.{name}' for option, name in names.items()]
    command = ['munged', '--foreground', '--force', f'--seed-file={folder}/munge.seed', *files]
    _start(stack, folder, command, '--reuid=munge', '--regid=munge', '--clear-groups')
    _await(lambda: (folder / 'munge.socket').exists(), 'munged', folder)


def _write_config(folder: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        for ends in (first, second):
            ends.bind(('127.0.0.1', 0))
        control, node = (ends.getsockname()[1] for ends in (first, second))
    for name in ('state', 'spool'):
        (folder / name).mkdir()
    text = CONFIG.format(
        folder=folder, host=socket.gethostname().split('.')[0], control=control, node=node,
        cpus=os.cpu_count(), mib=psutil.virtual_memory().total // 2**20 * 9 // 10,
    )  # fmt: skip
    (folder / 'slurm.conf').write_text(text)
    # A device that there is everywhere, and that nothing opens.
    (folder / 'gres.conf').write_text('Name=gpu File=/dev/zero\n')


def _start(stack: ExitStack, folder: Path, command: list, *as_whom: str) -> None:
    log = stack.enter_context((folder / f'{command[0]}.out').open('w'))
    # The signal: so that none is left behind where the tests are killed.
    process = subprocess.Popen(
        ['setpriv', '--pdeathsig', 'TERM', *as_whom, *command],
        stdout=log, stderr=subprocess.STDOUT, env=environment(folder),
    )  # fmt: skip
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_node(folder: Path) -> None:
    command = ['sinfo', '--noheader', '--format=%T']

    def is_idle() -> bool:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(folder)
        )
        return answer.stdout.strip() == 'idle'

    _await(is_idle, 'SLURM', folder)


def _await(is_there, what: str, folder: Path) -> None:
    ends = time.monotonic() + STARTS_WITHIN
    while not is_there():
        if time.monotonic() > ends:
            logs = [*folder.glob('*.log'), *folder.glob('*.out')]
            told = '\n'.join(f'{log.name}:\n{log.read_text()[-2000:]}' for log in logs)
            raise RuntimeError(f'{what} did not start within {STARTS_WITHIN} s\n{told}')
        time.sleep(0.2)


def _cancel_all(folder: Path) -> None:
    """Before the daemons are stopped: what a test left running would go on without them."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    subprocess.run(['scancel', f'--user={user}'], check=False, env=environment(folder))
    _await(lambda: not _queue(folder), 'an empty queue', folder)


def _queue(folder: Path) -> str:
    return subprocess.run(
        ['squeue', '--noheader'], capture_output=True, text=True, check=False,
        env=environment(folder),
    ).stdout  # fmt: skip
