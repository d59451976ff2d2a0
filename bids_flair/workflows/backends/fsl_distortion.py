"""FSL's ways to undo what motion, eddy currents and susceptibility do to a diffusion series."""

from nipype.interfaces import fsl
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.bids.acquisition import Acquisition
from bids_flair.interfaces.fsl import EddyCorrect, PairB0, ReadEddyLog
from bids_flair.workflows.backends.fsl_tools import command, corrector, eddy_threads

GIVEN = ('series', 'bval', 'bvec', 'mask', 'acquisition', 'index')


def init_eddy_correct_wf(*, name: str = 'eddy_correct_wf') -> LiterateWorkflow:
    """Find an affine transform for every volume; nothing is resampled yet.

    Inputs
    ------
    series, bval, bvec, mask, acquisition, index
        As PrepareSeries gives them.

    Outputs
    -------
    series, bval, bvec
        As they came.
    motion
        Mean b=0 world to the world of each volume.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = (
        'Head motion and the distortions by eddy currents were estimated with an affine transform '
        'of every diffusion volume to the mean b=0 [eddy_correct, @flirt; @fsl], and undone in '
        'one interpolation together with the registration; distortions by susceptibility were '
        'not corrected. '
    )
    inputnode = pe.Node(niu.IdentityInterface(list(GIVEN)), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['series', 'bval', 'bvec', 'motion']), name='outputnode'
    )
    correct = pe.Node(command(EddyCorrect, ref_num=0), name='eddy_correct', mem_gb=2.0)
    read = pe.Node(ReadEddyLog(), name='read_eddy_log', run_without_submitting=True)
    workflow.connect([
        (inputnode, correct, [('series', 'in_file')]),
        (inputnode, read, [('series', 'series')]),
        (correct, read, [('log', 'log')]),
        (inputnode, outputnode, [(name, name) for name in ('series', 'bval', 'bvec')]),
        (read, outputnode, [('motion', 'motion')]),
    ])  # fmt: skip
    return workflow


def init_eddy_wf(
    acquisition: Acquisition, *, omp_nthreads: int, unwarps: bool, name: str = 'eddy_wf'
) -> LiterateWorkflow:
    """Bring all volumes to where the first one is, free of eddy currents' distortions.

    Inputs
    ------
    series, bval, bvec, mask, acquisition, index
        As PrepareSeries gives them.
    field, movement
        If `unwarps`: as :func:`init_topup_wf` gives them.

    Outputs
    -------
    series, bval, bvec
        Corrected; the directions turned with the head.
    rms
        How far the head moved in every volume, as eddy writes it.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _eddy_prose(acquisition, unwarps)
    inputnode = pe.Node(niu.IdentityInterface([*GIVEN, 'field', 'movement']), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['series', 'bval', 'bvec', 'rms']), name='outputnode'
    )
    # Nipype expects eddy's output compressed whatever it is told. Few directions, or those of
    # half a sphere, want the second-level model. Shells need not be told apart for one fit.
    eddy = command(
        fsl.Eddy, output_type='NIFTI_GZ', out_base='eddy', num_threads=omp_nthreads,
        slm='linear', is_shelled=True, **eddy_threads(omp_nthreads),
    )  # fmt: skip
    eddy._cmd = corrector()
    correct = pe.Node(eddy, name='eddy', n_procs=omp_nthreads, mem_gb=4.0)
    workflow.connect([
        (inputnode, correct, [
            ('series', 'in_file'), ('mask', 'in_mask'), ('bval', 'in_bval'), ('bvec', 'in_bvec'),
            ('acquisition', 'in_acqp'), ('index', 'in_index'),
        ]),
        (inputnode, outputnode, [('bval', 'bval')]),
        (correct, outputnode, [
            ('out_corrected', 'series'), ('out_rotated_bvecs', 'bvec'),
            ('out_movement_rms', 'rms'),
        ]),
    ])  # fmt: skip
    if unwarps:
        workflow.connect([
            (inputnode, correct, [
                ('field', 'in_topup_fieldcoef'), ('movement', 'in_topup_movpar'),
            ]),
        ])  # fmt: skip
    return workflow


def init_topup_wf(acquisition: Acquisition, *, name: str = 'topup_wf') -> LiterateWorkflow:
    """Find the field that distorts the series, from b=0 images of opposite phase encoding.

    Inputs
    ------
    b0
        Mean volume without weighting.

    Outputs
    -------
    b0
        Undistorted, where it was.
    field, movement
        Coefficients of the field, and movement between the images, for eddy.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = (
        'The distortion of the diffusion images by susceptibility was estimated from b=0 images '
        'with opposite phase encoding [topup, @topup; @fsl]. '
    )
    inputnode = pe.Node(niu.IdentityInterface(['b0']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(['b0', 'field', 'movement']), name='outputnode')
    pair = PairB0(
        opposite=str(acquisition.opposite),
        axis=acquisition.axis,
        readout_s=acquisition.readout_s,
        opposite_readout_s=acquisition.opposite_readout_s,
    )
    if acquisition.opposite_bval:
        pair.inputs.opposite_bval = str(acquisition.opposite_bval)
    pair = pe.Node(pair, name='pair_b0', mem_gb=1.0)
    topup = pe.Node(command(fsl.TOPUP), name='topup', mem_gb=2.0)
    first = pe.Node(command(fsl.ExtractROI, t_min=0, t_size=1), name='unwarped_b0', mem_gb=0.5)
    workflow.connect([
        (inputnode, pair, [('b0', 'b0')]),
        (pair, topup, [('pair', 'in_file'), ('acquisition', 'encoding_file')]),
        (topup, first, [('out_corrected', 'in_file')]),
        (first, outputnode, [('roi_file', 'b0')]),
        (topup, outputnode, [('out_fieldcoef', 'field'), ('out_movpar', 'movement')]),
    ])  # fmt: skip
    return workflow


def _eddy_prose(acquisition: Acquisition, unwarps: bool) -> str:
    others = 'eddy currents and susceptibility' if unwarps else 'eddy currents'
    assumed = (
        ''
        if acquisition.axis
        else ' The phase encoding, of which the sidecar says nothing, was taken to run along '
        "the image's second axis."
    )
    left = '' if unwarps else '; distortions by susceptibility were not corrected'
    return (
        f'Head motion and the distortions by {others} were corrected with eddy [@eddy; @fsl], '
        f'which interpolates by splines{left}.{assumed} '
    )
