"""From anatomical images as acquired to images on the reference grid."""

from types import ModuleType

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.interfaces.anatomical import CorrectBias, Resample


def init_reference_wf(
    *, backend: ModuleType, contrast: str, name: str = 'reference_wf'
) -> LiterateWorkflow:
    """Make the reference image: brain mask, bias correction, reference grid.

    Inputs
    ------
    in_file
        The reference contrast as acquired.

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
        'are near-isotropic and at most 1.2 mm, else 1 mm isotropic voxels were laid over its '
        'field of view. '
    )
    workflow.__postdesc__ = 'Its bias field was corrected with N4 [@n4]. '
    inputnode = pe.Node(niu.IdentityInterface(['in_file']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(['reference', 'mask', 'report']), name='outputnode')
    # The mask is found on the fine grid, where its surface is smooth; the values that count are
    # resampled a second time from native space, after bias correction.
    regrid = pe.Node(Resample(), name='regrid', mem_gb=1.5)
    brain_mask_wf = backend.init_brain_mask_wf()
    correct = pe.Node(CorrectBias(), name='correct_bias', mem_gb=1.5)
    resample = pe.Node(Resample(), name='resample_reference', mem_gb=1.5)
    workflow.connect([
        (inputnode, regrid, [('in_file', 'in_file')]),
        (regrid, brain_mask_wf, [('out_file', 'inputnode.in_file')]),
        (inputnode, correct, [('in_file', 'in_file')]),
        (brain_mask_wf, correct, [('outputnode.mask', 'mask')]),
        (correct, resample, [('out_file', 'in_file')]),
        (resample, outputnode, [('out_file', 'reference')]),
        (brain_mask_wf, outputnode, [
            ('outputnode.mask', 'mask'), ('outputnode.report', 'report'),
        ]),
    ])  # fmt: skip
    return workflow


def init_alignment_wf(
    *, backend: ModuleType, contrast: str, seed: int = 0, name: str | None = None
) -> LiterateWorkflow:
    """Bring another anatomical contrast onto the reference grid.

    Inputs
    ------
    in_file
        The contrast as acquired.
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
    workflow.__desc__ = (
        f'The {contrast} image was registered to the reference with six degrees of freedom '
        f'({backend.REGISTERED_BY}), corrected with N4, and resampled once by third-order '
        'splines. '
    )
    inputnode = pe.Node(niu.IdentityInterface(['in_file', 'reference', 'mask']), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['image', 'transform', 'report', 'trusted']), name='outputnode'
    )
    registration_wf = backend.init_registration_wf(contrast=contrast, seed=seed)
    correct = pe.Node(CorrectBias(), name=f'correct_bias_{contrast}', mem_gb=1.5)
    resample = pe.Node(Resample(), name=f'resample_{contrast}', mem_gb=1.5)
    workflow.connect([
        (inputnode, registration_wf, [
            ('in_file', 'inputnode.moving'),
            ('reference', 'inputnode.fixed'),
            ('mask', 'inputnode.mask'),
        ]),
        (inputnode, correct, [('in_file', 'in_file'), ('mask', 'mask')]),
        (registration_wf, correct, [('outputnode.transform', 'transform')]),
        (correct, resample, [('out_file', 'in_file')]),
        (inputnode, resample, [('reference', 'reference')]),
        (registration_wf, resample, [('outputnode.transform', 'transform')]),
        (resample, outputnode, [('out_file', 'image')]),
        (registration_wf, outputnode, [
            ('outputnode.transform', 'transform'),
            ('outputnode.report', 'report'),
            ('outputnode.trusted', 'trusted'),
        ]),
    ])  # fmt: skip
    return workflow
