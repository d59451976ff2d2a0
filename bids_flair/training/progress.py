"""What a training run tells of itself while it goes on."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.logs import NOTICE

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """One line of ``history.tsv``.

    Attributes
    ----------
    epoch : int
        From 1.
    loss : float
        Mean over the epoch's steps.
    validation : float
        Error on the validation participant; NaN where there is none.
    samples_per_s : float
        Voxels that were trained on, per second.
    network : int
        Which of several that are trained one after the other, from 1.
    """

    epoch: int
    loss: float
    validation: float
    samples_per_s: float
    network: int = 1


class Clock:
    """Measures epochs and says how long the rest will take."""

    def __init__(self, epochs: int, first: int):
        self.epochs, self.first = epochs, first
        self.begun = self.last = time.monotonic()

    def tick(self, epoch: int, loss: float, validation: float, samples: int) -> Epoch:
        """The epoch that has just ended; logged with the time left."""
        now = time.monotonic()
        left = (now - self.begun) / (epoch - self.first) * (self.epochs - epoch)
        rate = samples / max(now - self.last, 1e-9)
        self.last = now
        score = '' if np.isnan(validation) else f', validation {validation:.4f}'
        LOGGER.log(
            NOTICE,
            'epoch %d of %d: loss %.4f%s, %.0f voxels/s, %s left',
            epoch, self.epochs, loss, score, rate, _duration(left),
        )  # fmt: skip
        return Epoch(epoch, loss, validation, rate)


def exhausted(history: Sequence[Epoch], patience: int | None) -> bool:
    """Whether the validation error has not fallen for so many epochs (None: never)."""
    errors = [line.validation for line in history]
    if patience is None or not np.isfinite(errors).any():
        return False
    waited = len(errors) - 1 - int(np.nanargmin(errors))
    if waited >= patience:
        LOGGER.log(NOTICE, 'stopped: no smaller validation error for %d epochs', waited)
    return waited >= patience


def refuse_nan(loss: float, people: tuple[str, ...]) -> None:
    """Stop where the loss is no number.

    Raises
    ------
    BidsFlairError
        Naming the people whose voxels were being trained on.
    """
    if not np.isfinite(loss):
        raise BidsFlairError(
            f'training broke down: the loss became {loss} on voxels of {", ".join(people)}. Look '
            'at their images for values that are no intensities; if they are sound, train with a '
            'smaller --learning-rate.',
            ExitCode.DATA_UNUSABLE,
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}'
