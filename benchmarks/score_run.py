#!/usr/bin/env python3
"""Table of how the synthetic FLAIRs of a finished run compare with the acquired ones.

    benchmarks/score_run.py OUTPUT_DIR

Every participant and session with an acquired FLAIR: SSIM, correlation, PSNR and NRMSE inside the
brain mask, after one scale factor, as bids_flair.scoring defines them.
"""

import argparse
import json
from pathlib import Path

import numpy as np

KEYS = ('ssim', 'corr', 'psnr_db', 'nrmse')


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('output_dir', type=Path, help='derivatives that bids_flair wrote')
    sidecars = sorted(parser.parse_args().output_dir.rglob('*_desc-synth_FLAIR.json'))
    rows = [
        (file.name.split('_space-')[0], json.loads(file.read_text()).get('ScoresInBrain'))
        for file in sidecars
    ]
    scored = [(label, scores) for label, scores in rows if scores]
    print('| | ' + ' | '.join(KEYS) + ' |')
    print('|---' * (len(KEYS) + 1) + '|')
    for label, scores in scored:
        print(f'| {label} | ' + ' | '.join(f'{scores[key]:.3f}' for key in KEYS) + ' |')
    means = [np.mean([scores[key] for _, scores in scored]) for key in KEYS]
    print('| mean | ' + ' | '.join(f'{mean:.3f}' for mean in means) + ' |')


if __name__ == '__main__':
    main()
