"""From images on one grid to the synthetic FLAIR and what is known of it."""

from collections.abc import Collection

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair.interfaces.synthesis import (
    MODEL_INPUTS,
    DescribeSynthesis,
    ScoreFlair,
    SynthesizeFlair,
    untrusted_images,
)
from bids_flair.models.cards import find_weights, fingerprint, read_card


def init_synthesis_wf(
    *,
    model: str = 'default',
    device: str = 'auto',
    use_gpu: bool = False,
    omp_nthreads: int = 1,
    images: Collection[str] = MODEL_INPUTS,
    scored: bool = False,
    name: str = 'synthesis_wf',
) -> LiterateWorkflow:
    """Synthesise, score and describe.

    Parameters
    ----------
    model : str
        Name of a model that ships, or path of one.
    device : str
        'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.
    use_gpu : bool
        Whether Nipype is to schedule the node on a GPU.
    images
        Which of 'T1w', 'T2w', 'MD', 'FA', 'S0' are connected and used.
    scored
        Whether an acquired FLAIR is connected.

    Inputs
    ------
    T1w, T2w, MD, FA, S0
        On the reference grid: any one that all share, bias-corrected. MD in mm2/s.
    mask
        Brain mask on the reference grid.
    brain_report
        If there is one: of the mask, as :func:`init_reference_wf` gives it, for `metadata`.
    registrations
        If there are any: list of reports, as :func:`init_alignment_wf` and
        :func:`init_diffusion_wf` give them; images of contrasts that could not be registered are
        left out.
    head_motion
        If there was a diffusion series: as :func:`init_diffusion_wf` gives it.
    acquired, acquired_trusted
        If `scored`: acquired FLAIR on the reference grid, and whether its registration held.

    Outputs
    -------
    flair, low, high, std, mask
        Synthetic FLAIR in units of its white matter, the limits of its 90 % interval, its standard
        deviation, and where it was synthesised.
    metadata
        For the sidecar: model, inputs, warnings, how familiar the inputs look.
    """
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = (
        f'A FLAIR was synthesised from {", ".join(images)} by regression of each voxel on its '
        f'neighbourhood with {_methods_of(model)}, after Build-A-FLAIR [@buildaflair] '
        f'(model "{model}"). '
    )
    reports = ('brain_report', 'registrations', 'head_motion')
    targets = ('acquired', 'acquired_trusted') if scored else ()
    inputnode = pe.Node(
        niu.IdentityInterface([*images, 'mask', *reports, *targets]), name='inputnode'
    )
    made = ('flair', 'low', 'high', 'std', 'mask')
    outputnode = pe.Node(niu.IdentityInterface([*made, 'metadata']), name='outputnode')
    untrusted = pe.Node(
        niu.Function(function=untrusted_images, output_names=['names']),
        name='untrusted_images',
        run_without_submitting=True,
    )
    # One process for each GPU: MultiProc charges n_procs of a GPU node as GPU slots.
    n_procs = 1 if use_gpu else omp_nthreads
    synthesize = pe.Node(
        SynthesizeFlair(
            model=model,
            fingerprint=fingerprint(model),
            device=device,
            use_gpu=use_gpu,
            num_threads=n_procs,
        ),
        name='synthesize_flair',
        n_procs=n_procs,
        mem_gb=3.0,
    )
    describe = pe.Node(DescribeSynthesis(), name='describe', run_without_submitting=True)
    workflow.connect([
        (inputnode, untrusted, [('registrations', 'registrations')]),
        (inputnode, synthesize, [(image, image) for image in [*images, 'mask']]),
        (untrusted, synthesize, [('names', 'untrusted')]),
        (inputnode, describe, [
            ('brain_report', 'brain'), ('registrations', 'registrations'),
            ('head_motion', 'head_motion'),
        ]),
        (synthesize, describe, [('report', 'synthesis')]),
        (synthesize, outputnode, [(name, name) for name in made]),
        (describe, outputnode, [('metadata', 'metadata')]),
    ])  # fmt: skip
    if scored:
        workflow.__postdesc__ = 'It was compared with the acquired FLAIR inside the brain mask. '
        score = pe.Node(ScoreFlair(), name='score_flair', mem_gb=3.5)
        workflow.connect([
            (inputnode, score, [('acquired', 'acquired'), ('acquired_trusted', 'trusted')]),
            (synthesize, score, [('flair', 'synthetic'), ('mask', 'mask')]),
            (score, describe, [('scores', 'scores')]),
        ])  # fmt: skip
    return workflow


def _methods_of(model: str) -> str:
    """What a model is made of, for the methods section of a paper."""
    card = read_card(find_weights(model).with_suffix('.json'))
    members = [card, *card.get('specialists', [])]
    networks = sum(member['network'] != 'BoostedTrees' for member in members)
    text = 'a neural network' if networks == 1 else 'neural networks'
    return text if networks == len(members) else f'{text} and gradient-boosted trees'
