"""Train a model: ``python -m bids_flair.training --data DATA --out DIR``."""

import argparse
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import bids_flair
from bids_flair.models.committee import Committee
from bids_flair.models.familiarity import Familiarity
from bids_flair.models.files import Model, load_model, save_model
from bids_flair.models.inference import pick_device
from bids_flair.models.network import Architecture, narrowed
from bids_flair.training.boosting import Boosting
from bids_flair.training.cohort import find_cases
from bids_flair.training.corpus import Person, describe, hash_person, open_case, share_samples
from bids_flair.training.evaluation import calibrate, evaluate, without_curves
from bids_flair.training.fit import Training, fit
from bids_flair.training.rendering import SimulatedPerson, draw_site, prepare_head, read_head
from bids_flair.training.sampling import ANATOMICAL, Sampling, draw_styles
from bids_flair.training.specialist import (
    architecture_for,
    join,
    train_specialists,
    train_trees,
)

LOGGER = logging.getLogger('bids_flair.training')
STYLES = 2000
# Simulated people to score on have numbers that no training reaches.
FIRST_TEST = 100_000


def main() -> None:
    """Prepare people, train, score whoever was left out, and write the model."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
    torch.set_num_threads(args.threads)
    # NumPy's own threads would wait for each other on the small matrices of the simulator.
    threadpool_limits(1, 'blas')
    args.out.mkdir(parents=True, exist_ok=True)
    cache = args.cache or args.out / 'people'
    datasets = [[open_case(case, cache) for case in find_cases(data)] for data in args.data]
    left_out = [p for people in datasets for p in people if _starts_with(p.name, args.leave_out)]
    real = [[p for p in people if p not in left_out] for people in datasets]
    real = [share_samples(people) for people in real if people]
    simulated = _simulate(range(args.simulated), cache)
    start = load_model(args.start) if args.start else None
    if args.specialists:
        _add_specialists(args, start, real, left_out, cache)
        return
    begin = start and start.network
    new = Architecture(convolutions=tuple(args.convolutions))
    architecture = begin.architecture if begin else new
    if args.inputs:
        begin = begin and narrowed(begin, args.inputs)
        architecture = replace(architecture, inputs=tuple(args.inputs))
    training = Training(
        steps=args.steps,
        seed=args.seed,
        learning_rate=args.learning_rate,
        structure=args.structure,
        precision=args.precision,
        architecture=architecture,
        sampling=Sampling(real=args.real),
    )
    device = pick_device(args.device)
    checkpoint = args.out / 'checkpoint.safetensors'
    fitted = fit(real, simulated, training, checkpoint, args.minutes, device, begin)
    network = fitted.network
    network.simulated_only = not real
    inputs = training.architecture.inputs
    styles = draw_styles(real, simulated, training.sampling, inputs, args.seed, STYLES)
    network.remember(Familiarity.of(styles, np.random.default_rng(args.seed)))
    scores = [evaluate(network, p.name, p.whole(), device) for p in left_out]
    scores += _score_simulated(network, args.test_simulated, cache, device)
    (args.out / 'scores.json').write_text(json.dumps(scores) + '\n')
    known = [entry for file in args.scores for entry in json.loads(file.read_text())]
    trained_on = [p for people in real for p in people]
    before = start and {k: start.card[k] for k in ('sha256', 'training_data', 'configuration')}
    card = _card(args, training, fitted.steps, trained_on, known + scores, before)
    save_model(args.out / f'{args.name}.safetensors', network, card)
    LOGGER.info('wrote %s after %d steps', args.out / f'{args.name}.safetensors', fitted.steps)


def _add_specialists(
    args: argparse.Namespace,
    start: Model,
    real: Sequence[Sequence[Person]],
    left_out: Sequence[Person],
    cache: Path,
) -> None:
    """Train networks for each dataset, join them to the model to start with, and score that."""
    device, trained, accords = pick_device(args.device), [], {}
    elsewhere = [json.loads(file.read_text()) for file in args.accords]
    abroad = [load_model(name) for name in args.abroad]
    network = Committee(start.network, abroad=[model.network for model in abroad])
    for i, people in enumerate(real):
        shared = replace(
            architecture_for(people, network.architecture.inputs),
            convolutions=tuple(args.convolutions),
        )
        # Deeper patches were not tried for one contrast, which tells less.
        plain = replace(shared, convolutions=())
        alone = [replace(plain, inputs=(name,)) for name in shared.inputs if name in ANATOMICAL]
        for architecture in (shared, *alone):
            count = args.specialists if architecture is shared else args.alone
            training = Training(
                steps=args.steps,
                seed=args.seed,
                learning_rate=args.learning_rate,
                structure=args.structure,
                precision=args.precision,
                architecture=architecture,
                sampling=Sampling.of_one_scanner(people, drop=False),
            )
            checkpoint = args.out / f'checkpoint-{i}-{"+".join(architecture.inputs)}.safetensors'
            fitted = train_specialists(people, start.network, training, count, checkpoint, device)
            boosting = Boosting(seed=args.seed)
            trees = train_trees(
                people, architecture.inputs, training.sampling, boosting, checkpoint
            )
            for one in (*(one.network for one in fitted), trees):
                network = join(network, one, people)
                key = f'{i} {"+".join(architecture.inputs)} {type(one).__name__}'
                accords[key] = float(network.accords[-1])
                if elsewhere:
                    network.accords[-1] = np.mean([found[key] for found in elsewhere])
            names = [person.name for person in people]
            trained.append(
                {
                    'people': names,
                    'networks': len(fitted),
                    'configuration': asdict(training),
                    'trees': asdict(boosting),
                }
            )
    scores = [evaluate(network, p.name, p.whole(), device) for p in left_out]
    scores += _score_simulated(network, args.test_simulated, cache, device)
    (args.out / 'scores.json').write_text(json.dumps(scores) + '\n')
    (args.out / 'accords.json').write_text(json.dumps(accords) + '\n')
    scores = [entry for file in args.scores for entry in json.loads(file.read_text())] + scores
    card = {**start.card, 'name': args.name, 'specialist_training': trained, **_scored(scores)}
    card['started_abroad_from'] = [model.card['sha256'] for model in abroad]
    save_model(args.out / f'{args.name}.safetensors', network, card)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; ends the program where it is wrong."""
    parser = argparse.ArgumentParser(prog='python -m bids_flair.training', description=__doc__)
    add = parser.add_argument
    add('--data', type=Path, nargs='*', default=[], help='BIDS derivatives with a FLAIR')
    add('--out', type=Path, required=True, help='folder of the model and its checkpoint')
    add('--name', default='model', help='name of the model (default: %(default)s)')
    add('--cache', type=Path, help='folder of the prepared people (default: OUT/people)')
    add('--simulated', type=int, default=48, help='simulated people (default: %(default)s)')
    add('--real', type=float, default=0.5, help='share of real blocks (default: %(default)s)')
    add(
        '--leave-out',
        nargs='*',
        default=[],
        metavar='LABEL',
        help='people (all their sessions) to score on and not to train on: sub-01 ...',
    )
    add(
        '--test-simulated',
        type=int,
        default=0,
        help='simulated people, of none of the training seeds, to score on',
    )
    add(
        '--scores',
        type=Path,
        nargs='*',
        default=[],
        help='scores.json of runs that left people out, for the card and the calibration',
    )
    add(
        '--accords',
        type=Path,
        nargs='*',
        default=[],
        help='with --specialists: accords.json of such runs, whose agreement of specialists and '
        'general network is to be asked for instead of the one of these, which may know their '
        'people by heart',
    )
    add('--steps', type=int, default=8000, help='length of the schedule (default: %(default)s)')
    add('--learning-rate', type=float, default=3e-3, help='largest one (default: %(default)s)')
    add(
        '--structure',
        type=float,
        default=Training.structure,
        help='weight of 1 - SSIM in the loss (default: %(default)s)',
    )
    add(
        '--specialists',
        type=int,
        default=0,
        metavar='N',
        help='add to the model of --start N networks per dataset, and boosted trees, which are '
        'heard on its scanner alone',
    )
    add(
        '--alone',
        type=int,
        default=1,
        metavar='N',
        help='with --specialists: N more for each of T1w and T2w alone (default: %(default)s)',
    )
    add('--start', help='model to begin with, name or path (default: random weights)')
    add(
        '--abroad',
        nargs='*',
        default=[],
        metavar='MODEL',
        help='with --specialists: models to be heard where none of them is at home; one that '
        'takes a single contrast where there is no other',
    )
    add(
        '--inputs',
        nargs='+',
        choices=Architecture().inputs,
        help='of those of the network to begin with: train one for these alone',
    )
    add(
        '--convolutions',
        type=int,
        nargs='*',
        default=(),
        metavar='N',
        help='of networks that begin with random weights, specialists of one contrast excepted: '
        'so many of 3x3x3 for each patch size, as 2 5 2 (default: one of 5x5x5)',
    )
    add(
        '--precision',
        choices=('float32', 'bfloat16'),
        default=Training.precision,
        help='what layers calculate in (default: %(default)s)',
    )
    add('--minutes', type=float, default=math.inf, help='stop then; the same call goes on')
    add('--threads', type=int, default=1)
    add('--device', default='auto', help='auto, cpu, cuda, ... (default: %(default)s)')
    add('--seed', type=int, default=0)
    args = parser.parse_args(arguments)
    if args.specialists and not args.start:
        parser.error('--specialists join a model: name it with --start')
    levels = Architecture().levels
    if args.convolutions and (len(args.convolutions) != levels or min(args.convolutions) < 2):
        parser.error(f'--convolutions takes {levels} numbers, one for each patch size, 2 at least')
    return args


def _starts_with(name: str, labels: Sequence[str]) -> bool:
    return any(name == label or name.startswith(f'{label}_') for label in labels)


def _simulate(seeds: Sequence[int], cache: Path) -> list[SimulatedPerson]:
    people = []
    for seed in seeds:
        people.append(read_head(prepare_head(seed, cache)))
        LOGGER.info('simulated person %d of %d', len(people), len(seeds))
    return people


def _score_simulated(network, count: int, cache: Path, device: torch.device) -> list[dict]:
    people = _simulate(range(FIRST_TEST, FIRST_TEST + count), cache)
    scores = []
    for i, person in enumerate(people):
        rng = np.random.default_rng([FIRST_TEST, i])
        cut = person.whole(rng, draw_site(rng))
        scores.append(evaluate(network, f'simulated-{i:02d}', cut, device))
    return scores


def _card(
    args: argparse.Namespace,
    training: Training,
    step: int,
    real: Sequence[Person],
    scores: list[dict],
    start: dict | None,
) -> dict:
    """What there is to say of the model."""
    return {
        'name': args.name,
        'version': bids_flair.__version__,
        'inputs': list(training.architecture.inputs),
        'target': training.sampling.target,
        'normalisation': {
            'weighted images': 'divided by their white-matter mode',
            'MD': '1e-3 mm2/s',
            'FA': 'none',
        },
        'training_data': {
            'real': {
                'people': [person.name for person in real],
                'datasets': describe(args.data) if real else [],
                'sha256': {person.name: hash_person(person) for person in real},
            },
            'simulated': {'people': args.simulated, 'by': 'bids_flair.simulation'},
        },
        'configuration': asdict(training) | {'steps_done': step, 'started_from': start},
        **_scored(scores),
    }


def _scored(scores: Sequence[dict]) -> dict:
    """The interval is calibrated on real people if there are any."""
    acquired = [entry for entry in scores if not entry['person'].startswith('simulated')]
    return {
        'scores_on_people_left_out': without_curves(scores),
        'calibration': {'interval': 0.9, **calibrate(acquired or scores)},
    }


if __name__ == '__main__':
    main()
