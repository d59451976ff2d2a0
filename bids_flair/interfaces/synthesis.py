"""Nodes around the model: synthesise, score, describe."""

from typing import Any

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

from bids_flair.descriptor import load_descriptor
from bids_flair.interfaces.files import output_file

MODEL_INPUTS = load_descriptor().model_inputs


class _SynthesizeFlairInputSpec(BaseInterfaceInputSpec):
    T1w = File(exists=True, desc='on the reference grid, bias-corrected')
    T2w = File(exists=True, desc='on the reference grid, bias-corrected')
    MD = File(exists=True, desc='on the reference grid, mm2/s')
    FA = File(exists=True, desc='on the reference grid')
    S0 = File(exists=True, desc='on the reference grid')
    untrusted = traits.List(traits.Str, desc='images that are not to be used after all')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    model = traits.Str('default', usedefault=True, desc='name or path of the model')
    # By its name alone, a model that was trained again would pass for the one of before.
    fingerprint = traits.Str(desc='of the model: a FLAIR in the work folder of another is stale')
    device = traits.Str('auto', usedefault=True, nohash=True, desc='auto, cpu, cuda, cuda:N, mps')
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc='schedule as a GPU node')
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc='threads for PyTorch')


class _SynthesizeFlairOutputSpec(TraitedSpec):
    flair = File(exists=True, desc='synthetic FLAIR, in units of its white matter')
    low = File(exists=True, desc='lower limit of its 90 % interval')
    high = File(exists=True, desc='upper limit of its 90 % interval')
    std = File(exists=True, desc='its standard deviation')
    mask = File(exists=True, desc='where it was synthesised')
    report = traits.Dict(desc='inputs, model, device, factors, warnings')


class SynthesizeFlair(SimpleInterface):
    """The trained regressor, on whatever subset of its inputs is there."""

    input_spec = _SynthesizeFlairInputSpec
    output_spec = _SynthesizeFlairOutputSpec

    def _run_interface(self, runtime):
        import torch

        from bids_flair.models.inference import pick_device, synthesis_of

        torch.set_num_threads(self.inputs.num_threads)
        images = self._images()
        device = str(pick_device(self.inputs.device))
        mask = nib.load(self.inputs.mask)
        made = synthesis_of(images, mask, self.inputs.model, device)
        for name in ('flair', 'low', 'high', 'std'):
            self._results[name] = output_file(runtime, name)
            getattr(made, name).to_filename(self._results[name])
        self._results['mask'] = output_file(runtime, 'mask')
        std = np.asarray(made.std.dataobj)
        # The model is unsure everywhere it was asked; the FLAIR itself may be 0 in fluid.
        inside = (std > 0).astype(np.uint8)
        nib.Nifti1Image(inside, mask.affine).to_filename(self._results['mask'])
        self._results['report'] = {
            'SynthesisInputs': list(images),
            'SynthesisModel': {
                key: made.card[key] for key in ('name', 'version', 'sha256') if key in made.card
            },
            'OutOfDistributionScore': round(made.unfamiliarity, 2),
            'MedianUncertainty': round(float(np.median(std[std > 0])), 3),
            'IntensityQuantiles': _quantiles(made.intensities),
            'NetworkShares': made.shares,
            'IntensityFactors': {name: float(value) for name, value in made.factors.items()},
            'Device': device,
            'Warnings': list(made.warnings),
        }
        return runtime

    def _images(self) -> dict[str, nib.Nifti1Image]:
        untrusted = self.inputs.untrusted if isdefined(self.inputs.untrusted) else []
        files = {name: getattr(self.inputs, name) for name in MODEL_INPUTS}
        images = {
            name: nib.load(file)
            for name, file in files.items()
            if isdefined(file) and name not in untrusted
        }
        if not images:
            raise ValueError(
                'no input is left: none of them could be registered to the reference image'
            )
        return images


class _ScoreFlairInputSpec(BaseInterfaceInputSpec):
    synthetic = File(exists=True, mandatory=True, desc='synthetic FLAIR')
    acquired = File(exists=True, mandatory=True, desc='acquired FLAIR on the same grid')
    mask = File(exists=True, mandatory=True, desc='brain mask on the same grid')
    trusted = traits.Bool(True, usedefault=True, desc='whether the acquired one is in place')


class _ScoreFlairOutputSpec(TraitedSpec):
    scores = traits.Dict(desc='SSIM, PSNR, NRMSE, correlation in the mask')


class ScoreFlair(SimpleInterface):
    """Compare the synthetic with the acquired FLAIR, inside the brain that both cover."""

    input_spec = _ScoreFlairInputSpec
    output_spec = _ScoreFlairOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.scoring import score

        self._results['scores'] = {}
        if not self.inputs.trusted:
            return runtime
        synthetic, acquired, mask = (
            np.asarray(nib.load(file).dataobj)
            for file in (self.inputs.synthetic, self.inputs.acquired, self.inputs.mask)
        )
        self._results['scores'] = score(synthetic, acquired, (mask > 0) & (acquired != 0))
        return runtime


class _DescribeSynthesisInputSpec(BaseInterfaceInputSpec):
    synthesis = traits.Dict(mandatory=True, desc='report of SynthesizeFlair')
    brain = traits.Dict(desc='report of ExtractBrain')
    registrations = traits.List(traits.Dict, desc='reports of RegisterRigid')
    head_motion = traits.Dict(desc='report of DescribeMotion')
    scores = traits.Dict(desc='of ScoreFlair')


class _DescribeSynthesisOutputSpec(TraitedSpec):
    metadata = traits.Dict(desc="what the synthetic image's sidecar says of how it was made")


class DescribeSynthesis(SimpleInterface):
    """Gather what every step reported, warnings together."""

    input_spec = _DescribeSynthesisInputSpec
    output_spec = _DescribeSynthesisOutputSpec

    def _run_interface(self, runtime):
        registrations = _defined(self.inputs.registrations, [])
        scores = _defined(self.inputs.scores, {})
        motion = _defined(self.inputs.head_motion, {})
        synthesis, brain = dict(self.inputs.synthesis), dict(_defined(self.inputs.brain, {}))
        warnings = [
            *(f'Brain mask: {text}' for text in brain.pop('Warnings', ())),
            *(
                f'{report["Contrast"]} was not used, its registration failed: {text}'
                for report in registrations
                for text in report['Warnings']
            ),
            *synthesis.pop('Warnings'),
        ]
        self._results['metadata'] = {
            **synthesis,
            **({'BrainMask': brain} if brain else {}),
            'Registrations': [_without(report, 'Warnings') for report in registrations],
            **({'HeadMotion': motion} if motion else {}),
            'Warnings': warnings,
            **({'ScoresInBrain': _rounded(scores)} if scores else {}),
        }
        return runtime


def untrusted_images(registrations: list = ()) -> list:
    """Names of the model's inputs that come from contrasts with a failed registration.

    For a Nipype ``Function`` node, hence the import inside.
    """
    from bids_flair.descriptor import load_descriptor

    contrasts = load_descriptor().contrasts
    failed = [report['Contrast'] for report in registrations if not report['Trusted']]
    return [image for name in failed for image in contrasts[name].images]


def _quantiles(intensities: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    from bids_flair.models.regressor import STYLE_QUANTILES

    keys = {'found': 'Found', 'mean': 'TrainingMean', 'sd': 'TrainingSD'}
    return {
        'Levels': list(STYLE_QUANTILES),
        **{
            name: {keys[kind]: [round(v, 3) for v in values] for kind, values in figures.items()}
            for name, figures in intensities.items()
        },
    }


def _defined(value: Any, default: Any) -> Any:
    return value if isdefined(value) else default


def _without(report: dict, key: str) -> dict:
    return {name: value for name, value in report.items() if name != key}


def _rounded(scores: dict) -> dict:
    return {name: round(float(value), 4) for name, value in scores.items()}
