#!/usr/bin/env python3
"""Entry point of the BIDS App in a container or a checkout: the same program as ``bids_flair``."""

from bids_flair.cli.main import main

if __name__ == '__main__':
    main()
