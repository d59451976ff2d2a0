"""Looking at a session's files before anything is computed, so that bad ones are named at once."""

from pathlib import Path

from bids_flair.bids.session import SessionInputs
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.gradients import read_gradients
from bids_flair.processing.images import load_checked, load_volume


def check_session(inputs: SessionInputs) -> None:
    """Read every file that a session's processing will need.

    Raises
    ------
    BidsFlairError
        If there is no input at all, or a file is missing or unusable: which, and what to do.
    """
    if inputs.reference is None:
        raise BidsFlairError(
            f'{inputs.label}: no T1w, T2w or dwi image, so there is nothing to synthesise from',
            ExitCode.INPUT_MISSING,
        )
    for name, prepared in inputs.prepared.items():
        if name not in inputs.images:
            load_volume(prepared.path)
    for contrast, path in inputs.images.items():
        if contrast == 'dwi':
            _check_series(path, inputs)
        else:
            load_volume(path)


def _check_series(path: Path, inputs: SessionInputs) -> None:
    for kind in inputs.missing_companions:
        raise BidsFlairError(
            f'{path}: no {kind} file belongs to it; a diffusion series needs both bval and '
            f'bvec. Put {path.name.split(".")[0]}.{kind} beside it, or leave the series out '
            'with --bids-filter-file',
            ExitCode.INPUT_MISSING,
        )
    read_gradients(load_checked(path), inputs.bval, inputs.bvec)
