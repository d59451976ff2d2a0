"""A real SLURM of one node: a plugin, an array, a GPU, a group of processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from phantoms import write_participant

from bids_flair.bids.validation import validator_errors
from bids_flair.errors import ExitCode
from bids_flair.workflows.cluster import Need, node_args

# `make test` leaves these out: they start daemons, and want to be root.
pytestmark = [pytest.mark.slurm, pytest.mark.slow]

PROGRAM = (sys.executable, '-m', 'bids_flair')
FLAIR = 'anat/{0}_space-{1}_desc-synth_FLAIR.nii.gz'


def call(command, environment, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True,
        check=False, **options,
    )  # fmt: skip


def batch(environment, folder: Path, *arguments) -> int:
    """Submit a job, wait for its end; its exit code (of an array, the largest)."""
    command = ['sbatch', '--wait', f'--output={folder}/%a.log', *arguments]
    answer = call(command, environment)
    assert answer.stdout.startswith('Submitted'), answer.stderr
    return answer.returncode


def jobs(environment) -> list[dict[str, str]]:
    """What SLURM knows of the jobs of the last minutes."""
    lines = call(['scontrol', 'show', 'job', '--oneliner'], environment).stdout.splitlines()
    return [dict(re.findall(r'(\S+?)=(\S*)', line)) for line in lines]


def test_plugin_finishes_one_participant_and_names_the_one_that_fails(slurm, thumbs, tmp_path):
    plugin = tmp_path / 'slurm.yml'
    plugin.write_text('plugin: SLURM\nplugin_args:\n  sbatch_args: --time=7 --comment=mine\n')
    out = tmp_path / 'out'
    done = call(
        [*PROGRAM, thumbs, out, 'participant', '-w', tmp_path / 'work', '--use-plugin', plugin,
         '--participant-label', '01', '03', '--omp-nthreads', '2', '--nprocs', '2'],
        slurm,
    )  # fmt: skip
    assert done.returncode == ExitCode.PARTICIPANT_FAILED, done.stderr
    assert (out / 'sub-01' / FLAIR.format('sub-01', 'T1w')).exists()
    assert 'sub-03 FAILED: IndexError' in done.stderr
    assert len(list((out / 'sub-03' / 'log').glob('*/crash-*.txt'))) == 1
    assert 'IndexError' in (out / 'sub-03.html').read_text()
    (step,) = [job for job in jobs(slurm) if job['JobName'].startswith('synthesize_flair.')]
    assert step['NumCPUs'] == '2'
    assert step['MinMemoryNode'] == node_args(
        {'plugin': 'SLURM'}, Need(synthesis_memory())
    )['sbatch_args'].split()[0].removeprefix('--mem=')  # fmt: skip
    assert (step['TimeLimit'], step['Comment']) == ('00:07:00', 'mine')


def synthesis_memory() -> float:
    from bids_flair.workflows.synthesis import init_synthesis_wf

    return init_synthesis_wf().get_node('synthesize_flair').mem_gb


def test_array_of_the_docs_shares_one_output_directory(slurm, thumbs, tmp_path, root):
    """Two jobs at once finish, the third fails, and the dataset is valid."""
    out = tmp_path / 'out'
    code = batch(
        {**slurm, 'BIDS_FLAIR': ' '.join(PROGRAM)}, tmp_path, '--array=0-2', '--cpus-per-task=1',
        '--mem=4G', root / 'docs/clusters/participants.sbatch', thumbs, out,
        '--bids-database-dir', tmp_path / 'database',
    )  # fmt: skip
    logs = '\n'.join((tmp_path / f'{number}.log').read_text() for number in range(3))
    assert code == ExitCode.PARTICIPANT_FAILED, logs
    assert [job['JobState'] for job in jobs(slurm) if job.get('ArrayTaskId') == '2'] == ['FAILED']
    assert (out / 'sub-01' / FLAIR.format('sub-01', 'T1w')).exists(), logs
    assert (out / 'sub-02' / FLAIR.format('sub-02', 'T2w')).exists(), logs
    assert 'sub-03 FAILED: IndexError' in logs
    assert validator_errors(out) == []


def test_a_gpu_step_is_placed_where_a_gpu_is(slurm, tmp_path):
    """/dev/zero stands for the GPU: what SLURM gives the job is its number."""
    plugin = {'plugin': 'SLURM', 'plugin_args': {'gpu_args': '--comment=gpu'}}
    asked = node_args(plugin, Need(1.0, gpu=True))['sbatch_args'].split()
    assert batch(slurm, tmp_path, *asked, f'--wrap=env > {tmp_path}/gpu') == 0
    assert 'CUDA_VISIBLE_DEVICES=0' in (tmp_path / 'gpu').read_text().splitlines()
    asked = node_args(plugin, Need(1.0))['sbatch_args'].split()
    assert batch(slurm, tmp_path, *asked, f'--wrap=env > {tmp_path}/none') == 0
    assert 'CUDA_VISIBLE_DEVICES' not in (tmp_path / 'none').read_text()


def test_what_slurm_refuses_is_said(slurm, thumbs, tmp_path):
    """More memory than any node has."""
    plugin = tmp_path / 'slurm.yml'
    plugin.write_text('plugin: SLURM\nplugin_args: {sbatch_args: --mem=9999G, max_tries: 0}\n')
    done = call(
        [*PROGRAM, thumbs, tmp_path / 'out', 'participant', '-w', tmp_path / 'work',
         '--use-plugin', plugin, '--participant-label', '01'],
        slurm,
    )  # fmt: skip
    assert done.returncode == ExitCode.PARTICIPANT_FAILED
    assert 'SLURM took no job for the step' in done.stderr
    assert 'Requested node configuration is not available' in done.stderr
    assert 'Traceback' not in done.stderr


def test_group_of_processes_trains_in_a_job(slurm, tmp_path):
    data = tmp_path / 'data'
    description = {'Name': 'Balls', 'BIDSVersion': '1.10.0', 'DatasetType': 'derivative'}
    for label in ('1', '2'):
        write_participant(data, label, ('T1w', 'FLAIR'))
    (data / 'dataset_description.json').write_text(json.dumps(description))
    out, work = tmp_path / 'out', tmp_path / 'work'
    torchrun = f'{sys.executable} -m torch.distributed.run --nproc-per-node 2 -m bids_flair'
    options = '--model-name mine --recipe build-a-flair --epochs 1 --batch-size 5000 --device cpu'
    command = f'{torchrun} {data} {out} group -w {work} --inputs T1w {options}'
    asked = ('--cpus-per-task=2', '--mem=4G', f'--wrap={command}')
    assert batch(slurm, tmp_path, *asked) == 0, next(tmp_path.glob('*.log')).read_text()
    assert (out / 'models' / 'mine' / 'model.safetensors').exists()
