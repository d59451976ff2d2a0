"""What a person sees while the program runs: which participant, which step, how long."""

import logging
import sys
import time
from collections.abc import Sequence

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bids_flair.bids.session import SessionInputs
from bids_flair.logs import CONSOLE, NOTICE
from bids_flair.workflows.participant import session_wf_name

LOGGER = logging.getLogger('bids_flair')

STEPS = {
    'regrid': 'reading the reference image',
    'extract_brain': 'finding the brain',
    'correct_bias': 'correcting the bias field',
    'resample_reference': 'laying out the reference grid',
    'register': 'registering {}',
    'correct_bias_': 'correcting the bias field of {}',
    'resample': 'resampling {}',
    'mean_b0': 'averaging the b=0 volumes',
    'estimate_motion': 'estimating head motion in dwi',
    'fit_tensor': 'fitting the tensor',
    'cut_neck': 'leaving out the neck',
    'bet': 'finding the brain with BET, threshold {} %',
    'choose_brain': 'choosing the brain mask',
    'flirt_header': 'registering {} with FLIRT from its header',
    'flirt_search': 'registering {} with FLIRT from everywhere',
    'choose': 'judging the registration of {}',
    'white_matter': 'finding the border of white matter',
    'flirt_boundary': 'registering dwi with FLIRT along white matter',
    'choose_boundary': 'judging the refined registration of dwi',
    'adopt_mask': 'taking over the brain mask',
    'find_position': 'judging the given position of {}',
    'adopt_maps': 'taking over the tensor maps',
    'topup': 'estimating distortion by susceptibility with topup',
    'prepare_series': 'preparing dwi for FSL',
    'eddy': 'correcting motion and eddy currents with eddy',
    'eddy_correct': 'estimating motion and eddy currents with eddy_correct',
    'resample_series': 'resampling dwi',
    'dtifit': 'fitting the tensor with DTIFIT',
    'synthesize_flair': 'synthesising the FLAIR',
    'score_flair': 'scoring against the acquired FLAIR',
}


def step_name(node_name: str) -> str | None:
    """A step in words; None for nodes that only pass things on or write them."""
    if node_name in STEPS:
        return STEPS[node_name]
    action, _, contrast = node_name.rpartition('_')
    pattern = STEPS.get(action if action != 'correct_bias' else 'correct_bias_', '')
    return pattern.format(contrast) if '{}' in pattern else None


class Follower:
    """Follows the nodes of several sessions; call it as Nipype's status callback.

    Use as a context manager. On a terminal it draws one line per session, elsewhere it logs a
    line when a step ends.
    """

    def __init__(self, sessions: Sequence[SessionInputs], steps: dict[str, int]):
        self.labels = {session_wf_name(s): s.label for s in sessions}
        self.started: dict[str, float] = {}
        self.timings: dict[str, list[tuple[str, float]]] = {s.label: [] for s in sessions}
        self.bars = _bars() if sys.stderr.isatty() else None
        self.tasks = {
            label: self.bars.add_task(label, total=steps[label], step='waiting')
            for label in (self.timings if self.bars else ())
        }

    def __enter__(self) -> 'Follower':
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def __call__(self, node, status: str) -> None:
        step = step_name(node.name)
        label = self.labels.get(node.fullname.split('.')[1])
        if step is None or label is None:
            return
        if status == 'start':
            self.started[node.fullname] = time.monotonic()
            self._show(label, step)
            LOGGER.info('%s: %s', label, step)
            return
        now = time.monotonic()
        seconds = now - self.started.pop(node.fullname, now)
        if status == 'end' and node.plugin_args:
            # A job waits in a queue first.
            seconds = min(seconds, node.result.runtime.duration)
        if status == 'end':
            self.timings[label].append((step, seconds))
            self._show(label, step, advance=1)
            if not self.bars:
                LOGGER.log(NOTICE, '%s: %s took %.0f s', label, step, seconds)
        else:
            LOGGER.error('%s: %s FAILED after %.0f s', label, step, seconds)

    def _show(self, label: str, step: str, advance: int = 0) -> None:
        if self.bars:
            self.bars.update(self.tasks[label], step=step, advance=advance)


def _bars() -> Progress:
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(bar_width=20),
        TextColumn('{task.completed}/{task.total}'),
        TimeElapsedColumn(),
        TextColumn('{task.fields[step]}'),
        console=CONSOLE,
    )
