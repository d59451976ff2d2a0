"""Nodes for images that another pipeline prepared."""

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

from bids_flair.interfaces.anatomical import BrainOutputSpec
from bids_flair.interfaces.files import output_file
from bids_flair.interfaces.registration import RegistrationOutputSpec, registration_outputs


class _AdoptMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image on the reference grid')
    mask = File(exists=True, mandatory=True, desc='brain mask in the same space')
    source = traits.Str(mandatory=True, desc='who made the mask, for the report')


class AdoptMask(SimpleInterface):
    """The brain mask of another pipeline on the reference grid, with what is known of it."""

    input_spec = _AdoptMaskInputSpec
    output_spec = BrainOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.brain_mask import mask_warnings
        from bids_flair.processing.images import load_volume
        from bids_flair.processing.prepared import adopt_mask

        mask = adopt_mask(load_volume(self.inputs.mask), nib.load(self.inputs.in_file))
        brain = np.asarray(nib.as_closest_canonical(mask).dataobj) > 0
        litres = float(brain.sum() * nib.affines.voxel_sizes(mask.affine).prod() / 1e6)
        self._results['mask'] = output_file(runtime, 'mask')
        mask.to_filename(self._results['mask'])
        self._results['report'] = {
            'VolumeLitres': round(litres, 3),
            'AgreementDice': None,
            'InputSkullStripped': False,
            'MaskFrom': self.inputs.source,
            'Warnings': list(mask_warnings(brain, litres)),
        }
        return runtime


class _FindPositionInputSpec(BaseInterfaceInputSpec):
    fixed = File(exists=True, mandatory=True, desc='reference image')
    mask = File(exists=True, mandatory=True, desc='brain mask on the grid of the reference image')
    moving = File(exists=True, mandatory=True, desc='image in the space of the other pipeline')
    position = File(exists=True, desc='fixed world to moving world (ITK); identity if unset')
    contrast = traits.Str(mandatory=True, desc='name of the moving contrast, for the report')
    source = traits.Str(mandatory=True, desc='who placed the image, for the report')
    seed = traits.Int(0, usedefault=True, desc='of the random samples of a registration')


class FindPosition(SimpleInterface):
    """The position that another pipeline gave an image, judged; a new one where it fails."""

    input_spec = _FindPositionInputSpec
    output_spec = RegistrationOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.images import load_volume
        from bids_flair.processing.itk import read_itk
        from bids_flair.processing.registration import best_of, register_rigid

        fixed, moving = (load_volume(name) for name in (self.inputs.fixed, self.inputs.moving))
        mask = nib.load(self.inputs.mask)
        given = read_itk(self.inputs.position) if isdefined(self.inputs.position) else np.eye(4)
        found = best_of(fixed, moving, mask, [given])
        source = self.inputs.source
        if not found.trusted:
            found = register_rigid(fixed, moving, mask, seed=self.inputs.seed + 1)
            source = f'registered, for the position given by {source} did not hold'
        outputs = registration_outputs(found, self.inputs.contrast, runtime)
        outputs['report'] = {**outputs['report'], 'PositionFrom': source}
        self._results.update(outputs)
        return runtime


class _AdoptMapsInputSpec(BaseInterfaceInputSpec):
    md = File(exists=True, mandatory=True, desc='mean diffusivity in the other space')
    fa = File(exists=True, desc='fractional anisotropy in the other space')
    s0 = File(exists=True, desc='signal without weighting in the other space')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    transform = File(exists=True, mandatory=True, desc='reference world to the other (ITK)')


class _AdoptMapsOutputSpec(TraitedSpec):
    md = File(exists=True, desc='mean diffusivity, mm2/s')
    fa = File(exists=True, desc='fractional anisotropy')
    s0 = File(exists=True, desc='signal without weighting')


class AdoptMaps(SimpleInterface):
    """Tensor maps of another pipeline on the reference grid, by one interpolation."""

    input_spec = _AdoptMapsInputSpec
    output_spec = _AdoptMapsOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.images import load_volume
        from bids_flair.processing.itk import read_itk
        from bids_flair.processing.prepared import adopt_map

        mask, to_image = nib.load(self.inputs.mask), read_itk(self.inputs.transform)
        for name in ('md', 'fa', 's0'):
            file = getattr(self.inputs, name)
            if isdefined(file):
                self._results[name] = output_file(runtime, name)
                image, _ = adopt_map(load_volume(file), name.upper(), mask, to_image)
                image.to_filename(self._results[name])
        return runtime


class _GuideFromMDInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='mean diffusivity')


class _GuideFromMDOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='image with bright tissue, for a registration')


class GuideFromMD(SimpleInterface):
    """An image that shows where maps lie, when nothing but MD does."""

    input_spec = _GuideFromMDInputSpec
    output_spec = _GuideFromMDOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.images import load_volume
        from bids_flair.processing.prepared import diffusion_weighted

        self._results['out_file'] = output_file(runtime, 'guide')
        diffusion_weighted(load_volume(self.inputs.in_file)).to_filename(self._results['out_file'])
        return runtime
