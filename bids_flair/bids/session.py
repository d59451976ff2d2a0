"""What there is of one participant in one session, and where it lies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bids_flair.bids.acquisition import Acquisition
from bids_flair.bids.derivatives import Prepared
from bids_flair.descriptor import load_descriptor


@dataclass(frozen=True)
class SessionInputs:
    """The images of one participant in one session (or of one without sessions).

    Attributes
    ----------
    images : dict
        Contrast ('T1w', 'T2w', 'dwi', 'FLAIR') to the one file that is taken.
    bval, bvec : path or None
        Of the diffusion series.
    acquisition : Acquisition
        How the diffusion series was encoded.
    passed_over : tuple of str
        What else was found, and why it is not taken.
    prepared : mapping
        What other pipelines prepared: the contrasts among `images` that are not raw, and 'mask',
        'MD', 'FA', 'S0'.
    positions : mapping
        Contrast to a transform file of another pipeline: from the reference to that image.
    guide : Prepared or None
        Prepared image that shows where the prepared maps lie.
    """

    participant: str
    session: str | None
    images: Mapping[str, Path]
    bval: Path | None = None
    bvec: Path | None = None
    acquisition: Acquisition = field(default=Acquisition())
    passed_over: tuple[str, ...] = field(default=())
    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    positions: Mapping[str, Path] = field(default_factory=dict)
    guide: Prepared | None = None

    @property
    def label(self) -> str:
        """As in file names: ``sub-01`` or ``sub-01_ses-02``."""
        session = f'_ses-{self.session}' if self.session else ''
        return f'sub-{self.participant}{session}'

    @property
    def missing_companions(self) -> tuple[str, ...]:
        """Which of 'bval' and 'bvec' the diffusion series lacks."""
        if 'dwi' not in self.images:
            return ()
        return tuple(kind for kind in ('bval', 'bvec') if getattr(self, kind) is None)

    @property
    def reference(self) -> str | None:
        """The contrast whose space everything is brought to; None if no input is there."""
        return next((c for c in load_descriptor().reference_order if c in self.images), None)

    @property
    def reference_space(self) -> str | None:
        """Label of that space: of the contrast, or what another pipeline calls it."""
        reference = self.reference
        return self.prepared[reference].space if reference in self.prepared else reference

    @property
    def has_maps(self) -> bool:
        """Whether tensor maps are there, so that none need be fitted."""
        return 'MD' in self.prepared

    @property
    def tensor_maps(self) -> tuple[str, ...]:
        """Which of 'MD', 'FA' and 'S0' can be had; the mean b=0 of a series stands in for S0."""
        every = load_descriptor().contrasts['dwi'].images
        if not self.has_maps:
            return every if 'dwi' in self.images else ()
        mean_b0 = ('S0',) if 'dwi' in self.images else ()
        return tuple(image for image in every if image in (*self.prepared, *mean_b0))

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Contrasts of which there is an image, or maps fitted to one."""
        there = (*self.images, *(('dwi',) if self.has_maps else ()))
        return tuple(name for name in load_descriptor().contrasts if name in there)

    def in_place(self, contrast: str) -> bool:
        """Whether another pipeline has brought an image, or its maps, to the reference."""
        name = 'MD' if contrast == 'dwi' and self.has_maps else contrast
        return name in self.prepared and self.prepared[name].space == self.reference_space
