"""What can go wrong, each with the exit code that tells a script about it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the program; above 64 they are those of ``sysexits.h``."""

    DONE = 0
    PARTICIPANT_FAILED = 1
    WRONG_ARGUMENTS = 2
    NOT_BIDS = 16
    UNKNOWN_LEVEL = 17
    NOTHING_MATCHED = 18
    DATA_UNUSABLE = 65
    INPUT_MISSING = 66
    CANNOT_WRITE = 73
    IO_FAILED = 74
    TRY_AGAIN = 75
    COMMAND_MISSING = 127


class BidsFlairError(Exception):
    """An error that a person can act on.

    Parameters
    ----------
    message : str
        What happened, to which file, and what to do about it.
    code : ExitCode
        What the program exits with if nothing else is to be done.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.PARTICIPANT_FAILED):
        super().__init__(message)
        self.code = code
