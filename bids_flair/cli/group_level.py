"""The group level, from the request to the exit code."""

import json
import logging
from itertools import combinations
from pathlib import Path

import torch

from bids_flair import __version__
from bids_flair.bids.dataset import check_writable
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.logs import NOTICE
from bids_flair.models.files import load_model, needs_every_input
from bids_flair.models.inference import pick_device
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.reports.cohort import read_rows, write_cohort_report
from bids_flair.reports.group import compare, mean_score, write_group_report
from bids_flair.settings import Settings
from bids_flair.training.cohort import Case, choose_complete, find_people, split_people
from bids_flair.training.cohort_model import (
    DEFAULTS,
    People,
    Plan,
    Trained,
    synthesise,
    train_model,
)
from bids_flair.training.corpus import open_case
from bids_flair.training.distributed import World, joined

LOGGER = logging.getLogger('bids_flair')
TABLE_1 = (
    ('T2w',),
    ('T1w',),
    ('MD', 'FA', 'S0'),
    ('T1w', 'T2w'),
    ('T1w', 'MD', 'FA', 'S0'),
    ('T1w', 'MD', 'S0'),
    ('T2w', 'MD', 'FA', 'S0'),
    ('T2w', 'MD', 'S0'),
    ('T1w', 'T2w', 'MD', 'FA', 'S0'),
    ('T1w', 'T2w', 'MD', 'S0'),
)


def run_group_level(settings: Settings) -> ExitCode:
    """Train a model, or one per set of inputs, on participants with an acquired target.

    Raises
    ------
    BidsFlairError
        If there is nobody to train on, or the output is not as it should be.
    """
    LOGGER.log(NOTICE, 'bids_flair %s: training %s', __version__, settings.model_name)
    device = _device(settings)
    torch.set_num_threads(settings.omp_nthreads)
    cases = [case for folder in _folders(settings) for case in find_people(folder)]
    sets = _input_sets(settings, cases)
    needed = tuple(n for n in CONTRASTS if any(n in chosen for chosen in sets))
    cases = choose_complete(cases, settings.target, needed if _every_input(settings) else ())
    split = split_people(cases, settings.holdout, settings.validation, settings.random_seed)
    folder = settings.output_dir / 'models' / settings.model_name
    _refuse_overwriting(folder, settings)
    _announce(split, sets, device)
    if settings.dry_run:
        return ExitCode.DONE
    check_writable(folder, 'folder of the model')
    cache = settings.work_dir / 'bids_flair_group'
    with joined(device) as world:
        if not world.first:
            world.wait()
        people = People(
            *([open_case(case, cache) for case in part] for part in vars(split).values())
        )
        if world.first:
            world.wait()
        trained = _train_all(settings, sets, people, folder, device, world)
        if world.first:
            report = _report(settings.model_name, folder, trained, device)
            _summarise(trained, report)
            if read_rows(settings.output_dir):
                LOGGER.log(NOTICE, 'participants: %s', write_cohort_report(settings.output_dir))
    return ExitCode.DONE


def _train_all(
    settings: Settings,
    sets: list[tuple[str, ...]],
    people: People,
    folder: Path,
    device: torch.device,
    world: World,
) -> dict[str, Trained]:
    if not settings.compare:
        return {
            settings.model_name: train_model(
                _plan(settings, sets[0]), people, folder, device, world
            )
        }
    trained = {}
    for inputs in sets:
        name = '+'.join(inputs)
        LOGGER.log(NOTICE, 'training from %s', name)
        trained[name] = train_model(_plan(settings, inputs), people, folder / name, device, world)
    return trained


def _report(name: str, folder: Path, trained: dict[str, Trained], device: torch.device) -> Path:
    best = max(trained.values(), key=lambda one: mean_score(one, 'ssim'))
    target = best.model.card['target']
    pictures = {
        person.name: compare(person, synthesise(best, person, device), target)
        for person in best.scored
    }
    return write_group_report(name, folder, trained, pictures)


def _plan(settings: Settings, inputs: tuple[str, ...]) -> Plan:
    epochs, batch, rate = DEFAULTS[settings.recipe]
    return Plan(
        recipe=settings.recipe,
        inputs=inputs,
        target=settings.target,
        every_input=_every_input(settings),
        epochs=settings.epochs or epochs,
        batch=settings.batch_size or batch,
        learning_rate=settings.learning_rate or rate,
        dropout=settings.dropout,
        literal=settings.literal,
        start=settings.fine_tune,
        patience=settings.patience,
        seed=settings.random_seed,
    )


def _every_input(settings: Settings) -> bool:
    """Whether participants and models have all inputs; otherwise any subset of them will do."""
    if settings.fine_tune:
        return needs_every_input(load_model(settings.fine_tune))
    named = bool(settings.inputs or settings.compare)
    return named or settings.recipe == 'build-a-flair'


def _device(settings: Settings) -> torch.device:
    try:
        return pick_device(settings.device)
    except ValueError as error:
        raise BidsFlairError(str(error), ExitCode.WRONG_ARGUMENTS) from error


def _folders(settings: Settings) -> list[Path]:
    """The output of the participant level; and BIDS_DIR, if that is a derivative itself."""
    description = settings.bids_dir / 'dataset_description.json'
    folders = [settings.output_dir]
    if description.exists():
        kind = json.loads(description.read_text(encoding='utf-8-sig')).get('DatasetType')
        folders += [settings.bids_dir] if kind == 'derivative' else []
    return folders


def _input_sets(settings: Settings, cases: list[Case]) -> list[tuple[str, ...]]:
    """What each model to train takes, in the order of `CONTRASTS`."""
    if settings.fine_tune:
        start = load_model(settings.fine_tune)
        if start.card['target'] != settings.target:
            raise BidsFlairError(
                f'{settings.fine_tune} makes a {start.card["target"]}: it cannot be trained on to '
                f'make a {settings.target}.',
                ExitCode.WRONG_ARGUMENTS,
            )
        return [tuple(start.card['inputs'])]
    there = {name for case in cases for name in case.images} - {settings.target}
    known = tuple(name for name in CONTRASTS if name in there)
    if not settings.compare:
        return [settings.inputs or known]
    if settings.compare == ('table1',):
        return list(TABLE_1)
    if settings.compare == ('all',):
        return [s for n in range(1, len(known) + 1) for s in combinations(known, n)]
    return [_read_set(text, settings.target) for text in settings.compare]


def _read_set(text: str, target: str) -> tuple[str, ...]:
    names = text.split('+')
    if wrong := [name for name in names if name not in CONTRASTS or name == target]:
        raise BidsFlairError(
            f'--compare {text}: {", ".join(wrong)} is no input. Write sets such as T1w+MD+S0, of '
            f'{", ".join(name for name in CONTRASTS if name != target)}.',
            ExitCode.WRONG_ARGUMENTS,
        )
    return tuple(name for name in CONTRASTS if name in names)


def _refuse_overwriting(folder: Path, settings: Settings) -> None:
    done = sorted(folder.rglob('model.safetensors'))
    begun = sorted(folder.rglob('checkpoint/plan.json'))
    if (done or begun) and not settings.resume:
        what = 'a finished model' if done else 'a training that was cut short'
        raise BidsFlairError(
            f'{folder} holds {what}. Choose another --model-name, or delete the folder'
            + ('.' if done and not begun else ', or go on with --resume.'),
            ExitCode.CANNOT_WRITE,
        )


def _announce(split, sets: list[tuple[str, ...]], device: torch.device) -> None:
    for part, cases in vars(split).items():
        LOGGER.log(NOTICE, '%s: %s', part, ', '.join(c.name for c in cases) or 'nobody')
    inputs = '; '.join('+'.join(chosen) for chosen in sets)
    LOGGER.log(NOTICE, 'inputs: %s; device %s', inputs, device)


def _summarise(trained: dict[str, Trained], report: Path) -> None:
    for name, one in trained.items():
        for entry in one.scores:
            for inputs, figures in entry['inputs'].items():
                lesions = figures.get('lesion_auc_pred')
                LOGGER.log(
                    NOTICE, '%s: %s from %s: SSIM in brain %.3f, correlation %.3f%s',
                    name, entry['person'], inputs, figures['ssim'], figures['corr'],
                    '' if lesions is None else f', lesion AUC {lesions:.3f}',
                )  # fmt: skip
    LOGGER.log(NOTICE, 'report: %s', report)
