"""Nodes that write a session's outputs, each with its sidecar."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from nipype.pipeline import engine as pe

from bids_flair.bids.names import output_entities, output_uri, source_uris
from bids_flair.bids.session import SessionInputs
from bids_flair.bids.sink import DerivativesDataSink
from bids_flair.descriptor import load_descriptor
from bids_flair.settings import Settings

# One file per session is written: what told the raw files apart is not in its name.
NOT_IN_NAMES = [
    'acquisition', 'ceagent', 'direction', 'echo', 'flip', 'inv', 'modality', 'mt', 'part', 'proc',
    'reconstruction', 'resolution', 'run',
]  # fmt: skip


def preproc_name(contrast: str) -> str:
    """Name, among the descriptor's outputs, of a contrast on the reference grid."""
    contrasts = load_descriptor().contrasts
    return f'preproc_{contrast.lower()}' if contrast in contrasts else contrast.lower()


class Sinks:
    """Adds sinks to a session's workflow.

    Parameters
    ----------
    workflow : LiterateWorkflow
        That of the session.
    inputs : SessionInputs
    settings : Settings
    backend : module
        Named in the sidecars, with its packages' versions.
    """

    def __init__(self, workflow, inputs: SessionInputs, settings: Settings, backend: ModuleType):
        self.workflow, self.inputs, self.settings = workflow, inputs, settings
        reference = inputs.reference
        self.shared_values = {
            'SpatialReference': (
                source_uris('dwi', inputs, settings.bids_dir)[0]
                if reference == 'dwi'
                else output_uri(preproc_name(reference), inputs)
            ),
            'Backend': backend.NAME,
            'PackageVersions': backend.package_versions(),
        }

    def add(self, name: str, node, field: str, contrast: str, *, gated: bool = False) -> None:
        """Write a file made from one contrast; if `gated`, only where it can be trusted.

        A mask that another pipeline made is named beside the image that it lies on.
        """
        names = [contrast, *(['mask'] if name == 'brain_mask' else [])]
        given = [n for n in names if n == contrast or n in self.inputs.prepared]
        sources = [
            uri for n in given for uri in source_uris(n, self.inputs, self.settings.bids_dir)
        ]
        sink = self._sink(name, {'Sources': sources})
        self.workflow.connect(node, field, sink, 'in_file')
        if gated:
            self.workflow.connect(node, 'outputnode.trusted', sink, 'trusted')

    def add_synthesis(self, synthesis_wf, images: Sequence[str]) -> None:
        """Write the synthetic image, its interval, its uncertainty and its mask."""
        names = [*(preproc_name(image) for image in images), 'brain_mask']
        sources = {'Sources': [output_uri(name, self.inputs) for name in names]}
        for name, field in (
            ('synthetic_flair', 'flair'),
            ('synthetic_flair_low', 'low'),
            ('synthetic_flair_high', 'high'),
            ('synthetic_flair_std', 'std'),
            ('synthetic_mask', 'mask'),
        ):
            sink = self._sink(name, sources)
            self.workflow.connect(synthesis_wf, f'outputnode.{field}', sink, 'in_file')
            if field != 'mask':
                self.workflow.connect(synthesis_wf, 'outputnode.metadata', sink, 'meta_dict')

    def _sink(self, name: str, values: dict[str, Any]) -> pe.Node:
        output = load_descriptor().outputs[name.partition(':')[0]]
        entities = output_entities(name, self.inputs)
        # The sink takes the extension from the file that it is given.
        entities.pop('extension', None)
        if entities['suffix'] not in ('mask', 'xfm'):
            values = {**values, 'SkullStripped': not name.startswith('preproc')}
        return pe.Node(
            DerivativesDataSink(
                base_directory=str(self.settings.output_dir),
                source_file=[str(self.inputs.images[self.inputs.reference])],
                # Working files are not compressed, which is slow; those that stay are.
                compress=True if output.pattern.endswith('|.nii.gz}') else None,
                dismiss_entities=NOT_IN_NAMES,
                **entities,
                **output.metadata({**values, **self.shared_values}),
            ),
            name=f'sink_{name.replace(":", "_")}',
            mem_gb=0.5,
        )
