"""Simulated people whose scans are taken while training: a new protocol for every block.

What is kept on disk is what does not depend on a scanner: tissue fractions with the pathology in
them, and the diffusion maps. T1w, T2w and FLAIR of a block are rendered from the signal equations
with tissues and protocols drawn for that block alone, so that no protocol is ever seen twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter

from bids_flair.models.blocks import cut_box
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.simulation import artefacts, contrasts, load_anatomy, physics, shipped
from bids_flair.simulation.anatomy import make_head
from bids_flair.simulation.lesions import add_pathology, lesion_fraction
from bids_flair.simulation.physics import TISSUES, Tissue
from bids_flair.simulation.physics import Sequence as PulseSequence
from bids_flair.training.corpus import (
    BORDER,
    LESION,
    ORDINARY,
    PLACES,
    RIM_MM,
    SAMPLE,
    Cut,
    box_around,
    depth_of,
    some_places,
    write_arrays,
)

# Slices of up to 5.5 mm and the splines that bring them back reach this far, mm.
REACH = 6
FLUID = [TISSUES.index('ventricle'), TISSUES.index('sulcus')]
DIFFUSION = ('MD', 'FA', 'S0')
SHARP, STILL = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Site:
    """What people scanned at one place share: tissue properties and protocols."""

    tissues: dict[str, Tissue]
    scans: dict[str, contrasts.Scan]


@dataclass(frozen=True)
class SimulatedPerson:
    """A head without a scanner.

    Attributes
    ----------
    fractions : ndarray of uint8, shape (tissues, X, Y, Z)
        Of every tissue in `TISSUES` order, 255 being all; 1 mm, RAS.
    diffusion : ndarray of float16, shape (3, X, Y, Z)
        MD (1e-3 mm2/s), FA, and S0 in units of its white matter.
    depth, kind, places
        As in :class:`bids_flair.training.corpus.Person`.
    sample : ndarray of float32, shape (n, tissues + 3 + 1)
        Fractions, diffusion and depth of voxels from all over the head.
    """

    name: str
    fractions: np.ndarray
    diffusion: np.ndarray
    depth: np.ndarray
    kind: np.ndarray
    sample: np.ndarray
    places: dict[int, np.ndarray] = field(repr=False)

    def cut(
        self, rng: np.random.Generator, corner: np.ndarray, size: int, *, foreign: bool = True
    ) -> Cut:
        """Scan a cube at a site of its own, which is foreign in any case."""
        return self.scan(rng, draw_site(rng), corner, (size, size, size))

    def draw_sample(
        self, rng: np.random.Generator, *, foreign: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sample as a site of its own shows it, and its depth."""
        return self._sample_at(rng, draw_site(rng)), self.sample[:, -1]

    def _sample_at(self, rng: np.random.Generator, site: Site) -> np.ndarray:
        """With texture, shading and noise, without which its quantiles would be like no scan's."""
        sample = np.zeros((len(self.sample), len(CONTRASTS)), np.float32)
        fractions = self.sample[:, : len(TISSUES)]
        t1, t2 = contrasts.draw_variation_apart(rng, len(sample))
        for name, scan in site.scans.items():
            plain, by_t1, by_t2 = (fractions @ _signals(scan.sequence, site.tissues).T).T
            signal = plain + t1 * by_t1 + t2 * by_t2
            signal *= np.exp(scan.shading * rng.standard_normal(len(sample), np.float32))
            sample[:, CONTRASTS.index(name)] = artefacts.rician(rng, signal, 1 / scan.snr)
        first = CONTRASTS.index(DIFFUSION[0])
        sample[:, first : first + len(DIFFUSION)] = self.sample[:, len(TISSUES) : -1]
        return sample

    def whole(self, rng: np.random.Generator, site: Site) -> Cut:
        """Scan the whole person at one site."""
        return self.scan(rng, site, (0, 0, 0), self.depth.shape)

    def scan(
        self, rng: np.random.Generator, site: Site, corner: Sequence[int], shape: Sequence[int]
    ) -> Cut:
        """Scan a box at one site."""
        whole = tuple(n + 2 * REACH for n in shape)
        fractions = cut_box(self.fractions, [c - REACH for c in corner], whole)
        fractions = fractions.reshape(len(TISSUES), -1)
        here = fractions.any(1)
        fractions = fractions[here].astype(np.float32) / 255
        values = np.zeros((len(CONTRASTS), *shape), np.float32)
        variation = contrasts.draw_variation(rng, whole, 1.0).reshape(2, -1)
        signals = np.stack([_signals(s.sequence, site.tissues) for s in site.scans.values()])
        parts = signals[..., here].reshape(-1, len(fractions)) @ fractions
        parts = parts.reshape(*signals.shape[:2], -1)
        for k, (name, scan) in enumerate(site.scans.items()):
            i = CONTRASTS.index(name)
            plain, by_t1, by_t2 = parts[k]
            signal = (plain + by_t1 * variation[0] + by_t2 * variation[1]).reshape(whole)
            # A target that has moved, or is of thick slices, teaches nothing but blur.
            target = name == 'FLAIR'
            spacing, shift = (SHARP, STILL) if target else (scan.spacing_mm, scan.shift_mm)
            image = artefacts.acquire(rng, signal, 1.0, spacing, 1 / scan.snr, shift)
            values[i] = image[REACH:-REACH, REACH:-REACH, REACH:-REACH]
        for k, name in enumerate(DIFFUSION):
            i = CONTRASTS.index(name)
            values[i] = cut_box(self.diffusion[k], corner, shape)
        depth = cut_box(self.depth, corner, shape, -8)
        presence = np.repeat((depth > -RIM_MM)[None], len(CONTRASTS), 0)
        kind = cut_box(self.kind, corner, shape)
        sample = self._sample_at(rng, site)
        return Cut(values * presence, presence, depth, kind, sample, self.sample[:, -1])


def draw_site(rng: np.random.Generator) -> Site:
    """Draw field strength, tissues and protocols."""
    field_strength = float(rng.choice([1.5, 3.0]))
    tissues = physics.draw_tissues(rng, field_strength)
    return Site(tissues, contrasts.draw_scans(rng, field_strength, tissues))


def prepare_head(seed: int, cache: Path) -> Path:
    """Make a person into ``cache / head-SEED`` (made already: left as it is)."""
    folder = cache / f'head-{seed:04d}'
    if folder.exists():
        return folder
    rng = np.random.default_rng([seed, 2])
    names = shipped()
    head = make_head(load_anatomy(names[seed % len(names)]), rng, 1.0, brain_only=True)
    add_pathology(rng, head)
    tissues = physics.draw_tissues(rng, float(rng.choice([1.5, 3.0])))
    maps = contrasts.take_diffusion(rng, head, tissues)
    maps['MD'] = maps['MD'] * 1e3
    brain = head.volume(head.brain) > 0.5
    white = brain & (head.fraction('white') > 0.95)
    maps['S0'] = maps['S0'] / np.median(maps['S0'][white])
    box = box_around(brain, RIM_MM)
    brain, depth = brain[box], depth_of(brain[box])
    fractions = np.stack([head.volume(column)[box] for column in head.fractions.T])
    fractions[0][~head.inside[box]] = 1
    lesions = (head.volume(lesion_fraction(head))[box] > 0.5) & brain
    fluid = (fractions[FLUID].sum(0) > 0.5) & brain
    border = np.abs(uniform_filter(fluid.astype(np.float32), 5) - 0.5) < 0.45
    kind = np.select([lesions, border & brain], [LESION, BORDER], ORDINARY).astype(np.uint8)
    diffusion = np.stack([maps[name][box] for name in DIFFUSION])
    where = np.argwhere(depth > -RIM_MM)
    where = tuple(rng.choice(where, min(SAMPLE, len(where)), replace=False).T)
    blurred = [uniform_filter(volume, 2)[where] for volume in (*fractions, *diffusion)]
    arrays = {
        'fractions': np.rint(fractions * 255).astype(np.uint8),
        'diffusion': diffusion.astype(np.float16),
        'depth': depth,
        'kind': kind,
        'sample': np.stack([*blurred, depth[where]], 1).astype(np.float32),
    }
    for k in (ORDINARY, BORDER, LESION):
        arrays[f'places{k}'] = some_places(rng, np.argwhere((kind == k) & brain), PLACES)
    write_arrays(folder, arrays)
    return folder


def read_head(folder: Path) -> SimulatedPerson:
    """Open a head without reading its volumes."""
    arrays = {
        name: np.load(folder / f'{name}.npy', mmap_mode='r')
        for name in ('fractions', 'diffusion', 'depth', 'kind')
    }
    places = {k: np.load(folder / f'places{k}.npy') for k in (ORDINARY, BORDER, LESION)}
    sample = np.load(folder / 'sample.npy')
    return SimulatedPerson(folder.name, sample=sample, places=places, **arrays)


def _signals(sequence: PulseSequence, tissues: dict[str, Tissue]) -> np.ndarray:
    """`physics.expansion` in units of white matter: (3, tissues)."""
    return physics.expansion(sequence, tissues) / np.float32(
        abs(sequence.signal(tissues['white']))
    )
