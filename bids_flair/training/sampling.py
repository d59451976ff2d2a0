"""Blocks of voxels to train on: where from, and what may happen to them on the way.

All that is random about block ``k`` of step ``i`` comes from ``(seed, i, k)`` alone, so that a run
that was interrupted goes on as if it had not been, and any number of processes draw the same.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.regressor import STYLE_QUANTILES, Shape
from bids_flair.training.corpus import BORDER, BRIGHT, LESION, ORDINARY, Person, evenness
from bids_flair.training.distributed import ALONE, World
from bids_flair.training.rendering import SimulatedPerson

Drawn = TypeVar('Drawn')
ANATOMICAL = ('T1w', 'T2w', 'FLAIR')
# Physical units: no scanner gives them a gain that differs from place to place, or a contrast.
QUANTITATIVE = ('MD', 'FA')
LESION_WEIGHT = 4.0
STYLE_NOISE = 0.02
# Spread of the exponent by which bright voxels are more frequent than dark ones.
COMPOSITION = 1.0
# Share of blocks that are turned, and from which `evenness` of so many people on.
TURNED, EVEN, LOOKED_AT = 0.5, 0.65, 8
# How much of the changes of contrast, shading and noise a block gets that is not foreign.
AT_HOME = 0.4
# Where a brain mask may end: so deep, in mm.
EDGES = (-3, -2, -1, 0, 0, 0, 0, 1)


@dataclass(frozen=True)
class Sampling:
    """How blocks are drawn.

    ``real`` is the share of blocks from real people; ``lesion`` and ``border`` are the shares of
    blocks centred on a lesion or on a border of fluid. ``target`` is the contrast to predict;
    with ``drop``, a network learns to do with any subset of its inputs; ``foreign`` is the share
    of blocks shown as other protocols, slices, fields of view and brain masks than those of the
    people at hand would have shown them; ``turned`` is the share of blocks that are turned about
    any axes, not only mirrored left to right.
    """

    target: str = 'FLAIR'
    drop: bool = True
    foreign: float = 0.5
    block: int = 16
    batch: int = 4
    real: float = 0.5
    lesion: float = 0.25
    border: float = 0.25
    turned: float = 0.0

    @classmethod
    def of_one_scanner(cls, people: Sequence[Person], **others: Any) -> 'Sampling':
        """For people of one scanner, shown as it shows them, but not always as they lie in it.

        The lesions of a few have few directions, and are told by those instead of by how they
        look. Where slices are thick, the scanner itself has a direction, and nothing is turned.
        """
        even = np.mean([evenness(person) for person in people[:LOOKED_AT]]) > EVEN
        return cls(real=1.0, foreign=0.0, turned=TURNED if even else 0.0, **others)


@dataclass(frozen=True)
class Batch:
    """Input ``x`` (N, 2 C, ...) with its halo and its ``style`` (N, C, quantiles); ``keep``
    (N, X, Y, Z); per voxel kept: ``target`` and ``weight``. ``people`` are whose blocks they are.
    """

    x: Tensor
    style: Tensor
    keep: Tensor
    target: Tensor
    weight: Tensor
    people: tuple[str, ...] = ()

    def to(self, device: torch.device) -> 'Batch':
        """The same batch on another device."""
        tensors = ('x', 'style', 'keep', 'target', 'weight')
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def draw_batch(
    real: Sequence[Sequence[Person]],
    simulated: Sequence[SimulatedPerson],
    sampling: Sampling,
    architecture: Shape,
    seed: int,
    step: int,
    world: World = ALONE,
) -> Batch:
    """Draw the blocks of one training step, as a network of this architecture takes them.

    ``real`` holds one sequence of people per dataset; each dataset counts as much as any other.
    Of the processes of a ``world`` each draws its share of the blocks.
    """
    blocks, people = [], []
    for k in range(world.rank, sampling.batch, world.size):
        rng = np.random.default_rng([seed, step, k])
        person = draw_person(rng, real, simulated, sampling)
        people.append(person.name)
        blocks.append(_draw_block(rng, person, sampling, architecture))
    x, style, keep, target, weight = (torch.stack(part) for part in zip(*blocks, strict=True))
    return Batch(x, style, keep, target[keep], weight[keep], tuple(people))


def draw_ahead(
    draw: Callable[[int], Drawn], steps: Iterable[int], threads: int = 1
) -> Iterator[Drawn]:
    """What is drawn for each step, in order; the next ones while one is trained on."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[Drawn]] = deque()
        for step in steps:
            coming.append(pool.submit(draw, step))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def draw_styles(
    real: Sequence[Sequence[Person]],
    simulated: Sequence[SimulatedPerson],
    sampling: Sampling,
    inputs: Sequence[str],
    seed: int,
    count: int,
) -> np.ndarray:
    """Styles of the training images, without their noise: (count, inputs, quantiles)."""
    rng = np.random.default_rng([seed, 3])
    chosen = [CONTRASTS.index(name) for name in inputs]
    styles = []
    for _ in range(count):
        person = draw_person(rng, real, simulated, sampling)
        foreign = rng.random() < sampling.foreign
        sample, depth = person.draw_sample(rng, foreign=foreign)
        inside = depth > _draw_edge(rng, foreign=foreign)
        values = draw_composition(rng, sample[inside][:, chosen]).astype(float)
        absent = ~values.any(0)
        styles.append(np.quantile(values, STYLE_QUANTILES, axis=0).T)
        styles[-1][absent] = np.nan
    return np.stack(styles)


def draw_person(
    rng: np.random.Generator,
    real: Sequence[Sequence[Person]],
    simulated: Sequence[SimulatedPerson],
    sampling: Sampling,
) -> Person | SimulatedPerson:
    """Draw whose block is next."""
    use_real = len(simulated) == 0 or (len(real) > 0 and rng.random() < sampling.real)
    people = real[rng.integers(len(real))] if use_real else simulated
    return people[rng.integers(len(people))]


def _draw_block(
    rng: np.random.Generator,
    person: Person | SimulatedPerson,
    sampling: Sampling,
    architecture: Shape,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    halo = architecture.halo
    chosen = [CONTRASTS.index(name) for name in architecture.inputs]
    target = CONTRASTS.index(sampling.target)
    corner = _draw_centre(rng, person, sampling) - sampling.block // 2
    corner = corner + rng.integers(-8, 9, 3)
    size = sampling.block + 2 * halo
    foreign = rng.random() < sampling.foreign
    cut = person.cut(rng, corner - halo, size, foreign=foreign)
    values, presence, depth, kind = (
        torch.from_numpy(a) for a in (cut.values, cut.presence, cut.depth, cut.kind)
    )
    values, presence, depth, kind = turn(rng, sampling.turned, values, presence, depth, kind)
    deeper_than = _draw_edge(rng, foreign=foreign)
    presence = presence & (depth > deeper_than)
    sample = draw_composition(rng, cut.sample[cut.sample_depth > deeper_than][:, chosen])
    x, style = augment(
        rng,
        architecture.inputs,
        values[chosen],
        presence[chosen],
        torch.from_numpy(sample.T.copy()),
        drop=sampling.drop,
        foreign=foreign,
    )
    inner = (..., *(slice(halo, size - halo),) * 3)
    keep = presence[target][inner] & x[len(chosen) :][inner].any(0)
    weight = torch.where(kind[inner] == LESION, LESION_WEIGHT, 1.0)
    return x, style, keep, values[target][inner], weight


def turn(rng: np.random.Generator, turned: float, *volumes: Tensor) -> list[Tensor]:
    """Mirror cubes (..., X, Y, Z) or turn them about any axes, all of them alike."""
    axes, mirrored = (-3, -2, -1), (-3,)
    if turned and rng.random() < turned:
        axes, mirrored = tuple(int(axis) for axis in rng.permutation(axes)), axes
    mirrored = [axis for axis in mirrored if rng.random() < 0.5]
    return [volume.flip(mirrored).movedim(axes, (-3, -2, -1)) for volume in volumes]


def _draw_edge(rng: np.random.Generator, *, foreign: bool) -> int:
    return rng.choice(EDGES) if foreign else 0


def _draw_centre(
    rng: np.random.Generator, person: Person | SimulatedPerson, sampling: Sampling
) -> np.ndarray:
    p = (1 - sampling.lesion - sampling.border, sampling.border, sampling.lesion)
    kind = rng.choice([ORDINARY, BORDER, LESION], p=p)
    kinds = (LESION, BRIGHT, ORDINARY) if kind == LESION else (kind, ORDINARY)
    places = next(person.places[k] for k in kinds if len(person.places.get(k, ())))
    return places[rng.integers(len(places))].astype(int)


def draw_composition(rng: np.random.Generator, sample: np.ndarray) -> np.ndarray:
    """Voxels (n, C) of a brain with more, or less, of what is bright in one of its contrasts.

    Quantiles over a brain tell its protocol, and how much fluid it holds as well; those of a few
    brains would be taken for their protocol's.
    """
    contrast = sample[:, rng.choice(np.flatnonzero(sample.any(0)))]
    rank = np.argsort(np.argsort(contrast)) / len(contrast)
    odds = np.exp(rng.normal(0, COMPOSITION) * (2 * rank - 1))
    return sample[np.searchsorted(np.cumsum(odds / odds.sum()), rng.random(len(sample) // 2))]


def augment(
    rng: np.random.Generator,
    names: Sequence[str],
    values: Tensor,
    presence: Tensor,
    sample: Tensor,
    *,
    drop: bool = True,
    foreign: bool = True,
) -> tuple[Tensor, Tensor]:
    """Change contrast, sharpness, noise and coverage of the inputs as scanners do.

    Parameters
    ----------
    rng : Generator
    names : sequence of str
        The C contrasts that are given.
    values : Tensor, shape (C, X, Y, Z)
        Normalised.
    presence : Tensor of bool, shape (C, X, Y, Z)
    sample : Tensor, shape (C, n)
        The same contrasts all over the brain.
    drop : bool
        Whether to leave contrasts out.
    foreign : bool
        Whether to cut coverage, thicken slices, and change contrast and noise by much.

    Returns
    -------
    x : Tensor of float32, shape (2 C, X, Y, Z)
        Values, 0 where absent, then presence, of a random subset of the contrasts (or all of
        them) that is never empty where anything was present.
    style : Tensor of float32, shape (C, quantiles)
        Quantiles of the sample, NaN where a contrast is absent.
    """
    if foreign:
        presence = _cut_coverage(rng, presence)
    if drop:
        presence = _drop_contrasts(rng, names, presence)
    strength = 1.0 if foreign else AT_HOME
    out = torch.zeros_like(values)
    style = torch.full((len(names), len(STYLE_QUANTILES)), torch.nan)
    for i, name in enumerate(names):
        if not presence[i].any():
            continue
        value = values[i] * presence[i]
        if foreign and rng.random() < 0.2:
            value = _thick_slices(rng, value, presence[i])
        contrast = _contrast(rng, name, strength)
        value = contrast(value)
        style[i] = torch.quantile(contrast(sample[i]), torch.tensor(STYLE_QUANTILES))
        if name not in QUANTITATIVE:
            value = value * _shading(rng, value.shape, strength)
        out[i] = value
    if rng.random() < 0.6 * strength:
        most = rng.uniform(0, 0.05, (len(names), 1, 1, 1))
        sigma = torch.from_numpy(most.astype(np.float32))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        out += sigma * torch.randn(out.shape, generator=generator)
    noise = rng.normal(0, STYLE_NOISE, style.shape).astype(np.float32)
    style = style + torch.from_numpy(noise)
    out = out.clamp_(0, 10) * presence
    return torch.cat([out, presence.float()]), style.clamp(0, 10)


def _drop_contrasts(rng: np.random.Generator, names: Sequence[str], presence: Tensor) -> Tensor:
    """Every subset occurs; all at hand, and anatomy alone, more often than the others.

    Real people bring anatomy alone as it is: where there is diffusion, it is mostly kept.
    """
    here = np.flatnonzero(presence.flatten(1).any(1).numpy())
    anatomy = [i for i in here if names[i] in ANATOMICAL]
    all_kept, anatomy_alone = (0.25, 0.3) if len(anatomy) == len(here) else (0.5, 0.1)
    how = rng.random()
    if how < all_kept or len(here) == 0:
        return presence
    kept = here[rng.random(len(here)) < 0.6]
    if how > 1 - anatomy_alone:
        kept = np.array(anatomy, int)
    if len(kept) == 0:
        kept = rng.choice(here, 1)
    chosen = torch.zeros(len(names), dtype=torch.bool)
    chosen[torch.from_numpy(kept)] = True
    return presence & chosen[:, None, None, None]


def _cut_coverage(rng: np.random.Generator, presence: Tensor) -> Tensor:
    """Now and then a contrast's slices end inside the block."""
    if rng.random() > 0.1:
        return presence
    presence = presence.clone()
    i, end = rng.integers(len(presence)), rng.integers(presence.shape[-1])
    part = slice(end, None) if rng.random() < 0.5 else slice(None, end)
    others = presence.clone()
    others[i, :, :, part] = False
    return others if (others.any(0) == presence.any(0)).all() else presence


def _contrast(rng: np.random.Generator, name: str, strength: float) -> Callable[[Tensor], Tensor]:
    """Gain and gamma around white matter (1); T1w now and then with little contrast left."""
    gain = float(np.exp(rng.normal(0, 0.04 * strength)))
    if name in QUANTITATIVE:
        return lambda value: value * gain
    gamma = float(np.exp(rng.normal(0, 0.08 * strength)))
    flat = name == 'T1w' and rng.random() < 0.1 * strength
    slope = float(rng.uniform(0.35, 1.0)) if flat else 1.0
    return lambda value: (1 + (value.clamp_min(0) ** gamma - 1) * slope) * gain


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


def _shading(rng: np.random.Generator, shape: torch.Size, strength: float) -> Tensor:
    """A smooth factor around 1, as bias correction leaves behind."""
    coarse = rng.normal(0, rng.uniform(0, 0.08 * strength), (1, 1, 3, 3, 3)).astype(np.float32)
    field = F.interpolate(torch.from_numpy(coarse), size=shape, mode='trilinear')[0, 0]
    return field.exp()
