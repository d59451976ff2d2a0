"""Train networks for one scanner, which join a network for all of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.models.committee import Committee, accord_of, relations
from bids_flair.models.familiarity import Familiarity
from bids_flair.models.files import replace_file
from bids_flair.models.network import Architecture, PatchRegressor, narrowed
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.regressor import CPU, Regressor
from bids_flair.models.trees import BoostedTrees, TreesArchitecture
from bids_flair.training.boosting import Boosting, fit_trees
from bids_flair.training.corpus import Person
from bids_flair.training.distributed import ALONE, World
from bids_flair.training.evaluation import choose
from bids_flair.training.fit import Fitted, Training, fit
from bids_flair.training.sampling import Sampling, draw_styles

STYLES = 1000
SCANNER_STYLES = 200
# People on whom a specialist and the general network are compared, at most.
ASKED = 8


def train_specialists(
    people: Sequence[Person],
    start: Regressor | Committee,
    training: Training,
    count: int,
    checkpoint: Path,
    device: torch.device = CPU,
    validation: Person | None = None,
    world: World = ALONE,
) -> list[Fitted]:
    """Fit several networks to people of one scanner, whose mean is better than any of them.

    They begin with random weights, of one seed after the other; the last of several with what
    the general network of ``start`` makes of this scanner, which errs elsewhere than the others.
    ``checkpoint`` names theirs, a number before its suffix.
    """
    general = start.generalist if isinstance(start, Committee) else start
    fitted = []
    for twin in range(count):
        begin, shaped = None, training
        if twin and twin == count - 1 and isinstance(general, PatchRegressor):
            begin = specialised(general, people, training)
            shaped = replace(training, architecture=begin.architecture)
        fitted.append(
            train_specialist(
                people,
                training_of_twin(shaped, twin),
                checkpoint.with_stem(f'{checkpoint.stem}-{twin}'),
                device,
                validation,
                world,
                begin,
            )
        )
    return fitted


def training_of_twin(training: Training, twin: int) -> Training:
    """How one of several networks is trained: by a seed of its own, and every third is not shown
    turned blocks. That one knows a place in the brain by its direction, and errs elsewhere.
    """
    sampling = training.sampling
    if twin % 3 == 2:
        sampling = replace(sampling, turned=0.0)
    return replace(training, seed=training.seed + twin, sampling=sampling)


def specialised(
    general: PatchRegressor, people: Sequence[Person], training: Training
) -> PatchRegressor:
    """The general network as it answers on one scanner, in the shape of a specialist.

    Its gains and offsets for the style of the scanner become part of the layer that they follow.
    """
    names = training.architecture.inputs
    narrow = narrowed(general, names)
    if narrow.style is None:
        return narrow
    styles = draw_styles([people], [], training.sampling, names, training.seed, SCANNER_STYLES)
    network = PatchRegressor(replace(narrow.architecture, style=0))
    weights = narrow.state_dict()
    own = {key: weights[key] for key in network.state_dict()}
    with torch.no_grad():
        style = torch.from_numpy(styles.mean(0)).float()
        for i, (gain, offset) in enumerate(narrow.adapt(style[None])[0]):
            widen = f'levels.{i}.widen'
            own[f'{widen}.weight'] = weights[f'{widen}.weight'] * (1 + gain)[:, None]
            own[f'{widen}.bias'] = weights[f'{widen}.bias'] * (1 + gain) + offset
    network.load_state_dict(own)
    return network


def train_specialist(
    people: Sequence[Person],
    training: Training,
    checkpoint: Path,
    device: torch.device = CPU,
    validation: Person | None = None,
    world: World = ALONE,
    start: PatchRegressor | None = None,
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
        start=start,
        validation=validation,
        world=world,
    )
    remember_styles(fitted.network, people, training.sampling, training.seed)
    return fitted


def train_trees(
    people: Sequence[Person],
    inputs: Sequence[str],
    sampling: Sampling,
    boosting: Boosting,
    checkpoint: Path,
    world: World = ALONE,
) -> BoostedTrees:
    """Trees that know one scanner, as networks do, and err elsewhere than those.

    ``checkpoint`` names theirs, the word trees before its suffix: what it holds is taken as it is.
    """
    architecture = TreesArchitecture(tuple(inputs))
    kept = checkpoint.with_stem(f'{checkpoint.stem}-trees')
    if kept.exists():
        trees = BoostedTrees(architecture)
        trees.load_state_dict(load_tensors(kept.read_bytes()))
        return trees.eval()
    trees = fit_trees(people, architecture, boosting)
    remember_styles(trees, people, sampling, boosting.seed)
    if world.first:
        replace_file(kept, save_tensors(trees.state_dict()))
    return trees.eval()


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
    accord = np.mean([
        accord_of(specialist, committee.generalist, choose(cut, names), cut.depth > 0)
        for cut in (person.whole() for person in people[:ASKED])
    ])  # fmt: skip
    return committee.joined_by(specialist, np.mean(found, 0), accord).eval()
