"""The recipe of Build-A-FLAIR (Nencka et al., arXiv:1901.04871).

Every epoch shows the voxels of one training participant, drawn at random; the epoch with the
smallest error on the validation participant is kept. The network is that of
:mod:`bids_flair.models.paper`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.paper import CHUNK, PATCH, PaperArchitecture, PaperNetwork
from bids_flair.models.regressor import HIGH, LOW
from bids_flair.training.checkpoint import read_checkpoint, write_checkpoint
from bids_flair.training.corpus import Cut, Person
from bids_flair.training.distributed import ALONE, World
from bids_flair.training.progress import Clock, Epoch, exhausted, refuse_nan
from bids_flair.training.sampling import draw_ahead

OFFSETS = np.stack(np.meshgrid(*[np.arange(PATCH) - PATCH // 2] * 3, indexing='ij'), -1)
OFFSETS = OFFSETS.reshape(-1, 3)
# Distinguishes the voxels to validate on from those of any epoch.
VALIDATION = 2**31


@dataclass(frozen=True)
class Recipe:
    """How the paper trains.

    Every one of ``epochs`` shows ``voxels`` of one training participant, drawn without
    replacement, in batches of ``batch``; ``patience`` is how many may pass without a smaller
    validation error (the paper: all).
    """

    epochs: int = 500
    voxels: int = 2000
    batch: int = 100
    learning_rate: float = 1e-4
    seed: int = 0
    patience: int | None = None


@dataclass
class _State:
    network: PaperNetwork
    optimizer: torch.optim.Optimizer
    best: dict[str, torch.Tensor]
    lowest: float = math.inf
    history: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class _Drawn:
    """An epoch's voxels, whose they are, and what decides about dropout."""

    seed: int
    person: str
    patches: np.ndarray
    true: np.ndarray


def train_paper(
    people: Sequence[Person | Cut],
    validation: Person | Cut,
    architecture: PaperArchitecture,
    recipe: Recipe,
    target: str = 'FLAIR',
    checkpoint: Path | None = None,
    world: World = ALONE,
) -> tuple[PaperNetwork, list[Epoch]]:
    """Train the paper's network, or go on with what ``checkpoint`` holds.

    Parameters
    ----------
    people : sequence of Person or Cut
        Whole persons.
    validation : Person or Cut
        Whose voxels, the same after every epoch, choose the weights that are kept.
    architecture : PaperArchitecture
    recipe : Recipe
    target : str
        The contrast to predict.
    checkpoint : Path, optional
        Written after every epoch.
    world : World
        The processes that train together, each on its share of every batch.

    Returns
    -------
    network : PaperNetwork
        With the weights of the epoch with the smallest validation error.
    history : list of Epoch
    """
    torch.manual_seed(recipe.seed)
    network = PaperNetwork(architecture)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate, fused=True)
    state = _State(network, optimizer, _copy(network))
    if checkpoint is not None and checkpoint.exists():
        weights, told = read_checkpoint(checkpoint, optimizer)
        network.load_state_dict(weights['network'])
        state.best, state.lowest = weights['best'], told['lowest']
        state.history = [Epoch(**line) for line in told['history']]
    held_out = draw_voxels(
        np.random.default_rng([recipe.seed, VALIDATION]),
        validation,
        architecture.inputs,
        target,
        recipe.voxels,
    )
    clock = Clock(recipe.epochs, len(state.history))

    def draw(epoch: int) -> _Drawn:
        # All that is random about an epoch comes from its number: a run that was cut short goes
        # on as if it had not been.
        rng = np.random.default_rng([recipe.seed, epoch])
        seed, i = int(rng.integers(2**62)), int(rng.integers(len(people)))
        voxels = draw_voxels(rng, people[i], architecture.inputs, target, recipe.voxels)
        return _Drawn(seed, getattr(people[i], 'name', f'participant {i}'), *voxels)

    for drawn in draw_ahead(draw, range(len(state.history), recipe.epochs)):
        torch.manual_seed(drawn.seed)
        loss = _run_epoch(state, drawn.patches, drawn.true, recipe.batch, world)
        refuse_nan(loss, (drawn.person,))
        error = _validation_error(network, *held_out)
        if error < state.lowest:
            state.lowest, state.best = error, _copy(network)
        epoch = len(state.history) + 1
        state.history.append(clock.tick(epoch, loss, error, len(drawn.true)))
        if checkpoint is not None and world.first:
            told = {'lowest': state.lowest, 'history': [asdict(line) for line in state.history]}
            weights = {'network': network.state_dict(), 'best': state.best}
            write_checkpoint(checkpoint, weights, optimizer, told)
        if exhausted(state.history, recipe.patience):
            break
    network.load_state_dict(state.best)
    network.eval()
    network.errors.copy_(_errors(network, *held_out))
    return network, state.history


def draw_voxels(
    rng: np.random.Generator,
    person: Person | Cut,
    inputs: Sequence[str],
    target: str,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Patches (n, 125 C) and target (n,) of at most so many voxels of the brain."""
    brain = person.brain
    places = np.stack(
        np.unravel_index(
            brain[rng.choice(len(brain), min(count, len(brain)), replace=False)],
            person.depth.shape,
        ),
        1,
    )
    k = CONTRASTS.index(target)
    places = places[person.presence[k][tuple(places.T)]]
    return gather_patches(person, inputs, places), person.values[k][tuple(places.T)].astype('f4')


def gather_patches(person: Person | Cut, inputs: Sequence[str], places: np.ndarray) -> np.ndarray:
    """Flattened patches at some voxels (n, 3); 0 where there is nothing.

    Returns
    -------
    ndarray of float32, shape (n, 125 C)
        One contrast after the other; column 125 c + 62 is the voxel itself.
    """
    where = places[:, None].astype(int) + OFFSETS
    shape = np.array(person.depth.shape)
    inside = ((where >= 0) & (where < shape)).all(-1)
    voxel = np.ravel_multi_index(tuple(np.moveaxis(where, -1, 0)), shape, mode='clip')
    inside &= person.depth.reshape(-1)[voxel] > 0
    columns = []
    for k in (CONTRASTS.index(name) for name in inputs):
        values, presence = (
            part[k].reshape(-1)[voxel] for part in (person.values, person.presence)
        )
        columns.append(values * (inside & presence))
    return np.concatenate(columns, 1, dtype=np.float32)


def brain_of(person: Person | Cut, target: str = 'FLAIR') -> np.ndarray:
    """Where a person is trained and scored on: bool, in the brain and with a target."""
    return (person.depth > 0) & person.presence[CONTRASTS.index(target)]


def predict_voxels(
    regress: Callable[[np.ndarray], np.ndarray], person: Person | Cut, inputs: Sequence[str]
) -> np.ndarray:
    """Predict a whole person with any function from patches (n, 125 C) to FLAIR (n,).

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        At least 0, as the default model's; 0 outside the brain.
    """
    places = np.argwhere(brain_of(person))
    out = np.zeros(person.depth.shape, np.float32)
    for first in range(0, len(places), CHUNK):
        where = places[first : first + CHUNK]
        out[tuple(where.T)] = regress(gather_patches(person, inputs, where))
    return np.maximum(out, 0)


def _run_epoch(
    state: _State, patches: np.ndarray, true: np.ndarray, batch: int, world: World
) -> float:
    """One pass over the voxels drawn, which are in random order already; the mean loss."""
    state.network.train()
    total = 0.0
    pairs = (torch.from_numpy(part).split(batch) for part in (patches, true))
    for x, y in zip(*pairs, strict=True):
        mine = slice(world.rank, None, world.size)
        state.optimizer.zero_grad()
        loss = F.mse_loss(state.network.regress(x[mine]), y[mine])
        loss.backward()
        world.average_gradients(state.network)
        state.optimizer.step()
        total += float(loss.detach()) * len(y)
    return total / len(true)


def _validation_error(network: PaperNetwork, patches: np.ndarray, true: np.ndarray) -> float:
    network.eval()
    with torch.inference_mode():
        found = network.regress(torch.from_numpy(patches))
        return float(F.mse_loss(found, torch.from_numpy(true)))


def _errors(network: PaperNetwork, patches: np.ndarray, true: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        error = torch.from_numpy(true) - network.regress(torch.from_numpy(patches))
    return torch.quantile(error, torch.tensor([LOW, HIGH]))


def _copy(network: PaperNetwork) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
