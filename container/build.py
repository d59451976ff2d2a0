#!/usr/bin/env python3
"""Build the image: ``container/build.py [gpu|cpu]``.

With docker, podman or buildah, whichever works first. Without a Docker engine, buildah needs no
daemon and, with chroot isolation, no privileges inside another container. How pip is configured
here (index, certificate, local folders) holds during the build and leaves no trace in the image.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ('docker', 'podman', 'buildah')


def main() -> None:
    """Build one target and tag it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('target', choices=('gpu', 'cpu'), nargs='?', default='gpu')
    parser.add_argument('--tag', help='default: bids_flair, bids_flair:cpu')
    parser.add_argument('--engine', choices=ENGINES, help='default: the first that works')
    parser.add_argument('--base-image', default=os.environ.get('BASE_IMAGE'))
    parser.add_argument('--torch-index-url', default=os.environ.get('TORCH_INDEX_URL'))
    args = parser.parse_args()
    engine = args.engine or next((name for name in ENGINES if _works(name)), None)
    if engine is None:
        sys.exit(f'None of {", ".join(ENGINES)} works here: install one of them.')
    tag = args.tag or ('bids_flair' if args.target == 'gpu' else f'bids_flair:{args.target}')
    values = {
        'BASE_IMAGE': args.base_image,
        'TORCH_INDEX_URL': args.torch_index_url,
        'VERSION': _version(),
        'REVISION': _output('git', '-C', str(ROOT), 'rev-parse', 'HEAD') or 'unknown',
    }
    options = [f'--build-arg={name}={value}' for name, value in values.items() if value]
    options += [] if engine == 'docker' else ['--layers']
    options += ['--isolation=chroot'] if engine == 'buildah' else []
    conf, paths = _pip_configuration()
    mounts = [f'--volume={path}:{path}:ro' for path in paths]
    with tempfile.TemporaryDirectory() as scratch:
        secret = Path(scratch, 'pip.conf')
        secret.write_text(conf)
        options.append(f'--secret=id=pip_conf,src={secret}')
        build = [engine, 'build', *options]
        if mounts and engine == 'docker':
            print('docker build cannot see local folders of pip:', *paths, file=sys.stderr)
        elif mounts:
            # First what needs them, alone: places to mount at must not be left in the image.
            packages = f'{args.target}-packages'
            subprocess.run([*build, *mounts, '--target', packages, str(ROOT)], check=True)
        subprocess.run([*build, '--target', args.target, '--tag', tag, str(ROOT)], check=True)


def _works(engine: str) -> bool:
    if shutil.which(engine) is None:
        return False
    return subprocess.run([engine, 'info'], capture_output=True, check=False).returncode == 0


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version() -> str:
    text = (ROOT / 'bids_flair' / '__init__.py').read_text()
    return re.search(r"^__version__ = '(.+)'", text, re.MULTILINE)[1]


def _pip_configuration() -> tuple[str, list[str]]:
    """This user's settings of pip as one file, and the local files and folders they name."""
    settings = {}
    for line in _output(sys.executable, '-m', 'pip', 'config', 'list').splitlines():
        name, _, value = line.partition('=')
        key = name.rpartition('.')[2]
        words = [*settings.get(key, '').split(), *ast.literal_eval(value).split()]
        # What is named twice (a file and the environment) is meant once.
        settings[key] = ' '.join(dict.fromkeys(words))
    lines = ['[global]', *(f'{key} = {value}' for key, value in settings.items())]
    words = [word.removeprefix('file://') for value in settings.values() for word in value.split()]
    paths = [word for word in words if word.startswith('/') and Path(word).exists()]
    return '\n'.join(lines) + '\n', sorted({_whole(path) for path in paths})


def _whole(path: str) -> str:
    """An index in a folder refers to files beside it: that folder, with what is beside it."""
    return str(Path(path).parent) if path.rstrip('/').endswith('/simple') else path


if __name__ == '__main__':
    main()
