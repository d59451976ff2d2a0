"""What every network that makes an image has in common."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bids_flair.models.familiarity import Familiarity
from bids_flair.models.normalisation import Normalised

# Of every contrast's values over the brain: what tells one protocol from another.
STYLE_QUANTILES = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)
# The interval that is predicted around the mean.
LOW, HIGH = 0.05, 0.95
CPU = torch.device('cpu')


class Shape(Protocol):
    """What must be known of a network to give it blocks of voxels.

    Attributes
    ----------
    inputs : tuple of str
        The contrasts it takes, in order.
    halo : int
        Voxels of input needed on each side of a block.
    stride : int
        Blocks begin at, and are as long as, a multiple of this many voxels.
    """

    inputs: tuple[str, ...]
    halo: int
    stride: int


class Voice(NamedTuple):
    """A network, what its word counts for (a number, or one for every voxel), and why."""

    network: 'Regressor'
    weight: float | np.ndarray
    role: str


class Predictor(Protocol):
    """What can be asked for a person's image: a network, or several with one answer."""

    @property
    def architecture(self) -> Shape:
        """What it takes."""

    def voices(
        self, images: Normalised, mask: np.ndarray, device: torch.device = CPU
    ) -> list[Voice]:
        """Whose predictions count for a person; their weights are 1 in all."""


class Regressor(nn.Module):
    """A network from blocks of C contrasts to one, that knows what its training looked like."""

    architecture: Shape
    # Whether it saw simulated people only, so that no scanner is its home.
    simulated_only = False

    def __init__(self, architecture: Shape):
        super().__init__()
        self.architecture = architecture
        contrasts = len(architecture.inputs)
        values = contrasts * len(STYLE_QUANTILES)
        self.register_buffer('style_mean', torch.zeros(values))
        self.register_buffer('style_covariance', torch.eye(values))
        self.register_buffer('style_limits', torch.full((contrasts,), torch.inf))

    def forward(
        self, x: Tensor, style: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict a block of voxels.

        Parameters
        ----------
        x : Tensor, shape (N, 2 C, X + 2 halo, Y + 2 halo, Z + 2 halo)
            Values of the C contrasts (0 where absent), then their presence (0 or 1). X, Y and Z
            are multiples of ``architecture.stride``.
        style : Tensor, shape (N, C, quantiles)
            `STYLE_QUANTILES` of each contrast over the brain; NaN where absent.
        keep : Tensor of bool, shape (N, X, Y, Z), optional
            Voxels to predict; default all.

        Returns
        -------
        mean : Tensor, shape (number of voxels kept,)
            The target in units of its white matter.
        reach : Tensor, shape (number of voxels kept, 2)
            How far below and above the mean the 90 % interval reaches, before calibration.
        """
        raise NotImplementedError

    def voices(
        self, images: Normalised, mask: np.ndarray, device: torch.device = CPU
    ) -> list[Voice]:
        """Nobody's but its own."""
        return [Voice(self, 1.0, 'abroad' if self.simulated_only else 'generalist')]

    def familiarity(self) -> Familiarity:
        """What the styles of the training images were like."""
        shape = (len(self.architecture.inputs), len(STYLE_QUANTILES))
        mean, covariance, limits = (
            buffer.double().cpu().numpy()
            for buffer in (self.style_mean, self.style_covariance, self.style_limits)
        )
        return Familiarity(mean.reshape(shape), covariance, limits)

    def remember(self, familiarity: Familiarity) -> None:
        """Keep with the weights what the styles of the training images were like."""
        self.style_mean.copy_(torch.from_numpy(familiarity.mean.ravel()))
        self.style_covariance.copy_(torch.from_numpy(familiarity.covariance))
        self.style_limits.copy_(torch.from_numpy(familiarity.limits))
