"""Blocks of voxels to train on: where from, and what may happen to them on the way.

All that is random about step ``i`` comes from ``(seed, i)`` alone, so that a run that was
interrupted goes on as if it had not been.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bids_flair.models.inference import cut_cube
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.training.corpus import BORDER, LESION, ORDINARY, Person

INPUTS = len(CONTRASTS)
T1W, T2W, MD, FA, S0 = range(INPUTS)
LESION_WEIGHT = 3.0


@dataclass(frozen=True)
class Sampling:
    """How blocks are drawn.

    ``real`` is the share of blocks from real people; ``lesion`` and ``border`` are the shares of
    blocks centred on a lesion or on a border of fluid.
    """

    block: int = 16
    batch: int = 4
    real: float = 0.5
    lesion: float = 0.25
    border: float = 0.25


@dataclass(frozen=True)
class Batch:
    """Input ``x`` (N, 10, ...) with its halo; ``keep`` (N, X, Y, Z); per voxel kept: ``target``
    and ``weight``.
    """

    x: Tensor
    keep: Tensor
    target: Tensor
    weight: Tensor


def draw_batch(
    real: Sequence[Person],
    simulated: Sequence[Person],
    sampling: Sampling,
    halo: int,
    seed: int,
    step: int,
) -> Batch:
    """Draw the blocks of one training step."""
    rng = np.random.default_rng([seed, step])
    blocks = []
    for _ in range(sampling.batch):
        use_real = len(simulated) == 0 or (len(real) > 0 and rng.random() < sampling.real)
        people = real if use_real else simulated
        blocks.append(_draw_block(rng, people[rng.integers(len(people))], sampling, halo))
    x, keep, target, weight = (torch.stack(part) for part in zip(*blocks, strict=True))
    return Batch(x, keep, target[keep], weight[keep])


def _draw_block(
    rng: np.random.Generator, person: Person, sampling: Sampling, halo: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    corner = _draw_centre(rng, person, sampling) - sampling.block // 2
    corner = corner + rng.integers(-8, 9, 3)
    size = sampling.block + 2 * halo
    values = _cut(person.values, corner - halo, size).float()
    presence = _cut(person.presence, corner - halo, size)
    depth = _cut(person.depth, corner - halo, size, fill=-8)
    kind = _cut(person.kind, corner - halo, size)
    if rng.random() < 0.5:
        values, presence, depth, kind = (a.flip(-3) for a in (values, presence, depth, kind))
    mask = depth > rng.choice([-3, -2, -1, 0, 0, 0, 0, 1])
    presence = presence & mask
    x = augment(rng, values[:INPUTS], presence[:INPUTS])
    inner = (..., *(slice(halo, size - halo),) * 3)
    keep = presence[-1][inner] & x[INPUTS:][inner].any(0)
    weight = torch.where(kind[inner] == LESION, LESION_WEIGHT, 1.0)
    return x, keep, values[-1][inner], weight


def _draw_centre(rng: np.random.Generator, person: Person, sampling: Sampling) -> np.ndarray:
    p = (1 - sampling.lesion - sampling.border, sampling.border, sampling.lesion)
    kind = rng.choice([ORDINARY, BORDER, LESION], p=p)
    places = person.places[kind if len(person.places[kind]) else ORDINARY]
    return places[rng.integers(len(places))].astype(int)


def _cut(volume: np.ndarray, corner: np.ndarray, size: int, fill: int = 0) -> Tensor:
    return torch.from_numpy(cut_cube(volume, corner, size, fill))


def augment(rng: np.random.Generator, values: Tensor, presence: Tensor) -> Tensor:
    """Change contrast, sharpness, noise and coverage of the inputs as scanners do.

    Parameters
    ----------
    rng : Generator
    values : Tensor, shape (5, X, Y, Z)
        Normalised contrasts.
    presence : Tensor of bool, shape (5, X, Y, Z)

    Returns
    -------
    Tensor of float32, shape (10, X, Y, Z)
        Values, 0 where absent, then presence, of a random subset of the contrasts that is never
        empty where anything was present.
    """
    presence = _drop_contrasts(rng, _cut_coverage(rng, presence))
    out = torch.zeros_like(values)
    for i in range(INPUTS):
        if not presence[i].any():
            continue
        value = values[i] * presence[i]
        if rng.random() < 0.2:
            value = _thick_slices(rng, value, presence[i])
        value = _contrast(rng, value, i)
        value = value * _shading(rng, value.shape) if i not in (MD, FA) else value
        out[i] = value
    if rng.random() < 0.6:
        sigma = torch.from_numpy(rng.uniform(0, 0.05, (INPUTS, 1, 1, 1)).astype(np.float32))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        out += sigma * torch.randn(out.shape, generator=generator)
    out = out.clamp_(0, 10) * presence
    return torch.cat([out, presence.float()])


def _drop_contrasts(rng: np.random.Generator, presence: Tensor) -> Tensor:
    """Every subset occurs; all at hand, and anatomy alone, more often than the others."""
    here = np.flatnonzero(presence.flatten(1).any(1).numpy())
    how = rng.random()
    if how < 0.25 or len(here) == 0:
        return presence
    kept = here[rng.random(len(here)) < 0.6]
    if how > 0.7:
        kept = np.intersect1d(here, [T1W, T2W])
    if len(kept) == 0:
        kept = rng.choice(here, 1)
    chosen = torch.zeros(INPUTS, dtype=torch.bool)
    chosen[torch.from_numpy(kept)] = True
    return presence & chosen[:, None, None, None]


def _cut_coverage(rng: np.random.Generator, presence: Tensor) -> Tensor:
    """Now and then a contrast's slices end inside the block."""
    if rng.random() > 0.1:
        return presence
    presence = presence.clone()
    i, end = rng.integers(INPUTS), rng.integers(presence.shape[-1])
    part = slice(end, None) if rng.random() < 0.5 else slice(None, end)
    others = presence.clone()
    others[i, :, :, part] = False
    return others if (others.any(0) == presence.any(0)).all() else presence


def _contrast(rng: np.random.Generator, value: Tensor, contrast: int) -> Tensor:
    """Gain and gamma around white matter (1); T1w now and then with little contrast left."""
    if contrast in (MD, FA):
        return value * np.exp(rng.normal(0, 0.05))
    value = value.clamp_min(0) ** float(np.exp(rng.normal(0, 0.1)))
    if contrast == T1W and rng.random() < 0.2:
        value = 1 + (value - 1) * float(rng.uniform(0.35, 1.0))
    return value * float(np.exp(rng.normal(0, 0.05)))


def _thick_slices(rng: np.random.Generator, value: Tensor, presence: Tensor) -> Tensor:
    """Average over slices of 2 to 5 mm along one axis, interpolated back."""
    axis, thick = int(rng.choice([0, 1, 2, 2])), int(rng.integers(2, 6))
    kernel = [1, 1, 1]
    kernel[axis] = thick
    shape = value.shape
    both = torch.stack([value, presence.float()])[None]
    coarse = F.avg_pool3d(both, kernel, ceil_mode=True)
    stretched = [n * k for n, k in zip(coarse.shape[2:], kernel, strict=True)]
    fine = F.interpolate(coarse, size=stretched, mode='trilinear', align_corners=False)[0]
    fine = fine[:, : shape[0], : shape[1], : shape[2]]
    return fine[0] / fine[1].clamp_min(1e-3)


def _shading(rng: np.random.Generator, shape: torch.Size) -> Tensor:
    """A smooth factor around 1, as bias correction leaves behind."""
    coarse = rng.normal(0, rng.uniform(0, 0.08), (1, 1, 3, 3, 3)).astype(np.float32)
    field = F.interpolate(torch.from_numpy(coarse), size=shape, mode='trilinear')[0, 0]
    return field.exp()
