"""What is done to images that another pipeline prepared, before they stand in for our own."""

import nibabel as nib
import numpy as np

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.diffusion import LARGEST_MD
from bids_flair.processing.resampling import resample, resample_labels

# mm2/s per unit of a map, and the unit's name. Median diffusivity in a brain is .8e-3 mm2/s.
MD_UNITS = {1.0: 'mm2/s', 1e-3: '1e-3 mm2/s', 1e-6: 'um2/s'}
TYPICAL_MD = 0.8e-3
# A b-value (s/mm2) at which tissue is bright and fluid dark.
GUIDE_B = 1000.0


def md_unit(values: np.ndarray) -> float:
    """What a map of MD has to be multiplied by to be in mm2/s, judged by its median.

    Programs write mm2/s, 1e-3 mm2/s (DSI Studio) or um2/s.

    Parameters
    ----------
    values : ndarray
        Of the map; those above zero count.
    """
    median = np.median(values[values > 0]) if (values > 0).any() else TYPICAL_MD
    return min(MD_UNITS, key=lambda unit: abs(np.log(median * unit / TYPICAL_MD)))


def adopt_map(
    image: nib.Nifti1Image, name: str, mask: nib.Nifti1Image, to_image: np.ndarray
) -> tuple[nib.Nifti1Image, float]:
    """Bring a tensor map to the reference grid and to this program's units.

    Parameters
    ----------
    image : Nifti1Image
        MD, FA or S0 in the space of another pipeline.
    name : str
        'MD', 'FA' or 'S0'.
    mask : Nifti1Image
        Brain mask on the reference grid.
    to_image : ndarray, shape (4, 4)
        Reference world to the world of `image`.

    Returns
    -------
    Nifti1Image
        float32, within what can be, 0 outside the mask; MD in mm2/s.
    float
        The factor that took MD there; 1 for the others.
    """
    data = np.asarray(image.dataobj, np.float32)
    factor = md_unit(data) if name == 'MD' else 1.0
    moved = np.asarray(resample(image, (mask.shape, mask.affine), to_image).dataobj) * factor
    largest = {'MD': LARGEST_MD, 'FA': 1.0, 'S0': float(data.max())}[name]
    inside = np.asarray(mask.dataobj) > 0
    values = np.where(inside, np.clip(moved, 0, largest), 0).astype(np.float32)
    return nib.Nifti1Image(values, mask.affine), factor


def diffusion_weighted(md: nib.Nifti1Image) -> nib.Nifti1Image:
    """What MD would look like as a diffusion-weighted image: tissue bright, fluid and air dark.

    A map that is bright in fluid and everywhere alike in tissue registers badly to a T1w.
    """
    data = np.asarray(md.dataobj, np.float32)
    signal = np.exp(-GUIDE_B * md_unit(data) * np.clip(data, 0, None))
    return nib.Nifti1Image(np.where(data > 0, signal, 0).astype(np.float32), md.affine)


def adopt_mask(mask: nib.Nifti1Image, image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Bring a brain mask to the grid of an image that lies in the same space.

    Raises
    ------
    BidsFlairError
        If it is empty there (ExitCode.DATA_UNUSABLE).
    """
    binary = nib.Nifti1Image((np.asarray(mask.dataobj) > 0.5).astype(np.uint8), mask.affine)
    moved = resample_labels(binary, (image.shape, image.affine))
    if not np.asarray(moved.dataobj).any():
        raise BidsFlairError(
            'the brain mask that was given has no voxel inside the reference image: they lie '
            'in different spaces, or the mask is empty',
            ExitCode.DATA_UNUSABLE,
        )
    return moved
