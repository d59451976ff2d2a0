"""Writing into folders that other jobs write into and read from at the same time."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that no other job ever reads a part of it.

    A file that holds the content already is left alone: of many jobs with the same, one writes.
    """
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}')
    with os.fdopen(handle, 'wb') as file:
        file.write(content)
    umask = os.umask(0)
    os.umask(umask)
    Path(name).chmod(0o666 & ~umask)
    Path(name).replace(path)
