"""Nodes that work on one anatomical image."""

from typing import Any

import nibabel as nib
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_flair.interfaces.files import output_file


class _ExtractBrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='head, any contrast')


class BrainOutputSpec(TraitedSpec):
    """What every node gives that decides on a brain mask."""

    mask = File(exists=True, desc='brain mask on the grid of the image')
    report = traits.Dict(desc='volume, agreement of two methods, warnings')


class ExtractBrain(SimpleInterface):
    """Brain mask of a head of any contrast; a stripped one is taken as it is."""

    input_spec = _ExtractBrainInputSpec
    output_spec = BrainOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.brain_mask import extract_brain
        from bids_flair.processing.images import load_volume

        brain = extract_brain(load_volume(self.inputs.in_file))
        self._results.update(brain_outputs(brain, runtime))
        return runtime


def brain_outputs(brain, runtime) -> dict[str, Any]:
    """Write a :class:`BrainMask`; the values of :class:`BrainOutputSpec`."""
    mask = output_file(runtime, 'mask')
    brain.image.to_filename(mask)
    report = {
        'VolumeLitres': round(brain.volume_l, 3),
        'AgreementDice': None if brain.stripped else round(brain.agreement, 3),
        'InputSkullStripped': brain.stripped,
        'Warnings': list(brain.warnings),
    }
    return {'mask': mask, 'report': report}


class _CorrectBiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image in its native space')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    transform = File(exists=True, desc='reference world to native world (ITK); identity if unset')


class _CorrectBiasOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the image, divided by its bias field, in native space')


class CorrectBias(SimpleInterface):
    """N4 on an image in native space, inside a mask that comes from the reference grid."""

    input_spec = _CorrectBiasInputSpec
    output_spec = _CorrectBiasOutputSpec

    def _run_interface(self, runtime):
        import numpy as np

        from bids_flair.processing.bias import correct_bias
        from bids_flair.processing.images import load_volume
        from bids_flair.processing.itk import read_itk
        from bids_flair.processing.resampling import resample_labels

        img = load_volume(self.inputs.in_file)
        from_native = (
            np.linalg.inv(read_itk(self.inputs.transform))
            if isdefined(self.inputs.transform)
            else None
        )
        mask = resample_labels(nib.load(self.inputs.mask), (img.shape, img.affine), from_native)
        self._results['out_file'] = output_file(runtime, 'corrected')
        correct_bias(img, mask).to_filename(self._results['out_file'])
        return runtime


class _ResampleInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image in its native space')
    reference = File(exists=True, desc='image on the grid to go to; the own best grid if unset')
    transform = File(exists=True, desc='reference world to native world (ITK); identity if unset')


class _ResampleOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the image on the reference grid')


class Resample(SimpleInterface):
    """Third-order spline resampling onto the reference grid."""

    input_spec = _ResampleInputSpec
    output_spec = _ResampleOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.images import load_volume, reference_grid
        from bids_flair.processing.itk import read_itk
        from bids_flair.processing.resampling import resample

        img = load_volume(self.inputs.in_file)
        if isdefined(self.inputs.reference):
            reference = nib.load(self.inputs.reference)
            grid = (reference.shape, reference.affine)
        else:
            grid = reference_grid(img)
        matrix = read_itk(self.inputs.transform) if isdefined(self.inputs.transform) else None
        self._results['out_file'] = output_file(runtime, 'resampled')
        resample(img, grid, matrix).to_filename(self._results['out_file'])
        return runtime
