#!/usr/bin/env python3
"""The ten input sets of Build-A-FLAIR's Table 1, on simulated people.

    OMP_NUM_THREADS=1 benchmarks/table1.py --out table1.md

Per seed, people scanned at one site, as in the paper: all but two train, one validates and one is
scored. For every set of inputs the paper's network and recipe are trained anew (with the two
deviations of bids_flair.training.build_a_flair: He initialisation and a linear last layer), and
the default model is given the same inputs. The people have numbers that no training of the default
model uses; their heads come from the few shipped anatomies, deformed and with pathology.

SSIM in the brain mask of the person scored, after one scale factor, as bids_flair.scoring defines
it. To keep this affordable that person is cropped to axial slices around the brain's middle before
anything is predicted: both networks see nothing beyond the crop, and all of the crop is scored.

Every result is kept in a JSON file beside --out at once; the same call goes on from there. With
another --model only that is scored anew.
"""

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from bids_flair.models.files import Model, load_model, replace_file
from bids_flair.models.inference import predict
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.paper import PaperArchitecture
from bids_flair.models.regressor import Regressor
from bids_flair.scoring import score
from bids_flair.training.build_a_flair import Recipe, brain_of, train_paper
from bids_flair.training.corpus import Cut
from bids_flair.training.evaluation import choose
from bids_flair.training.rendering import draw_site, prepare_head, read_head

LOGGER = logging.getLogger('table1')
# The SSIM of the paper: 15 people, one 3 T scanner, own mask and scaling.
PAPER = {
    'T2w': 0.694,
    'T1w': 0.767,
    'MD+FA+S0': 0.816,
    'T1w+T2w': 0.818,
    'T1w+MD+FA+S0': 0.879,
    'T1w+MD+S0': 0.883,
    'T2w+MD+FA+S0': 0.891,
    'T2w+MD+S0': 0.900,
    'T1w+T2w+MD+FA+S0': 0.906,
    'T1w+T2w+MD+S0': 0.909,
}
# What the paper says, as pairs of which the first should score higher.
QUESTIONS = {
    'Does diffusion with anatomy beat that anatomy alone?': [
        (f'{anatomy}+{maps}', anatomy)
        for anatomy in ('T1w', 'T2w', 'T1w+T2w')
        for maps in ('MD+FA+S0', 'MD+S0')
    ],
    'Does T2w beat T1w as the one anatomical image beside diffusion?': [
        (f'T2w+{maps}', f'T1w+{maps}') for maps in ('MD+FA+S0', 'MD+S0')
    ],
    'Does FA help beside MD, S0 and anatomy?': [
        (f'{anatomy}+MD+FA+S0', f'{anatomy}+MD+S0') for anatomy in ('T1w', 'T2w', 'T1w+T2w')
    ],
}
PAPERS = "the paper's recipe"
FIRST_PERSON = 200_000
PEOPLE_PER_SEED = 100
# SSIM per set of inputs, method and seed.
Results = dict[str, dict[str, dict[str, float]]]


@dataclass
class Record:
    """What was found so far, and how; on disk after every result."""

    path: Path
    settings: dict[str, object]
    results: Results

    @classmethod
    def open(cls, path: Path, settings: dict[str, object]) -> 'Record':
        """Go on with a file's results, unless they were found another way."""
        if not path.exists():
            return cls(path, settings, {})
        content = json.loads(path.read_text())
        if content['settings'] != settings:
            raise SystemExit(
                f'{path} holds results of other settings ({content["settings"]}, now {settings}): '
                'give another --out, or remove it.'
            )
        return cls(path, settings, content['results'])

    def add(self, name: str, method: str, seed: int, ssim: float) -> None:
        """Keep what a method scored on one set of inputs with a seed."""
        self.results.setdefault(name, {}).setdefault(method, {})[str(seed)] = round(ssim, 4)
        content = {'settings': self.settings, 'results': self.results}
        replace_file(self.path, (json.dumps(content, indent=2) + '\n').encode())

    def has(self, name: str, method: str, seed: int) -> bool:
        """Whether a method was scored on a set of inputs with a seed."""
        return str(seed) in self.results.get(name, {}).get(method, {})


@dataclass(frozen=True)
class Group:
    """People of one site; ``tested`` is cropped."""

    trained: list[Cut]
    validation: Cut
    tested: Cut


def main() -> None:
    """Fill the table and print it."""
    args = _parse()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    recipe = Recipe(epochs=args.epochs)
    settings = {
        'recipe': {k: v for k, v in asdict(recipe).items() if k != 'seed'},
        'people': args.people,
        'slices': args.slices,
    }
    record = Record.open(args.out.with_suffix('.json'), settings)
    ours = f'{model.name} {model.card["sha256"][:12]}'
    with TemporaryDirectory() as temporary:
        for seed in range(args.seeds):
            missing = [
                (name, method)
                for name in args.sets
                for method in (PAPERS, ours)
                if not record.has(name, method, seed)
            ]
            if missing:
                group = _scan_people(seed, args.people, args.slices, args.cache or Path(temporary))
                _fill(record, seed, missing, group, replace(recipe, seed=seed), model)
    text = _report(record.results, settings, (PAPERS, ours), args.seeds, args.sets)
    args.out.write_text(text)
    print(text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--out', type=Path, default=Path('table1.md'), help='default: %(default)s')
    add('--seeds', type=int, default=5, help='number of groups of people (default: %(default)s)')
    add('--people', type=int, default=8, help='people per seed (default: %(default)s)')
    add('--epochs', type=int, default=500, help="of the paper's recipe (default: %(default)s)")
    add('--slices', type=int, default=32, help='axial slices scored (default: %(default)s)')
    add('--sets', nargs='+', default=list(PAPER), choices=list(PAPER), metavar='SET')
    add('--model', default='default', help='model to compare with (default: %(default)s)')
    add('--cache', type=Path, help='folder of the simulated heads (default: a temporary one)')
    add('--threads', type=int, default=1)
    args = parser.parse_args()
    if not 3 <= args.people <= PEOPLE_PER_SEED:
        parser.error(f'--people {args.people}: from 3 to {PEOPLE_PER_SEED} are possible')
    if args.out.suffix == '.json':
        parser.error(f'--out {args.out}: the results go to a .json file beside it; use .md')
    return args


def _fill(
    record: Record,
    seed: int,
    missing: Sequence[tuple[str, str]],
    group: Group,
    recipe: Recipe,
    model: Model,
) -> None:
    """Score methods on some sets of inputs of one seed."""
    for name, method in missing:
        contrasts = name.split('+')
        if method == PAPERS:
            ssim = _score_paper(group, contrasts, recipe)
        else:
            ssim = _score_network(group, contrasts, model.network)
        record.add(name, method, seed, ssim)
        LOGGER.info('seed %d, %s, %s: %.3f', seed, name, method, ssim)


def _scan_people(seed: int, people: int, slices: int, cache: Path) -> Group:
    """People of one site: the last is scored, the one before validates."""
    site = draw_site(np.random.default_rng([FIRST_PERSON, seed]))
    cuts = []
    for i in range(people):
        number = FIRST_PERSON + PEOPLE_PER_SEED * seed + i
        head = read_head(prepare_head(number, cache))
        cuts.append(head.whole(np.random.default_rng(number), site))
        LOGGER.info('seed %d: scanned person %d of %d', seed, i + 1, people)
    return Group(cuts[:-2], cuts[-2], _crop(cuts[-1], slices))


def _crop(cut: Cut, slices: int) -> Cut:
    """So many axial slices around the middle of the brain."""
    middle = int(np.median(np.flatnonzero(brain_of(cut).any((0, 1)))))
    first = max(middle - slices // 2, 0)
    part = slice(first, first + slices)
    return replace(
        cut,
        **{k: getattr(cut, k)[..., part] for k in ('values', 'presence', 'depth', 'kind')},
    )


def _score_paper(group: Group, contrasts: Sequence[str], recipe: Recipe) -> float:
    architecture = PaperArchitecture(tuple(contrasts))
    network, _ = train_paper(group.trained, group.validation, architecture, recipe)
    return _score_network(group, contrasts, network)


def _score_network(group: Group, contrasts: Sequence[str], network: Regressor) -> float:
    cut, brain = group.tested, brain_of(group.tested)
    pred, _, _ = predict(network, choose(cut, contrasts), brain, torch.device('cpu'))
    return score(pred, cut.values[CONTRASTS.index('FLAIR')], brain)['ssim']


def _report(
    results: Results,
    settings: Mapping[str, object],
    methods: Sequence[str],
    seeds: int,
    sets: Sequence[str],
) -> str:
    """The table, what it was made with, and what it says."""
    lines = ['| inputs | in the paper | ' + ' | '.join(methods) + ' |', '|---' * 4 + '|']
    for name in (name for name in PAPER if name in sets):
        cells = [_mean_and_sd(_figures(results, name, method, seeds)) for method in methods]
        lines.append(f'| {name} | {PAPER[name]:.3f} | ' + ' | '.join(cells) + ' |')
    lines += ['', _caption(settings, seeds), '']
    for question, pairs in QUESTIONS.items():
        told = [f'{method} {_answer(results, pairs, method, seeds, sets)}' for method in methods]
        lines.append(f'- {question} {told[0][0].upper()}{told[0][1:]}; {told[1]}.')
    return '\n'.join(lines) + '\n'


def _caption(settings: Mapping[str, object], seeds: int) -> str:
    people, recipe = settings['people'], settings['recipe']
    return (
        f'SSIM in the brain mask of one simulated person, on {settings["slices"]} axial slices '
        f'around the middle of the brain; mean ± standard deviation over seeds (n = {seeds}), '
        f'each with a site and {people} people of its own ({people - 2} to train, 1 to validate, '
        f"1 to score). The paper's recipe: {recipe['epochs']} epochs of {recipe['voxels']} "
        'voxels, dropout, and two deviations: He initialisation and a linear last layer. None of '
        'these people were in the training of the other model. The figures in the paper are from '
        'real people, other masks and scaling: only their order compares.'
    )


def _figures(results: Results, name: str, method: str, seeds: int) -> np.ndarray:
    found = results[name][method]
    return np.array([found[str(seed)] for seed in range(seeds)])


def _mean_and_sd(figures: np.ndarray) -> str:
    return f'{figures.mean():.3f}' + (f' ± {figures.std(ddof=1):.3f}' if len(figures) > 1 else '')


def _answer(
    results: Results,
    pairs: Sequence[tuple[str, str]],
    method: str,
    seeds: int,
    sets: Sequence[str],
) -> str:
    """Yes or no where the mean difference is above two standard errors over the seeds."""
    if not {name for pair in pairs for name in pair} <= set(sets):
        return 'cannot say (not all of its sets were run)'
    difference = np.stack([
        _figures(results, better, method, seeds) - _figures(results, worse, method, seeds)
        for better, worse in pairs
    ])  # fmt: skip
    mean, per_seed = difference.mean(), difference.mean(0)
    error = per_seed.std(ddof=1) / math.sqrt(seeds) if seeds > 1 else math.inf
    verdict = 'is undecided' if abs(mean) <= 2 * error else 'says yes' if mean > 0 else 'says no'
    share = f'higher in {(difference > 0).sum()} of {difference.size} pairs'
    return f'{verdict} ({mean:+.3f} on average, {share})'


if __name__ == '__main__':
    main()
