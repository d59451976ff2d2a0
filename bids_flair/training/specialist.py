"""Train a network for one scanner, which joins a network for all of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.models.committee import Committee, relations
from bids_flair.models.familiarity import Familiarity
from bids_flair.models.network import Architecture
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.regressor import Regressor
from bids_flair.training.corpus import Person
from bids_flair.training.distributed import ALONE, World
from bids_flair.training.fit import CPU, Fitted, Training, fit
from bids_flair.training.sampling import Sampling, draw_styles

STYLES = 1000


def train_specialist(
    people: Sequence[Person],
    training: Training,
    checkpoint: Path,
    device: torch.device = CPU,
    validation: Person | None = None,
    world: World = ALONE,
) -> Fitted:
    """Fit a network to people of one scanner as that scanner shows them.

    Where there is one protocol, there is no style to tell from another, only people to be told
    from each other by it: ``training.architecture`` should have none.
    """
    fitted = fit(
        [people],
        [],
        training,
        checkpoint,
        device=device,
        validation=validation,
        world=world,
    )
    remember_styles(fitted.network, people, training.sampling, training.seed)
    return fitted


def remember_styles(
    network: Regressor, people: Sequence[Person], sampling: Sampling, seed: int
) -> None:
    """Keep with a network what the images of its people were like."""
    styles = draw_styles([people], [], sampling, network.architecture.inputs, seed, STYLES)
    network.remember(Familiarity.of(styles, np.random.default_rng(seed)))


def architecture_for(people: Sequence[Person], inputs: Sequence[str]) -> Architecture:
    """The network of a specialist: it takes what all of its people have of ``inputs``.

    Raises
    ------
    BidsFlairError
        If they share fewer than two contrasts: one alone does not tell a scanner.
    """
    shared = [
        name
        for name in inputs
        if all(person.sample[:, CONTRASTS.index(name)].any() for person in people)
    ]
    if len(shared) < 2:
        raise BidsFlairError(
            f'the participants to train on share {" and ".join(shared) or "none"} of '
            f'{", ".join(inputs)}: at least two are needed to tell their scanner from others. '
            'Train from the beginning instead, without --fine-tune.',
            ExitCode.INPUT_MISSING,
        )
    return Architecture(tuple(shared), style=0)


def join(
    start: Regressor | Committee, specialist: Regressor, people: Sequence[Person]
) -> Committee:
    """A committee with one specialist more, who was trained on ``people``."""
    committee = start if isinstance(start, Committee) else Committee(start)
    names = specialist.architecture.inputs
    chosen = [CONTRASTS.index(name) for name in names]
    values = [person.sample[:, chosen].T for person in people]
    found = [relations(np.where(value == 0, np.nan, value), names) for value in values]
    return committee.joined_by(specialist, np.mean(found, 0)).eval()
