#!/usr/bin/env python3
"""Table of how well several methods synthesise the FLAIR of the same people.

    OMP_NUM_THREADS=1 benchmarks/accuracy.py --data DERIVATIVES \\
        --train sub-07 sub-19 --test sub-21 --out accuracy.md

The default model as it is, and methods trained here on the people of --train: the network of
Build-A-FLAIR with and without its dropout (bids_flair.training.build_a_flair), linear regression
and a random forest on the same 5x5x5 patches (the idea of REPLICA), and a 3D U-Net if MONAI is
installed. --data are BIDS derivatives as `python -m bids_flair.training` takes them.

SSIM, correlation and lesion AUC in the brain mask, after one scale factor, as bids_flair.scoring
defines them.
"""

import argparse
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from bids_flair.models.blocks import cut_box
from bids_flair.models.files import Model, load_model
from bids_flair.models.inference import predict
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.paper import PaperArchitecture
from bids_flair.scoring import score
from bids_flair.training.build_a_flair import (
    Recipe,
    brain_of,
    draw_voxels,
    predict_voxels,
    train_paper,
)
from bids_flair.training.cohort import find_cases
from bids_flair.training.corpus import LESION, Cut, open_case
from bids_flair.training.evaluation import choose
from bids_flair.training.rendering import draw_site, prepare_head, read_head

LOGGER = logging.getLogger('accuracy')
FLAIR = CONTRASTS.index('FLAIR')
CPU = torch.device('cpu')
# Simulated people have numbers that no training of the default model uses.
FIRST_TRAINED, FIRST_TESTED = 300_000, 400_000
REGRESSION_VOXELS = 100_000
TREES = 30
UNET_CROP, UNET_BATCH = 64, 2
Predictor = Callable[[Cut], np.ndarray]
Scores = dict[str, float]


@dataclass(frozen=True)
class Task:
    """What every method is given."""

    trained: list[Cut]
    contrasts: list[str]
    model: Model
    epochs: int
    unet_minutes: float
    seed: int


def main() -> None:
    """Train, score and print the table."""
    args = _parse()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    with TemporaryDirectory() as temporary:
        trained, tested = _gather(args, args.cache or Path(temporary))
        task = Task(
            list(trained.values()),
            args.inputs,
            model,
            args.epochs,
            args.unet_minutes,
            args.seed,
        )
        rows = {'acquired FLAIR': {name: _score_acquired(cut) for name, cut in tested.items()}}
        for method in args.methods:
            label, prepare = METHODS[method]
            try:
                predictor = prepare(task)
            except ModuleNotFoundError as error:
                LOGGER.warning('NOT RUN: %s needs %s, which is not installed', label, error.name)
                rows[f'{label}: NOT RUN, {error.name} is not installed'] = {}
                continue
            rows[label] = {name: _score(predictor(cut), cut) for name, cut in tested.items()}
            LOGGER.info('%s: %s', label, rows[label])
    text = _table(rows, list(tested), _suspects(model, list(tested)))
    text += '\n' + _caption(args, model, list(trained), list(tested)) + '\n'
    if args.out:
        args.out.write_text(text)
    print(text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--data', type=Path, nargs='*', default=[], help='BIDS derivatives with a FLAIR')
    add('--train', nargs='*', default=[], metavar='LABEL', help='people to train on: sub-01 ...')
    add('--test', nargs='*', default=[], metavar='LABEL', help='people to score on')
    add('--simulated-train', type=int, default=0, metavar='N', help='simulated people to train on')
    add('--simulated-test', type=int, default=0, metavar='N', help='simulated people to score on')
    add('--model', default='default', help='name or file of a model (default: %(default)s)')
    add('--inputs', nargs='+', default=['T1w', 'T2w'], choices=CONTRASTS[:-1])
    add('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    add('--epochs', type=int, default=500, help="of the paper's recipe (default: %(default)s)")
    add('--unet-minutes', type=float, default=15, help='default: %(default)s')
    add('--out', type=Path, metavar='FILE.md', help='write the table there, too')
    add('--cache', type=Path, help='folder of the prepared people (default: a temporary one)')
    add('--seed', type=int, default=0)
    add('--threads', type=int, default=1)
    args = parser.parse_args()
    if not (args.train or args.simulated_train) or not (args.test or args.simulated_test):
        parser.error('people to train on and people to score on are needed')
    if (args.train or args.test) and not args.data:
        parser.error('--train and --test name people of --data, which is missing')
    return args


def _gather(args: argparse.Namespace, cache: Path) -> tuple[dict[str, Cut], dict[str, Cut]]:
    """Whole people to train and to score on, who all have the inputs."""
    cases = [(data, case) for data in args.data for case in find_cases(data)]
    sides: list[dict[str, Cut]] = []
    people = []
    for labels in (args.train, args.test):
        for label in labels:
            if not any(_starts_with(case.name, label) for _, case in cases):
                raise SystemExit(f'{label}: nobody of that name is in --data')
        here = [p for p in cases if any(_starts_with(p[1].name, label) for label in labels)]
        people.append(here)
    _refuse_overlap(*([(data, case.name) for data, case in here] for here in people))
    for here, first, count in (
        (people[0], FIRST_TRAINED, args.simulated_train),
        (people[1], FIRST_TESTED, args.simulated_test),
    ):
        # A folder per dataset: people of two may have one name.
        cuts = {
            _name(data, case.name, args.data): open_case(
                case, cache / str(args.data.index(data))
            ).whole()
            for data, case in here
        }
        cuts |= {f'sim-{n}': _simulate(n, cache) for n in range(first, first + count)}
        sides.append(cuts)
    for name, cut in (sides[0] | sides[1]).items():
        lacking = [c for c in args.inputs if not cut.presence[CONTRASTS.index(c)].any()]
        if lacking:
            raise SystemExit(f'{name} has no {", ".join(lacking)}: leave it out, or see --inputs')
    return sides[0], sides[1]


def _refuse_overlap(
    trained: Sequence[tuple[Path, str]], tested: Sequence[tuple[Path, str]]
) -> None:
    """Other sessions of a person trained on are that person, too."""
    known = {(data, _participant(name)) for data, name in trained}
    both = sorted({name for data, name in tested if (data, _participant(name)) in known})
    if both:
        raise SystemExit(
            f'{", ".join(both)}: named by --test, and the same person by --train. A method must '
            'not be scored on people whom it was trained on.'
        )


def _starts_with(name: str, label: str) -> bool:
    return name == label or name.startswith(f'{label}_')


def _participant(name: str) -> str:
    return name.split('_')[0]


def _name(data: Path, name: str, datasets: Sequence[Path]) -> str:
    return f'{data.resolve().name}/{name}' if len(datasets) > 1 else name


def _simulate(number: int, cache: Path) -> Cut:
    """A person at a site of their own."""
    rng = np.random.default_rng(number)
    return read_head(prepare_head(number, cache)).whole(rng, draw_site(rng))


def _prepare_model(task: Task) -> Predictor:
    def run(cut: Cut) -> np.ndarray:
        network = task.model.network
        inputs = choose(cut, task.contrasts)
        return predict(network, inputs, brain_of(cut), CPU)[0]

    return run


def _prepare_paper(task: Task, dropout: bool = True) -> Predictor:
    architecture = PaperArchitecture(tuple(task.contrasts), 0.5 if dropout else 0.0)
    recipe = Recipe(epochs=task.epochs, seed=task.seed)
    people, validation = _split(task.trained)
    network, _ = train_paper(people, validation, architecture, recipe)
    return lambda cut: predict(network, choose(cut, task.contrasts), brain_of(cut), CPU)[0]


def _prepare_paper_without_dropout(task: Task) -> Predictor:
    return _prepare_paper(task, dropout=False)


def _split(people: list[Cut]) -> tuple[list[Cut], Cut]:
    """The last of three or more only validates; of fewer, all are needed to train on."""
    return (people[:-1] if len(people) > 2 else people), people[-1]


def _prepare_linear(task: Task) -> Predictor:
    from sklearn.linear_model import LinearRegression

    return _fit_regression(task, LinearRegression(copy_X=False))


def _prepare_forest(task: Task) -> Predictor:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        TREES, min_samples_leaf=5, max_features=1 / 3, random_state=task.seed
    )
    return _fit_regression(task, forest)


def _fit_regression(task: Task, regression) -> Predictor:
    """Fit a scikit-learn regression on voxels of every person alike."""
    rng = np.random.default_rng(task.seed)
    each = math.ceil(REGRESSION_VOXELS / len(task.trained))
    drawn = [draw_voxels(rng, cut, task.contrasts, 'FLAIR', each) for cut in task.trained]
    patches, flair = (np.concatenate(part) for part in zip(*drawn, strict=True))
    regression.fit(patches, flair)
    return lambda cut: predict_voxels(regression.predict, cut, task.contrasts)


def _prepare_unet(task: Task) -> Predictor:
    """L1 on random crops, mirrored at random, until the time is over."""
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import UNet

    torch.manual_seed(task.seed)
    rng = np.random.default_rng(task.seed)
    network = UNet(
        spatial_dims=3,
        in_channels=len(task.contrasts),
        out_channels=1,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=2,
    )
    people = [_volumes(cut, task.contrasts) for cut in task.trained]
    _train_unet(network, people, rng, task.unet_minutes)

    def run(cut: Cut) -> np.ndarray:
        inputs = choose(cut, task.contrasts).pick(task.contrasts)
        values = torch.from_numpy(inputs.values)[None]
        with torch.inference_mode():
            found = sliding_window_inference(values, 3 * (96,), 1, network, overlap=0.25)
        return np.where(brain_of(cut), np.maximum(found[0, 0].numpy(), 0), 0)

    return run


def _volumes(cut: Cut, contrasts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, FLAIR and brain as channels of one volume, and the brain's voxels."""
    brain = brain_of(cut)
    inputs = choose(cut, contrasts).pick(contrasts)
    parts = [inputs.values, cut.values[FLAIR][None], brain[None]]
    return np.concatenate(parts).astype(np.float32), np.argwhere(brain).astype(np.int16)


def _train_unet(
    network: nn.Module,
    people: Sequence[tuple[np.ndarray, np.ndarray]],
    rng: np.random.Generator,
    minutes: float,
) -> None:
    """The learning rate falls to nothing, linearly in time."""
    rate = 2e-3
    optimizer = torch.optim.Adam(network.parameters(), rate)
    begun, steps = time.monotonic(), 0
    while (gone := (time.monotonic() - begun) / (60 * minutes)) < 1:
        optimizer.param_groups[0]['lr'] = rate * (1 - gone)
        crops = np.stack([_draw_crop(rng, *people[i]) for i in _some(rng, people)])
        x, flair, brain = torch.from_numpy(crops).tensor_split([-2, -1], dim=1)
        optimizer.zero_grad()
        error = (network(x) - flair).abs() * brain
        (error.sum() / brain.sum()).backward()
        optimizer.step()
        steps += 1
    network.eval()
    LOGGER.info('U-Net: %d steps', steps)


def _some(rng: np.random.Generator, people: Sequence[object]) -> np.ndarray:
    return rng.integers(len(people), size=UNET_BATCH)


def _draw_crop(rng: np.random.Generator, volumes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A crop around a voxel of the brain, left and right swapped in half of them."""
    corner = places[rng.integers(len(places))].astype(int) - UNET_CROP // 2
    crop = cut_box(volumes, corner, (UNET_CROP,) * 3)
    return crop[:, ::-1].copy() if rng.random() < 0.5 else crop


METHODS: dict[str, tuple[str, Callable[[Task], Predictor]]] = {
    'model': ('model', _prepare_model),
    'paper': ("the paper's network, dropout .5", _prepare_paper),
    'paper-no-dropout': ("the paper's network, no dropout", _prepare_paper_without_dropout),
    'linear': ('linear regression', _prepare_linear),
    'forest': ('random forest', _prepare_forest),
    'unet': ('3D U-Net', _prepare_unet),
}


def _score(pred: np.ndarray, cut: Cut) -> Scores:
    """'ssim', 'corr' and, with lesions, 'auc'."""
    brain = brain_of(cut)
    lesions = (cut.kind == LESION) & brain
    figures = score(
        pred, cut.values[FLAIR], brain, lesions if lesions.any() else None, cut.values[0]
    )
    names = {'ssim': 'ssim', 'corr': 'corr', 'lesion_auc_pred': 'auc'}
    return {short: figures[name] for name, short in names.items() if name in figures}


def _score_acquired(cut: Cut) -> Scores:
    return _score(cut.values[FLAIR], cut)


def _suspects(model: Model, tested: Sequence[str]) -> list[str]:
    """Real people scored on, of whom one with that name is on the model's card."""
    real = model.card.get('training_data', {}).get('real', {}).get('people', [])
    known = {_participant(name) for name in real}
    return [name for name in tested if _participant(name.split('/')[-1]) in known]


def _table(
    rows: Mapping[str, Mapping[str, Scores]], people: Sequence[str], suspects: Sequence[str]
) -> str:
    lines = ['| | ' + ' | '.join(people) + ' | mean |', '|---' * (len(people) + 2) + '|']
    for label, scores in rows.items():
        starred = suspects if label == METHODS['model'][0] else []
        cells = [_cell(scores.get(name, {}), ('ssim', 'auc'), name in starred) for name in people]
        mean = {
            key: float(np.mean(found))
            for key in ('ssim', 'corr', 'auc')
            if (found := [s[key] for s in scores.values() if key in s])
        }
        cells.append(_cell(mean, ('ssim', 'corr', 'auc'), bool(starred)))
        lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def _cell(figures: Scores, keys: Sequence[str], starred: bool) -> str:
    shown = ' / '.join(f'{figures[key]:.3f}' if key in figures else '-' for key in keys)
    return f'{shown} *' if starred else shown


def _caption(
    args: argparse.Namespace, model: Model, trained: Sequence[str], tested: Sequence[str]
) -> str:
    data = [folder.resolve().name for folder in args.data]
    data += ['simulated people'] if args.simulated_train or args.simulated_test else []
    validation = 'the last only validating' if len(trained) > 2 else 'the last validating, too'
    text = (
        f'Per person SSIM / lesion AUC; mean SSIM / correlation / lesion AUC; from '
        f'{"+".join(args.inputs)}. Data: {", ".join(data)}, 1 mm. Mask: brain with a FLAIR. '
        f'Trained on: {", ".join(trained)} (all but the model; in the rows of the paper, '
        f"{validation}). The paper's network: {args.epochs} epochs, He initialisation, linear "
        f'last layer. Regressions: {REGRESSION_VOXELS} voxels; forest: {TREES} trees. U-Net: L1, '
        f'{UNET_CROP}³ crops, {args.unet_minutes:g} minutes. Model: {model.name} '
        f'{model.card["sha256"][:12]}.'
    )
    if 'training_data' not in model.card:
        text += " The model's card does not say whom it was trained on: this may be them."
    elif suspects := _suspects(model, tested):
        text += (
            f'\n\n\\* The model may have been trained on {", ".join(suspects)}: its card names '
            'such people. These figures then say nothing of new people.'
        )
    return text


if __name__ == '__main__':
    main()
