"""Two ways to the same images: each backend is a module with the same factories.

``init_brain_mask_wf``, ``init_registration_wf``, ``init_unwarping_wf`` and ``init_tensor_wf`` take
and give the same fields in every backend. ``NAME`` and ``package_versions()`` are for the
sidecars, ``REGISTERED_BY`` for the methods text.
"""

import logging
from pathlib import Path
from types import ModuleType

from bids_flair.logs import NOTICE

LOGGER = logging.getLogger('bids_flair')


def load_backend(name: str, work_dir: Path) -> ModuleType:
    """The backend of a name; 'auto' takes FSL where it can be used, else the embedded one.

    What is taken and why is logged.

    Raises
    ------
    BidsFlairError
        If FSL was asked for and cannot be used (ExitCode.COMMAND_MISSING).
    """
    from bids_flair.workflows.backends import embedded, fsl, fsl_tools

    if name == 'embedded':
        return embedded
    if name == 'fsl':
        fsl_tools.check(work_dir)
    elif lacking := fsl_tools.problems(work_dir):
        LOGGER.log(NOTICE, 'backend embedded, not fsl: %s', '; '.join(lacking))
        return embedded
    LOGGER.log(NOTICE, 'backend fsl: %s', fsl_tools.describe())
    return fsl
