"""A model of one's own: trained on a cohort, scored on who was held out, written as one folder."""

import csv
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bids_flair import __version__
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.models.committee import Committee
from bids_flair.models.files import Model, load_model, replace_file, save_model
from bids_flair.models.inference import predict
from bids_flair.models.network import Architecture
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.paper import PaperArchitecture
from bids_flair.models.regressor import Predictor, Regressor
from bids_flair.training.boosting import Boosting
from bids_flair.training.build_a_flair import Recipe, brain_of, train_paper
from bids_flair.training.corpus import Person, hash_person, share_samples
from bids_flair.training.distributed import ALONE, World
from bids_flair.training.evaluation import calibrate, choose, evaluate, without_curves
from bids_flair.training.fit import EPOCH_STEPS, Training
from bids_flair.training.progress import Epoch
from bids_flair.training.sampling import Sampling
from bids_flair.training.specialist import (
    architecture_for,
    join,
    remember_styles,
    train_specialist,
    train_specialists,
    train_trees,
)

LOGGER = logging.getLogger(__name__)
RECIPES = ('default', 'build-a-flair')
# Where nothing else is asked for: epochs, voxels or blocks per step, learning rate.
DEFAULTS = {
    'default': (40, 4, 3e-3),
    'build-a-flair': (500, 100, 1e-4),
}
# How many networks --fine-tune adds to a model, and of how many voxels per epoch trees learn.
SPECIALISTS, TREE_VOXELS = 2, 5000


@dataclass(frozen=True)
class Plan:
    """What a model is to become.

    Attributes
    ----------
    recipe : {'default', 'build-a-flair'}
    inputs : tuple of str
        What the network takes, in the order of `CONTRASTS`.
    target : str
    every_input : bool
        Whether all inputs are always there; otherwise any subset of them will do.
    epochs, batch, learning_rate
        An epoch of the default recipe is `EPOCH_STEPS` steps of ``batch`` blocks of voxels, one of
        build-a-flair 2,000 voxels in steps of ``batch``.
    dropout, literal
        Of build-a-flair: see :mod:`bids_flair.models.paper`.
    start : str
        Model that the networks join as specialists for their own scanner, or ''.
    patience : int or None
        Epochs without a smaller validation error after which the training ends.
    seed : int
    """

    recipe: str
    inputs: tuple[str, ...]
    target: str
    every_input: bool
    epochs: int
    batch: int
    learning_rate: float
    dropout: float = 0.5
    literal: bool = False
    start: str = ''
    patience: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A model, how it came about, and how good it is.

    ``scores`` has an entry of :func:`bids_flair.training.evaluation.evaluate` per person of
    ``scored``.
    """

    model: Model
    history: list[Epoch]
    scored: list[Person]
    scores: list[dict[str, Any]]


@dataclass(frozen=True)
class People:
    """A cohort, opened."""

    training: list[Person]
    validation: list[Person]
    holdout: list[Person]


def train_model(
    plan: Plan, people: People, folder: Path, device: torch.device, world: World = ALONE
) -> Trained:
    """Train, score and write a model, or go on with what was begun in ``folder``."""
    architecture = _architecture(plan, people)
    checkpoint = folder / 'checkpoint' / 'state.bin'
    _remember_plan(plan, people, checkpoint.with_name('plan.json'))
    people = replace(people, training=share_samples(people.training))
    start = load_model(plan.start) if plan.start else None
    network: Predictor
    if start is not None:
        network, history = _fine_tune(
            plan, architecture, start.network, people, checkpoint, device, world
        )
    elif plan.recipe == 'build-a-flair':
        network, history = _fit_paper(plan, people, checkpoint, world)
    else:
        network, history = _fit_default(plan, architecture, people, checkpoint, device, world)
    calibration = _calibrate(network, plan, people.validation, device, start)
    scored = people.holdout or people.validation
    scores = [_score(network, plan, person, device) for person in scored]
    card = _card(plan, people, folder.name, history, scores, calibration, start)
    weights = folder / 'model.safetensors'
    if not world.first:
        return Trained(Model(folder.name, network, card), history, scored, scores)
    model = save_model(weights, network, card)
    write_history(folder / 'history.tsv', history)
    write_scores(folder / 'scores.tsv', scores)
    shutil.rmtree(checkpoint.parent)
    return Trained(model, history, scored, scores)


def synthesise(trained: Trained, person: Person, device: torch.device) -> np.ndarray:
    """The target of a person as a model makes it, in units of white matter."""
    plan = trained.model.card
    cut = person.whole()
    images = choose(cut, _inputs_of(person, plan['inputs']))
    return predict(trained.model.network, images, brain_of(cut, plan['target']), device)[0]


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write one line per epoch."""
    rows = [asdict(line) for line in history]
    _write_table(path, rows, ['network', 'epoch', 'loss', 'validation', 'samples_per_s'])


def write_scores(path: Path, scores: Sequence[dict[str, Any]]) -> None:
    """Write one line per person and set of inputs; lesion scores where lesions are marked."""
    rows = [
        {'participant_id': entry['person'], 'inputs': inputs, **figures}
        for entry in without_curves(scores)
        for inputs, figures in entry['inputs'].items()
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _write_table(path, rows, columns or ['participant_id', 'inputs'])


def _write_table(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ['\t'.join(columns)]
    for row in rows:
        lines.append('\t'.join(_cell(row.get(column)) for column in columns))
    replace_file(path, ('\n'.join(lines) + '\n').encode())


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return 'n/a'
    return f'{value:.6g}' if isinstance(value, float) else str(value)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table that `write_history` or `write_scores` wrote."""
    with path.open() as file:
        return list(csv.DictReader(file, delimiter='\t'))


def _remember_plan(plan: Plan, people: People, path: Path) -> None:
    """A run goes on only with what it was begun with."""
    asked = json.loads(
        json.dumps(asdict(plan) | {k: [p.name for p in v] for k, v in vars(people).items()})
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(asked).encode())
        return
    begun = json.loads(path.read_text())
    other = [key for key in asked if asked[key] != begun[key]]
    if other:
        key = other[0]
        raise BidsFlairError(
            f'The run in {path.parent.parent} was begun with {key} {begun[key]}, not '
            f'{asked[key]}. Resume it as it was begun, or delete that folder.',
            ExitCode.WRONG_ARGUMENTS,
        )


def _architecture(plan: Plan, people: People) -> Architecture:
    if plan.start:
        return architecture_for(people.training, plan.inputs)
    return Architecture(plan.inputs, style=0)


def _fit_paper(
    plan: Plan, people: People, checkpoint: Path, world: World
) -> tuple[Regressor, list[Epoch]]:
    architecture = PaperArchitecture(plan.inputs, plan.dropout, plan.literal)
    recipe = Recipe(
        plan.epochs,
        batch=plan.batch,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        patience=plan.patience,
    )
    validation = (people.validation or people.training)[0]
    if not people.validation:
        LOGGER.warning(
            'too few participants to set one aside: the epoch that is kept is chosen on voxels of '
            '%s, who is trained on as well',
            validation.name,
        )
    network, history = train_paper(
        people.training, validation, architecture, recipe, plan.target, checkpoint, world
    )
    remember_styles(network, people.training, _sampling(plan, people.training), plan.seed)
    return network, history


def _fit_default(
    plan: Plan,
    architecture: Architecture,
    people: People,
    checkpoint: Path,
    device: torch.device,
    world: World,
) -> tuple[Regressor, list[Epoch]]:
    validation = next(iter(people.validation), None)
    training = _training(plan, architecture, people.training)
    fitted = train_specialist(people.training, training, checkpoint, device, validation, world)
    return fitted.network, fitted.history


def _fine_tune(
    plan: Plan,
    architecture: Architecture,
    start: Regressor | Committee,
    people: People,
    checkpoint: Path,
    device: torch.device,
    world: World,
) -> tuple[Committee, list[Epoch]]:
    """Networks and trees for the cohort's scanner, who join the model that one begins with."""
    validation = next(iter(people.validation), None)
    training = _training(plan, architecture, people.training)
    fitted = train_specialists(
        people.training, start, training, SPECIALISTS, checkpoint, device, validation, world
    )
    trees = train_trees(
        people.training,
        architecture.inputs,
        training.sampling,
        Boosting(TREE_VOXELS * plan.epochs, seed=plan.seed, target=plan.target),
        checkpoint,
        world,
    )
    network, history = start, []
    for one in (*(one.network for one in fitted), trees):
        network = join(network, one, people.training)
    for number, one in enumerate(fitted, 1):
        history += [replace(line, network=number) for line in one.history]
    return network, history


def _training(plan: Plan, architecture: Architecture, people: Sequence[Person]) -> Training:
    return Training(
        steps=plan.epochs * EPOCH_STEPS,
        seed=plan.seed,
        learning_rate=plan.learning_rate,
        patience=plan.patience,
        architecture=architecture,
        sampling=_sampling(plan, people),
    )


def _sampling(plan: Plan, people: Sequence[Person]) -> Sampling:
    """Blocks of a cohort as its own scanner shows them."""
    # A specialist is only ever heard on all of its inputs.
    drop = not (plan.every_input or plan.start)
    return Sampling.of_one_scanner(people, target=plan.target, batch=plan.batch, drop=drop)


def _inputs_of(person: Person, inputs: Sequence[str]) -> tuple[str, ...]:
    return tuple(n for n in inputs if person.presence[CONTRASTS.index(n)].any())


def _score(network: Predictor, plan: Plan, person: Person, device: torch.device) -> dict[str, Any]:
    subsets = [_inputs_of(person, plan.inputs)]
    return evaluate(network, person.name, person.whole(), device, plan.target, subsets)


def _calibrate(
    network: Predictor,
    plan: Plan,
    validation: Sequence[Person],
    device: torch.device,
    start: Model | None,
) -> dict[str, Any]:
    """From the validation participant; without one, as the model that was begun with."""
    if not validation and start is not None:
        return start.card['calibration']
    if plan.recipe == 'build-a-flair':
        # Its interval is made of errors in the validation participant: that needs no stretching.
        return calibrate([])
    return calibrate([_score(network, plan, person, device) for person in validation])


def _card(
    plan: Plan,
    people: People,
    name: str,
    history: Sequence[Epoch],
    scores: Sequence[dict[str, Any]],
    calibration: dict[str, Any],
    start: Model | None,
) -> dict[str, Any]:
    return {
        'name': name,
        'version': __version__,
        'inputs': list(plan.inputs),
        'target': plan.target,
        'needs_every_input': plan.every_input,
        'recipe': plan.recipe,
        'configuration': asdict(plan),
        'deviations': _deviations(plan),
        'training_data': {
            'people': [person.name for person in people.training],
            'validation': [person.name for person in people.validation],
            'sha256': {person.name: hash_person(person) for person in people.training},
        },
        'started_from': start and {key: start.card[key] for key in ('name', 'sha256')},
        'epochs_done': len(history),
        'scored_on': 'held out' if people.holdout else 'validation',
        'scores': without_curves(scores),
        'calibration': {'interval': 0.9, **calibration},
    }


def _deviations(plan: Plan) -> list[str]:
    """In what a build-a-flair model is not as published."""
    if plan.recipe != 'build-a-flair':
        return []
    found = [] if plan.literal else ['He initialisation', 'no ReLU on the last neuron']
    return found + ([] if plan.dropout == 0.5 else [f'dropout {plan.dropout:g}'])
