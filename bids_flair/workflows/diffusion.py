"""From a diffusion series as acquired to MD, FA and S0 on the reference grid."""

from types import ModuleType

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.bids.acquisition import Acquisition
from bids_flair.workflows.backends import embedded
from bids_flair.workflows.prepared import init_given_position_wf

UNKNOWN = Acquisition()


def init_diffusion_wf(
    *,
    backend: ModuleType = embedded,
    acquisition: Acquisition = UNKNOWN,
    omp_nthreads: int = 1,
    seed: int = 0,
    reference: str = '',
    prepared_by: str = '',
    placed: bool = False,
    name: str = 'diffusion_wf',
) -> LiterateWorkflow:
    """Register a diffusion series and fit the tensor on the reference grid.

    Where the backend can undo the distortion by susceptibility it does so before it registers.

    Parameters
    ----------
    backend : module
        As :func:`bids_flair.workflows.load_backend` gives it; by default ANTs and DIPY.
    acquisition : Acquisition
        How the series was encoded, as far as that is known.
    reference : str
        Contrast of the reference image, if known: a backend may make use of it.
    prepared_by : str
        Name of another pipeline that has undone motion and distortions.
    placed : bool
        Whether that pipeline also says where the series lies.

    Inputs
    ------
    dwi, bval, bvec
        The series in its native space, or as `prepared_by` left it.
    b0
        Its mean volume without weighting, as the node
        :class:`bids_flair.interfaces.diffusion.MeanB0` makes it.
    position
        If `placed`: reference world to the world of the series (ITK); unset, where it lies in the
        reference space.
    reference, mask
        Reference image and brain mask, on the reference grid.

    Outputs
    -------
    md, fa, s0
        On the reference grid; MD in mm2/s.
    transform
        Reference world to b=0 world (ITK text).
    report, trusted
        The registration's scores, and whether the maps may be used.
    head_motion
        How far the brain moved during the series; none where that was undone before.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = (
        f'The diffusion series was taken from {prepared_by}, which had brought it to the '
        'reference. '
        if placed
        else 'The mean b=0 volume was registered to the reference with six degrees of freedom '
        f'({backend.REGISTERED_BY}). '
    )
    series = ['dwi', 'bval', 'bvec', 'b0']
    fields = [*series, 'position', 'reference', 'mask']
    inputnode = pe.Node(niu.IdentityInterface(fields), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['md', 'fa', 's0', 'transform', 'report', 'trusted', 'head_motion']),
        name='outputnode',
    )
    registration_wf = (
        init_given_position_wf(contrast='dwi', source=prepared_by, seed=seed)
        if placed
        else backend.init_registration_wf(contrast='dwi', seed=seed, reference=reference)
    )
    if placed:
        workflow.connect(inputnode, 'position', registration_wf, 'inputnode.position')
    tensor_wf = backend.init_tensor_wf(
        omp_nthreads=omp_nthreads, acquisition=acquisition, prepared_by=prepared_by
    )
    unwarping_wf = None if prepared_by else backend.init_unwarping_wf(acquisition=acquisition)
    if unwarping_wf is None:
        workflow.connect(inputnode, 'b0', registration_wf, 'inputnode.moving')
    else:
        workflow.connect([
            (inputnode, unwarping_wf, [('b0', 'inputnode.b0')]),
            (unwarping_wf, registration_wf, [('outputnode.b0', 'inputnode.moving')]),
            (unwarping_wf, tensor_wf, [
                ('outputnode.field', 'inputnode.field'),
                ('outputnode.movement', 'inputnode.movement'),
            ]),
        ])  # fmt: skip
    workflow.connect([
        (inputnode, registration_wf, [
            ('reference', 'inputnode.fixed'), ('mask', 'inputnode.mask'),
        ]),
        (inputnode, tensor_wf, [(field, f'inputnode.{field}') for field in [*series, 'mask']]),
        (registration_wf, tensor_wf, [('outputnode.transform', 'inputnode.transform')]),
        (tensor_wf, outputnode, [
            ('outputnode.md', 'md'), ('outputnode.fa', 'fa'), ('outputnode.s0', 's0'),
        ]),
        (registration_wf, outputnode, [
            ('outputnode.transform', 'transform'),
            ('outputnode.report', 'report'),
            ('outputnode.trusted', 'trusted'),
        ]),
    ])  # fmt: skip
    if not prepared_by:
        workflow.connect(tensor_wf, 'outputnode.head_motion', outputnode, 'head_motion')
    return workflow
