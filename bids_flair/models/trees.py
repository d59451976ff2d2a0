"""Gradient-boosted trees: another way from patches to a voxel, which errs elsewhere."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bids_flair.models.regressor import Regressor

# Patches are seen at these distances of their voxels, in voxels; each of those is the mean over a
# cube of as many voxels to an edge.
STEPS, CUBES = (1, 2, 4), (1, 3, 5)
# A patch is all of 5x5x5 steps that is at most so many from its centre, along the axes: at the
# finest everything.
REACH = (6, 3, 3)
HALO = 2 * STEPS[-1] + CUBES[-1] // 2
# Voxels that are predicted at once.
CHUNK = 32_768


def _within(reach: int) -> list[tuple[int, int, int]]:
    """Offsets of a patch's voxels, in steps."""
    cube = itertools.product(range(-2, 3), repeat=3)
    return [offset for offset in cube if sum(map(abs, offset)) <= reach]


@dataclass(frozen=True)
class TreesArchitecture:
    """Shape of :class:`BoostedTrees`.

    ``trees`` for the mean and ``interval_trees`` for either limit of the interval, all of them
    ``depth`` questions deep.
    """

    inputs: tuple[str, ...]
    trees: int = 300
    interval_trees: int = 50
    depth: int = 6

    @property
    def stride(self) -> int:
        """Blocks may begin anywhere."""
        return 1

    @property
    def halo(self) -> int:
        """Voxels of input needed on each side of a block."""
        return HALO

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Trees of the mean, of the lower limit and of the upper one."""
        return self.trees, self.interval_trees, self.interval_trees


class BoostedTrees(Regressor):
    """Predict an image, and the limits it lies in, by sums of decision trees (Friedman 2001).

    Where one or two people of a scanner are known, they follow the acquired image more closely
    than a network does, and are blunter.

    Each tree is kept as a complete one: question ``i`` is followed by ``2 i + 1`` where a feature
    is at most ``threshold``, else by ``2 i + 2``.
    """

    def __init__(self, architecture: TreesArchitecture):
        super().__init__(architecture)
        count, questions = sum(architecture.sizes), 2**architecture.depth - 1
        self.register_buffer('begin', torch.zeros(3))
        self.register_buffer('feature', torch.zeros(count, questions, dtype=torch.int16))
        self.register_buffer('threshold', torch.full((count, questions), torch.inf))
        self.register_buffer('leaf', torch.zeros(count, questions + 1))

    def forward(
        self, x: Tensor, style: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Regressor.forward`; no gradient flows, and the style is of no account."""
        patches = Patches(x, keep)
        # Each operation is too short to be shared among threads; the chunks are not.
        threads = torch.get_num_threads() if x.device.type == 'cpu' else 1
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(lambda some: self._answer(patches.of(some)), patches.chunks)
            mean, low, high = torch.cat(list(found), 1)
        return mean, torch.stack([mean - low, high - mean], 1).clamp_min(0)

    @torch.inference_mode()
    def _answer(self, seen: Tensor) -> Tensor:
        """Mean and limits (3, n) from the features (m, n) of n voxels."""
        number = torch.arange(seen.shape[1], dtype=torch.int32, device=seen.device)
        sums = self.begin[:, None].repeat(1, len(number))
        kinds = [k for k, size in enumerate(self.architecture.sizes) for _ in range(size)]
        flat, rows = seen.flatten(), self.feature.int() * len(number)
        first = zip(self.feature[:, 0].tolist(), self.threshold[:, 0].tolist(), strict=True)
        trees = zip(kinds, first, rows, self.threshold, self.leaf, strict=True)
        # Small whole numbers and index_select: five times as fast as indexing.
        for kind, (feature, limit), row, threshold, leaf in trees:
            # Everybody is asked the first question: nothing to look up.
            place = (seen[feature] > limit).int().add_(1)
            for _ in range(1, self.architecture.depth):
                at = row.index_select(0, place).add_(number)
                lacks = threshold.index_select(0, place).sub_(flat.index_select(0, at))
                # The sign bit, -1 where a feature is above: half the time of a comparison.
                more = lacks.view(torch.int32).bitwise_right_shift_(31)
                place = place.mul_(2).add_(1).sub_(more)
            sums[kind] += leaf.index_select(0, place - len(row))
        return sums


class Patches:
    """What the trees ask about, in some voxels of a block at a time.

    Parameters
    ----------
    x : Tensor, shape (N, 2 C, X + 2 halo, Y + 2 halo, Z + 2 halo)
        As for :meth:`Regressor.forward`.
    keep : Tensor of bool, shape (N, X, Y, Z), optional
        Voxels asked for; default all.

    Attributes
    ----------
    chunks : sequence of Tensor
        The voxels asked for, each as its place in a flattened map; `CHUNK` or fewer together.
    """

    def __init__(self, x: Tensor, keep: Tensor | None = None):
        values, presence = x.chunk(2, dim=1)
        values = values * presence
        maps = [F.avg_pool3d(values, cube, stride=1, padding=cube // 2) for cube in CUBES]
        self._maps = [[level[:, c].flatten() for level in maps] for c in range(values.shape[1])]
        inner = tuple(n - 2 * HALO for n in x.shape[2:])
        if keep is None:
            keep = torch.ones(len(x), *inner, dtype=torch.bool, device=x.device)
        block, *place = keep.nonzero(as_tuple=True)
        self._across = (x.shape[3] * x.shape[4], x.shape[4], 1)
        centre = block * x.shape[2:].numel()
        for p, voxels in zip(place, self._across, strict=True):
            centre = centre + (p + HALO) * voxels
        self.chunks = centre.int().split(CHUNK)

    def of(self, voxels: Tensor) -> Tensor:
        """Contrast by contrast and patch by patch, (m, n)."""
        rows = []
        for contrast in self._maps:
            for level, step, reach in zip(contrast, STEPS, REACH, strict=True):
                for offset in _within(reach):
                    shift = step * sum(o * v for o, v in zip(offset, self._across, strict=True))
                    rows.append(level.index_select(0, voxels + shift))
        return torch.stack(rows)


def features(x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Of all voxels asked for, as :class:`Patches` has them."""
    patches = Patches(x, keep)
    return torch.cat([patches.of(voxels) for voxels in patches.chunks], 1)
