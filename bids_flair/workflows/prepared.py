"""Steps that take over what another pipeline prepared; the same for every backend."""

from collections.abc import Collection

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.interfaces.prepared import AdoptMaps, AdoptMask, FindPosition, GuideFromMD


def init_given_mask_wf(*, source: str, name: str = 'brain_mask_wf') -> LiterateWorkflow:
    """Take over a brain mask, in place of a backend's ``init_brain_mask_wf``.

    Parameters
    ----------
    source : str
        Name of the pipeline that made it.

    Inputs
    ------
    in_file
        Head on the reference grid.
    given
        Brain mask in the same space, on any grid.

    Outputs
    -------
    mask
        On the reference grid.
    report
        Volume, source, warnings.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = f'The brain mask of {source} was used. '
    inputnode = pe.Node(niu.IdentityInterface(['in_file', 'given']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(['mask', 'report']), name='outputnode')
    adopt = pe.Node(AdoptMask(source=source), name='adopt_mask', mem_gb=1.0)
    workflow.connect([
        (inputnode, adopt, [('in_file', 'in_file'), ('given', 'mask')]),
        (adopt, outputnode, [('mask', 'mask'), ('report', 'report')]),
    ])  # fmt: skip
    return workflow


def init_given_position_wf(
    *, contrast: str, source: str, seed: int = 0, name: str = 'registration_wf'
) -> LiterateWorkflow:
    """Take over a position, in place of a backend's ``init_registration_wf``.

    It is judged as a registration of our own is; where it does not hold, the image is registered.

    Parameters
    ----------
    source : str
        Name of the pipeline that placed the image.

    Inputs
    ------
    fixed, mask
        Reference image and brain mask, on the reference grid.
    moving
        The other image.
    position
        Fixed world to moving world (ITK); unset, where the image lies in the reference space.

    Outputs
    -------
    transform
        Reference world to the world of `moving` (ITK text).
    report, trusted
        Scores, and whether the result may be used.
    """
    workflow = LiterateWorkflow(name=name)
    fields = ['fixed', 'mask', 'moving', 'position']
    inputnode = pe.Node(niu.IdentityInterface(fields), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(['transform', 'report', 'trusted']), name='outputnode'
    )
    find = pe.Node(
        FindPosition(contrast=contrast, source=source, seed=seed),
        name=f'find_position_{contrast}',
        mem_gb=1.5,
    )
    workflow.connect([
        (inputnode, find, [(field, field) for field in fields]),
        (find, outputnode, [
            ('transform', 'transform'), ('report', 'report'), ('trusted', 'trusted'),
        ]),
    ])  # fmt: skip
    return workflow


def init_given_maps_wf(
    *,
    registration_wf: LiterateWorkflow,
    maps: Collection[str],
    source: str,
    guided_by_md: bool = False,
    name: str = 'diffusion_wf',
) -> LiterateWorkflow:
    """Take over tensor maps, in place of :func:`~bids_flair.workflows.init_diffusion_wf`.

    Parameters
    ----------
    registration_wf : LiterateWorkflow
        What places `guide`: a backend's, or :func:`init_given_position_wf`.
    maps : collection of str
        Which of 'MD', 'FA' and 'S0' are given.
    source : str
        Name of the pipeline that made them.
    guided_by_md : bool
        Whether `guide` is MD itself.

    Inputs
    ------
    md, fa, s0
        In the space of the other pipeline; MD in mm2/s, 1e-3 mm2/s or um2/s.
    guide
        Image in the same space that shows where they lie.
    reference, mask
        Reference image and brain mask, on the reference grid.

    Outputs
    -------
    md, fa, s0
        On the reference grid; MD in mm2/s.
    transform
        Reference world to the world of the maps (ITK text).
    report, trusted
        The registration's scores, and whether the maps may be used.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = (
        f'{", ".join(maps)} were taken from {source} and resampled once by third-order splines. '
    )
    fields = [image.lower() for image in maps]
    inputnode = pe.Node(
        niu.IdentityInterface([*fields, 'guide', 'reference', 'mask']), name='inputnode'
    )
    outputnode = pe.Node(
        niu.IdentityInterface(['md', 'fa', 's0', 'transform', 'report', 'trusted']),
        name='outputnode',
    )
    adopt = pe.Node(AdoptMaps(), name='adopt_maps', mem_gb=1.5)
    workflow.connect([
        (inputnode, registration_wf, [
            ('reference', 'inputnode.fixed'), ('mask', 'inputnode.mask'),
        ]),
        (inputnode, adopt, [(field, field) for field in [*fields, 'mask']]),
        (registration_wf, adopt, [('outputnode.transform', 'transform')]),
        (adopt, outputnode, [(field, field) for field in fields]),
        (registration_wf, outputnode, [
            ('outputnode.transform', 'transform'),
            ('outputnode.report', 'report'),
            ('outputnode.trusted', 'trusted'),
        ]),
    ])  # fmt: skip
    if guided_by_md:
        guide = pe.Node(GuideFromMD(), name='guide_from_md', mem_gb=1.0)
        workflow.connect([
            (inputnode, guide, [('guide', 'in_file')]),
            (guide, registration_wf, [('out_file', 'inputnode.moving')]),
        ])  # fmt: skip
    else:
        workflow.connect(inputnode, 'guide', registration_wf, 'inputnode.moving')
    return workflow
