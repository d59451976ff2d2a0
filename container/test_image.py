"""The image as its users run it: any uid, read-only, without network.

Not part of `make test`: `make test-container` builds the image and runs this. RUN_CONTAINER is the
engine's run command, such as "docker run", IMAGE the image.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import bids_flair
from bids_flair.scoring import score

RUN = shlex.split(os.environ['RUN_CONTAINER'])
IMAGE = os.environ['IMAGE']
LARGEST_GB = 2.2
FIRST_LINE_S = 15
UID = 1234
HARDENED = ['--read-only', '--network', 'none', '--cap-drop', 'ALL', '--user', f'{UID}:{UID}']
FLAIR = 'sub-01/anat/sub-01_space-T1w_desc-synth_FLAIR.nii.gz'
MASK = FLAIR.replace('FLAIR.', 'mask.')


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )


def container(data: Path, out: Path, *options) -> list:
    mounts = ['-v', f'{data}:/data:ro', '-v', f'{out}:/out']
    return [*RUN, '--rm', *HARDENED, *mounts, IMAGE, '/data', '/out', 'participant', *options]


def inside(script: str) -> str:
    """What a shell in the image prints."""
    done = run(*RUN, '--rm', '--entrypoint', 'sh', IMAGE, '-c', script)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('simulated') / 'data'
    made = run(
        sys.executable, '-m', 'bids_flair.simulation', folder,
        '--participants', 1, '--seed', 0, '--voxel-size', 2,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / 'out'
    folder.mkdir()
    os.chown(folder, UID, UID)
    return folder


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory) -> tuple[Path, float]:
    """One run in the image: its output, and the seconds to its first line."""
    folder = tmp_path_factory.mktemp('run') / 'out'
    folder.mkdir()
    os.chown(folder, UID, UID)
    start = time.monotonic()
    with subprocess.Popen(
        list(map(str, container(data, folder, '--nprocs', 2))), stderr=subprocess.PIPE, text=True
    ) as process:
        first = process.stderr.readline()
        seconds = time.monotonic() - start
        rest = process.stderr.read()
    assert process.returncode == 0, first + rest
    return folder, seconds


def test_the_flair_is_that_of_a_plain_installation(finished, data, tmp_path):
    plain = run(
        sys.executable, '-m', 'bids_flair', data, tmp_path / 'out', 'participant',
        '-w', tmp_path / 'work', '--nprocs', 2,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    one, other, mask = (
        nib.load(path).get_fdata()
        for path in (finished[0] / FLAIR, tmp_path / 'out' / FLAIR, finished[0] / MASK)
    )
    assert score(one, other, mask > 0)['ssim'] > 0.999
    np.testing.assert_array_equal(
        nib.load(finished[0] / FLAIR).affine, nib.load(tmp_path / 'out' / FLAIR).affine
    )


def test_it_says_something_soon(finished):
    assert finished[1] < FIRST_LINE_S


def test_output_belongs_to_the_caller(finished):
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in finished[0].rglob('*')}
    assert owners == {(UID, UID)}
    assert (finished[0] / 'sub-01.html').exists()


def test_without_any_temporary_folder(data, out):
    """As Docker's --read-only leaves it: /tmp cannot be written to, either."""
    command = container(data, out, '--dry-run')
    command[command.index('--read-only')] = '--read-only=true'
    if Path(RUN[0]).name == 'podman':
        command.insert(len(RUN), '--read-only-tmpfs=false')
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert 'sub-01: T1w' in done.stderr


def test_output_that_cannot_be_written(data, out):
    os.chown(out, 0, 0)
    out.chmod(0o755)
    done = run(*container(data, out))
    assert done.returncode == 73
    assert '/out' in done.stderr
    assert 'Traceback' not in done.stderr


def test_data_that_cannot_be_read(data, out, tmp_path):
    copy = Path(shutil.copytree(data, tmp_path / 'copy'))
    (copy / 'sub-01/anat/sub-01_T1w.nii.gz').chmod(0o600)
    done = run(*container(copy, out))
    assert done.returncode == 65, done.stderr
    assert 'sub-01_T1w.nii.gz' in done.stderr


def test_nothing_of_the_machine_that_built_it_is_inside():
    left = inside(
        'ls -d /src /etc/pip.conf /root/.cache /root/.config /opt/pypi* /opt/wheels 2>/dev/null;'
        ' env | grep -i "^pip\\|proxy"; find / -xdev -name ".git"; true'
    )
    assert left.split() == []


def test_descriptor_weights_and_labels():
    descriptor = json.loads(inside('cat /data_descriptor.json'))
    assert descriptor['tool-version'] == bids_flair.__version__
    assert inside('/run.py --version').split()[-1] == bids_flair.__version__
    shipped = inside('find /opt/bids_flair -name default.safetensors')
    assert len(shipped.split()) == 1
    engine = RUN[0]
    image = json.loads(run(engine, 'inspect', IMAGE).stdout)[0]
    assert image['Config']['Entrypoint'] == ['/run.py']
    labels = image['Config']['Labels']
    assert labels['org.opencontainers.image.version'] == bids_flair.__version__
    assert labels['org.opencontainers.image.licenses'] == 'Apache-2.0'
    assert image['Size'] < LARGEST_GB * 1e9


def test_pytorch_is_that_for_the_cpu():
    assert inside('python -c "import torch; print(torch.version.cuda)"').strip() == 'None'
    assert inside('ls /opt/bids_flair/lib/python3*/site-packages | grep -ci nvidia; true') == '0\n'
