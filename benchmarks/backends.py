#!/usr/bin/env python3
"""How far the two backends agree: masks, transforms, tensor maps, synthetic FLAIRs.

    FSLDIR=/usr/local/fsl benchmarks/backends.py DATASET [--out FOLDER]
    benchmarks/backends.py EMBEDDED_OUTPUT FSL_OUTPUT

Given a raw BIDS dataset, both backends run on it first; given two output directories, these are
compared. A figure per participant and session, and whether it is what was set out for: brain masks
Dice .93 or more; transforms 1 mm or less apart, on average over the brain; MD and FA in white
matter 5 % or less apart in the median; FLAIRs with an SSIM to each other of .95 or more in the
brain that both found. White matter is told from the embedded backend's images. Exit code 1 if a
figure misses its aim.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from bids_flair.models.normalisation import coverage, scale_factors, white_matter
from bids_flair.processing.brain_mask import dice
from bids_flair.processing.itk import read_itk
from bids_flair.processing.registration import mean_distance
from bids_flair.scoring import score

BACKENDS = ('embedded', 'fsl')
SYNTHETIC = '_desc-synth_FLAIR.nii.gz'
MAPS = {'MD': 'md', 'FA': 'fa', 'S0': 's0'}


@dataclass(frozen=True)
class Figure:
    """One comparison; `aim` is the least or, if `at_most`, the most that will do."""

    name: str
    value: float
    aim: float
    at_most: bool

    @property
    def reached(self) -> bool:
        """Whether it is what was set out for."""
        return self.value <= self.aim if self.at_most else self.value >= self.aim


@dataclass(frozen=True)
class Session:
    """Outputs of one participant and session, below one output directory."""

    folder: Path
    label: str
    space: str

    def volume(self, datatype: str, name: str) -> np.ndarray | None:
        """Voxels of an output; None where it was not written."""
        path = self.folder / datatype / f'{self.label}_{name}.nii.gz'
        return np.asarray(nib.load(path).dataobj) if path.exists() else None

    @property
    def mask(self) -> nib.Nifti1Image:
        """The brain."""
        return nib.load(self.folder / 'anat' / f'{self.label}_desc-brain_mask.nii.gz')

    def tensor_map(self, name: str) -> np.ndarray | None:
        """MD, FA or S0."""
        return self.volume('dwi', f'space-{self.space}_model-tensor_param-{MAPS[name]}_dwimap')


def main() -> None:
    """Run what has to be run, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folders', type=Path, nargs='+', help='a dataset, or two outputs')
    parser.add_argument('--out', type=Path, help='folder for both outputs (default: temporary)')
    parser.add_argument('--participant-label', nargs='+', default=[])
    args = parser.parse_args()
    if len(args.folders) > 2:
        parser.error('give one dataset, or two output directories')
    if len(args.folders) == 1:
        out = args.out or Path(mkdtemp(prefix='backends-'))
        args.folders = [_run(args.folders[0], out, name, args) for name in BACKENDS]
    figures = dict(compare(*args.folders))
    print('| | figure | value | aim | |\n|---|---|---|---|---|')
    for label, found in figures.items():
        for figure in found:
            sign, verdict = '≤' if figure.at_most else '≥', '' if figure.reached else 'MISSED'
            print(
                f'| {label} | {figure.name} | {figure.value:.3f} | {sign} {figure.aim:g} '
                f'| {verdict} |'
            )
    sys.exit(not all(figure.reached for found in figures.values() for figure in found))


def compare(first: Path, second: Path) -> Iterator[tuple[str, list[Figure]]]:
    """Label and figures of every participant and session that both outputs hold."""
    for path in sorted(first.rglob(f'*{SYNTHETIC}')):
        stem = path.name.removesuffix(SYNTHETIC)
        label, _, space = stem.rpartition('_space-')
        folder = path.parents[1].relative_to(first)
        sessions = [Session(output / folder, label, space) for output in (first, second)]
        if (second / path.relative_to(first)).exists():
            yield label, list(_figures(*sessions))
        else:
            raise SystemExit(f'{second} lacks {path.relative_to(first)}')


def _figures(first: Session, second: Session) -> Iterator[Figure]:
    masks = [np.asarray(session.mask.dataobj) > 0 for session in (first, second)]
    yield Figure('brain masks, Dice', dice(*masks), 0.93, at_most=False)
    points = apply_affine(first.mask.affine, np.argwhere(masks[0]))
    for path in sorted(first.folder.rglob('*_mode-image_xfm.txt')):
        matrices = [read_itk(path), read_itk(second.folder / path.relative_to(first.folder))]
        name = path.name.partition('_from-')[2].partition('_mode')[0].replace('_to-', ' to ')
        yield Figure(f'{name}, mm', mean_distance(*matrices, points), 1.0, at_most=True)
    common = masks[0] & masks[1]
    yield from _map_figures(first, second, common)
    name = f'space-{first.space}_desc-synth_FLAIR'
    flairs = [session.volume('anat', name) for session in (first, second)]
    common &= (flairs[0] != 0) & (flairs[1] != 0)
    yield Figure('synthetic FLAIRs, SSIM', score(*flairs, common)['ssim'], 0.95, at_most=False)


def _map_figures(first: Session, second: Session, common: np.ndarray) -> Iterator[Figure]:
    images = {name: first.tensor_map(name) for name in MAPS}
    if any(image is None for image in images.values()):
        return
    for contrast in ('T1w', 'T2w'):
        name = ('' if contrast == first.space else f'space-{first.space}_') + 'desc-preproc_'
        if (image := first.volume('anat', name + contrast)) is not None:
            images[contrast] = image
    covered = {name: coverage(image, common) for name, image in images.items()}
    factors, _ = scale_factors(images, covered, common)
    white = white_matter(images, covered, factors, common)
    for name in ('MD', 'FA'):
        before, after = (np.median(s.tensor_map(name)[white]) for s in (first, second))
        percent = 100 * abs(after / before - 1)
        yield Figure(f'{name} in white matter, %', percent, 5.0, at_most=True)


def _run(dataset: Path, out: Path, backend: str, args: argparse.Namespace) -> Path:
    command = [sys.executable, '-m', 'bids_flair', dataset, out / backend, 'participant']
    options = ['--backend', backend, '-w', out / f'work-{backend}', '--skip-bids-validation']
    if args.participant_label:
        options += ['--participant-label', *args.participant_label]
    done = subprocess.run([*map(str, command), *map(str, options)], check=False)
    if done.returncode:
        print(f'backend {backend} ended with exit code {done.returncode}', file=sys.stderr)
    return out / backend


if __name__ == '__main__':
    main()
