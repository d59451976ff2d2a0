#!/usr/bin/env python3
"""How much the voxel size of the inputs changes the FLAIR: scores from T1w + T2w at several sizes.

    benchmarks/voxel_sizes.py --data DERIVATIVES --people 07 --sizes 0.8 1 1.3

Inputs, acquired FLAIR and mask are brought to each size by third-order splines (the mask by the
nearest neighbour); the FLAIR is synthesised there, and compared there. Coarser voxels are easier
to match: the last column is the FLAIR from the inputs as they are, brought to that size after it.
The two columns should hardly differ, whether or not the model was trained on a person.
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output

from bids_flair import synthesize
from bids_flair.scoring import score
from bids_flair.training.cohort import Case, find_cases

INPUTS = ('T1w', 'T2w')


def main() -> None:
    """Synthesise at every size, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, required=True, help='BIDS derivatives with a FLAIR')
    parser.add_argument('--people', nargs='+', required=True, help='labels')
    parser.add_argument('--sizes', nargs='+', type=float, default=[0.8, 1.0, 1.3], help='mm')
    parser.add_argument('--model', default='default')
    args = parser.parse_args()
    print('| | voxels, mm | SSIM | SSIM of that from the inputs as they are |\n|---|---|---|---|')
    for case in find_cases(args.data):
        if case.participant in args.people:
            images, mask = _read(case)
            as_they_are = _synthesise(images, mask, args.model)
            for size in args.sizes:
                there = {name: _at(image, size) for name, image in images.items()}
                brain = _at(mask, size, order=0)
                found = _synthesise(there, brain, args.model)
                ssim = [
                    _ssim(image, there['FLAIR'], brain)
                    for image in (found, _at(as_they_are, size))
                ]
                print(f'| {case.name} | {size:g} | {ssim[0]:.3f} | {ssim[1]:.3f} |', flush=True)


def _read(case: Case) -> tuple[dict[str, nib.Nifti1Image], nib.Nifti1Image]:
    images = {name: nib.load(case.images[name]) for name in (*INPUTS, 'FLAIR')}
    if case.mask is not None:
        return images, nib.load(case.mask)
    flair = images['FLAIR']
    return images, nib.Nifti1Image((flair.get_fdata() != 0).astype(np.uint8), flair.affine)


def _at(image: nib.Nifti1Image, size: float, order: int = 3) -> nib.Nifti1Image:
    return resample_to_output(image, [size] * 3, order=order)


def _ssim(synthetic: nib.Nifti1Image, acquired: nib.Nifti1Image, mask: nib.Nifti1Image) -> float:
    return score(synthetic.get_fdata(), acquired.get_fdata(), mask.get_fdata() > 0)['ssim']


def _synthesise(images, mask: nib.Nifti1Image, model: str) -> nib.Nifti1Image:
    return synthesize({name: images[name] for name in INPUTS}, mask=mask, model=model)


if __name__ == '__main__':
    main()
