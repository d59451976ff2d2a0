"""Numbers as a person reads them."""

import math


def format_number(value: float) -> str:
    """Write a figure with three significant digits, or say that it is not defined."""
    return f'{value:#.3g}'.rstrip('.').replace('-', '−') if math.isfinite(value) else 'not defined'
