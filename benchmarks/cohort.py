#!/usr/bin/env python3
"""People of one scanner as the participant level would leave them, to train on with `group`.

    benchmarks/cohort.py cohort --people 15 --seed 0
    time bids_flair cohort models group --model-name table1 --recipe build-a-flair \\
        --compare table1 --holdout 15

Nobody was scanned: heads are deformed from the shipped anatomies, with pathology, and seen by one
simulated site; 1 mm, T1w, T2w, FLAIR, MD, FA, S0, brain and lesion masks. Their numbers are none
that a training of the shipped models uses.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

from bids_flair import __version__
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.training.corpus import LESION, Cut
from bids_flair.training.rendering import draw_site, prepare_head, read_head

FIRST_PERSON, PEOPLE_PER_SEED = 300_000, 1000
# A scanner's units, not those of the model.
SCALES = {'T1w': 412.0, 'T2w': 233.0, 'FLAIR': 318.0, 'S0': 790.0, 'MD': 1e-3, 'FA': 1.0}


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument('--people', type=int, default=15, help='how many (default 15)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same people (default 0)')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    description = {
        'Name': 'Simulated people of one scanner',
        'BIDSVersion': '1.10.0',
        'DatasetType': 'derivative',
        'GeneratedBy': [{'Name': 'bids_flair.simulation', 'Version': __version__}],
    }
    (args.out / 'dataset_description.json').write_text(json.dumps(description, indent=2) + '\n')
    site = draw_site(np.random.default_rng([FIRST_PERSON, args.seed]))
    for number in range(args.people):
        person = FIRST_PERSON + PEOPLE_PER_SEED * args.seed + number
        with TemporaryDirectory() as temporary:
            head = read_head(prepare_head(person, Path(temporary)))
            write_person(
                args.out, f'{number + 1:02d}', head.whole(np.random.default_rng(person), site)
            )


def write_person(out: Path, label: str, cut: Cut) -> None:
    """Write a person's contrasts, maps and masks."""
    brain = cut.depth > 0
    for contrast, values in zip(CONTRASTS, cut.values, strict=True):
        if contrast in ('MD', 'FA', 'S0'):
            name = f'dwi/sub-{label}_space-T1w_model-tensor_param-{contrast.lower()}_dwimap'
        else:
            space = '' if contrast == 'T1w' else 'space-T1w_'
            name = f'anat/sub-{label}_{space}desc-preproc_{contrast}'
        _save(out / f'sub-{label}' / name, (values * brain * SCALES[contrast]).astype(np.float32))
    for name, mask in (('desc-brain', brain), ('label-lesion', cut.kind == LESION)):
        _save(out / f'sub-{label}/anat/sub-{label}_{name}_mask', (mask & brain).astype(np.uint8))


def _save(stem: Path, values: np.ndarray) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(values, np.eye(4)).to_filename(f'{stem}.nii.gz')
    masks = {'desc-brain_mask': {'Type': 'Brain'}, 'label-lesion_mask': {'Type': 'Lesion'}}
    sidecar = masks.get(stem.name.partition('_')[2], {'SkullStripped': True})
    Path(f'{stem}.json').write_text(json.dumps(sidecar) + '\n')


if __name__ == '__main__':
    main()
