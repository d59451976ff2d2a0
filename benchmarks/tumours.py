#!/usr/bin/env python3
"""Simulated people with a tumour: is oedema bright, and fluid dark?

    benchmarks/tumours.py --people 4 --out pictures

People of none of the training seeds, those with at least 10 ml of oedema and a mass; each at a
site of its own with a spin-echo T1w and at one with any other (gradient echo or inversion
recovery). From T1w and T2w: SSIM in the brain, and medians of oedema, mass and ventricles, white
matter being 1, synthetic (acquired).
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch

from bids_flair.models.files import load_model
from bids_flair.models.inference import predict
from bids_flair.models.regressor import CPU
from bids_flair.scoring import score
from bids_flair.simulation.physics import TISSUES, SpinEcho
from bids_flair.training.corpus import Cut
from bids_flair.training.evaluation import choose
from bids_flair.training.rendering import SimulatedPerson, draw_site, prepare_head, read_head

matplotlib.use('Agg')
from matplotlib import pyplot as plt

FIRST = 300_000
OEDEMA_MM3, MASS_MM3 = 10_000, 1_000
INPUTS = ('T1w', 'T2w')
SHOWN = ('oedema', 'tumour', 'ventricle')
# Of a voxel, how much must be a tissue, of 255.
PURE = 200


def main() -> None:
    """Print one line per person and kind of T1w, and draw a picture of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', default='default')
    parser.add_argument('--people', type=int, default=4)
    parser.add_argument('--out', type=Path, help='folder for one picture per line')
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = load_model(args.model).network
    print('| person | T1w | SSIM | ' + ' | '.join(SHOWN) + ' |\n|---|---|---|---|---|---|')
    ssims = []
    with tempfile.TemporaryDirectory() as scratch:
        for i, person in enumerate(with_tumour(Path(scratch), args.people)):
            for kind in ('spin echo', 'other'):
                cut = scan(person, i, kind == 'spin echo')
                brain, acquired = cut.depth > 0, cut.values[-1]
                synthetic = predict(network, choose(cut, INPUTS), brain, CPU)[0]
                ssims.append(score(synthetic, acquired, brain, None, cut.values[0])['ssim'])
                both = (levels(image, person, brain) for image in (synthetic, acquired))
                cells = [f'{ours:.2f} ({true:.2f})' for ours, true in zip(*both, strict=True)]
                row = (person.name, kind, f'{ssims[-1]:.3f}', *cells)
                print('| ' + ' | '.join(row) + ' |', flush=True)
                if args.out:
                    args.out.mkdir(parents=True, exist_ok=True)
                    name = f'{person.name}-{kind.replace(" ", "-")}.png'
                    draw((*cut.values[:2], acquired, synthetic), person, args.out / name)
    print(f'| mean | | {np.mean(ssims):.3f} | | | |')


def with_tumour(cache: Path, count: int) -> Iterator[SimulatedPerson]:
    """The first people who have one."""
    seed = FIRST
    while count:
        person = read_head(prepare_head(seed, cache))
        seed += 1
        oedema, mass = (
            sum(person.fractions[TISSUES.index(name)].sum(dtype=float) / 255 for name in names)
            for names in (('oedema',), ('tumour', 'necrosis'))
        )
        if oedema > OEDEMA_MM3 and mass > MASS_MM3:
            count -= 1
            yield person


def scan(person: SimulatedPerson, number: int, spin_echo: bool) -> Cut:
    """At the first of this person's sites whose T1w is, or is not, a spin echo."""
    for k in range(1000):
        rng = np.random.default_rng([FIRST, number, k])
        site = draw_site(rng)
        if isinstance(site.scans['T1w'].sequence, SpinEcho) == spin_echo:
            return person.whole(rng, site)
    raise RuntimeError('no such site in a thousand')


def levels(image: np.ndarray, person: SimulatedPerson, brain: np.ndarray) -> list[float]:
    """Medians of the tissues of `SHOWN`, white matter being 1."""
    white, *others = (
        np.median(image[brain & (person.fractions[TISSUES.index(name)] > PURE)])
        for name in ('white', *SHOWN)
    )
    return [float(other / white) for other in others]


def draw(images: tuple[np.ndarray, ...], person: SimulatedPerson, out: Path) -> None:
    """The slice that holds most of the oedema, as T1w, T2w, acquired and synthetic FLAIR."""
    oedema = person.fractions[TISSUES.index('oedema')].sum((0, 1), dtype=float)
    titles = ('T1w', 'T2w', 'acquired FLAIR', 'synthetic FLAIR')
    figure, axes = plt.subplots(1, 4, figsize=(9, 3.2), layout='constrained')
    for panel, title, image, most in zip(axes, titles, images, (1.3, 3.5, 2, 2), strict=True):
        slice_ = np.rot90((image * (person.depth > 0))[:, :, oedema.argmax()])
        panel.imshow(slice_, cmap='gray', vmin=0, vmax=most)
        panel.set_title(title, fontsize=9)
        panel.axis('off')
    figure.savefig(out, dpi=90)
    plt.close(figure)


if __name__ == '__main__':
    main()
