"""The training loop."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bids_flair.models.network import Architecture, PatchRegressor
from bids_flair.models.regressor import CPU, HIGH, LOW
from bids_flair.training.checkpoint import read_checkpoint, write_checkpoint
from bids_flair.training.corpus import Person
from bids_flair.training.distributed import ALONE, World
from bids_flair.training.progress import Clock, Epoch, exhausted, refuse_nan
from bids_flair.training.rendering import SimulatedPerson
from bids_flair.training.sampling import Batch, Sampling, draw_ahead, draw_batch

EPOCH_STEPS = 100
DRAWING_THREADS = 4
# Batches of the validation participant, the same after every epoch.
VALIDATION_STEPS, VALIDATION_SEED = 4, 2**31
AVERAGE_OVER = 200
HUBER_BETA = 0.2
# Window of the structural loss (voxels to either side), its constants for FLAIR values up to 2.2
# of white matter (Wang 2004), and what it weighs beside the Huber loss.
SSIM_REACH, SSIM_SIGMA = 3, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 2.2) ** 2, (0.03 * 2.2) ** 2


@dataclass(frozen=True)
class Training:
    """What a training run is asked to do.

    The learning rate ends with ``steps``; ``structure`` is the weight of 1 - SSIM in the loss;
    ``patience`` is how many epochs may pass without a smaller validation error. With ``precision``
    'bfloat16' layers calculate in that, twice as fast where processor or GPU has it; weights, loss
    and what is made of the network keep single precision.
    """

    steps: int = 1500
    seed: int = 0
    learning_rate: float = 3e-3
    structure: float = 0.5
    precision: str = 'float32'
    patience: int | None = None
    architecture: Architecture = field(default_factory=Architecture)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Fitted:
    """A trained network: the running average of the weights, the steps it took, and its epochs."""

    network: PatchRegressor
    steps: int
    history: list[Epoch]


@dataclass
class _State:
    network: PatchRegressor
    average: PatchRegressor
    optimizer: torch.optim.Optimizer
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: list[Epoch] = field(default_factory=list)


def fit(
    real: Sequence[Sequence[Person]],
    simulated: Sequence[SimulatedPerson],
    training: Training,
    checkpoint: Path,
    minutes: float = math.inf,
    device: torch.device = CPU,
    start: PatchRegressor | None = None,
    validation: Person | None = None,
    world: World = ALONE,
) -> Fitted:
    """Train a network, or go on with what ``checkpoint`` holds.

    With ``start``, a new run begins with the weights of that network. The error on ``validation``
    is written down after every epoch of `EPOCH_STEPS`; nothing is chosen by it.
    """
    torch.manual_seed(training.seed)
    state = _begin(training, device, start)
    if checkpoint.exists():
        _resume(state, checkpoint)
    begun = time.monotonic()
    clock = Clock(math.ceil(training.steps / EPOCH_STEPS), len(state.history))

    def draw(step: int) -> Batch:
        how = (training.sampling, training.architecture, training.seed)
        return draw_batch(real, simulated, *how, step, world)

    # A GPU is done before one thread has drawn the next blocks.
    threads = 1 if device.type == 'cpu' else DRAWING_THREADS
    done = exhausted(state.history, training.patience)
    steps = range(state.step, state.step if done else training.steps)
    for batch in draw_ahead(draw, steps, threads):
        loss = _step(state, batch.to(device), training, world)
        refuse_nan(loss, batch.people)
        state.sums[0] += loss
        state.sums[1] += len(batch.target)
        if state.step % EPOCH_STEPS == 0 or state.step == training.steps:
            _end_epoch(state, training, clock, device, validation)
            if world.first:
                _save(state, checkpoint)
            if exhausted(state.history, training.patience):
                break
        if time.monotonic() - begun > 60 * minutes:
            break
    if world.first:
        _save(state, checkpoint)
    return Fitted(state.average.eval(), state.step, state.history)


def _end_epoch(
    state: _State,
    training: Training,
    clock: Clock,
    device: torch.device,
    validation: Person | None,
) -> None:
    loss, voxels = state.sums
    steps = state.step - EPOCH_STEPS * len(state.history)
    error = math.nan if validation is None else _error(state.average, training, device, validation)
    line = clock.tick(len(state.history) + 1, loss / steps, error, int(voxels))
    state.history.append(line)
    state.sums = [0.0, 0.0]


def _error(
    network: PatchRegressor, training: Training, device: torch.device, person: Person
) -> float:
    """Loss of the mean on the same blocks of a person whenever it is asked for."""
    found = []
    for step in range(VALIDATION_STEPS):
        batch = draw_batch(
            [[person]],
            [],
            training.sampling,
            training.architecture,
            VALIDATION_SEED,
            step,
        ).to(device)
        with torch.inference_mode():
            found.append(float(losses(batch, *network(batch.x, batch.style, batch.keep))[0]))
    return sum(found) / len(found)


def losses(batch: Batch, mean: Tensor, reach: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted Huber loss of the mean, its structural loss, and the quantile loss of the interval.

    The Huber loss is quadratic for small errors, in the units of L1 beyond: where inputs leave
    lesion and fluid open, the mean says so and the median of L1 does not. The structural loss is
    1 - SSIM. The quantile (pinball) loss is that of the 5 % and 95 % quantiles of the error; no
    gradient flows from it into the mean.
    """
    total = batch.weight.sum()
    huber = F.smooth_l1_loss(mean, batch.target, reduction='none', beta=HUBER_BETA)
    error = (batch.target - mean).detach()[:, None]
    limits = torch.stack([-reach[:, 0], reach[:, 1]], 1)
    levels = torch.tensor([LOW, HIGH], device=mean.device)
    excess = error - limits
    pinball = torch.maximum(levels * excess, (levels - 1) * excess).sum(1)
    return (
        (batch.weight * huber).sum() / total,
        1 - _similarity(batch.keep, mean, batch.target),
        (batch.weight * pinball).sum() / total,
    )


def _similarity(keep: Tensor, mean: Tensor, target: Tensor) -> Tensor:
    """Mean SSIM over the voxels kept whose window lies in the block; 0 outside the brain."""
    images = torch.zeros(2, *keep.shape, device=mean.device)
    images[0, keep], images[1, keep] = mean, target
    a, b = images.flatten(0, 1).unflatten(0, (2, -1))
    moments = torch.stack([a, b, a * a, b * b, a * b]).flatten(0, 1)[:, None]
    where = torch.arange(-SSIM_REACH, SSIM_REACH + 1, device=mean.device)
    window = torch.exp(-(where**2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()
    for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        moments = F.conv3d(moments, window.view(1, 1, *shape))
    mean_a, mean_b, aa, bb, ab = moments[:, 0].unflatten(0, (5, -1))
    both, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    ssim = (2 * both + SSIM_C1) * (2 * (ab - both) + SSIM_C2)
    ssim = ssim / ((squares + SSIM_C1) * (aa + bb - squares + SSIM_C2))
    r = SSIM_REACH
    centres = keep[:, r:-r, r:-r, r:-r]
    return (ssim * centres).sum() / centres.sum().clamp_min(1)


def _step(state: _State, batch: Batch, training: Training, world: World) -> float:
    for group in state.optimizer.param_groups:
        group['lr'] = training.learning_rate * _schedule(state.step, training.steps)
    half = training.precision == 'bfloat16'
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=half):
        mean, reach = state.network(batch.x, batch.style, batch.keep)
    mean, reach = mean.float(), reach.float()
    loss, structure, quantile = losses(batch, mean, reach)
    state.optimizer.zero_grad()
    (loss + training.structure * structure + quantile).backward()
    world.average_gradients(state.network)
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
    return float(loss.detach() + training.structure * structure.detach())


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 50 steps, then half a cosine to 2 %."""
    return min(1.0, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def _begin(
    training: Training, device: torch.device, start: PatchRegressor | None = None
) -> _State:
    network = PatchRegressor(training.architecture).to(device)
    if start is not None:
        network.load_state_dict(start.state_dict())
    average = PatchRegressor(training.architecture).to(device).requires_grad_(False)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(
        network.parameters(), training.learning_rate, weight_decay=1e-4, fused=True
    )
    return _State(network, average, optimizer)


def _save(state: _State, path: Path) -> None:
    weights = {'network': state.network.state_dict(), 'average': state.average.state_dict()}
    told = {
        'step': state.step,
        'sums': state.sums,
        'history': [asdict(line) for line in state.history],
    }
    write_checkpoint(path, weights, state.optimizer, told)


def _resume(state: _State, path: Path) -> None:
    weights, told = read_checkpoint(path, state.optimizer)
    state.network.load_state_dict(weights['network'])
    state.average.load_state_dict(weights['average'])
    state.step, state.sums = told['step'], told['sums']
    state.history = [Epoch(**line) for line in told['history']]
