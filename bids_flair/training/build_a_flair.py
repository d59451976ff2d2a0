"""The network and the recipe of Build-A-FLAIR (Nencka et al., arXiv:1901.04871), to compare with.

Ten dense layers take the 5x5x5 patch of every contrast and predict its centre voxel's FLAIR. As
written (``literal``) it seldom trains: with PyTorch's default initialisation and a ReLU on the
last neuron it collapses to zero. The default deviates in these two: He initialisation, and a
linear last layer.
"""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn import functional as F

from bids_flair.models.network import PATCH
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.training.corpus import Cut
from bids_flair.training.evaluation import choose

LOGGER = logging.getLogger(__name__)
LAYERS = 10
DROPOUT_AFTER = (2, 4, 6, 8)
DROPOUT = 0.5
# Voxels predicted at once: their patches of five contrasts are 50 MB.
CHUNK = 20_000


@dataclass(frozen=True)
class Recipe:
    """How the paper trains.

    Every one of ``epochs`` shows ``voxels`` of one training participant, drawn without
    replacement, in batches of ``batch``. ``literal`` keeps PyTorch's default initialisation and
    the ReLU on the last neuron.
    """

    epochs: int = 500
    voxels: int = 2000
    batch: int = 100
    learning_rate: float = 1e-4
    dropout: bool = True
    seed: int = 0
    literal: bool = False


@dataclass(frozen=True)
class Patches:
    """One person's patches, gathered where they are asked for.

    Attributes
    ----------
    windows : ndarray of float32, shape (C, X, Y, Z, 5, 5, 5)
        A view of the contrasts: the patch around every voxel, 0 beyond the array.
    flair : ndarray of float32, shape (X, Y, Z)
    places : ndarray of int16, shape (n, 3)
        The voxels of the brain where there is FLAIR.
    """

    windows: np.ndarray
    flair: np.ndarray
    places: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Patches (n, 125 C) and FLAIR (n,) of at most so many voxels, without replacement."""
        where = rng.choice(self.places, min(count, len(self.places)), replace=False)
        return gather_patches(self.windows, where), self.flair[tuple(where.T)]


class PaperNetwork(nn.Module):
    """Dense layers that taper linearly from the patch to one neuron.

    Parameters
    ----------
    contrasts : int
        Number of input contrasts, C.
    dropout : bool
        Whether half of the neurons after layers 2, 4, 6 and 8 are dropped in training.
    literal : bool
        As published: see the module's docstring.
    """

    def __init__(self, contrasts: int, dropout: bool = True, literal: bool = False):
        super().__init__()
        widths = np.linspace(PATCH**3 * contrasts, 1, LAYERS + 1).round().astype(int).tolist()
        layers: list[nn.Module] = []
        for i in range(LAYERS):
            layers.append(nn.Linear(widths[i], widths[i + 1]))
            if literal or i + 1 < LAYERS:
                layers.append(nn.ReLU())
            if dropout and i + 1 in DROPOUT_AFTER:
                layers.append(nn.Dropout(DROPOUT))
        self.layers = nn.Sequential(*layers)
        if not literal:
            _he_initialise(self)

    def forward(self, patches: Tensor) -> Tensor:
        """FLAIR (n,) of patches (n, 125 C)."""
        return self.layers(patches)[:, 0]


def brain_of(cut: Cut) -> np.ndarray:
    """Where a person is trained and scored on: bool, in the brain and with a FLAIR."""
    return (cut.depth > 0) & cut.presence[CONTRASTS.index('FLAIR')]


def patches_of(cut: Cut, contrasts: Sequence[str]) -> Patches:
    """The patches of some contrasts of a person; 0 outside the brain, as where one is absent."""
    return Patches(
        patch_windows(choose(cut, contrasts).pick(contrasts).values),
        cut.values[CONTRASTS.index('FLAIR')],
        np.argwhere(brain_of(cut)).astype(np.int16),
    )


def patch_windows(values: np.ndarray) -> np.ndarray:
    """The patch around every voxel of (C, X, Y, Z): a view, (C, X, Y, Z, 5, 5, 5)."""
    reach = PATCH // 2
    padded = np.pad(values, ((0, 0), *((reach, reach),) * 3))
    return sliding_window_view(padded, (PATCH,) * 3, axis=(1, 2, 3))


def gather_patches(windows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Flattened patches at some voxels.

    Parameters
    ----------
    windows : ndarray, shape (C, X, Y, Z, 5, 5, 5)
        Of :func:`patch_windows`.
    places : ndarray of int, shape (n, 3)

    Returns
    -------
    ndarray, shape (n, 125 C)
        One contrast after the other; column 125 c + 62 is the voxel itself.
    """
    x, y, z = places.T
    return np.concatenate([window[x, y, z].reshape(len(places), -1) for window in windows], 1)


def train_paper(
    people: Sequence[Cut], validation: Cut, contrasts: Sequence[str], recipe: Recipe
) -> PaperNetwork:
    """Train the paper's network.

    Parameters
    ----------
    people : sequence of Cut
        Whole persons.
    validation : Cut
        The person whose voxels, the same after every epoch, choose the weights that are kept.
    contrasts : sequence of str
        Inputs, among `CONTRASTS`.
    recipe : Recipe

    Returns
    -------
    PaperNetwork
        With the weights of the epoch with the lowest validation error.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    network = PaperNetwork(len(contrasts), recipe.dropout, recipe.literal)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    trained = [patches_of(person, contrasts) for person in people]
    held_out = patches_of(validation, contrasts).draw(rng, recipe.voxels)
    lowest, best = math.inf, network.state_dict()
    for epoch in range(recipe.epochs):
        patches, flair = trained[rng.integers(len(trained))].draw(rng, recipe.voxels)
        _run_epoch(network, optimizer, patches, flair, recipe.batch)
        error = _validation_error(network, *held_out)
        if error < lowest:
            lowest, best = error, copy.deepcopy(network.state_dict())
        if (epoch + 1) % 50 == 0:
            LOGGER.info('epoch %d: validation MSE %.4f, best %.4f', epoch + 1, error, lowest)
    network.load_state_dict(best)
    return network.eval()


def predict_paper(network: PaperNetwork, cut: Cut, contrasts: Sequence[str]) -> np.ndarray:
    """Predict a whole person's FLAIR: float32, (X, Y, Z), 0 outside the brain."""
    network.eval()

    def regress(patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(patches)).numpy()

    return predict_voxels(regress, cut, contrasts)


def predict_voxels(
    regress: Callable[[np.ndarray], np.ndarray], cut: Cut, contrasts: Sequence[str]
) -> np.ndarray:
    """Predict a whole person with any function from patches (n, 125 C) to FLAIR (n,).

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        At least 0, as the default model's; 0 outside the brain.
    """
    seen = patches_of(cut, contrasts)
    out = np.zeros(cut.depth.shape, np.float32)
    for first in range(0, len(seen.places), CHUNK):
        where = seen.places[first : first + CHUNK]
        out[tuple(where.T)] = regress(gather_patches(seen.windows, where))
    return np.maximum(out, 0)


def _run_epoch(
    network: PaperNetwork,
    optimizer: torch.optim.Optimizer,
    patches: np.ndarray,
    flair: np.ndarray,
    batch: int,
) -> None:
    """One pass over the voxels drawn, which are in random order already."""
    network.train()
    pairs = (torch.from_numpy(part).split(batch) for part in (patches, flair))
    for x, y in zip(*pairs, strict=True):
        optimizer.zero_grad()
        F.mse_loss(network(x), y).backward()
        optimizer.step()


def _validation_error(network: PaperNetwork, patches: np.ndarray, flair: np.ndarray) -> float:
    network.eval()
    with torch.inference_mode():
        return float(F.mse_loss(network(torch.from_numpy(patches)), torch.from_numpy(flair)))


def _he_initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
            nn.init.zeros_(module.bias)
