"""Where a node puts its files."""

from pathlib import Path


def output_file(runtime, name: str, extension: str = '.nii') -> str:
    """Absolute path of a file in the node's own working directory."""
    return str(Path(runtime.cwd) / f'{name}{extension}')
