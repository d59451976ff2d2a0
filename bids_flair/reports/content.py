"""What a participant report is made of: what is known of each session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RegistrationView:
    """One contrast beside the image it was aligned with.

    Attributes
    ----------
    contrast
        Name of the moving image.
    fixed, moving
        Both on the reference grid; no ``moving`` where the registration failed.
    scores, warnings
        What was measured, and what a person should know.
    trusted
        Whether the image was used.
    native, matrix
        The moving image as acquired (the first volume counts), and the transform, reference world
        to native world, that was found; where both are known, the pose before and the pose after
        registration are shown.
    """

    contrast: str
    fixed: Path
    moving: Path | None
    scores: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    trusted: bool = True
    native: Path | None = None
    matrix: np.ndarray | None = None


@dataclass(frozen=True)
class SessionReport:
    """What one session's part of the report shows; all images are on the reference grid.

    Attributes
    ----------
    participant, session
        Labels without ``sub-`` and ``ses-``; no session is None.
    inputs
        Contrast to the path of the file found, as text.
    made_from
        Images that the model saw.
    missing
        Contrasts that were not found.
    warnings
        Sentences for a person; shown first.
    mask, reference
        Brain mask and the image that gives the grid.
    registrations
        One view per contrast that was aligned.
    maps
        Of MD (mm2/s), FA and S0, those computed.
    flair, std, acquired
        Synthetic FLAIR, its uncertainty, and the acquired FLAIR where there is one.
    low, high
        Limits of the synthetic FLAIR's 90 % interval.
    images
        Contrast to image, of what the synthetic FLAIR may be compared with: T1w and T2w.
    scores
        What `bids_flair.scoring` found inside the brain mask; empty without acquired FLAIR.
    details
        How it was computed (backend, model, hash, device, versions).
    timings
        Step and seconds.
    brain
        What is known of the brain mask.
    unfamiliarity
        Above 1, nothing like the inputs was seen in training.
    uncertainty
        Median over the brain of the standard deviation.
    intensities
        Per contrast, the quantiles 'Found' in the brain beside 'TrainingMean' and 'TrainingSD',
        and the levels they are of under 'Levels'.
    factors
        Per contrast, what its values were divided by.
    head_motion
        'DisplacementsMm' of the brain in each volume of the diffusion series from where its mean
        b=0 shows it, 'MeanDisplacementMm' and 'LargestDisplacementMm'; empty without a series.
    """

    participant: str
    session: str | None
    inputs: Mapping[str, str]
    made_from: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    mask: Path
    reference: Path
    registrations: tuple[RegistrationView, ...]
    maps: Mapping[str, Path]
    flair: Path
    std: Path | None
    acquired: Path | None
    scores: Mapping[str, float]
    details: Mapping[str, str]
    timings: Sequence[tuple[str, float]] = ()
    low: Path | None = None
    high: Path | None = None
    images: Mapping[str, Path] = field(default_factory=dict)
    brain: Mapping[str, Any] = field(default_factory=dict)
    unfamiliarity: float | None = None
    uncertainty: float | None = None
    intensities: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    head_motion: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For a heading."""
        return _name(self.participant, self.session)


@dataclass(frozen=True)
class FailedSession:
    """A session without result: what was found, what happened, in a sentence and in full."""

    participant: str
    session: str | None
    message: str
    traceback: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For a heading."""
        return _name(self.participant, self.session)


def _name(participant: str, session: str | None) -> str:
    return f'sub-{participant}' if session is None else f'sub-{participant}, ses-{session}'
