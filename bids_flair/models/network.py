"""The patch-to-voxel regressor: a pyramid of patches, then 1x1x1 layers.

Every voxel is predicted from the patch around it at 1, 2 and 4 mm: 5x5x5, seen by one convolution
or by several 3x3x3 ones, of which more than two see a wider patch. All of it is
convolution, so that a block of voxels shares the work, and none of it is padded: an output voxel
depends on the same input voxels whatever block it was computed in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_flair.models.regressor import STYLE_QUANTILES, Regressor

PATCH = 5
# What a value is centred on and divided by.
CENTRES = {'T1w': 0.8, 'T2w': 1.5, 'MD': 1.1, 'FA': 0.25, 'S0': 1.4, 'FLAIR': 1.0}
SPREADS = {'T1w': 0.25, 'T2w': 0.8, 'MD': 0.6, 'FA': 0.2, 'S0': 0.6, 'FLAIR': 0.3}

# What a network keeps of each of its inputs.
OF_INPUTS = ('centres', 'spreads', 'style_mean', 'style_covariance', 'style_limits')


@dataclass(frozen=True)
class Architecture:
    """Shape of a :class:`PatchRegressor`.

    ``inputs`` give two channels each; ``levels`` patches are seen at 1, 2, 4, ... mm;
    ``stem`` filters per patch, ``width`` features and ``blocks`` residual blocks per level;
    ``style`` features of the whole image's values say how its protocol shows tissue (0: where
    there is one protocol, nothing is to be said). ``convolutions`` holds, for each level, how many
    3x3x3 convolutions see its patch, 2 at least; empty, one of 5x5x5 does at each.
    """

    inputs: tuple[str, ...] = ('T1w', 'T2w', 'MD', 'FA', 'S0')
    levels: int = 3
    stem: int = 32
    width: int = 64
    blocks: int = 2
    style: int = 48
    convolutions: tuple[int, ...] = ()

    @property
    def reaches(self) -> tuple[int, ...]:
        """How many of its voxels a level sees to either side."""
        return self.convolutions or (PATCH // 2,) * self.levels

    @property
    def contrasts(self) -> int:
        """Number of inputs, C."""
        return len(self.inputs)

    @property
    def stride(self) -> int:
        """Blocks begin at, and are as long as, a multiple of this many voxels."""
        return 2 ** (self.levels - 1)

    @property
    def halo(self) -> int:
        """Voxels of input needed on each side of a block: the widest patch and one voxel more.

        The one is for the interpolation between coarse voxels. It is a multiple of the stride.
        """
        widest = max(2**i * (reach + 1) for i, reach in enumerate(self.reaches))
        return self.stride * math.ceil(widest / self.stride)


class PatchRegressor(Regressor):
    """Predict an image, and how sure that is, from patches of other contrasts."""

    def __init__(self, architecture: Architecture):
        super().__init__(architecture)
        self.levels = nn.ModuleList(_Level(architecture, i) for i in range(architecture.levels))
        self.style = None
        if architecture.style:
            self.style = nn.Sequential(
                nn.Linear(architecture.contrasts * (len(STYLE_QUANTILES) + 1), architecture.style),
                nn.ReLU(),
                nn.Linear(architecture.style, 2 * architecture.levels * architecture.width),
            )
        self.mean = nn.Linear(architecture.width, 1)
        self.reach = nn.Sequential(
            nn.Linear(architecture.width, 32), nn.ReLU(), nn.Linear(32, 2), nn.Softplus()
        )
        for key, known in (('centres', CENTRES), ('spreads', SPREADS)):
            constants = torch.tensor([known[name] for name in architecture.inputs])
            self.register_buffer(key, constants[:, None, None, None])
        _initialise(self)

    def forward(
        self, x: Tensor, style: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Regressor.forward`; no gradient flows from the reach into shared layers."""
        pyramid = self._pyramid(x)
        adapt = [None] * len(pyramid) if self.style is None else self.adapt(style).unbind(1)
        coarse = None
        for i in reversed(range(1, len(pyramid))):
            seen = _trim(pyramid[i], self._excess(i, margin=1))
            coarse = self.levels[i](seen, coarse, adapt[i])
        seen = _trim(pyramid[0], self._excess(0, margin=0))
        features = self.levels[0](seen, coarse, adapt[0], keep)
        features = F.relu(features.flatten(0, -2))
        return self.mean(features)[:, 0], self.reach(features.detach())

    def adapt(self, style: Tensor) -> Tensor:
        """What a style says: a gain and an offset per feature and level, (N, levels, 2, width)."""
        present = torch.isfinite(style)
        centred = (style - self.centres[:, 0, 0]) / self.spreads[:, 0, 0]
        seen = torch.cat([torch.where(present, centred, 0), present[..., :1].float()], -1)
        shape = (len(style), self.architecture.levels, 2, self.architecture.width)
        return self.style(seen.flatten(1)).view(shape)

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        """Mean value over the voxels present, and the fraction present, at 1, 2, 4, ... mm."""
        value, presence = x.chunk(2, dim=1)
        value = (value - self.centres) / self.spreads * presence
        levels = [torch.cat([value, presence], dim=1)]
        for _ in range(1, self.architecture.levels):
            mass = F.avg_pool3d(value * presence, 2)
            presence = F.avg_pool3d(presence, 2)
            value = mass / presence.clamp_min(1e-6)
            levels.append(torch.cat([value, presence], dim=1))
        return levels

    def _excess(self, level: int, margin: int) -> int:
        return self.architecture.halo // 2**level - self.architecture.reaches[level] - margin


def narrowed(network: PatchRegressor, inputs: Sequence[str]) -> PatchRegressor:
    """The same network for some of its inputs alone: it answers as if the others were absent.

    What it remembers of the people whom it was trained on is not kept.
    """
    known = network.architecture.inputs
    first = 'patch.0' if network.architecture.convolutions else 'patch'
    chosen = [known.index(name) for name in inputs]
    narrow = PatchRegressor(replace(network.architecture, inputs=tuple(inputs)))
    weights, own = network.state_dict(), narrow.state_dict()
    own |= {key: weights[key] for key in own if key not in OF_INPUTS}
    for i in range(network.architecture.levels):
        # Values, then what is present of each.
        patch = f'levels.{i}.{first}.weight'
        own[patch] = weights[patch][:, [*chosen, *(len(known) + c for c in chosen)]]
    if network.style is not None:
        styles = weights['style.0.weight'].unflatten(1, (len(known), -1))
        own['style.0.weight'] = styles[:, chosen].flatten(1)
    narrow.load_state_dict(own)
    return narrow


class _Level(nn.Module):
    """One patch size: its convolution, what the coarser level says, and residual blocks."""

    def __init__(self, architecture: Architecture, level: int):
        super().__init__()
        width = architecture.width
        self.patch = _see_patch(architecture, level)
        self.widen = nn.Linear(architecture.stem, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(architecture.blocks))

    def forward(
        self, x: Tensor, coarse: Tensor | None, adapt: Tensor | None, keep: Tensor | None = None
    ) -> Tensor:
        """Features, channels last: (N, X, Y, Z, width), or (kept, width)."""
        x = x.contiguous(memory_format=torch.channels_last_3d)
        patch = F.relu(self.patch(x)).movedim(1, -1)
        wide = None if coarse is None else upsample(coarse, patch.shape[1])
        if keep is not None:
            patch = patch[keep]
            wide = None if wide is None else wide[keep]
        features = self.widen(patch)
        if adapt is not None:
            per_voxel = adapt[:, :, None, None, None]
            if keep is not None:
                per_voxel = adapt.repeat_interleave(keep.flatten(1).sum(1), 0)
            gain, offset = per_voxel.unbind(1)
            features = features * (1 + gain) + offset
        if wide is not None:
            features = features + wide
        for block in self.blocks:
            features = block(features)
        return features


def _see_patch(architecture: Architecture, level: int) -> nn.Module:
    channels, stem = 2 * architecture.contrasts, architecture.stem
    if not architecture.convolutions:
        return nn.Conv3d(channels, stem, PATCH)
    further = (_Wider(stem) for _ in range(architecture.convolutions[level] - 2))
    return nn.Sequential(
        nn.Conv3d(channels, stem, 3), nn.ReLU(), nn.Conv3d(stem, stem, 3), *further
    )


class _Wider(nn.Module):
    """One voxel more to each side, added to what was seen."""

    def __init__(self, width: int):
        super().__init__()
        self.around = nn.Conv3d(width, width, 3)

    def forward(self, features: Tensor) -> Tensor:
        return _trim(features, 1) + self.around(F.relu(features))


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(F.relu(self.first(self.norm(features))))


def upsample(coarse: Tensor, length: int) -> Tensor:
    """Twice the resolution, cut to ``length`` voxels along the first axis and alike elsewhere.

    Trilinear, one axis after the other and the voxels asked for alone: `interpolate`, which makes
    all of them, takes seven times as long forth and back on a CPU.
    """
    excess = coarse.shape[1] - length // 2
    for axis in (3, 2, 1):
        weights = _between(coarse.shape[axis], excess).to(coarse)
        coarse = (weights @ coarse.flatten(axis + 1)).unflatten(-1, coarse.shape[axis + 1 :])
    return coarse


def _between(length: int, excess: int) -> Tensor:
    """What every fine voxel takes of each coarse one along a line, without ``excess`` at its ends.

    Shape (2 (length - excess), length). Centres of fine voxels lie a quarter to either side of
    those of coarse ones.
    """
    fine = torch.arange(excess, 2 * length - excess)
    where = (fine + 0.5) / 2 - 0.5
    return (1 - (where[:, None] - torch.arange(length)).abs()).clamp_min(0)


def _trim(x: Tensor, n: int) -> Tensor:
    """Leave out ``n`` voxels on every side of the last three axes."""
    return x[..., n : x.shape[-3] - n, n : x.shape[-2] - n, n : x.shape[-1] - n]


def _initialise(network: PatchRegressor) -> None:
    """He initialisation; a new network says white matter (1) everywhere."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
            nn.init.zeros_(module.bias)
    for block in network.modules():
        if isinstance(block, _Block):
            nn.init.zeros_(block.second.weight)
        if isinstance(block, _Wider):
            nn.init.zeros_(block.around.weight)
    if network.style is not None:
        nn.init.zeros_(network.style[-1].weight)
    nn.init.normal_(network.mean.weight, std=1e-2)
    nn.init.ones_(network.mean.bias)
    nn.init.normal_(network.reach[-2].weight, std=1e-2)
    nn.init.constant_(network.reach[-2].bias, -1.5)
