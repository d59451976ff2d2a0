"""The training loop."""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn import functional as F

from bids_flair.models.files import replace_file
from bids_flair.models.network import Architecture, PatchRegressor
from bids_flair.training.corpus import Person
from bids_flair.training.sampling import Batch, Sampling, draw_batch

LOGGER = logging.getLogger(__name__)
CHECKPOINT_EVERY_S = 60
AVERAGE_OVER = 200
HUBER_BETA = 0.2


@dataclass(frozen=True)
class Training:
    """What a training run is asked to do; the learning rate ends with ``steps``."""

    steps: int = 1500
    seed: int = 0
    learning_rate: float = 3e-3
    architecture: Architecture = field(default_factory=Architecture)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass
class _State:
    network: PatchRegressor
    average: PatchRegressor
    optimizer: torch.optim.Optimizer
    step: int = 0


def fit(
    real: Sequence[Person],
    simulated: Sequence[Person],
    training: Training,
    checkpoint: Path,
    minutes: float = math.inf,
) -> tuple[PatchRegressor, int]:
    """Train a network, or go on with what ``checkpoint`` holds.

    Returns
    -------
    network : PatchRegressor
        The running average of the weights.
    step : int
        Steps done: fewer than ``training.steps`` if ``minutes`` ran out.
    """
    torch.manual_seed(training.seed)
    state = _begin(training)
    if checkpoint.exists():
        _resume(state, checkpoint)
        LOGGER.info('going on from step %d of %s', state.step, checkpoint)
    begun = saved = time.monotonic()
    halo, history = training.architecture.halo, []
    while state.step < training.steps and time.monotonic() - begun < 60 * minutes:
        batch = draw_batch(real, simulated, training.sampling, halo, training.seed, state.step)
        history.append(_step(state, batch, training))
        if state.step % 200 == 0:
            recent = history[-200:]
            LOGGER.info('step %d: loss %.4f', state.step, sum(recent) / len(recent))
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            _save(state, checkpoint)
            saved = time.monotonic()
    _save(state, checkpoint)
    return state.average.eval(), state.step


def losses(batch: Batch, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted Huber loss of the mean, and the negative log-likelihood of its (detached) error.

    The Huber loss is quadratic for small errors, in the units of L1 beyond: where inputs leave
    lesion and fluid open, the mean says so and the median of L1 does not. The error is taken as
    Laplace distributed: ``|e| exp(-s) + s`` but for a constant.
    """
    error = (mean - batch.target).abs()
    total = batch.weight.sum()
    huber = F.smooth_l1_loss(mean, batch.target, reduction='none', beta=HUBER_BETA)
    loss = (batch.weight * huber).sum() / total
    likelihood = error.detach() * torch.exp(-log_scale) + log_scale
    return loss, (batch.weight * likelihood).sum() / total


def _step(state: _State, batch: Batch, training: Training) -> float:
    for group in state.optimizer.param_groups:
        group['lr'] = training.learning_rate * _schedule(state.step, training.steps)
    mean, log_scale = state.network(batch.x, batch.keep)
    loss, likelihood = losses(batch, mean, log_scale)
    state.optimizer.zero_grad()
    (loss + 0.1 * likelihood).backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimizer.step()
    state.step += 1
    # A young average must forget its beginnings faster than an old one.
    weight = max(9 / (9 + state.step), 1 / AVERAGE_OVER)
    with torch.no_grad():
        for average, current in zip(
            state.average.parameters(), state.network.parameters(), strict=True
        ):
            average.lerp_(current, weight)
    return float(loss.detach())


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 50 steps, then half a cosine to 2 %."""
    return min(1.0, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def _begin(training: Training) -> _State:
    network = PatchRegressor(training.architecture)
    average = PatchRegressor(training.architecture).requires_grad_(False)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), training.learning_rate, weight_decay=1e-4)
    return _State(network, average, optimizer)


def _save(state: _State, path: Path) -> None:
    tensors = {f'network.{k}': v for k, v in state.network.state_dict().items()}
    tensors |= {f'average.{k}': v for k, v in state.average.state_dict().items()}
    for i, moments in state.optimizer.state_dict()['state'].items():
        tensors |= {f'optimizer.{i}.{k}': v for k, v in moments.items()}
    content = save_tensors(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()},
        {'step': json.dumps(state.step)},
    )
    replace_file(path, content)


def _resume(state: _State, path: Path) -> None:
    with safe_open(path, 'pt') as file:
        state.step = json.loads(file.metadata()['step'])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    parts: dict[str, dict[str, Tensor]] = {'network': {}, 'average': {}, 'optimizer': {}}
    for key, value in tensors.items():
        part, name = key.split('.', 1)
        parts[part][name] = value
    state.network.load_state_dict(parts['network'])
    state.average.load_state_dict(parts['average'])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in parts['optimizer'].items():
        i, name = key.split('.')
        moments.setdefault(int(i), {})[name] = value
    groups = state.optimizer.state_dict()['param_groups']
    state.optimizer.load_state_dict({'state': moments, 'param_groups': groups})
