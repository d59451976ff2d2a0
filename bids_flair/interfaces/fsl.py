"""Nodes between FSL's tools: they give them what they want, and judge what comes out."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nipype.interfaces import fsl
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_flair.interfaces.anatomical import BrainOutputSpec, brain_outputs
from bids_flair.interfaces.diffusion import SeriesInputSpec
from bids_flair.interfaces.files import output_file
from bids_flair.interfaces.registration import RegistrationOutputSpec, registration_outputs


class _ReorderInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='one volume')
    cut_neck = traits.Bool(False, usedefault=True, desc='leave out what lies below the head')


class _ReorderOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="the volume in FSL's standard order")


class Reorder(SimpleInterface):
    """Bring a volume into the order of voxels that FSL's tools expect."""

    input_spec = _ReorderInputSpec
    output_spec = _ReorderOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.brain_mask import without_neck
        from bids_flair.processing.fsl import reorder
        from bids_flair.processing.images import load_volume

        img = load_volume(self.inputs.in_file)
        if self.inputs.cut_neck:
            img = without_neck(nib.as_closest_canonical(img))
        self._results['out_file'] = output_file(runtime, 'reordered')
        reorder(img).to_filename(self._results['out_file'])
        return runtime


class _ChooseBrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='head on the reference grid')
    masks = traits.List(File(exists=True), mandatory=True, desc='its brain, found several times')


class ChooseBrain(SimpleInterface):
    """The one of several brain masks that an independent method agrees with best."""

    input_spec = _ChooseBrainInputSpec
    output_spec = BrainOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.brain_mask import choose_brain
        from bids_flair.processing.images import load_volume

        candidates = [nib.load(mask) for mask in self.inputs.masks]
        brain = choose_brain(load_volume(self.inputs.in_file), candidates)
        self._results.update(brain_outputs(brain, runtime))
        return runtime


class _GivenToFlirtInputSpec(BaseInterfaceInputSpec):
    fixed = File(exists=True, mandatory=True, desc='reference image, as FLIRT is given it')
    moving = File(exists=True, mandatory=True, desc='the other image, as FLIRT is given it')
    mask = File(exists=True, mandatory=True, desc='brain mask on the grid of the reference image')


class _ChooseTransformInputSpec(_GivenToFlirtInputSpec):
    matrices = traits.List(File(exists=True), mandatory=True, desc='what FLIRT found')
    contrast = traits.Str(mandatory=True, desc='name of the moving contrast, for the report')


class ChooseTransform(SimpleInterface):
    """The best of FLIRT's results, converted to ITK and scored as every registration is."""

    input_spec = _ChooseTransformInputSpec
    output_spec = RegistrationOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.fsl import read_flirt
        from bids_flair.processing.registration import best_of

        images = self.inputs.fixed, self.inputs.moving
        matrices = [read_flirt(file, *images) for file in self.inputs.matrices]
        found = best_of(*map(nib.load, images), nib.load(self.inputs.mask), matrices)
        self._results.update(registration_outputs(found, self.inputs.contrast, runtime))
        return runtime


class _PrepareBoundaryInputSpec(_GivenToFlirtInputSpec):
    transform = File(exists=True, mandatory=True, desc='T1w world to the other world (ITK)')


class _PrepareBoundaryOutputSpec(TraitedSpec):
    white_matter = File(exists=True, desc='white matter of the T1w')
    matrix = File(exists=True, desc="the transform as FLIRT's matrix")


class PrepareBoundary(SimpleInterface):
    """What FLIRT is given to follow the border of white matter, and where to begin."""

    input_spec = _PrepareBoundaryInputSpec
    output_spec = _PrepareBoundaryOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.models.normalisation import white_matter
        from bids_flair.processing.fsl import write_flirt
        from bids_flair.processing.itk import read_itk

        t1w = nib.load(self.inputs.fixed)
        brain = np.asarray(nib.load(self.inputs.mask).dataobj) > 0
        image = {'T1w': np.asarray(t1w.dataobj, np.float32)}
        white = white_matter(image, {'T1w': brain}, {'T1w': 1.0}, brain)
        self._results['white_matter'] = output_file(runtime, 'white_matter')
        found = nib.Nifti1Image(white.astype(np.uint8), t1w.affine)
        found.to_filename(self._results['white_matter'])
        self._results['matrix'] = output_file(runtime, 'start', '.mat')
        start = read_itk(self.inputs.transform)
        write_flirt(start, self._results['matrix'], self.inputs.fixed, self.inputs.moving)
        return runtime


class _ChooseBoundaryInputSpec(_GivenToFlirtInputSpec):
    transform = File(exists=True, mandatory=True, desc='where FLIRT began (ITK)')
    matrix = File(exists=True, mandatory=True, desc='where FLIRT ended')
    contrast = traits.Str(mandatory=True, desc='name of the moving contrast, for the report')


class ChooseBoundary(SimpleInterface):
    """Take what FLIRT made of a transform along a boundary, unless it went astray."""

    input_spec = _ChooseBoundaryInputSpec
    output_spec = RegistrationOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.fsl import read_flirt
        from bids_flair.processing.itk import read_itk
        from bids_flair.processing.registration import refined

        images = self.inputs.fixed, self.inputs.moving
        ends = read_itk(self.inputs.transform), read_flirt(self.inputs.matrix, *images)
        found = refined(*map(nib.load, images), nib.load(self.inputs.mask), *ends)
        self._results.update(registration_outputs(found, self.inputs.contrast, runtime))
        return runtime


class _EncodingInputSpec(BaseInterfaceInputSpec):
    axis = traits.Either(None, traits.Str, usedefault=True, desc='phase encoding, as in BIDS')
    readout_s = traits.Either(None, traits.Float, usedefault=True, desc='total readout time, s')


class _PairB0InputSpec(_EncodingInputSpec):
    b0 = File(exists=True, mandatory=True, desc='mean b=0 of the series')
    opposite = File(exists=True, mandatory=True, desc='image of opposite phase encoding')
    opposite_bval = File(exists=True, desc='b-values of that image; all 0 if unset')
    opposite_readout_s = traits.Either(None, traits.Float, usedefault=True, desc='its own, s')


class _PairB0OutputSpec(TraitedSpec):
    pair = File(exists=True, desc='both images on one grid, with even numbers of voxels')
    acquisition = File(exists=True, desc='phase encoding and readout time of each')


class PairB0(SimpleInterface):
    """What topup is given."""

    input_spec = _PairB0InputSpec
    output_spec = _PairB0OutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing import fsl as conventions
        from bids_flair.processing.images import load_volume

        bval = self.inputs.opposite_bval
        opposite = conventions.unweighted(self.inputs.opposite, bval if isdefined(bval) else None)
        readouts = [self.inputs.readout_s, self.inputs.opposite_readout_s]
        rows = conventions.encoding_rows(self.inputs.axis, readouts)
        self._results['pair'] = output_file(runtime, 'pair')
        self._results['acquisition'] = output_file(runtime, 'acquisition', '.txt')
        pair = conventions.pair(load_volume(self.inputs.b0), opposite)
        pair.to_filename(self._results['pair'])
        np.savetxt(self._results['acquisition'], rows, fmt='%g')
        return runtime


class _PrepareSeriesInputSpec(SeriesInputSpec, _EncodingInputSpec):
    b0 = File(exists=True, mandatory=True, desc='mean b=0 of the series')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    transform = File(exists=True, mandatory=True, desc='reference world to b=0 world (ITK)')
    even = traits.Bool(False, usedefault=True, desc='add voxels up to even numbers, as topup saw')


class _PrepareSeriesOutputSpec(TraitedSpec):
    series = File(exists=True, desc='mean b=0, then the volumes that the tensor is fitted to')
    extra = traits.Int(desc='number of its leading volumes that were not measured')
    bval = File(exists=True, desc='their b-values')
    bvec = File(exists=True, desc="their directions, FSL's convention")
    mask = File(exists=True, desc='brain mask on their grid')
    acquisition = File(exists=True, desc='phase encoding and readout time, for eddy')
    index = File(exists=True, desc='which row of `acquisition` each volume belongs to')


class PrepareSeries(SimpleInterface):
    """What eddy and eddy_correct are given."""

    input_spec = _PrepareSeriesInputSpec
    output_spec = _PrepareSeriesOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing import fsl as conventions
        from bids_flair.processing.diffusion import load_series
        from bids_flair.processing.itk import read_itk
        from bids_flair.processing.resampling import resample_labels

        dwi, gradients = load_series(self.inputs.dwi, self.inputs.bval, self.inputs.bvec)
        series, gradients, self._results['extra'] = conventions.series_after_b0(
            dwi, gradients, nib.load(self.inputs.b0)
        )
        if self.inputs.even:
            series = conventions.make_even(series)
        grid = (series.shape[:3], series.affine)
        from_b0 = np.linalg.inv(read_itk(self.inputs.transform))
        mask = resample_labels(nib.load(self.inputs.mask), grid, from_b0)
        for name, img in (('series', series), ('mask', mask)):
            self._results[name] = output_file(runtime, name)
            img.to_filename(self._results[name])
        self._results.update(_write_gradients(gradients, series.affine, 'series', runtime))
        rows = conventions.encoding_rows(self.inputs.axis, [self.inputs.readout_s])
        for name, numbers in (('acquisition', rows), ('index', np.ones((1, series.shape[3])))):
            self._results[name] = output_file(runtime, name, '.txt')
            np.savetxt(self._results[name], numbers, fmt='%g')
        return runtime


class _EddyCorrectOutputSpec(TraitedSpec):
    eddy_corrected = File(exists=True, desc='the series, resampled')
    log = File(exists=True, desc='the transform of every volume')


class EddyCorrect(fsl.EddyCorrect):
    """Nipype's, with the log in which eddy_correct leaves the transforms."""

    output_spec = _EddyCorrectOutputSpec

    def _run_interface(self, runtime):
        # Nipype's own fails on anything in stderr, where this shell script leaves remarks of the
        # tools that it calls; that it failed shows in the log, which is counted.
        return fsl.FSLCommand._run_interface(self, runtime)

    def _list_outputs(self):
        outputs = super()._list_outputs()
        return {**outputs, 'log': str(Path(outputs['eddy_corrected']).with_suffix('.ecclog'))}


class _ReadEddyLogInputSpec(BaseInterfaceInputSpec):
    log = File(exists=True, mandatory=True, desc='.ecclog of eddy_correct')
    series = File(exists=True, mandatory=True, desc='as PrepareSeries writes it')


class _ReadEddyLogOutputSpec(TraitedSpec):
    motion = File(exists=True, desc='.npy, (n, 4, 4): b=0 world to the world of each volume')


class ReadEddyLog(SimpleInterface):
    """Transforms of eddy_correct, in the form in which both backends resample by them."""

    input_spec = _ReadEddyLogInputSpec
    output_spec = _ReadEddyLogOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.fsl import read_eddy_log

        self._results['motion'] = output_file(runtime, 'motion', '.npy')
        motion = read_eddy_log(self.inputs.log, nib.load(self.inputs.series))
        np.save(self._results['motion'], motion)
        return runtime


class _ResampleSeriesInputSpec(BaseInterfaceInputSpec):
    series = File(exists=True, mandatory=True, desc='mean b=0, then the volumes of the tensor')
    extra = traits.Int(mandatory=True, desc='number of leading volumes that are left out')
    bval = File(exists=True, mandatory=True, desc='their b-values')
    bvec = File(exists=True, mandatory=True, desc="their directions, FSL's convention")
    motion = File(exists=True, desc='as ReadEddyLog writes it; unset if motion is undone already')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')
    transform = File(exists=True, mandatory=True, desc='reference world to b=0 world (ITK)')


class _ResampleSeriesOutputSpec(TraitedSpec):
    signals = File(exists=True, desc='volumes on the part of the reference grid with the brain')
    mask = File(exists=True, desc='where every volume has signal, on the same part')
    bval = File(exists=True, desc='their b-values')
    bvec = File(exists=True, desc="their directions along that grid, FSL's convention")


class ResampleSeries(SimpleInterface):
    """The measured volumes of a series on the reference grid, by one interpolation."""

    input_spec = _ResampleSeriesInputSpec
    output_spec = _ResampleSeriesOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing import diffusion
        from bids_flair.processing.fsl import box_affine, box_of
        from bids_flair.processing.itk import read_itk

        dwi, gradients = diffusion.load_series(
            self.inputs.series, self.inputs.bval, self.inputs.bvec
        )
        volumes = np.arange(self.inputs.extra, dwi.shape[3])
        motion = (
            np.load(self.inputs.motion)[volumes]
            if isdefined(self.inputs.motion)
            else np.broadcast_to(np.eye(4), (len(volumes), 4, 4))
        )
        to_b0 = read_itk(self.inputs.transform)
        grid = nib.load(self.inputs.mask)
        brain = np.asarray(grid.dataobj) > 0
        box = box_of(brain)
        brain, affine = brain[box], box_affine(grid.affine, box)
        values = diffusion.signals_on_grid(dwi, volumes, motion, to_b0, affine, brain)
        signals = np.zeros((*brain.shape, len(volumes)), np.float32)
        signals[brain] = values
        measured = (signals > 0).all(-1).astype(np.uint8)
        for name, data in (('signals', signals), ('mask', measured)):
            self._results[name] = output_file(runtime, name)
            nib.Nifti1Image(data, affine).to_filename(self._results[name])
        turned = diffusion.turn_gradients(gradients, volumes, motion @ to_b0)
        self._results.update(_write_gradients(turned, affine, 'signals', runtime))
        return runtime


def _write_gradients(gradients, affine: np.ndarray, name: str, runtime) -> dict[str, str]:
    from bids_flair.processing.gradients import write_gradients

    files = {kind: output_file(runtime, name, f'.{kind}') for kind in ('bval', 'bvec')}
    write_gradients(gradients, affine, files['bval'], files['bvec'])
    return files


class _FinishMapsInputSpec(BaseInterfaceInputSpec):
    md = File(exists=True, mandatory=True, desc='mean diffusivity, as DTIFIT wrote it')
    fa = File(exists=True, mandatory=True, desc='fractional anisotropy, as DTIFIT wrote it')
    s0 = File(exists=True, mandatory=True, desc='signal without weighting, as DTIFIT wrote it')
    signals = File(exists=True, mandatory=True, desc='what DTIFIT was given')
    fitted = File(exists=True, mandatory=True, desc='mask that DTIFIT was given')
    mask = File(exists=True, mandatory=True, desc='brain mask on the reference grid')


class _FinishMapsOutputSpec(TraitedSpec):
    md = File(exists=True, desc='mean diffusivity, mm2/s')
    fa = File(exists=True, desc='fractional anisotropy')
    s0 = File(exists=True, desc='signal without weighting')


class FinishMaps(SimpleInterface):
    """DTIFIT's maps on the whole reference grid, kept within what can be."""

    input_spec = _FinishMapsInputSpec
    output_spec = _FinishMapsOutputSpec

    def _run_interface(self, runtime):
        from bids_flair.processing.diffusion import fill, possible_values
        from bids_flair.processing.fsl import box_of

        grid = nib.load(self.inputs.mask)
        box = box_of(np.asarray(grid.dataobj) > 0)
        fitted = np.asarray(nib.load(self.inputs.fitted).dataobj) > 0
        where = np.zeros(grid.shape, bool)
        where[box] = fitted
        files = {'MD': self.inputs.md, 'FA': self.inputs.fa, 'S0': self.inputs.s0}
        maps = {name: np.asarray(nib.load(file).dataobj)[fitted] for name, file in files.items()}
        brightest = float(np.asarray(nib.load(self.inputs.signals).dataobj).max())
        for name, values in possible_values(maps, brightest).items():
            self._results[name.lower()] = output_file(runtime, name.lower())
            fill(values, where, grid.affine).to_filename(self._results[name.lower()])
        return runtime
