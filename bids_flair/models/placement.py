"""Whether contrasts that share a grid lie on each other, too; one that does not is moved.

An image on the grid of another may have been resampled without being registered, or registered
badly. Networks that read contrasts voxel by voxel cannot mend that.
"""

from collections.abc import Mapping

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_erosion

from bids_flair.models.normalisation import coverage
from bids_flair.processing.registration import Displacement, displacement
from bids_flair.processing.resampling import resample

# The contrasts of a series move together, by what its first one at hand shows. The first series
# at hand is where all others belong.
SERIES = (('T1w',), ('T2w',), ('S0', 'MD', 'FA'))
# Mean distance in the brain from which a contrast is misplaced, a voxel of the networks; and by
# which factor moving it has to raise mutual information: that of images without any misplacement
# grows by some hundredths, because interpolation takes noise away.
MISPLACED_MM = 1.0
GAIN = 1.1
# Excess of mutual information of two contrasts of one head, at least (`benchmarks/placement.py`).
ALIKE = 0.03
# Where a head was stripped, the edge of its mask is no edge of the brain.
RIM = 3


def into_place(
    images: Mapping[str, np.ndarray], brain: np.ndarray
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Move what is misplaced onto the T1w, or the first contrast that there is.

    What shows nothing of the same head wherever it is looked for is left where it lies.

    Parameters
    ----------
    images : mapping of str to ndarray, shape (X, Y, Z)
        In RAS order at 1 mm; 0 where not covered.
    brain : ndarray of bool, shape (X, Y, Z)

    Returns
    -------
    images : dict
        The same contrasts; 0 where one that was moved is not covered any more.
    warnings : tuple of str
        What was moved, and how far; what seems to be of another head.
    """
    placed, warnings = dict(images), []
    at_hand = [there for names in SERIES if (there := [n for n in names if n in images])]
    for names in at_hand[1:]:
        reference = at_hand[0][0]
        found = displacement_of(images[reference], images[names[0]], brain)
        if found is None:
            continue
        series = ' and '.join(names)
        if found.similarity < ALIKE:
            warnings.append(
                f'{series} and {reference} have nothing in common where they lie: are they of one '
                'person, was the one registered to the other? Do not use the synthetic image '
                'before that is known.'
            )
        elif found.mm > MISPLACED_MM and found.gain > GAIN:
            placed |= {name: _moved(images[name], found.matrix) for name in names}
            warnings.append(
                f'{series} lay {found.mm:.1f} mm off {reference} and was moved onto it: was it '
                'registered? Look whether they are of one head.'
            )
    return placed, tuple(warnings)


def displacement_of(
    fixed: np.ndarray, moving: np.ndarray, brain: np.ndarray
) -> Displacement | None:
    """Of one image in the other, inside the brain that both cover; None if there is no telling."""
    both = coverage(fixed, brain) & coverage(moving, brain)
    inner = binary_erosion(both, iterations=RIM)
    if not inner.any() or not (np.ptp(fixed[inner]) and np.ptp(moving[inner])):
        return None
    return displacement(*(_volume(array) for array in (fixed, moving, inner.astype(np.uint8))))


def _moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(resample(_volume(image), (image.shape, np.eye(4)), matrix).dataobj)


def _volume(array: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(array, np.eye(4))
