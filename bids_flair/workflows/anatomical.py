"""From anatomical images as acquired to images on the reference grid."""

from types import ModuleType

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.interfaces.anatomical import CorrectBias, Resample
from bids_flair.workflows.backends import embedded
from bids_flair.workflows.prepared import init_given_mask_wf, init_given_position_wf


def init_reference_wf(
    *,
    backend: ModuleType = embedded,
    contrast: str,
    prepared_by: str = '',
    mask_by: str = '',
    name: str = 'reference_wf',
) -> LiterateWorkflow:
    """Make the reference image: brain mask, bias correction, reference grid.

    Parameters
    ----------
    backend : module
        As :func:`bids_flair.workflows.load_backend` gives it; by default ANTs and DIPY.
    contrast : str
        'T1w', 'T2w' or 'dwi', for the methods text.
    prepared_by, mask_by : str
        Name of another pipeline that corrected the image, or made a brain mask of it.

    Inputs
    ------
    in_file
        The reference contrast as acquired, or as `prepared_by` left it.
    mask
        If `mask_by`: brain mask in the space of `in_file`.

    Outputs
    -------
    reference
        Bias-corrected, on the reference grid.
    mask
        Brain mask on the reference grid.
    report
        What is known of the mask, with warnings.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = (
        f'The {contrast} image served as the reference: its own grid was kept where its voxels '
        'are near-isotropic and below 1.2 mm, else 1 mm isotropic voxels were laid over its '
        'field of view. '
    )
    inputnode = pe.Node(niu.IdentityInterface(['in_file', 'mask']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(['reference', 'mask', 'report']), name='outputnode')
    # The mask is found on the fine grid, where its surface is smooth; the values that count are
    # resampled a second time from native space, after bias correction.
    regrid = pe.Node(Resample(), name='regrid', mem_gb=1.0)
    brain_mask_wf = init_given_mask_wf(source=mask_by) if mask_by else backend.init_brain_mask_wf()
    workflow.connect([
        (inputnode, regrid, [('in_file', 'in_file')]),
        (regrid, brain_mask_wf, [('out_file', 'inputnode.in_file')]),
        (brain_mask_wf, outputnode, [
            ('outputnode.mask', 'mask'), ('outputnode.report', 'report'),
        ]),
    ])  # fmt: skip
    if mask_by:
        workflow.connect(inputnode, 'mask', brain_mask_wf, 'inputnode.given')
    if prepared_by:
        workflow.__postdesc__ = f'Its bias field had been corrected by {prepared_by}. '
        workflow.connect(regrid, 'out_file', outputnode, 'reference')
        return workflow
    workflow.__postdesc__ = 'Its bias field was corrected with N4 [@n4]. '
    correct = pe.Node(CorrectBias(), name='correct_bias', mem_gb=1.5)
    resample = pe.Node(Resample(), name='resample_reference', mem_gb=1.0)
    workflow.connect([
        (inputnode, correct, [('in_file', 'in_file')]),
        (brain_mask_wf, correct, [('outputnode.mask', 'mask')]),
        (correct, resample, [('out_file', 'in_file')]),
        (resample, outputnode, [('out_file', 'reference')]),
    ])  # fmt: skip
    return workflow


def init_alignment_wf(
    *,
    backend: ModuleType = embedded,
    contrast: str,
    seed: int = 0,
    prepared_by: str = '',
    placed: bool = False,
    name: str | None = None,
) -> LiterateWorkflow:
    """Bring another anatomical contrast onto the reference grid.

    Parameters
    ----------
    backend : module
        As :func:`bids_flair.workflows.load_backend` gives it; by default ANTs and DIPY.
    contrast : str
        'T2w' or 'FLAIR'.
    seed : int
        Of the registration's random samples.
    prepared_by : str
        Name of another pipeline that corrected the image's bias field.
    placed : bool
        Whether that pipeline also says where the image lies.

    Inputs
    ------
    in_file
        The contrast as acquired, or as `prepared_by` left it.
    position
        If `placed`: reference world to the world of `in_file` (ITK); unset, where it lies in the
        reference space.
    reference, mask
        As :func:`init_reference_wf` gives them.

    Outputs
    -------
    image
        Bias-corrected, on the reference grid.
    transform
        Reference world to native world (ITK text).
    report, trusted
        The registration's scores, and whether the image may be used.
    """
    workflow = LiterateWorkflow(name=name or f'align_{contrast}_wf')
    placing = (
        f'taken from {prepared_by}, which had brought it to the reference'
        if placed
        else f'registered to the reference with six degrees of freedom ({backend.REGISTERED_BY})'
    )
    correcting = f'corrected by {prepared_by}' if prepared_by else 'corrected with N4 [@n4]'
    workflow.__desc__ = (
        f'The {contrast} image was {placing}, its bias field was {correcting}, and it was '
        'resampled once by third-order splines. '
    )
    fields = ['in_file', 'position', 'reference', 'mask']
    inputnode = pe.Node(niu.IdentityInterface(fields), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['image', 'transform', 'report', 'trusted']), name='outputnode'
    )
    registration_wf = (
        init_given_position_wf(contrast=contrast, source=prepared_by, seed=seed)
        if placed
        else backend.init_registration_wf(contrast=contrast, seed=seed)
    )
    resample = pe.Node(Resample(), name=f'resample_{contrast}', mem_gb=1.5)
    workflow.connect([
        (inputnode, registration_wf, [
            ('in_file', 'inputnode.moving'),
            ('reference', 'inputnode.fixed'),
            ('mask', 'inputnode.mask'),
        ]),
        (inputnode, resample, [('reference', 'reference')]),
        (registration_wf, resample, [('outputnode.transform', 'transform')]),
        (resample, outputnode, [('out_file', 'image')]),
        (registration_wf, outputnode, [
            ('outputnode.transform', 'transform'),
            ('outputnode.report', 'report'),
            ('outputnode.trusted', 'trusted'),
        ]),
    ])  # fmt: skip
    if placed:
        workflow.connect(inputnode, 'position', registration_wf, 'inputnode.position')
    if prepared_by:
        workflow.connect(inputnode, 'in_file', resample, 'in_file')
        return workflow
    correct = pe.Node(CorrectBias(), name=f'correct_bias_{contrast}', mem_gb=1.5)
    workflow.connect([
        (inputnode, correct, [('in_file', 'in_file'), ('mask', 'mask')]),
        (registration_wf, correct, [('outputnode.transform', 'transform')]),
        (correct, resample, [('out_file', 'in_file')]),
    ])  # fmt: skip
    return workflow
