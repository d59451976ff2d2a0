#!/usr/bin/env python3
"""What two contrasts have in common: of one head in place, out of place, and of two people.

Excess of normalised mutual information in the brain, at the place found from where they lie
(`bids_flair/models/placement.py`), of T1w with every other series. Simulated people, each at a
site of its own, and with `--data` real ones of BIDS datasets. The second person's image is laid
brain upon brain.

    benchmarks/placement.py --sites 24
    benchmarks/placement.py --sites 24 --data DATA/open-ms-mni OUT
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nibabel.affines import from_matvec
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from bids_flair.models.blocks import cut_box
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.placement import ALIKE, displacement_of
from bids_flair.training.cohort import find_cases
from bids_flair.training.corpus import Cut, open_case
from bids_flair.training.rendering import draw_site, prepare_head, read_head

# Of none of the training seeds.
FIRST = 200_000
OTHERS = ('T2w', 'S0', 'MD', 'FA')
# About the three axes in degrees, and along them in mm.
POSES = {
    'in place': ((0, 0, 0), (0, 0, 0)),
    '25 mm off': ((0, 0, 0), (0, 25, 5)),
    'turned by 40 degrees': ((40, 0, 0), (0, 0, 0)),
    'back to front': ((0, 0, 180), (0, 0, 0)),
}


def main() -> None:
    """Print one line per pair and pose, and the range of each pose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sites', type=int, default=24)
    parser.add_argument('--data', type=Path, nargs='*', default=())
    parser.add_argument('--cache', type=Path, help='folder to keep the people in')
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    print('| person | contrast | | mm | in common |')
    print('|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as scratch:
        people = dict(_people(args.sites, args.data, args.cache or Path(scratch)))
        names = list(people)
        for i, name in enumerate(names):
            # Another visit is no other person.
            others = (n for n in names[i + 1 :] + names[:i] if _who(n) != _who(name))
            for contrast, how, mm, similarity in _pairs(people[name], people[next(others)]):
                found.setdefault(how, []).append(similarity)
                print(f'| {name} | {contrast} | {how} | {mm:.1f} | {similarity:.4f} |', flush=True)
    for how, values in found.items():
        told = sum(value < ALIKE for value in values)
        print(f'{how}: {min(values):.3f} to {max(values):.3f}, {told} of {len(values)} told')


def _people(sites: int, data: list[Path], cache: Path) -> Iterator[tuple[str, Cut]]:
    for folder in data:
        for case in find_cases(folder):
            yield case.name, open_case(case, cache).whole()
    for i in range(sites):
        rng = np.random.default_rng([FIRST, i])
        head = read_head(prepare_head(FIRST + i, cache))
        yield head.name, head.whole(rng, draw_site(rng))


def _who(name: str) -> str:
    return name.partition('_')[0]


def _pairs(person: Cut, other: Cut) -> Iterator[tuple[str, str, float, float]]:
    brain = person.depth > 0
    t1w = _stripped(person, 'T1w')
    for contrast in OTHERS:
        image = _stripped(person, contrast)
        if not image.any():
            continue
        poses = {how: _away(image, *pose) for how, pose in POSES.items()}
        strange = _stripped(other, contrast)
        if strange.any():
            poses['of another person'] = _laid_on(strange, brain)
        for how, moved in poses.items():
            # None where what was moved meets the brain nowhere.
            if found := displacement_of(t1w, moved, brain):
                yield contrast, how, found.mm, found.similarity


def _stripped(person: Cut, contrast: str) -> np.ndarray:
    return person.values[CONTRASTS.index(contrast)] * (person.depth > 0)


def _away(image: np.ndarray, degrees: tuple, mm: tuple) -> np.ndarray:
    linear = Rotation.from_euler('xyz', degrees, degrees=True).as_matrix()
    centre = (np.array(image.shape) - 1) / 2
    return affine_transform(image, from_matvec(linear, centre - linear @ centre + mm), order=1)


def _laid_on(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Moved by whole voxels so that the middles of what is not 0 fall together."""
    middles = [np.argwhere(volume).mean(0) for volume in (image, brain)]
    corner = np.rint(middles[0] - middles[1]).astype(int)
    return cut_box(image, corner.tolist(), brain.shape)


if __name__ == '__main__':
    main()
