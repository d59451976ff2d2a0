"""One participant in one session: from raw images to written derivatives."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair import __version__
from bids_flair.bids.collect import SessionInputs
from bids_flair.bids.names import output_entities, output_uri, raw_uri
from bids_flair.bids.sink import DerivativesDataSink
from bids_flair.descriptor import load_descriptor
from bids_flair.interfaces.diffusion import MeanB0
from bids_flair.settings import Settings
from bids_flair.workflows.anatomical import init_alignment_wf, init_reference_wf
from bids_flair.workflows.diffusion import init_diffusion_wf
from bids_flair.workflows.synthesis import init_synthesis_wf

TENSOR_MAPS = ('md', 'fa', 's0')


def session_wf_name(inputs: SessionInputs) -> str:
    """Name of a session's workflow: the label, in letters that Nipype accepts."""
    return f'{inputs.label.replace("-", "_")}_wf'


def init_run_wf(
    sessions: Sequence[SessionInputs], settings: Settings, backend: ModuleType
) -> LiterateWorkflow:
    """Several sessions side by side, so that they share the machine."""
    workflow = LiterateWorkflow(name='bids_flair_wf')
    workflow.base_dir = str(settings.work_dir)
    workflow.add_nodes([init_session_wf(s, settings, backend) for s in sessions])
    return workflow


def wanted_images(inputs: SessionInputs, settings: Settings) -> list[str]:
    """Model inputs that a session can give and that the run asks for, in the model's order."""
    contrasts = load_descriptor().contrasts
    there = {
        image
        for name in inputs.images
        if contrasts[name].role == 'input'
        for image in contrasts[name].images
    }
    asked = settings.inputs or load_descriptor().model_inputs
    return [image for image in load_descriptor().model_inputs if image in there and image in asked]


def init_session_wf(
    inputs: SessionInputs, settings: Settings, backend: ModuleType
) -> LiterateWorkflow:
    """Everything that is done for one participant in one session.

    Parameters
    ----------
    inputs : SessionInputs
        With a reference contrast.
    settings : Settings
    backend : module
        As :func:`bids_flair.workflows.backends.load_backend` gives it.
    """
    workflow = LiterateWorkflow(name=session_wf_name(inputs))
    workflow.__desc__ = (
        f'Results were obtained with bids_flair {__version__}, a Nipype workflow '
        f'[@nipype; {backend.NAME} backend]. '
    )
    images = wanted_images(inputs, settings)
    threads = settings.omp_nthreads
    reference_wf = init_reference_wf(backend=backend, contrast=inputs.reference)
    brain = pe.Node(niu.IdentityInterface(['reference', 'mask', 'report']), name='brain')
    workflow.connect([
        (reference_wf, brain, [
            ('outputnode.reference', 'reference'),
            ('outputnode.mask', 'mask'),
            ('outputnode.report', 'report'),
        ]),
    ])  # fmt: skip
    use_gpu = settings.device.startswith('cuda')
    synthesis_wf = init_synthesis_wf(
        model=settings.model,
        device=settings.device,
        use_gpu=use_gpu,
        omp_nthreads=threads,
        images=images,
        scored='FLAIR' in inputs.images,
    )
    workflow.connect([
        (brain, synthesis_wf, [('mask', 'inputnode.mask'), ('report', 'inputnode.brain_report')]),
    ])  # fmt: skip
    sinks = _Sinks(workflow, inputs, settings, backend)
    reports = _Reports(workflow, synthesis_wf)
    if inputs.reference != 'dwi':
        reference_wf.inputs.inputnode.in_file = str(inputs.images[inputs.reference])
        sinks.add(f'preproc_{inputs.reference.lower()}', brain, 'reference', inputs.reference)
        if inputs.reference in images:
            workflow.connect(brain, 'reference', synthesis_wf, f'inputnode.{inputs.reference}')
    sinks.add('brain_mask', brain, 'mask', inputs.reference)
    for contrast in ('T2w', 'FLAIR'):
        needed = contrast in images or contrast == 'FLAIR'
        if contrast in inputs.images and contrast != inputs.reference and needed:
            aligned = _align(workflow, inputs, settings, backend, contrast, brain)
            target = 'acquired' if contrast == 'FLAIR' else contrast
            workflow.connect(aligned, 'outputnode.image', synthesis_wf, f'inputnode.{target}')
            if contrast == 'FLAIR':
                workflow.connect(
                    aligned, 'outputnode.trusted', synthesis_wf, 'inputnode.acquired_trusted'
                )
            name = f'preproc_{contrast.lower()}'
            sinks.add(name, aligned, 'outputnode.image', contrast, gated=True)
            sinks.add(f'transform:{contrast}', aligned, 'outputnode.transform', contrast)
            reports.add(aligned)
    if 'dwi' in inputs.images and {'MD', 'FA', 'S0'} & set(images):
        diffusion_wf = _diffusion(workflow, inputs, settings, backend, brain, reference_wf)
        for name in TENSOR_MAPS:
            sinks.add(name, diffusion_wf, f'outputnode.{name}', 'dwi', gated=True)
            if name.upper() in images:
                workflow.connect(
                    diffusion_wf, f'outputnode.{name}', synthesis_wf, f'inputnode.{name.upper()}'
                )
        sinks.add('transform:dwi', diffusion_wf, 'outputnode.transform', 'dwi')
        reports.add(diffusion_wf)
    reports.close()
    sinks.add_synthesis(synthesis_wf, images)
    return workflow


def _align(workflow, inputs, settings, backend, contrast: str, brain) -> LiterateWorkflow:
    align_wf = init_alignment_wf(backend=backend, contrast=contrast, seed=settings.random_seed)
    align_wf.inputs.inputnode.in_file = str(inputs.images[contrast])
    workflow.connect([
        (brain, align_wf, [('reference', 'inputnode.reference'), ('mask', 'inputnode.mask')]),
    ])  # fmt: skip
    return align_wf


def _diffusion(workflow, inputs, settings, backend, brain, reference_wf) -> LiterateWorkflow:
    series = {'dwi': inputs.images['dwi'], 'bval': inputs.bval, 'bvec': inputs.bvec}
    series = {field: str(path) for field, path in series.items()}
    b0 = pe.Node(MeanB0(**series), name='mean_b0', mem_gb=1.5)
    diffusion_wf = init_diffusion_wf(
        backend=backend, omp_nthreads=settings.omp_nthreads, seed=settings.random_seed
    )
    for field, path in series.items():
        setattr(diffusion_wf.inputs.inputnode, field, path)
    workflow.connect([
        (b0, diffusion_wf, [('out_file', 'inputnode.b0')]),
        (brain, diffusion_wf, [('reference', 'inputnode.reference'), ('mask', 'inputnode.mask')]),
    ])  # fmt: skip
    if inputs.reference == 'dwi':
        workflow.connect(b0, 'out_file', reference_wf, 'inputnode.in_file')
    return diffusion_wf


class _Reports:
    """The registrations' reports, collected for the synthesis."""

    def __init__(self, workflow, synthesis_wf):
        self.workflow, self.synthesis_wf, self.sources = workflow, synthesis_wf, []

    def add(self, source) -> None:
        self.sources.append(source)

    def close(self) -> None:
        if not self.sources:
            self.synthesis_wf.inputs.inputnode.registrations = []
            return
        merge = pe.Node(
            niu.Merge(len(self.sources)), name='registrations', run_without_submitting=True
        )
        for number, source in enumerate(self.sources, 1):
            self.workflow.connect(source, 'outputnode.report', merge, f'in{number}')
        self.workflow.connect(merge, 'out', self.synthesis_wf, 'inputnode.registrations')


class _Sinks:
    """Writes one session's outputs, each with its sidecar."""

    def __init__(self, workflow, inputs: SessionInputs, settings: Settings, backend: ModuleType):
        self.workflow, self.inputs, self.settings = workflow, inputs, settings
        self.backend = backend
        reference = inputs.reference
        self.space = (
            raw_uri(inputs.images['dwi'], settings.bids_dir)
            if reference == 'dwi'
            else output_uri(f'preproc_{reference.lower()}', inputs)
        )

    def add(self, name: str, node, field: str, contrast: str, *, gated: bool = False) -> None:
        """Write an image or transform made from one raw contrast."""
        raw = raw_uri(self.inputs.images[contrast], self.settings.bids_dir)
        sink = self._sink(name, {'Sources': [raw]})
        self.workflow.connect(node, field, sink, 'in_file')
        if gated:
            self.workflow.connect(node, 'outputnode.trusted', sink, 'trusted')

    def add_synthesis(self, synthesis_wf, images: Sequence[str]) -> None:
        """Write the synthetic image, its uncertainty and its mask."""
        sources = [output_uri(self._source_name(image), self.inputs) for image in images]
        values = {'Sources': [*sources, output_uri('brain_mask', self.inputs)]}
        for name, field in (
            ('synthetic_flair', 'flair'),
            ('synthetic_flair_std', 'std'),
            ('synthetic_mask', 'mask'),
        ):
            sink = self._sink(name, values)
            self.workflow.connect(synthesis_wf, f'outputnode.{field}', sink, 'in_file')
            if field != 'mask':
                self.workflow.connect(synthesis_wf, 'outputnode.metadata', sink, 'meta_dict')

    def _source_name(self, image: str) -> str:
        name = image.lower()
        return name if name in TENSOR_MAPS else f'preproc_{name}'

    def _sink(self, name: str, values: dict[str, Any]) -> pe.Node:
        entities = output_entities(name, self.inputs)
        output = load_descriptor().outputs[name.partition(':')[0]]
        is_mask = entities['suffix'] == 'mask'
        metadata = output.metadata({
            **values,
            **self._shared_values(),
            **({} if is_mask else {'SkullStripped': not name.startswith('preproc')}),
        })  # fmt: skip
        entities.pop('extension', None)
        return pe.Node(
            DerivativesDataSink(
                base_directory=str(self.settings.output_dir),
                source_file=[str(self.inputs.images[self.inputs.reference])],
                # Working files are not compressed, which is slow; those that stay are.
                compress=True if output.pattern.endswith('|.nii.gz}') else None,
                dismiss_entities=[
                    'acquisition', 'run', 'reconstruction', 'ceagent', 'part', 'direction', 'echo',
                    'inv', 'flip', 'mt', 'proc', 'modality', 'resolution',
                ],
                **entities,
                **metadata,
            ),
            name=f'sink_{name.replace(":", "_")}',
            run_without_submitting=True,
        )  # fmt: skip

    def _shared_values(self) -> dict[str, Any]:
        return {
            'SpatialReference': self.space,
            'Backend': self.backend.NAME,
            'PackageVersions': self.backend.software_versions(),
        }


def methods_text(workflow: LiterateWorkflow) -> str:
    """Prose of the methods section, assembled from the steps of a session's workflow."""
    return workflow.visit_desc().strip()


def crash_folder(inputs: SessionInputs, settings: Settings, run: str) -> Path:
    """Where the nodes of a session leave their crash files."""
    return settings.output_dir / f'sub-{inputs.participant}' / 'log' / run
