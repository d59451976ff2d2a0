"""Nodes that turn a diffusion series into tensor maps."""

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_flair.interfaces.files import output_file


class SeriesInputSpec(BaseInterfaceInputSpec):
    """A diffusion series as acquired."""

    dwi = File(exists=True, mandatory=True, desc='diffusion series')
    bval = File(exists=True, mandatory=True, desc='b-values, s/mm2')
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's convention")


class _MeanB0OutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='mean of the volumes without diffusion weighting')


class MeanB0(SimpleInterface):
    """Mean of the volumes without diffusion weighting."""

    input_spec = SeriesInputSpec
    output_spec = _MeanB0OutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.diffusion import load_series, mean_b0

        dwi, gradients = load_series(self.inputs.dwi, self.inputs.bval, self.inputs.bvec)
        self._results['out_file'] = output_file(runtime, 'b0')
        mean_b0(dwi, gradients).to_filename(self._results['out_file'])
        return runtime


class _EstimateMotionInputSpec(SeriesInputSpec):
    b0 = File(exists=True, mandatory=True, desc='mean b=0 of the series')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    transform = File(exists=True, mandatory=True, desc='reference world to b=0 world (ITK)')


class _EstimateMotionOutputSpec(TraitedSpec):
    motion = File(exists=True, desc='.npy, (n, 4, 4): b=0 world to the world of each volume')


class EstimateMotion(SimpleInterface):
    """Rigid head motion of every volume that the tensor is fitted to."""

    input_spec = _EstimateMotionInputSpec
    output_spec = _EstimateMotionOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.diffusion import estimate_motion, load_series
        from bids_flair.processing.itk import read_itk
        from bids_flair.processing.resampling import resample_labels

        dwi, gradients = load_series(self.inputs.dwi, self.inputs.bval, self.inputs.bvec)
        b0 = nib.load(self.inputs.b0)
        from_b0 = np.linalg.inv(read_itk(self.inputs.transform))
        mask = resample_labels(nib.load(self.inputs.mask), (b0.shape, b0.affine), from_b0)
        self._results['motion'] = output_file(runtime, 'motion', '.npy')
        np.save(self._results['motion'], estimate_motion(dwi, gradients, b0, mask))
        return runtime


class _DescribeMotionInputSpec(BaseInterfaceInputSpec):
    motion = File(exists=True, xor=['rms'], desc='.npy, (n, 4, 4): b=0 world to world of a volume')
    rms = File(exists=True, xor=['motion'], desc="eddy's: mm from the first volume, and the last")
    extra = traits.Int(0, usedefault=True, desc='number of leading volumes that are left out')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    transform = File(exists=True, mandatory=True, desc='reference world to b=0 world (ITK)')


class _DescribeMotionOutputSpec(TraitedSpec):
    report = traits.Dict(desc='displacement of the brain in every volume, its mean and largest')


class DescribeMotion(SimpleInterface):
    """How far the head moved, for the sidecar and the report.

    Of an affine motion, which undoes eddy currents too, their distortion counts as well.
    """

    input_spec = _DescribeMotionInputSpec
    output_spec = _DescribeMotionOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.diffusion import brain_displacements
        from bids_flair.processing.itk import read_itk

        if isdefined(self.inputs.rms):
            moved = np.loadtxt(self.inputs.rms, ndmin=2)[:, 0]
        else:
            to_b0 = read_itk(self.inputs.transform)
            mask = nib.load(self.inputs.mask)
            moved = brain_displacements(np.load(self.inputs.motion), mask, to_b0)
        moved = moved[self.inputs.extra :]
        self._results['report'] = {
            'DisplacementsMm': [round(float(mm), 2) for mm in moved],
            'MeanDisplacementMm': round(float(moved.mean()), 2),
            'LargestDisplacementMm': round(float(moved.max()), 2),
        }
        return runtime


class _FitTensorInputSpec(SeriesInputSpec):
    motion = File(exists=True, desc='as EstimateMotion writes it; unset if it is undone already')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    transform = File(exists=True, mandatory=True, desc='reference world to b=0 world (ITK)')
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc='threads for the fit')


class _FitTensorOutputSpec(TraitedSpec):
    md = File(exists=True, desc='mean diffusivity, mm2/s')
    fa = File(exists=True, desc='fractional anisotropy')
    s0 = File(exists=True, desc='signal without weighting')


class FitTensor(SimpleInterface):
    """MD, FA and S0 on the reference grid, from signals that are interpolated once."""

    input_spec = _FitTensorInputSpec
    output_spec = _FitTensorOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.diffusion import fit_maps, load_series
        from bids_flair.processing.itk import read_itk

        dwi, gradients = load_series(self.inputs.dwi, self.inputs.bval, self.inputs.bvec)
        mask = nib.load(self.inputs.mask)
        still = np.broadcast_to(np.eye(4), (len(gradients.usable), 4, 4))
        maps = fit_maps(
            dwi,
            gradients,
            np.load(self.inputs.motion) if isdefined(self.inputs.motion) else still,
            read_itk(self.inputs.transform),
            mask.affine,
            np.asarray(mask.dataobj) > 0,
            threads=self.inputs.num_threads,
        )
        for name, img in maps.items():
            self._results[name.lower()] = output_file(runtime, name.lower())
            img.to_filename(self._results[name.lower()])
        return runtime
