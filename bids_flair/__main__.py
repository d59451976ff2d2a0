"""``python -m bids_flair``: the same program as the console script."""

from bids_flair.cli.main import main

if __name__ == '__main__':
    main()
