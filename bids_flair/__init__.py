"""Synthetic T2-FLAIR for every participant of a BIDS dataset."""

from typing import TYPE_CHECKING

__version__ = '0.1.0'
__all__ = ['__version__', 'synthesize']

if TYPE_CHECKING:
    from bids_flair.models.inference import synthesize


def __getattr__(name: str):
    # torch is imported on first use only, so that `bids_flair --help` answers at once.
    if name == 'synthesize':
        from bids_flair.models.inference import synthesize

        return synthesize
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
