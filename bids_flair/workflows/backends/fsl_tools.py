"""The user's installation of FSL: what it holds, and how its commands become nodes."""

import os
import shutil
from pathlib import Path

from nipype.interfaces import fsl

from bids_flair.errors import BidsFlairError, ExitCode

TOOLS = ('bet', 'bet2', 'dtifit', 'flirt', 'fslstats', 'fslval', 'imtest', 'remove_ext')
# FSL 6.0.0 to 6.0.5 call it eddy_openmp, later ones eddy_cpu; `eddy` there takes a GPU if it can.
EDDY_PROGRAMS = ('eddy_openmp', 'eddy_cpu', 'eddy')
EDDY_CORRECT_TOOLS = ('eddy_correct', 'fslmerge', 'fslroi', 'fslsplit', 'imglob')
# How the option, and its help text, read in the program.
NTHR = (b'--nthr', b'Number of threads to use')
TOPUP_TOOLS = ('topup', 'fslroi')


def fsl_version() -> str:
    """Number of the FSL release that FSLDIR holds, as in ``6.0.7.4``."""
    text = (_folder() / 'etc' / 'fslversion').read_text()
    return text.partition(':')[0].strip()


def describe() -> str:
    """What was found, in words, for the log."""
    return f'FSL {fsl_version()} in {_folder()}, {corrector()} for eddy currents'


def check(work_dir: Path) -> None:
    """Make sure that all that is needed is there.

    Raises
    ------
    BidsFlairError
        Naming what is not, and how to get it (ExitCode.COMMAND_MISSING).
    """
    if lacking := problems(work_dir):
        raise BidsFlairError(
            f'the FSL backend cannot be used: {"; ".join(lacking)}. Install FSL 6.0 or newer '
            '(https://fsl.fmrib.ox.ac.uk/fsl/docs/install) and let FSLDIR name its folder, or '
            'use --backend embedded',
            ExitCode.COMMAND_MISSING,
        )


def problems(work_dir: Path) -> list[str]:
    """What keeps this backend from being used; empty if nothing does."""
    if not os.environ.get('FSLDIR'):
        return ['the environment variable FSLDIR is not set']
    if not _folder().is_dir():
        return [f'FSLDIR names {_folder()}, which is no folder']
    found = []
    if missing := [tool for tool in TOOLS if not _has(tool)]:
        found.append(f'{_folder()}/bin lacks {", ".join(missing)}')
    if corrector() is None:
        correct = [tool for tool in EDDY_CORRECT_TOOLS if not _has(tool)]
        found.append(
            f'{_folder()}/bin has neither eddy ({", ".join(EDDY_PROGRAMS)}) nor all that '
            f'eddy_correct needs (missing: {", ".join(correct)})'
        )
    for file in (_folder() / 'etc' / 'fslversion', boundary_schedule()):
        if not file.is_file():
            found.append(f'{file} is missing')
    # Its loop around bet2 counts with dc, a program of the operating system.
    if _has('bet') and _holds('bet', b'| dc') and shutil.which('dc') is None:
        found.append("BET needs the system's program dc (apt install dc)")
    if any(letter.isspace() for letter in str(work_dir)):
        found.append(f"FSL's scripts cannot work below {work_dir}, whose name holds a space")
    return found


def boundary_schedule() -> Path:
    """What FLIRT is to do, step by step, when it follows a boundary."""
    return _folder() / 'etc' / 'flirtsch' / 'bbr.sch'


def corrector() -> str | None:
    """Program for head motion and eddy currents: eddy under any of its names, or eddy_correct."""
    if found := next((program for program in EDDY_PROGRAMS if _has(program)), None):
        return found
    return 'eddy_correct' if all(map(_has, EDDY_CORRECT_TOOLS)) else None


def has_eddy() -> bool:
    """Whether eddy itself corrects, which models the field; else eddy_correct does."""
    return corrector() in EDDY_PROGRAMS


def has_topup() -> bool:
    """Whether distortion by susceptibility can be corrected: eddy applies what topup finds."""
    return has_eddy() and all(map(_has, TOPUP_TOOLS))


def command(interface: type[fsl.FSLCommand], **inputs) -> fsl.FSLCommand:
    """An FSL command that depends on FSLDIR, and on nothing else of the user's environment."""
    inputs.setdefault('output_type', 'NIFTI')
    path = os.pathsep.join([str(_folder() / 'bin'), os.environ.get('PATH', os.defpath)])
    environment = {'FSLDIR': str(_folder()), 'PATH': path, 'OPENBLAS_NUM_THREADS': '1'}
    return interface(environ=environment, **inputs)


def eddy_threads(threads: int) -> dict[str, str]:
    """Further inputs of Nipype's Eddy that make this FSL's eddy use several threads.

    eddy_openmp reads OMP_NUM_THREADS, which Nipype sets. eddy_cpu wants an option; should a first
    release of it lack that yet, it would refuse it, as does what `eddy` calls on a GPU.
    """
    takes_it = corrector() == 'eddy_cpu' and any(_holds('eddy_cpu', text) for text in NTHR)
    return {'args': f'--nthr={threads}'} if takes_it else {}


def _folder() -> Path:
    return Path(os.environ['FSLDIR'])


def _has(tool: str) -> bool:
    return os.access(_folder() / 'bin' / tool, os.X_OK)


def _holds(tool: str, text: bytes) -> bool:
    """Whether a script or program contains a text: FSL's differ from release to release."""
    return text in (_folder() / 'bin' / tool).read_bytes()
