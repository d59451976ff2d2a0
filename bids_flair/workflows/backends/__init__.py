"""Two ways to the same images: each backend is a module with the same three factories.

``init_brain_mask_wf``, ``init_registration_wf`` and ``init_tensor_wf`` take and give the same
fields in every backend; ``DESCRIPTION`` names the tools and their versions for the sidecars.
"""

from types import ModuleType


def load_backend(name: str) -> ModuleType:
    """The backend of a name; 'auto' takes FSL where it can be used, else the embedded one.

    Raises
    ------
    BidsFlairError
        If FSL was asked for and cannot be used (ExitCode.COMMAND_MISSING).
    """
    from bids_flair.workflows.backends import embedded, fsl

    if name == 'fsl':
        fsl.check()
        return fsl
    return embedded
