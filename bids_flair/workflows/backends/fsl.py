"""The paper's own tools. Not there yet: asking for them is answered, not half done."""

from bids_flair.errors import BidsFlairError, ExitCode


def check() -> None:
    """Say that this backend cannot be used.

    Raises
    ------
    BidsFlairError
        Always, until the backend exists.
    """
    raise BidsFlairError(
        'the FSL backend is not part of this version yet; use --backend embedded',
        ExitCode.COMMAND_MISSING,
    )
