"""ANTs and DIPY, both from the Python package index: no licence to sign, any machine."""

from importlib.metadata import version

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.bids.acquisition import Acquisition
from bids_flair.interfaces.anatomical import ExtractBrain
from bids_flair.interfaces.diffusion import DescribeMotion, EstimateMotion, FitTensor
from bids_flair.interfaces.registration import RegisterRigid

NAME = 'embedded'
REGISTERED_BY = "ANTs [@ants], Mattes' mutual information in the brain"


def package_versions() -> dict[str, str]:
    """Packages that decide what this backend computes."""
    return {name: version(name) for name in ('antspyx', 'dipy', 'nitransforms', 'scipy')}


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
    workflow.__desc__ = (
        'The brain was found by registering an atlas of whole heads to the image '
        '[ANTs, @ants], and checked against an independent method. '
    )
    inputnode = pe.Node(niu.IdentityInterface(['in_file']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(['mask', 'report']), name='outputnode')
    extract = pe.Node(ExtractBrain(), name='extract_brain', mem_gb=1.5)
    workflow.connect([
        (inputnode, extract, [('in_file', 'in_file')]),
        (extract, outputnode, [('mask', 'mask'), ('report', 'report')]),
    ])  # fmt: skip
    return workflow


def init_registration_wf(
    *, contrast: str, seed: int, reference: str = '', name: str = 'registration_wf'
) -> LiterateWorkflow:
    """Register another contrast of the same head to the reference image.

    `reference`, its contrast, belongs to the contract of the backends: it does not matter here.

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
    register = pe.Node(
        RegisterRigid(contrast=contrast, seed=seed), name=f'register_{contrast}', mem_gb=1.5
    )
    workflow.connect([
        (inputnode, register, [('fixed', 'fixed'), ('mask', 'mask'), ('moving', 'moving')]),
        (register, outputnode, [
            ('transform', 'transform'), ('report', 'report'), ('trusted', 'trusted'),
        ]),
    ])  # fmt: skip
    return workflow


def init_unwarping_wf(*, acquisition: Acquisition) -> None:
    """Nothing: no tool of this backend undoes distortion by susceptibility."""
    return


def init_tensor_wf(
    *, omp_nthreads: int, acquisition: Acquisition, prepared_by: str = '', name: str = 'tensor_wf'
) -> LiterateWorkflow:
    """Estimate motion and fit the tensor on the reference grid.

    The rigid motion does not depend on `acquisition`, which belongs to the contract of the
    backends. Of a series that another pipeline prepared, none is left.

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

    Outputs
    -------
    md, fa, s0
        On the reference grid; MD in mm2/s.
    head_motion
        How far the brain moved, unless the series was prepared.
    """
    workflow = LiterateWorkflow(name=name)
    before = (
        f'Motion and distortions had been corrected by {prepared_by}. '
        if prepared_by
        else 'Head motion between diffusion volumes was estimated rigidly [ANTs, @ants]; '
        'distortions by eddy currents and by susceptibility were not corrected. '
    )
    workflow.__desc__ = (
        f'{before}The volumes were resampled once onto the reference grid, the directions turned '
        'accordingly, and a tensor was fitted by weighted least squares [DIPY, @dipy]. '
    )
    fields = ['dwi', 'bval', 'bvec', 'b0', 'mask', 'transform']
    inputnode = pe.Node(niu.IdentityInterface(fields), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['md', 'fa', 's0', 'head_motion']), name='outputnode'
    )
    fit = pe.Node(
        FitTensor(num_threads=omp_nthreads), name='fit_tensor', n_procs=omp_nthreads, mem_gb=3.0
    )
    workflow.connect([
        (inputnode, fit, [(field, field) for field in fields if field != 'b0']),
        (fit, outputnode, [('md', 'md'), ('fa', 'fa'), ('s0', 's0')]),
    ])  # fmt: skip
    if not prepared_by:
        motion = pe.Node(EstimateMotion(), name='estimate_motion', mem_gb=1.0)
        describe = pe.Node(DescribeMotion(), name='describe_motion', run_without_submitting=True)
        workflow.connect([
            (inputnode, motion, [(field, field) for field in fields]),
            (motion, fit, [('motion', 'motion')]),
            (motion, describe, [('motion', 'motion')]),
            (inputnode, describe, [('mask', 'mask'), ('transform', 'transform')]),
            (describe, outputnode, [('report', 'head_motion')]),
        ])  # fmt: skip
    return workflow
