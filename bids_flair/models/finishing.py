"""What is done to the mean of several predictions, before it is an image."""

import numpy as np
from scipy.ndimage import binary_closing, gaussian_filter

from bids_flair.models.normalisation import Normalised

# Local contrast that is given back where specialists are heard, and what is local, in mm.
DETAIL, DETAIL_SIGMA = 0.25, 2.0
# Where nobody knows the scanner, real people are darker than predicted more often than brighter:
# there the interval reaches further down, by this factor.
FURTHER_DOWN = 1.2
# There, what is brighter than this (white matter is 1) is held back to so much of the excess,
# unless the mean around it, over so many mm, is bright too: in part from the first of these values
# on, and not at all from the second.
BRIGHT, HELD_BACK = 1.2, 0.2
SURROUNDINGS_SIGMA, SURROUNDINGS = 4.0, (1.2, 1.3)
# There, so much of what a voxel is darker than the mean around it, over so many mm, is filled in.
FILLED, FILLED_SIGMA = 0.5, 0.7
# There, what is predicted this dark is fluid, if its T2w is so bright; so many voxels of it tell
# what fluid is like.
FLUID_FLAIR, FLUID_T2W, ENOUGH_FLUID = 0.35, 1.5, 500
# Fluid, too, is what is at least so much of this quantile of its T2w, and at most at this quantile
# of its T1w; and what lies in the midst of that, and is nearly as bright in T2w.
AS_BRIGHT, T2W_QUANTILE, T1W_QUANTILE, NEARLY_AS_BRIGHT = 0.95, 0.7, 0.95, 0.85


def finish(
    mean: np.ndarray,
    below: np.ndarray,
    above: np.ndarray,
    images: Normalised,
    mask: np.ndarray,
    *,
    at_home: float | np.ndarray,
    abroad: float | np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give back detail at home, and correct abroad what real people showed to be wrong there.

    Parameters
    ----------
    mean, below, above : ndarray of float32, shape (X, Y, Z)
        FLAIR in units of its white matter, and how far its interval reaches to either side.
    images : Normalised
        The inputs.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    at_home : float or ndarray, shape (X, Y, Z)
        What specialists for the scanner count for.
    abroad : float or ndarray, shape (X, Y, Z)
        How far, from 0 to 1, nobody knows the scanner.

    Returns
    -------
    mean, below, above : ndarray of float32, shape (X, Y, Z)
    """
    sober = held_back(fluid_kept_dark(mean, images, mask, abroad), mask, abroad)
    filled = filled_in(sober, mask, abroad)
    # It may be as bright, or as dark, as was predicted: those limits stay.
    above = above + mean - sober
    below = below * np.asarray(1 + (FURTHER_DOWN - 1) * abroad, np.float32) + filled - sober
    return with_detail(filled, mask, DETAIL * at_home), below, above


def with_detail(mean: np.ndarray, mask: np.ndarray, amount: float | np.ndarray) -> np.ndarray:
    """More of what sets a voxel apart from the brain around it.

    The mean of several predictions, each of which hedges, has less contrast than any of them.
    """
    if not np.any(amount):
        return mean
    apart = mean - _around(mean, mask, DETAIL_SIGMA)
    return np.where(mask, np.maximum(mean + amount * apart, 0), 0).astype(np.float32)


def held_back(mean: np.ndarray, mask: np.ndarray, amount: float | np.ndarray) -> np.ndarray:
    """Less of what is bright on its own.

    On a scanner that nobody knows, real people are hardly brighter than `BRIGHT` where they are
    predicted to be: cortex, limbic system and long tracts of white matter come out too bright in
    places. Brighter voxels stay brighter, and what is bright over a centimetre stays as it is.

    Parameters
    ----------
    mean : ndarray of float32, shape (X, Y, Z)
        FLAIR in units of its white matter, 1 mm.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    amount : float or ndarray, shape (X, Y, Z)
        0 (left as it is) to 1.
    """
    if not np.any(amount):
        return mean
    first, last = SURROUNDINGS
    alone = np.clip((last - _around(mean, mask, SURROUNDINGS_SIGMA)) / (last - first), 0, 1)
    excess = np.maximum(mean - BRIGHT, 0)
    return np.where(mask, mean - amount * (1 - HELD_BACK) * alone * excess, 0).astype(np.float32)


def filled_in(mean: np.ndarray, mask: np.ndarray, amount: float | np.ndarray) -> np.ndarray:
    """Thin sulci less dark, as in FLAIRs, which are blunter than T1w and T2w.

    The echoes of a long train decay, and what is thin and dark is filled in. What is bright is
    left as it is: where nobody knows the scanner, it is too faint already.

    Parameters
    ----------
    mean : ndarray of float32, shape (X, Y, Z)
        FLAIR in units of its white matter, 1 mm.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    amount : float or ndarray, shape (X, Y, Z)
        0 (left as it is) to 1.
    """
    if not np.any(amount):
        return mean
    darker = np.maximum(_around(mean, mask, FILLED_SIGMA) - mean, 0)
    return np.where(mask, mean + amount * FILLED * darker, 0).astype(np.float32)


def fluid_kept_dark(
    mean: np.ndarray, images: Normalised, mask: np.ndarray, amount: float | np.ndarray
) -> np.ndarray:
    """Fluid as dark as fluid, in the middle of wide ventricles, too.

    What looks like fluid in T1w and T2w may be oedema or a lesion, and a network that sees no wall
    may take a ventricle for one. But it knows most of a brain's fluid by its walls, and what is as
    bright as that in T2w, and as dark in T1w, is fluid.

    Parameters
    ----------
    mean : ndarray of float32, shape (X, Y, Z)
        FLAIR in units of its white matter.
    images : Normalised
        The inputs. Nothing is done where T1w or T2w is absent.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    amount : float or ndarray, shape (X, Y, Z)
        0 (left as it is) to 1.
    """
    if not np.any(amount):
        return mean
    seen = images.pick(('T1w', 'T2w'))
    there = mask & seen.presence.all(0)
    t1w, t2w = seen.values
    known = there & (mean < FLUID_FLAIR) & (t2w > FLUID_T2W)
    if known.sum() < ENOUGH_FLUID:
        return mean
    bright, dark = np.quantile(t2w[known], T2W_QUANTILE), np.quantile(t1w[known], T1W_QUANTILE)
    fluid = there & (t2w >= AS_BRIGHT * bright) & (t1w <= dark)
    fluid = binary_closing(fluid, iterations=2) & there & (t2w >= NEARLY_AS_BRIGHT * bright)
    return (mean - amount * fluid * np.maximum(mean - FLUID_FLAIR, 0)).astype(np.float32)


def _around(volume: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over the mask alone."""
    values, inside = (
        gaussian_filter(part.astype(np.float32), sigma, mode='constant')
        for part in (np.where(mask, volume, 0), mask)
    )
    return values / np.maximum(inside, 1e-3)
