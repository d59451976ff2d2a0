"""Messages: where they go, and the level that everyone is shown unasked."""

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler

# Between INFO and WARNING.
NOTICE = 25
CONSOLE = Console(stderr=True)


def start_logging(verbosity: int) -> None:
    """Send messages to stderr: coloured on a terminal, plain lines with the time elsewhere."""
    logging.addLevelName(NOTICE, 'NOTICE')
    if sys.stderr.isatty():
        handler: logging.Handler = RichHandler(console=CONSOLE, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter('%(message)s'))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
    logger = logging.getLogger('bids_flair')
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(max(25 - 5 * verbosity, 10))
