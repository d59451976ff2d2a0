"""``python -m bids_flair.simulation OUT``: write a raw BIDS dataset of simulated people."""

import argparse
from pathlib import Path

from bids_flair.simulation.dataset import write_dataset


def main() -> None:
    """Parse the command line and write the dataset."""
    parser = argparse.ArgumentParser(prog='python -m bids_flair.simulation', description=__doc__)
    parser.add_argument('out', type=Path, help='folder to write the dataset to')
    parser.add_argument('--participants', type=int, default=1, help='how many (default 1)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same dataset (default 0)')
    parser.add_argument(
        '--voxel-size', type=float, default=1.5, help='edge of the T1w voxels, mm (default 1.5)'
    )
    args = parser.parse_args()
    print(write_dataset(args.out, args.participants, args.seed, args.voxel_size))


if __name__ == '__main__':
    main()
