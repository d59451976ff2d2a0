#!/usr/bin/env python3
"""How far registrations are from the truth, on simulated people.

    FSLDIR=/usr/local/fsl benchmarks/registration.py --people 4 --out registration.md

T2w (thick slices) and b=0 volume of a simulated person are registered to the T1w, free of its bias
field as in every run: by the embedded backend and, where FSLDIR names an FSL, by FLIRT from the
header. That with three costs: normalised
mutual information inside the brain (what the FSL backend uses), mutual information, and
boundary-based registration (from the result of the first; its white matter is told from the T1w).
The error is the mean distance over the brain from where the simulated head really was, in mm. The
head moves between scans by about 2 mm and 2 degrees; nothing is distorted by susceptibility. The
T1w is an MPRAGE or, with --spin-echo, one with 3 mm slices and little contrast.
"""

import argparse
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import nibabel as nib
import numpy as np

from bids_flair.models.normalisation import white_matter
from bids_flair.processing.bias import correct_bias
from bids_flair.processing.fsl import read_flirt, reorder
from bids_flair.processing.registration import mask_points, mean_distance, register_rigid
from bids_flair.simulation import dataset, load_anatomy, physics, shipped
from bids_flair.simulation.anatomy import make_head
from bids_flair.simulation.contrasts import draw_variation
from bids_flair.simulation.lesions import add_pathology

FIRST_PERSON = 500_000
MOVING = ('T2w', 'b0')
EMBEDDED, NORMALISED, PLAIN, BOUNDARY = METHODS = (
    'embedded',
    'FLIRT, normalised mutual information',
    'FLIRT, mutual information',
    'FLIRT, boundary-based',
)


@dataclass(frozen=True)
class Scans:
    """One person: images, brain mask of the T1w, and where the head was in each scan (4, 4)."""

    images: dict[str, nib.Nifti1Image]
    brain: nib.Nifti1Image
    poses: dict[str, np.ndarray]

    def error_mm(self, moving: str, found: np.ndarray) -> float:
        """Mean distance over the brain between a transform from the T1w and the true one."""
        true = self.poses[moving] @ np.linalg.inv(self.poses['T1w'])
        return mean_distance(found, true, mask_points(self.brain))


def main() -> None:
    """Simulate, register, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--people', type=int, default=4, help='default: %(default)s')
    parser.add_argument('--spin-echo', action='store_true', help='T1w with little contrast')
    parser.add_argument('--out', type=Path, help='write the table there, too')
    args = parser.parse_args()
    errors: dict[tuple[str, str], list[float]] = {}
    for number in range(FIRST_PERSON, FIRST_PERSON + args.people):
        scans = scan_person(number, spin_echo=args.spin_echo)
        for moving in MOVING:
            for method, matrix in register(scans, moving):
                errors.setdefault((method, moving), []).append(scans.error_mm(moving, matrix))
                print(f'{number} {moving}, {method}: {errors[method, moving][-1]:.2f} mm')
    text = _table(errors, args.people)
    if args.out:
        args.out.write_text(text)
    print(text)


def scan_person(number: int, *, spin_echo: bool = False) -> Scans:
    """T1w, T2w and one b=0 volume, as `bids_flair simulate` would write them."""
    rng = np.random.default_rng(number)
    poses: list[dataset.Pose] = []

    def draw_and_keep(*how) -> dataset.Pose:
        poses.append(draw_pose(*how))
        return poses[-1]

    draw_pose = dataset.draw_pose
    names = shipped()
    head = make_head(load_anatomy(names[number % len(names)]), rng, 1.0, mirror=False)
    add_pathology(rng, head)
    tissues = physics.draw_tissues(rng, float(rng.choice([1.5, 3.0])))
    variation = draw_variation(rng, head.shape, head.voxel_mm)[:, head.inside]
    protocols = dataset.draw_raw_scans(rng, tissues, head.voxel_mm)
    if spin_echo:
        thick = {
            'sequence': physics.SpinEcho(tr=500, te=12, mt=0.1),
            'spacing_mm': (1.0, 1.0, 3.0),
        }
        protocols['T1w'] = replace(protocols['T1w'], **thick)
    with mock.patch.object(dataset, 'draw_pose', draw_and_keep):
        images = {
            name: dataset.weighted_image(
                rng, head, tissues, variation, protocols[name], flipped=name == 'T2w'
            )
            for name in ('T1w', 'T2w')
        }
        series = dataset.diffusion_image(rng, head, tissues, 2.2)[0]
    images['b0'] = nib.Nifti1Image(np.asarray(series.dataobj[..., 0]), series.affine)
    # The third is where the head was at rest, the fourth how it moved in the first volume.
    t1w, t2w, rest, first = poses[:4]
    at = {'T1w': t1w, 'T2w': t2w, 'b0': first.then(rest)}
    t1w_grid = dataset.Grid(images['T1w'].shape, images['T1w'].affine)
    inside = dataset.observe(head.volume(head.brain), head.affine, t1w, t1w_grid)
    brain = nib.Nifti1Image((inside > 0.5).astype(np.uint8), t1w_grid.affine)
    images['T1w'] = correct_bias(images['T1w'], brain)
    return Scans(images, brain, {name: _matrix(pose) for name, pose in at.items()})


def register(scans: Scans, moving: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every method and its transform, T1w world to the world of the other image."""
    fixed, image = scans.images['T1w'], scans.images[moving]
    yield EMBEDDED, register_rigid(fixed, image, scans.brain).matrix
    if not os.environ.get('FSLDIR'):
        return
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inside = np.asarray(scans.brain.dataobj) > 0
        t1w = {'T1w': np.asarray(fixed.dataobj, np.float32)}
        white = white_matter(t1w, {'T1w': inside}, {'T1w': 1.0}, inside).astype(np.uint8)
        files = {
            'fixed': fixed,
            'moving': image,
            'brain': scans.brain,
            'white': nib.Nifti1Image(white, fixed.affine),
        }
        for name, content in files.items():
            reorder(content).to_filename(folder / f'{name}.nii.gz')
        header = ('-usesqform', '-nosearch')
        inside = ('-refweight', 'brain.nii.gz')
        schedule = str(Path(os.environ['FSLDIR']) / 'etc' / 'flirtsch' / 'bbr.sch')
        boundary = ('-wmseg', 'white.nii.gz', '-init', 'normmi.mat', '-schedule', schedule)
        yield NORMALISED, _flirt(folder, 'normmi', *header, *inside)
        yield PLAIN, _flirt(folder, 'mutualinfo', *header, *inside)
        yield BOUNDARY, _flirt(folder, 'bbr', *boundary)


def _flirt(folder: Path, cost: str, *options: str) -> np.ndarray:
    fsl = Path(os.environ['FSLDIR'])
    images = ('-in', 'moving.nii.gz', '-ref', 'fixed.nii.gz', '-omat', f'{cost}.mat')
    command = (fsl / 'bin' / 'flirt', *images, '-dof', '6', '-cost', cost, *options)
    environment = os.environ | {'FSLOUTPUTTYPE': 'NIFTI_GZ'}
    subprocess.run(
        [*map(str, command)], cwd=folder, check=True, env=environment, capture_output=True
    )
    return read_flirt(folder / f'{cost}.mat', folder / 'fixed.nii.gz', folder / 'moving.nii.gz')


def _matrix(pose: dataset.Pose) -> np.ndarray:
    return nib.affines.from_matvec(pose.matrix, pose.shift)


def _table(errors: dict[tuple[str, str], list[float]], people: int) -> str:
    lines = ['| mean (worst), mm | ' + ' | '.join(MOVING) + ' |', '|---' * 3 + '|']
    for method in METHODS:
        found = [errors.get((method, moving), []) for moving in MOVING]
        cells = [f'{np.mean(e):.2f} ({max(e):.2f})' if e else '-' for e in found]
        lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + f'\n\nTo the T1w; {people} simulated people.\n'


if __name__ == '__main__':
    main()
