"""Removing the slow shading that receive coils leave in an image."""

import ants
import nibabel as nib
import numpy as np

from bids_flair.processing.itk import from_ants, shrink, to_ants
from bids_flair.processing.resampling import resample_labels, resample_smooth

# mm. The field is smooth: finer voxels cost time and change nothing.
WORKING_EDGE_MM = 5.0
KNOT_DISTANCE_MM = 120.0


def correct_bias(img: nib.Nifti1Image, mask: nib.Nifti1Image) -> nib.Nifti1Image:
    """Divide an image by the bias field that N4 finds inside a mask on the same grid.

    The field has median 1 inside the mask; outside of it, it is the smooth continuation of its
    splines. Tustison et al., IEEE TMI 29(6), 1310 (2010).

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    inside = np.asarray(mask.dataobj) > 0
    if not inside.any():
        raise ValueError('the mask is empty: no bias field can be estimated')
    coarse = shrink(img, WORKING_EDGE_MM)
    coarse_mask = resample_labels(mask, (coarse.shape, coarse.affine))
    # N4 takes logarithms: values at or below zero are no signal.
    usable = (np.asarray(coarse_mask.dataobj) > 0) & (np.asarray(coarse.dataobj) > 0)
    field = ants.n4_bias_field_correction(
        to_ants(coarse),
        mask=to_ants(nib.Nifti1Image(usable.astype(np.uint8), coarse.affine)),
        shrink_factor=1,
        spline_param=KNOT_DISTANCE_MM,
        convergence={'iters': [50, 50, 30], 'tol': 1e-6},
        return_bias_field=True,
    )
    fine = np.asarray(resample_smooth(from_ants(field), (img.shape, img.affine)).dataobj)
    fine /= np.median(fine[inside])
    corrected = np.asarray(img.dataobj, dtype=np.float32) / np.clip(fine, 0.1, 10)
    return nib.Nifti1Image(corrected, img.affine)
