"""Nodes that bring one contrast onto another."""

from typing import Any

import nibabel as nib
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_flair.interfaces.files import output_file


class _RegisterRigidInputSpec(BaseInterfaceInputSpec):
    fixed = File(exists=True, mandatory=True, desc='reference image')
    mask = File(exists=True, mandatory=True, desc='brain mask on the grid of the reference image')
    moving = File(exists=True, mandatory=True, desc='image of another contrast, native space')
    contrast = traits.Str(mandatory=True, desc='name of the moving contrast, for the report')
    seed = traits.Int(0, usedefault=True, desc='of the random samples')


class RegistrationOutputSpec(TraitedSpec):
    """What every node gives that decides on a registration."""

    transform = File(exists=True, desc='fixed world to moving world (ITK text)')
    report = traits.Dict(desc='contrast, scores, whether to trust it, warnings')
    trusted = traits.Bool(desc='whether the moved image may be used')


class RegisterRigid(SimpleInterface):
    """Rigid registration by mutual information (ANTs), scored."""

    input_spec = _RegisterRigidInputSpec
    output_spec = RegistrationOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.images import load_volume
        from bids_flair.processing.registration import register_rigid

        found = register_rigid(
            load_volume(self.inputs.fixed),
            load_volume(self.inputs.moving),
            nib.load(self.inputs.mask),
            # ITK takes 0 for "from the clock".
            seed=self.inputs.seed + 1,
        )
        self._results.update(registration_outputs(found, self.inputs.contrast, runtime))
        return runtime


def registration_outputs(found, contrast: str, runtime) -> dict[str, Any]:
    """Write a :class:`Registration`; the values of :class:`RegistrationOutputSpec`."""
    from bids_flair.processing.itk import write_itk

    transform = output_file(runtime, 'transform', '.txt')
    write_itk(found.matrix, transform)
    report = {'Contrast': contrast, 'Trusted': found.trusted, **found.scores()}
    return {'transform': transform, 'report': report, 'trusted': found.trusted}
