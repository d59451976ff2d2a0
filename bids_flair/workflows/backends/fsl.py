"""The paper's own tools, from the user's installation of FSL (its licence: no commercial use)."""

from importlib.metadata import version

from nipype.interfaces import fsl
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.bids.acquisition import Acquisition
from bids_flair.interfaces.diffusion import DescribeMotion
from bids_flair.interfaces.fsl import (
    ChooseBoundary,
    ChooseBrain,
    ChooseTransform,
    FinishMaps,
    PrepareBoundary,
    PrepareSeries,
    Reorder,
    ResampleSeries,
)
from bids_flair.workflows.backends.fsl_distortion import (
    init_eddy_correct_wf,
    init_eddy_wf,
    init_topup_wf,
)
from bids_flair.workflows.backends.fsl_tools import (
    boundary_schedule,
    command,
    fsl_version,
    has_eddy,
    has_topup,
)

NAME = 'fsl'
REGISTERED_BY = 'FLIRT [FSL, @flirt], normalised mutual information in the brain'
# BET's one free parameter: which value fits depends on contrast and scanner. FSL's default is .5;
# lower ones leave more.
BET_FRACTIONS = (0.3, 0.4, 0.5, 0.6)


def package_versions() -> dict[str, str]:
    """FSL, and the packages that decide on what is computed beside it."""
    packages = {name: version(name) for name in ('antspyx', 'nitransforms', 'scipy')}
    return {'FSL': fsl_version(), **packages}


def init_brain_mask_wf(*, name: str = 'brain_mask_wf') -> LiterateWorkflow:
    """Find the brain.

    Inputs
    ------
    in_file
        Head on the reference grid, any contrast.

    Outputs
    -------
    mask
        Brain mask on the same grid.
    report
        Volume, agreement of two methods, warnings.
    """
    workflow = LiterateWorkflow(name=name)
    fractions = ', '.join(f'{fraction:g}' for fraction in BET_FRACTIONS)
    workflow.__desc__ = (
        f'The brain was found by BET [FSL {fsl_version()}, @bet; @fsl], its centre estimated '
        f'robustly, with fractional intensity thresholds of {fractions}; the mask was taken that '
        'agreed best with an atlas of whole heads that was registered to the image [ANTs, @ants]. '
    )
    inputnode = pe.Node(niu.IdentityInterface(['in_file']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(['mask', 'report']), name='outputnode')
    reorder = pe.Node(Reorder(cut_neck=True), name='cut_neck', mem_gb=1.0)
    masks = pe.Node(niu.Merge(len(BET_FRACTIONS)), name='masks', run_without_submitting=True)
    choose = pe.Node(ChooseBrain(), name='choose_brain', mem_gb=2.0)
    workflow.connect([
        (inputnode, reorder, [('in_file', 'in_file')]),
        (inputnode, choose, [('in_file', 'in_file')]),
        (masks, choose, [('out', 'masks')]),
        (choose, outputnode, [('mask', 'mask'), ('report', 'report')]),
    ])  # fmt: skip
    for number, fraction in enumerate(BET_FRACTIONS, 1):
        extract = command(fsl.BET, frac=fraction, robust=True, mask=True, out_file='brain.nii')
        bet = pe.Node(extract, name=f'bet_{100 * fraction:.0f}', mem_gb=1.0)
        workflow.connect([
            (reorder, bet, [('out_file', 'in_file')]),
            (bet, masks, [('mask_file', f'in{number}')]),
        ])  # fmt: skip
    return workflow


def init_registration_wf(
    *, contrast: str, seed: int, reference: str = '', name: str = 'registration_wf'
) -> LiterateWorkflow:
    """Register another contrast of the same head to the reference image.

    A b=0 image is then fitted to the border of white matter, where the reference is a T1w that
    shows it. FLIRT draws no random numbers: `seed` belongs to the contract of the backends.

    Inputs
    ------
    fixed, mask
        Reference image and brain mask, on the reference grid.
    moving
        The other contrast, in its native space.

    Outputs
    -------
    transform
        Reference world to native world (ITK text).
    report, trusted
        Scores, and whether the result may be used.
    """
    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(['fixed', 'mask', 'moving']), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['transform', 'report', 'trusted']), name='outputnode'
    )
    reorder = {
        field: pe.Node(Reorder(), name=f'reorder_{field}', mem_gb=0.5)
        for field in ('fixed', 'mask', 'moving')
    }
    choose = pe.Node(ChooseTransform(contrast=contrast), name=f'choose_{contrast}', mem_gb=1.0)
    # The header is nearly right in one session and not to be relied on otherwise.
    starts = {'header': {'uses_qform': True, 'no_search': True}, 'search': {}}
    found = pe.Node(niu.Merge(len(starts)), name='matrices', run_without_submitting=True)
    for field, node in reorder.items():
        workflow.connect(inputnode, field, node, 'in_file')
    for number, (start, options) in enumerate(starts.items(), 1):
        flirt = pe.Node(_flirt(**options), name=f'flirt_{start}_{contrast}', mem_gb=1.5)
        workflow.connect([
            (reorder['moving'], flirt, [('out_file', 'in_file')]),
            (reorder['fixed'], flirt, [('out_file', 'reference')]),
            (reorder['mask'], flirt, [('out_file', 'ref_weight')]),
            (flirt, found, [('out_matrix_file', f'in{number}')]),
        ])  # fmt: skip
    workflow.connect([
        (inputnode, choose, [('mask', 'mask')]),
        (reorder['fixed'], choose, [('out_file', 'fixed')]),
        (reorder['moving'], choose, [('out_file', 'moving')]),
        (found, choose, [('out', 'matrices')]),
    ])  # fmt: skip
    best = choose
    if (contrast, reference) == ('dwi', 'T1w'):
        workflow.__desc__ = (
            'The position was refined by fitting the border of white matter in the T1w '
            '(boundary-based registration [@bbr]). '
        )
        best = _along_boundary(workflow, contrast, reorder, choose)
    workflow.connect([
        (best, outputnode, [
            ('transform', 'transform'), ('report', 'report'), ('trusted', 'trusted'),
        ]),
    ])  # fmt: skip
    return workflow


def _along_boundary(
    workflow: LiterateWorkflow, contrast: str, reorder: dict[str, pe.Node], start: pe.Node
) -> pe.Node:
    """Add a boundary-based registration behind `start`; the node that judges it."""
    prepare = pe.Node(PrepareBoundary(), name='white_matter', mem_gb=1.0)
    fit = command(
        fsl.FLIRT, dof=6, cost='bbr', schedule=str(boundary_schedule()),
        out_matrix_file='boundary.mat',
    )  # fmt: skip
    flirt = pe.Node(fit, name='flirt_boundary', mem_gb=1.5)
    choose = pe.Node(ChooseBoundary(contrast=contrast), name='choose_boundary', mem_gb=1.0)
    workflow.connect([
        (start, prepare, [('transform', 'transform')]),
        (prepare, flirt, [('white_matter', 'wm_seg'), ('matrix', 'in_matrix_file')]),
        (start, choose, [('transform', 'transform')]),
        (flirt, choose, [('out_matrix_file', 'matrix')]),
    ])  # fmt: skip
    for field, given in (('fixed', 'reference'), ('moving', 'in_file')):
        workflow.connect([
            (reorder[field], prepare, [('out_file', field)]),
            (reorder[field], flirt, [('out_file', given)]),
            (reorder[field], choose, [('out_file', field)]),
        ])  # fmt: skip
    workflow.connect([
        (reorder['mask'], prepare, [('out_file', 'mask')]),
        (reorder['mask'], choose, [('out_file', 'mask')]),
    ])  # fmt: skip
    return choose


def init_unwarping_wf(*, acquisition: Acquisition) -> LiterateWorkflow | None:
    """Undo the distortion by susceptibility of the image that is registered, where that can be.

    Returns
    -------
    LiterateWorkflow or None
        None without an image of opposite phase encoding, or without eddy and topup.

        Inputs: b0, the mean volume without weighting. Outputs: b0, undistorted and where it was;
        field and movement, for :func:`init_tensor_wf`.
    """
    return init_topup_wf(acquisition) if acquisition.opposite and has_topup() else None


def init_tensor_wf(
    *, omp_nthreads: int, acquisition: Acquisition, prepared_by: str = '', name: str = 'tensor_wf'
) -> LiterateWorkflow:
    """Undo motion and eddy currents, and fit the tensor on the reference grid.

    Of a series that another pipeline prepared, the tensor alone is left to do.

    Inputs
    ------
    dwi, bval, bvec
        The series in its native space.
    b0
        Its mean volume without weighting.
    mask
        Brain mask on the reference grid.
    transform
        Reference world to the world of `b0` (ITK text).
    field, movement
        As :func:`init_unwarping_wf` gives them, where it does.

    Outputs
    -------
    md, fa, s0
        On the reference grid; MD in mm2/s.
    head_motion
        How far the brain moved, unless the series was prepared.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__postdesc__ = (
        'The volumes were resampled onto the reference grid by third-order splines, the '
        'directions turned accordingly, and a tensor was fitted by weighted least squares '
        '[DTIFIT, @fsl]. '
    )
    fields = ['dwi', 'bval', 'bvec', 'b0', 'mask', 'transform']
    topup = ['field', 'movement']
    inputnode = pe.Node(niu.IdentityInterface([*fields, *topup]), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['md', 'fa', 's0', 'head_motion']), name='outputnode'
    )
    unwarps = bool(acquisition.opposite) and has_topup()
    prepare = pe.Node(
        PrepareSeries(axis=acquisition.axis, readout_s=acquisition.readout_s, even=unwarps),
        name='prepare_series',
        mem_gb=2.0,
    )
    resample = pe.Node(ResampleSeries(), name='resample_series', mem_gb=4.0)
    # Weighted least squares, as in the embedded backend.
    fit = pe.Node(command(fsl.DTIFit, base_name='dti', args='--wls'), name='dtifit', mem_gb=4.0)
    finish = pe.Node(FinishMaps(), name='finish_maps', mem_gb=2.0)
    workflow.connect([
        (inputnode, prepare, [(field, field) for field in fields]),
        (prepare, resample, [('extra', 'extra')]),
        (inputnode, resample, [('mask', 'mask'), ('transform', 'transform')]),
        (resample, fit, [
            ('signals', 'dwi'), ('mask', 'mask'), ('bval', 'bvals'), ('bvec', 'bvecs'),
        ]),
        (inputnode, finish, [('mask', 'mask')]),
        (resample, finish, [('signals', 'signals'), ('mask', 'fitted')]),
        (fit, finish, [('MD', 'md'), ('FA', 'fa'), ('S0', 's0')]),
        (finish, outputnode, [('md', 'md'), ('fa', 'fa'), ('s0', 's0')]),
    ])  # fmt: skip
    series = ['series', 'bval', 'bvec']
    if prepared_by:
        workflow.__desc__ = f'Motion and distortions had been corrected by {prepared_by}. '
        workflow.connect([(prepare, resample, [(field, field) for field in series])])
        return workflow
    correct_wf = (
        init_eddy_wf(acquisition, omp_nthreads=omp_nthreads, unwarps=unwarps)
        if has_eddy()
        else init_eddy_correct_wf()
    )
    given = [*series, 'mask', 'acquisition', 'index']
    corrected = [*series, *([] if has_eddy() else ['motion'])]
    moved = 'rms' if has_eddy() else 'motion'
    describe = pe.Node(DescribeMotion(), name='describe_motion', run_without_submitting=True)
    workflow.connect([
        (prepare, correct_wf, [(field, f'inputnode.{field}') for field in given]),
        (inputnode, correct_wf, [(field, f'inputnode.{field}') for field in topup if unwarps]),
        (correct_wf, resample, [(f'outputnode.{field}', field) for field in corrected]),
        (correct_wf, describe, [(f'outputnode.{moved}', moved)]),
        (prepare, describe, [('extra', 'extra')]),
        (inputnode, describe, [('mask', 'mask'), ('transform', 'transform')]),
        (describe, outputnode, [('report', 'head_motion')]),
    ])  # fmt: skip
    return workflow


def _flirt(**options) -> fsl.FLIRT:
    """Rigid registration by normalised mutual information, inside the brain of the reference.

    Of FLIRT's costs for two contrasts it is the one that does not grow with less overlap, and it
    asks neither for a segmentation nor for a contrast of white to grey matter, as boundary-based
    registration does: any of T1w, T2w and b=0 may be the reference here. Measured against the
    truth of simulated heads (benchmarks/registration.py) that is better for a b=0 image, and no
    better on the whole for a T2w.
    """
    return command(
        fsl.FLIRT, dof=6, cost='normmi', cost_func='normmi', out_matrix_file='flirt.mat', **options
    )
