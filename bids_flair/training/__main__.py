"""Train a model: ``python -m bids_flair.training --data DATA --out DIR``."""

import argparse
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import bids_flair
from bids_flair.models.files import save_model
from bids_flair.models.inference import predict
from bids_flair.models.normalisation import CONTRASTS, Normalised
from bids_flair.scoring import best_scale, score
from bids_flair.training.corpus import (
    CHANNELS,
    LESION,
    Person,
    describe,
    find_cases,
    prepare_case,
    prepare_simulated,
    read_person,
)
from bids_flair.training.fit import Training, fit
from bids_flair.training.sampling import Sampling

LOGGER = logging.getLogger('bids_flair.training')
SUBSETS = (('T1w', 'T2w'), ('T1w',), ('T2w',), ('MD', 'FA', 'S0'), CONTRASTS)


def main() -> None:
    """Prepare people, train, score whoever was left out, and write the model."""
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    cache = args.cache or args.out / 'people'
    cases = [case for data in args.data for case in find_cases(data)]
    people = {case.name: read_person(prepare_case(case, cache)) for case in cases}
    real = [person for name, person in people.items() if name not in args.leave_out]
    left_out = [people[name] for name in args.leave_out]
    simulated = []
    for seed in range(args.simulated):
        simulated.append(read_person(prepare_simulated(seed, cache)))
        LOGGER.info('simulated person %d of %d', seed + 1, args.simulated)
    sampling = Sampling(real=args.real)
    training = Training(steps=args.steps, seed=args.seed, sampling=sampling)
    network, step = fit(
        real, simulated, training, args.out / 'checkpoint.safetensors', args.minutes
    )
    scores = [_evaluate(network, person) for person in left_out]
    (args.out / 'scores.json').write_text(json.dumps(scores, indent=2) + '\n')
    known = [entry for file in args.scores for entry in json.loads(file.read_text())]
    card = _card(args, training, step, [person.name for person in real], known + scores)
    save_model(args.out / f'{args.name}.safetensors', network, card)
    LOGGER.info('wrote %s after %d steps', args.out / f'{args.name}.safetensors', step)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m bids_flair.training', description=__doc__)
    add = parser.add_argument
    add('--data', type=Path, nargs='*', default=[], help='BIDS derivatives with a FLAIR')
    add('--out', type=Path, required=True, help='folder of the model and its checkpoint')
    add('--name', default='model', help='name of the model (default: %(default)s)')
    add('--cache', type=Path, help='folder of the prepared people (default: OUT/people)')
    add('--simulated', type=int, default=24, help='simulated people (default: %(default)s)')
    add('--real', type=float, default=0.5, help='share of real blocks (default: %(default)s)')
    add('--leave-out', nargs='*', default=[], help='people to score on and not to train on')
    add(
        '--scores',
        type=Path,
        nargs='*',
        default=[],
        help='scores.json of other runs, for the card',
    )
    add('--steps', type=int, default=1500, help='length of the schedule (default: %(default)s)')
    add('--minutes', type=float, default=math.inf, help='stop then; the same call goes on')
    add('--threads', type=int, default=1)
    add('--seed', type=int, default=0)
    return parser


def _evaluate(network: torch.nn.Module, person: Person) -> dict:
    """Scores of every subset of contrasts that a person has, and how its errors are spread."""
    brain = np.asarray(person.depth) > 0
    true = np.asarray(person.values[CHANNELS.index('FLAIR')], np.float32)
    lesions = np.asarray(person.kind) == LESION
    t1w = np.asarray(person.values[0], np.float32)
    entry = {'person': person.name, 'mask': 'brain', 'inputs': {}}
    for subset in SUBSETS:
        chosen = [CONTRASTS.index(name) for name in subset]
        if not all(person.presence[i].any() for i in chosen):
            continue
        values = np.zeros((len(CONTRASTS), *brain.shape), np.float32)
        presence = np.zeros(values.shape, bool)
        presence[chosen] = person.presence[chosen] & brain
        values[chosen] = person.values[chosen] * presence[chosen]
        inputs = Normalised(values, presence, {}, ())
        mean, std = predict(network, inputs, brain, torch.device('cpu'))
        figures = score(mean, true, brain, lesions if lesions.any() else None, t1w)
        error = np.abs(mean * best_scale(mean[brain], true[brain]) - true)[brain]
        # Two thirds of normal errors lie within one standard deviation.
        figures['std_factor'] = float(np.percentile(error / std[brain], 68.3))
        entry['inputs']['+'.join(subset)] = {k: round(v, 4) for k, v in figures.items()}
        LOGGER.info('%s from %s: %s', person.name, '+'.join(subset), figures)
    return entry


def _card(
    args: argparse.Namespace, training: Training, step: int, names: list[str], scores: list[dict]
) -> dict:
    factors = [f['std_factor'] for entry in scores for f in entry['inputs'].values()]
    return {
        'name': args.name,
        'version': bids_flair.__version__,
        'inputs': list(CONTRASTS),
        'target': 'FLAIR',
        'normalisation': {
            'weighted images': 'divided by their white-matter mode',
            'MD': '1e-3 mm2/s',
            'FA': 'none',
        },
        'training_data': {
            'real': {'people': names, 'datasets': describe(args.data)},
            'simulated': {'people': args.simulated, 'by': 'bids_flair.simulation'},
        },
        'configuration': asdict(training) | {'steps_done': step},
        'scores_on_people_left_out': scores,
        'calibration': {'std_factor': float(np.mean(factors)) if factors else 1.0},
    }


if __name__ == '__main__':
    main()
