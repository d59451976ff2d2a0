"""The program called as a function, which need not import everything again for every call."""

import contextlib
import io
import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from bids_flair.cli.main import run

# Whoever has FSL would see another backend; FSL has tests of its own.
WITHOUT_FSL = {name: value for name, value in os.environ.items() if name != 'FSLDIR'}


def call(
    *arguments, env: Mapping[str, str] = WITHOUT_FSL, cwd: Path = Path()
) -> subprocess.CompletedProcess:
    """Exit code and messages; this process's environment and logging stay as they were."""
    logger = logging.getLogger('bids_flair')
    kept = (logger.handlers[:], logger.propagate, logger.level)
    errors = io.StringIO()
    with (
        mock.patch.dict(os.environ, env, clear=True),
        contextlib.redirect_stderr(errors),
        contextlib.chdir(cwd),
    ):
        try:
            code = run([str(argument) for argument in arguments])
        finally:
            logger.handlers[:], logger.propagate, logger.level = kept
    return subprocess.CompletedProcess(arguments, code, '', errors.getvalue())
