"""Bring every contrast to values that mean the same on every scanner.

Weighted images (T1w, T2w, S0, FLAIR) are divided by their own white-matter mode. MD, in
1e-3 mm2/s, and FA are physical and stay as they are, but for a power of ten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from bids_flair.processing.resampling import large_regions

CONTRASTS = ('T1w', 'T2w', 'MD', 'FA', 'S0', 'FLAIR')
WEIGHTED = ('T1w', 'T2w', 'S0', 'FLAIR')
# Medians over a healthy brain, in the units the model wants (1e-3 mm2/s, none).
TYPICAL = {'MD': 0.9, 'FA': 0.2}
# Above these no tissue is found: interpolation, vessels and noise are.
LARGEST = {'MD': 4.0, 'FA': 1.0}
LARGEST_WEIGHTED = 10.0
FEWEST_WHITE_VOXELS = 1000
# Of the median over a brain: what is darker is air that a mask took in, not tissue.
FAINT = 0.1


@dataclass(frozen=True)
class Normalised:
    """Images that mean the same on every scanner.

    Attributes
    ----------
    values : ndarray of float32, shape (contrasts, X, Y, Z)
        In the order of ``CONTRASTS``, or of what was picked of them; 0 where absent.
    presence : ndarray of bool, shape (contrasts, X, Y, Z)
        Where in the mask each contrast was acquired.
    factors : dict
        Per contrast, what its values were divided by.
    warnings : tuple of str
        What a person should look at.
    """

    values: np.ndarray
    presence: np.ndarray
    factors: dict[str, float]
    warnings: tuple[str, ...]

    def pick(self, names: Sequence[str]) -> 'Normalised':
        """Some of `CONTRASTS`, in the order given: what one network takes."""
        chosen = [CONTRASTS.index(name) for name in names]
        return replace(self, values=self.values[chosen], presence=self.presence[chosen])


def normalise(images: Mapping[str, np.ndarray], mask: np.ndarray) -> Normalised:
    """Normalise the contrasts at hand.

    Parameters
    ----------
    images : mapping of str to ndarray, shape (X, Y, Z)
        Keys among ``CONTRASTS``; values as acquired.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.

    Returns
    -------
    Normalised
    """
    covered = {name: coverage(image, mask) for name, image in images.items()}
    factors, warnings = scale_factors(images, covered, mask)
    values = np.zeros((len(CONTRASTS), *mask.shape), np.float32)
    presence = np.zeros(values.shape, bool)
    for i, name in enumerate(CONTRASTS):
        if name in images and covered[name].any():
            presence[i] = covered[name]
            top = LARGEST.get(name, LARGEST_WEIGHTED)
            values[i][presence[i]] = np.clip(images[name][presence[i]] / factors[name], 0, top)
    return Normalised(values, presence, factors, warnings)


def coverage(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask that an image covers: finite, and in no large hole of exact zeros."""
    finite = np.isfinite(image)
    return mask & finite & ~large_regions(mask & (~finite | (image == 0)))


def scale_factors(
    images: Mapping[str, np.ndarray], covered: Mapping[str, np.ndarray], mask: np.ndarray
) -> tuple[dict[str, float], tuple[str, ...]]:
    """What each contrast is to be divided by, and what a person should know about it."""
    factors, warnings = {}, []
    for name in TYPICAL:
        if name in images and covered[name].any():
            factors[name] = _power_of_ten(images[name][covered[name]], TYPICAL[name])
            if name == 'FA' and factors[name] != 1:
                warnings.append(f'FA was divided by {factors[name]:g} to lie between 0 and 1')
    white = white_matter(images, covered, factors, mask)
    for name in WEIGHTED:
        if name not in images:
            continue
        if not covered[name].any():
            warnings.append(f'{name} has no value inside the brain mask and was left out')
            continue
        inside = images[name][white & covered[name]]
        if len(inside) >= FEWEST_WHITE_VOXELS and (peak := mode(inside)) > 0:
            factors[name] = peak
        else:
            factors[name] = _positive_median(images[name][covered[name]])
            warnings.append(f'no white matter was found in {name}: scaled by its brain median')
    return factors, tuple(warnings)


def white_matter(
    images: Mapping[str, np.ndarray],
    covered: Mapping[str, np.ndarray],
    factors: Mapping[str, float],
    mask: np.ndarray,
) -> np.ndarray:
    """Voxels that are most likely normal white matter in every contrast at hand.

    White matter is the upper peak of a T1w, the lower half of a T2w or S0, and has low MD and
    high FA. Asking all of them keeps grey matter and lesions out where the T1w shows little
    contrast. In a FLAIR, white matter lies in the lower half, too; it is asked where it is the
    only anatomical image. Air in the mask is darker still.
    """
    white = mask.copy()
    dark = {'T2w', 'S0'} if {'T1w', 'T2w'} & set(images) else {'S0', 'FLAIR'}
    for name, image in images.items():
        here = covered[name]
        if not here.any():
            continue
        if name == 'T1w':
            white &= ~here | _around(image, upper_peak(image[here]), 0.1)
        elif name in dark:
            middle = np.median(image[here])
            white &= ~here | ((image < middle) & (image > FAINT * middle))
        elif name == 'MD':
            white &= ~here | (image / factors['MD'] < 1.0)
        elif name == 'FA':
            white &= ~here | (image / factors['FA'] > 0.25)
    return white


def upper_peak(values: np.ndarray) -> float:
    """Rightmost high peak of the upper part of a histogram: white matter in a T1w brain.

    Not the highest: there may be more grey matter than white.
    """
    counts, centres = _histogram(values, 40, 99.5)
    left, right = np.r_[-np.inf, counts[:-1]], np.r_[counts[1:], -np.inf]
    peaks = (counts >= left) & (counts >= right) & (counts >= 0.5 * counts.max())
    return float(centres[peaks][-1])


def mode(values: np.ndarray) -> float:
    """Most frequent value, by a smoothed histogram without the tails."""
    counts, centres = _histogram(values, 2, 98)
    return float(centres[np.argmax(counts)])


def _histogram(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed counts between two percentiles, and the values that they are of."""
    counts, edges = np.histogram(values, 200, tuple(np.percentile(values, [low, high])))
    return gaussian_filter1d(counts.astype(float), 5), (edges[1:] + edges[:-1]) / 2


def _around(image: np.ndarray, peak: float, tolerance: float) -> np.ndarray:
    return np.abs(image - peak) < tolerance * peak


def _positive_median(values: np.ndarray) -> float:
    positive = values[values > 0]
    return float(np.median(positive)) if len(positive) else 1.0


def _power_of_ten(values: np.ndarray, typical: float) -> float:
    """The power of ten that, divided by, brings the median of values near a typical one."""
    return float(10.0 ** np.round(np.log10(_positive_median(values) / typical)))
