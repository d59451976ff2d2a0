"""The network of Build-A-FLAIR (Nencka et al., arXiv:1901.04871).

Ten dense layers take the 5x5x5 patch of every contrast and predict its centre voxel. As written
(``literal``) it seldom trains: with PyTorch's default initialisation and a ReLU on the last neuron
it collapses to zero. The default deviates in these two: He initialisation, and a linear last
layer.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bids_flair.models.regressor import Regressor

PATCH = 5
LAYERS = 10
DROPOUT_AFTER = (2, 4, 6, 8)
# Voxels predicted at once: their patches of five contrasts are 50 MB.
CHUNK = 20_000


@dataclass(frozen=True)
class PaperArchitecture:
    """Shape of a :class:`PaperNetwork`.

    ``dropout`` is the share of neurons left out after layers 2, 4, 6 and 8 in training;
    ``literal`` keeps PyTorch's default initialisation and the ReLU on the last neuron.
    """

    inputs: tuple[str, ...]
    dropout: float = 0.5
    literal: bool = False

    @property
    def stride(self) -> int:
        """A block may begin anywhere."""
        return 1

    @property
    def halo(self) -> int:
        """The patch reaches this far."""
        return PATCH // 2


class PaperNetwork(Regressor):
    """Dense layers that taper linearly from the patch to one neuron.

    What it has not seen of a patch (an absent contrast, voxels beyond the brain) is 0. It says
    nothing of how sure it is: ``errors``, the 5 % and 95 % quantiles of its errors on the voxels
    that it was validated on, hold everywhere.
    """

    architecture: PaperArchitecture

    def __init__(self, architecture: PaperArchitecture):
        super().__init__(architecture)
        size = PATCH**3 * len(architecture.inputs)
        widths = np.linspace(size, 1, LAYERS + 1).round().astype(int).tolist()
        layers: list[nn.Module] = []
        for i in range(LAYERS):
            layers.append(nn.Linear(widths[i], widths[i + 1]))
            if architecture.literal or i + 1 < LAYERS:
                layers.append(nn.ReLU())
            if architecture.dropout and i + 1 in DROPOUT_AFTER:
                layers.append(nn.Dropout(architecture.dropout))
        self.layers = nn.Sequential(*layers)
        self.register_buffer('errors', torch.zeros(2))
        if not architecture.literal:
            _he_initialise(self)

    def regress(self, patches: Tensor) -> Tensor:
        """Predict voxels (n,) from their patches (n, 125 C), one contrast after the other."""
        return self.layers(patches)[:, 0]

    def forward(
        self, x: Tensor, style: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Regressor.forward`; the style tells this network nothing."""
        values, presence = x.chunk(2, dim=1)
        windows = values * presence
        for axis in (2, 3, 4):
            windows = windows.unfold(axis, PATCH, 1)
        windows = windows.movedim(1, 4)
        keep = (
            torch.ones(windows.shape[:4], dtype=torch.bool, device=x.device)
            if keep is None
            else keep
        )
        found = [
            self.regress(windows[tuple(where.T)].flatten(1))
            for where in keep.nonzero().split(CHUNK)
        ]
        mean = torch.cat(found) if found else x.new_zeros(0)
        return mean, self.errors.abs().expand(len(mean), 2)


def _he_initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
            nn.init.zeros_(module.bias)
