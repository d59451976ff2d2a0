"""From a diffusion series as acquired to MD, FA and S0 on the reference grid."""

from types import ModuleType

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.bids.acquisition import Acquisition


def init_diffusion_wf(
    *,
    backend: ModuleType,
    acquisition: Acquisition,
    omp_nthreads: int = 1,
    seed: int = 0,
    name: str = 'diffusion_wf',
) -> LiterateWorkflow:
    """Register a diffusion series and fit the tensor on the reference grid.

    Where the backend can undo the distortion by susceptibility it does so before it registers.

    Inputs
    ------
    dwi, bval, bvec
        The series in its native space.
    b0
        Its mean volume without weighting.
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
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = (
        'The mean b=0 volume was registered to the reference with six degrees of freedom '
        f'({backend.REGISTERED_BY}). '
    )
    series = ['dwi', 'bval', 'bvec', 'b0']
    inputnode = pe.Node(niu.IdentityInterface([*series, 'reference', 'mask']), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['md', 'fa', 's0', 'transform', 'report', 'trusted']),
        name='outputnode',
    )
    registration_wf = backend.init_registration_wf(contrast='dwi', seed=seed)
    tensor_wf = backend.init_tensor_wf(omp_nthreads=omp_nthreads, acquisition=acquisition)
    unwarping_wf = backend.init_unwarping_wf(acquisition=acquisition)
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
    return workflow
