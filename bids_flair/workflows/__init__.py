"""Each step of the way as a workflow with an ``inputnode`` and an ``outputnode``.

They may stand in any Nipype workflow: see docs/library.md. Nipype is imported on first use only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bids_flair.workflows.anatomical import init_alignment_wf, init_reference_wf
    from bids_flair.workflows.backends import load_backend
    from bids_flair.workflows.diffusion import init_diffusion_wf
    from bids_flair.workflows.synthesis import init_synthesis_wf

__all__ = [
    'init_alignment_wf',
    'init_diffusion_wf',
    'init_reference_wf',
    'init_synthesis_wf',
    'load_backend',
]
_MODULES = {
    'init_alignment_wf': 'anatomical',
    'init_diffusion_wf': 'diffusion',
    'init_reference_wf': 'anatomical',
    'init_synthesis_wf': 'synthesis',
    'load_backend': 'backends',
}


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
