"""One participant in one session: from raw images to written derivatives."""

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from bids_flair import __version__
from bids_flair.bids.acquisition import Acquisition
from bids_flair.bids.session import SessionInputs
from bids_flair.descriptor import load_descriptor
from bids_flair.interfaces.diffusion import MeanB0
from bids_flair.settings import Settings
from bids_flair.workflows.anatomical import init_alignment_wf, init_reference_wf
from bids_flair.workflows.diffusion import init_diffusion_wf
from bids_flair.workflows.prepared import init_given_maps_wf, init_given_position_wf
from bids_flair.workflows.sinks import Sinks, preproc_name
from bids_flair.workflows.synthesis import init_synthesis_wf

RUN_WF = 'bids_flair_wf'


def session_wf_name(inputs: SessionInputs) -> str:
    """Name of a session's workflow: the label, in letters that Nipype accepts."""
    return f'{inputs.label.replace("-", "_")}_wf'


def init_run_wf(
    sessions: Sequence[SessionInputs], settings: Settings, backend: ModuleType
) -> LiterateWorkflow:
    """Several sessions side by side, so that they share the machine."""
    workflow = LiterateWorkflow(name=RUN_WF)
    workflow.base_dir = str(settings.work_dir)
    workflow.add_nodes([init_session_wf(s, settings, backend) for s in sessions])
    return workflow


def wanted_images(inputs: SessionInputs, settings: Settings) -> list[str]:
    """Model inputs that a session can give and that the run asks for, in the model's order."""
    there = {*inputs.images, *inputs.tensor_maps}
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
    return _SessionBuilder(inputs, settings, backend).build()


def methods_text(workflow: LiterateWorkflow) -> str:
    """Prose of the methods section, assembled from the steps of a session's workflow."""
    return workflow.visit_desc().strip()


class _SessionBuilder:
    """A session's workflow while it is put together.

    ``brain`` holds the reference image and the brain mask, which every later step takes;
    ``aligned`` the workflows that registered something to it.
    """

    def __init__(self, inputs: SessionInputs, settings: Settings, backend: ModuleType):
        self.inputs, self.settings, self.backend = inputs, settings, backend
        self.images = wanted_images(inputs, settings)
        self.workflow = LiterateWorkflow(name=session_wf_name(inputs))
        self.workflow.__desc__ = (
            f'Results were obtained with bids_flair {__version__}, a Nipype workflow '
            f'[@nipype; {backend.NAME} backend]. '
        )
        self.sinks = Sinks(self.workflow, inputs, settings, backend)
        self.brain = pe.Node(niu.IdentityInterface(['reference', 'mask', 'report']), name='brain')
        self.synthesis_wf = init_synthesis_wf(
            model=settings.model,
            device=settings.device,
            use_gpu=settings.device.startswith('cuda'),
            omp_nthreads=settings.omp_nthreads,
            images=self.images,
            scored='FLAIR' in inputs.images,
        )
        self.aligned: list[LiterateWorkflow] = []

    def build(self) -> LiterateWorkflow:
        self._add_reference()
        if 'T2w' in self.images and self.inputs.reference != 'T2w':
            self._add_alignment('T2w', 'T2w')
        if 'FLAIR' in self.inputs.images:
            align_wf = self._add_alignment('FLAIR', 'acquired')
            self._to_synthesis(align_wf, 'outputnode.trusted', 'acquired_trusted')
        if set(self.inputs.tensor_maps) & set(self.images):
            self._add_diffusion()
        self._add_synthesis()
        return self.workflow

    def _add_reference(self) -> None:
        reference = self.inputs.reference
        reference_wf = init_reference_wf(
            backend=self.backend,
            contrast=reference,
            prepared_by=self._prepared_by(reference),
            mask_by=self._prepared_by('mask'),
        )
        if 'mask' in self.inputs.prepared:
            reference_wf.inputs.inputnode.mask = str(self.inputs.prepared['mask'].path)
        if reference == 'dwi':
            self.workflow.connect(self._mean_b0(), 'out_file', reference_wf, 'inputnode.in_file')
        else:
            reference_wf.inputs.inputnode.in_file = str(self.inputs.images[reference])
            self.sinks.add(preproc_name(reference), self.brain, 'reference', reference)
        self.workflow.connect([
            (reference_wf, self.brain, [
                ('outputnode.reference', 'reference'),
                ('outputnode.mask', 'mask'),
                ('outputnode.report', 'report'),
            ]),
        ])  # fmt: skip
        self.sinks.add('brain_mask', self.brain, 'mask', reference)
        if reference in self.images:
            self._to_synthesis(self.brain, 'reference', reference)

    def _add_alignment(self, contrast: str, target: str) -> LiterateWorkflow:
        align_wf = init_alignment_wf(
            backend=self.backend,
            contrast=contrast,
            seed=self.settings.random_seed,
            prepared_by=self._prepared_by(contrast),
            placed=self._placed(contrast),
        )
        align_wf.inputs.inputnode.in_file = str(self.inputs.images[contrast])
        self._set_position(align_wf, contrast)
        self._align_to_brain(align_wf, contrast)
        self.sinks.add(preproc_name(contrast), align_wf, 'outputnode.image', contrast, gated=True)
        self._to_synthesis(align_wf, 'outputnode.image', target)
        return align_wf

    def _add_diffusion(self) -> None:
        diffusion_wf = self._given_maps() if self.inputs.has_maps else self._fitted_maps()
        self._align_to_brain(diffusion_wf, 'dwi')
        for image in self.inputs.tensor_maps:
            field = f'outputnode.{image.lower()}'
            self.sinks.add(preproc_name(image), diffusion_wf, field, 'dwi', gated=True)
            if image in self.images:
                self._to_synthesis(diffusion_wf, field, image)

    def _fitted_maps(self) -> LiterateWorkflow:
        diffusion_wf = init_diffusion_wf(
            backend=self.backend,
            acquisition=self._acquisition(),
            omp_nthreads=self.settings.omp_nthreads,
            seed=self.settings.random_seed,
            reference=self.inputs.reference,
            prepared_by=self._prepared_by('dwi'),
            placed=self._placed('dwi'),
        )
        for field, path in self._series().items():
            setattr(diffusion_wf.inputs.inputnode, field, path)
        self._set_position(diffusion_wf, 'dwi')
        self.workflow.connect(self._mean_b0(), 'out_file', diffusion_wf, 'inputnode.b0')
        if not self._prepared_by('dwi'):
            self._to_synthesis(diffusion_wf, 'outputnode.head_motion', 'head_motion')
        return diffusion_wf

    def _given_maps(self) -> LiterateWorkflow:
        """Maps of another pipeline, placed by what it says or by registering their guide."""
        inputs, source = self.inputs, self._prepared_by('MD')
        placed = self._placed('dwi')
        registration_wf = (
            init_given_position_wf(contrast='dwi', source=source, seed=self.settings.random_seed)
            if placed
            else self.backend.init_registration_wf(contrast='dwi', seed=self.settings.random_seed)
        )
        maps_wf = init_given_maps_wf(
            registration_wf=registration_wf,
            maps=inputs.tensor_maps,
            source=source,
            guided_by_md=inputs.guide is inputs.prepared['MD'],
        )
        for image in inputs.tensor_maps:
            if image in inputs.prepared:
                path = str(inputs.prepared[image].path)
                setattr(maps_wf.inputs.inputnode, image.lower(), path)
        if 'dwi' in inputs.images:
            self.workflow.connect(self._mean_b0(), 'out_file', maps_wf, 'inputnode.s0')
        if inputs.guide is None:
            self.workflow.connect(self._mean_b0(), 'out_file', maps_wf, 'inputnode.guide')
        else:
            maps_wf.inputs.inputnode.guide = str(inputs.guide.path)
        self._set_position(registration_wf, 'dwi')
        return maps_wf

    def _add_synthesis(self) -> None:
        self._to_synthesis(self.brain, 'mask', 'mask')
        self._to_synthesis(self.brain, 'report', 'brain_report')
        reports = pe.Node(niu.Merge(len(self.aligned)), name='registrations')
        reports.run_without_submitting = True
        for number, source in enumerate(self.aligned, 1):
            self.workflow.connect(source, 'outputnode.report', reports, f'in{number}')
        if self.aligned:
            self._to_synthesis(reports, 'out', 'registrations')
        self.sinks.add_synthesis(self.synthesis_wf, self.images)

    def _align_to_brain(self, wf: LiterateWorkflow, contrast: str) -> None:
        """Give a workflow what it registers to, write its transform, keep its report."""
        self.workflow.connect([
            (self.brain, wf, [('reference', 'inputnode.reference'), ('mask', 'inputnode.mask')]),
        ])  # fmt: skip
        self.sinks.add(f'transform:{contrast}', wf, 'outputnode.transform', contrast)
        self.aligned.append(wf)

    def _to_synthesis(self, source, field: str, target: str) -> None:
        self.workflow.connect(source, field, self.synthesis_wf, f'inputnode.{target}')

    def _prepared_by(self, name: str) -> str:
        """Name of the pipeline that prepared an image; empty if it is raw or not there."""
        found = self.inputs.prepared.get(name)
        return found.source.name if found else ''

    def _placed(self, contrast: str) -> bool:
        return self.inputs.in_place(contrast) or contrast in self.inputs.positions

    def _set_position(self, wf: LiterateWorkflow, contrast: str) -> None:
        if contrast in self.inputs.positions:
            wf.inputs.inputnode.position = str(self.inputs.positions[contrast])

    def _acquisition(self) -> Acquisition:
        """As collected; a reference that is distorted itself is not to be unwarped."""
        found = self.inputs.acquisition
        return replace(found, opposite=None) if self.inputs.reference == 'dwi' else found

    def _series(self) -> dict[str, str]:
        files = {'dwi': self.inputs.images['dwi'], 'bval': self.inputs.bval}
        return {name: str(path) for name, path in {**files, 'bvec': self.inputs.bvec}.items()}

    def _mean_b0(self) -> pe.Node:
        """The mean b=0 volume: both the reference, where nothing else is, and what moves."""
        node = self.workflow.get_node('mean_b0')
        return node or pe.Node(MeanB0(**self._series()), name='mean_b0', mem_gb=1.0)
