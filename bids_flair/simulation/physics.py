"""Tissues and pulse sequences: what signal a pure compartment gives.

Times are in milliseconds, diffusivities in 1e-3 mm2/s, flip angles in degrees. A signal keeps its
sign (inversion-prepared fluid may be negative), because compartments in one voxel add as vectors:
sum the signals, then take the magnitude.

The tissue ranges span the literature at 1.5 and 3 T: relaxation times as collected in
DreymaR/MRI_IR_Calculator (GE, Alsop, Bojorquez 2017, Rooney 2007) with the wide white-matter T1 of
arXiv 2409.05318, water fractions from FSL-MRS, diffusion from ONDRI
(doi:10.1155/2022/5860364) and Patz 2007.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

TISSUES = (
    'air', 'white', 'cortex', 'deep', 'pallidum', 'ventricle', 'sulcus',
    'bone', 'marrow', 'fat', 'soft', 'dura',
    'lesion', 'oedema', 'tumour', 'necrosis',
)  # fmt: skip
BRAIN = TISSUES[1:7]
PATHOLOGY = TISSUES[12:]
# Relative change of T1 or T2 over which `expansion` measures a slope.
STEP = 0.03


@dataclass(frozen=True)
class Tissue:
    """One compartment.

    Attributes
    ----------
    t1, t2 : float
        Relaxation times, ms.
    pd : float
        Visible proton density, 1 for water.
    md : float
        Mean diffusivity, 1e-3 mm2/s.
    fa : float
        Fractional anisotropy.
    mt : float
        How strongly the macromolecular pool lowers the signal under many off-resonant pulses,
        relative to white matter.
    """

    t1: float
    t2: float
    pd: float
    md: float = 1.0
    fa: float = 0.0
    mt: float = 0.0


class Range(NamedTuple):
    """Uniform ranges that a tissue is drawn from; the fields are those of `Tissue`."""

    t1: tuple[float, float]
    t2: tuple[float, float]
    pd: tuple[float, float]
    md: tuple[float, float]
    fa: tuple[float, float]
    mt: float


_FLUID = {'t2': (1800, 2600), 'pd': (0.97, 1.0), 'mt': 0.0}
# Fat's density reaches down to where its signal is partly suppressed.
_OUTSIDE_3T = {
    'bone': Range((300, 600), (1, 3), (0.05, 0.15), (0.3, 0.5), (0, 0.1), 0),
    'marrow': Range((300, 500), (45, 60), (0.5, 0.8), (0.2, 0.4), (0, 0.1), 0.1),
    'fat': Range((250, 385), (60, 80), (0.4, 1.0), (0.05, 0.2), (0, 0.1), 0),
    'soft': Range((1300, 1580), (35, 45), (0.8, 1.0), (1.2, 1.6), (0.1, 0.25), 0.9),
    'dura': Range((1000, 1600), (30, 50), (0.5, 0.75), (0.8, 1.4), (0.1, 0.2), 0.8),
}
_OUTSIDE_15T = _OUTSIDE_3T | {
    'fat': Range((192, 350), (60, 80), (0.4, 1.0), (0.05, 0.2), (0, 0.1), 0),
    'soft': Range((850, 1000), (40, 50), (0.8, 1.0), (1.2, 1.6), (0.1, 0.25), 0.9),
    'dura': Range((700, 1100), (35, 55), (0.5, 0.75), (0.8, 1.4), (0.1, 0.2), 0.8),
}
_DIFFUSION_FLUID = {
    'ventricle': Range((4200, 4330), md=(2.6, 3.0), fa=(0.05, 0.12), **_FLUID),
    'sulcus': Range((4200, 4330), md=(2.2, 2.9), fa=(0.03, 0.08), **_FLUID),
}
_RANGES = {
    1.5: _OUTSIDE_15T
    | _DIFFUSION_FLUID
    | {
        'white': Range((600, 720), (68, 82), (0.66, 0.74), (0.70, 0.84), (0.36, 0.50), 1.0),
        'cortex': Range((960, 1240), (86, 102), (0.77, 0.85), (0.82, 1.05), (0.10, 0.18), 0.6),
        'deep': Range((820, 1020), (76, 90), (0.75, 0.82), (0.74, 0.88), (0.15, 0.28), 0.75),
        'pallidum': Range((720, 860), (55, 70), (0.70, 0.76), (0.76, 0.88), (0.2, 0.35), 0.9),
        'lesion': Range((850, 1350), (92, 125), (0.74, 0.86), (0.95, 1.5), (0.15, 0.30), 0.35),
        'oedema': Range((1100, 2400), (100, 210), (0.78, 0.95), (1.2, 2.0), (0.05, 0.25), 0.2),
        'tumour': Range((1100, 1700), (92, 140), (0.78, 0.9), (1.0, 1.5), (0.08, 0.2), 0.4),
        'necrosis': Range((1600, 3600), (200, 700), (0.9, 1.0), (1.6, 2.5), (0.03, 0.1), 0.05),
    },
    3.0: _OUTSIDE_3T
    | _DIFFUSION_FLUID
    | {
        'white': Range((780, 1000), (58, 74), (0.66, 0.74), (0.70, 0.84), (0.36, 0.50), 1.0),
        'cortex': Range((1180, 1430), (74, 90), (0.77, 0.85), (0.82, 1.05), (0.10, 0.18), 0.6),
        'deep': Range((1020, 1220), (62, 76), (0.75, 0.82), (0.74, 0.88), (0.15, 0.28), 0.75),
        'pallidum': Range((900, 1080), (42, 56), (0.70, 0.76), (0.76, 0.88), (0.2, 0.35), 0.9),
        'lesion': Range((1050, 1700), (78, 112), (0.74, 0.86), (0.95, 1.5), (0.15, 0.30), 0.35),
        'oedema': Range((1300, 2800), (85, 190), (0.78, 0.95), (1.2, 2.0), (0.05, 0.25), 0.2),
        'tumour': Range((1300, 1900), (78, 122), (0.78, 0.9), (1.0, 1.5), (0.08, 0.2), 0.4),
        'necrosis': Range((1800, 3700), (180, 600), (0.9, 1.0), (1.6, 2.5), (0.03, 0.1), 0.05),
    },
}


# T2 of other tissues against white matter's in the same people, set so that T2w and FLAIR ratios
# span those measured in real scans; the absolute values of different
# studies differ by more than the tissues do.
_T2_OF_WHITE = {
    'cortex': (1.05, 1.19),
    'deep': (0.94, 1.05),
    'pallidum': (0.72, 0.88),
    'lesion': (1.20, 1.65),
    'tumour': (1.20, 1.75),
    'oedema': (1.35, 2.80),
}
# The more water, the longer T1 and T2 and the larger the density: T2 and density follow T1 to so
# much of their ranges. A lesion with the T1 of fluid and the T2 of tissue would be black in FLAIR.
_WATERY = ('lesion', 'oedema')
_FOLLOWS = 0.8


def draw_tissues(rng: np.random.Generator, field: float) -> dict[str, Tissue]:
    """Draw one person's tissues.

    Parameters
    ----------
    rng : numpy.random.Generator
    field : {1.5, 3.0}
        Field strength, T.

    Returns
    -------
    dict
        `Tissue` by name, for every name in `TISSUES`.
    """
    tissues = {'air': Tissue(1000.0, 100.0, 0.0)}
    water = {}
    for name, limits in _RANGES[field].items():
        t1, t2, pd, *diffusion = rng.uniform(size=5)
        if name in _WATERY:
            water[name], pd = t1, _following(t1, pd)
        shares = zip(limits[:5], (t1, t2, pd, *diffusion), strict=True)
        tissues[name] = Tissue(*(_between(*pair) for pair in shares), mt=limits.mt)
    # One cohort differs from another mostly as a whole: the rest follows white matter.
    white = tissues['white'].t2
    for name, ratio in _T2_OF_WHITE.items():
        share = rng.uniform()
        if name in _WATERY:
            share = _following(water[name], share)
        tissues[name] = replace(tissues[name], t2=white * _between(ratio, share))
    return tissues


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share


def _following(leader: float, share: float) -> float:
    return _FOLLOWS * leader + (1 - _FOLLOWS) * share


class Sequence(Protocol):
    """Anything that turns tissue parameters into a signed signal."""

    def signal(self, tissue: Tissue) -> float:
        """Signal of one pure compartment, in units of fully relaxed water."""
        ...


@dataclass(frozen=True)
class SpinEcho:
    """Spin echo or fast spin echo: T1w, T2w and (b=0) echo-planar imaging.

    ``PD (1 - exp(-(TR - train)/T1)) exp(-TE/T2)``, `train` being the time the echo train takes.
    """

    tr: float
    te: float
    train: float = 0.0
    mt: float = 0.0

    def signal(self, tissue: Tissue) -> float:
        recovered = 1 - np.exp(-(self.tr - self.train) / tissue.t1)
        return _visible(tissue, self.mt) * recovered * np.exp(-self.te / tissue.t2)


@dataclass(frozen=True)
class SpoiledGradientEcho:
    """Spoiled gradient echo in its steady state (Ernst)."""

    tr: float
    te: float
    flip: float
    mt: float = 0.0

    def signal(self, tissue: Tissue) -> float:
        e1, angle = np.exp(-self.tr / tissue.t1), np.deg2rad(self.flip)
        steady = np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1)
        return _visible(tissue, self.mt) * steady * np.exp(-self.te / tissue.t2)


@dataclass(frozen=True)
class Mprage:
    """Inversion, then a train of `echoes` small flips `spacing` apart.

    `ti` is the time at which the centre of k-space, half way through the train, is read. The
    longitudinal magnetisation just before each inversion is the fixed point of inversion,
    recovery, readout (which drives it to its own steady state) and recovery (Deichmann 2000,
    Marques 2010). `efficiency` is that of the inversion pulse.
    """

    tr: float
    ti: float
    te: float
    flip: float
    spacing: float
    echoes: int
    efficiency: float = 0.96

    def signal(self, tissue: Tissue) -> float:
        angle, t1, half = np.deg2rad(self.flip), tissue.t1, self.echoes / 2
        before = np.exp(-(self.ti - half * self.spacing) / t1)
        after = np.exp(-(self.tr - self.ti - half * self.spacing) / t1)
        e1 = np.exp(-self.spacing / t1)
        loss = np.cos(angle) * e1
        driven = (1 - e1) / (1 - loss)

        def after_pulses(start: float, pulses: float) -> float:
            return start * loss**pulses + driven * (1 - loss**pulses)

        # Mz at the end of a cycle is linear in Mz at its start: solve end == start.
        offset = (1 - after) + after * after_pulses(1 - before, self.echoes)
        slope = -self.efficiency * before * loss**self.echoes * after
        steady = offset / (1 - slope)
        start = (1 - before) - self.efficiency * before * steady
        transverse = np.sin(angle) * after_pulses(start, half)
        return tissue.pd * transverse * np.exp(-self.te / tissue.t2)


@dataclass(frozen=True)
class InversionRecovery:
    """Inversion recovery with a (fast) spin-echo readout of length `train`: FLAIR, some T1w.

    ``PD (1 - (1 + e) exp(-TI/T1) + e exp(-(TR - train)/T1)) exp(-TE/T2)``, signed; `e` is the
    `efficiency` of the inversion.
    """

    tr: float
    te: float
    ti: float
    train: float = 0.0
    mt: float = 0.0
    efficiency: float = 1.0

    def signal(self, tissue: Tissue) -> float:
        recovered = 1 - (1 + self.efficiency) * np.exp(-self.ti / tissue.t1)
        recovered += self.efficiency * np.exp(-(self.tr - self.train) / tissue.t1)
        return _visible(tissue, self.mt) * recovered * np.exp(-self.te / tissue.t2)


def null_inversion_time(t1: float, tr: float, train: float = 0.0) -> float:
    """Inversion time (ms) at which `InversionRecovery` nulls a compartment of the given T1."""
    return t1 * (np.log(2) - np.log1p(np.exp(-(tr - train) / t1)))


def _visible(tissue: Tissue, mt: float) -> float:
    return tissue.pd * (1 - mt * tissue.mt)


def scaled(tissue: Tissue, name: str, factor: float) -> Tissue:
    """The same tissue with one of its parameters multiplied by `factor`."""
    return replace(tissue, **{name: getattr(tissue, name) * factor})


def signals(sequence: Sequence, tissues: Mapping[str, Tissue]) -> np.ndarray:
    """Signed signal of every tissue, in the order of `TISSUES` (float32)."""
    return np.array([sequence.signal(tissues[name]) for name in TISSUES], np.float32)


def expansion(sequence: Sequence, tissues: Mapping[str, Tissue]) -> np.ndarray:
    """Signals of the tissues, and how they grow with the logarithms of T1 and of T2.

    Returns
    -------
    numpy.ndarray
        float32, (3, tissues), in the order of `TISSUES`.
    """
    plain = signals(sequence, tissues)
    slopes = []
    for name in ('t1', 't2'):
        longer = {key: scaled(tissue, name, 1 + STEP) for key, tissue in tissues.items()}
        slopes.append((signals(sequence, longer) - plain) / STEP)
    return np.stack([plain, *slopes]).astype(np.float32)


def axial_tensor(md: float, fa: float) -> tuple[float, float]:
    """Diffusivities along and across the fibre of an axially symmetric tensor.

    From the definition of FA: ``k = FA / sqrt(3 - 2 FA^2)``, along ``MD (1 + 2k)``, across
    ``MD (1 - k)``.
    """
    k = fa / np.sqrt(3 - 2 * fa**2)
    return md * (1 + 2 * k), md * (1 - k)


def draw_t1w(rng: np.random.Generator, field: float) -> Sequence:
    """Draw a T1w protocol: gradient echoes, inversion-prepared or spoiled, or spin echoes."""
    kind = rng.choice(['mprage', 'gradient', 'inversion', 'spin'], p=[0.45, 0.15, 0.15, 0.25])
    if kind == 'mprage':
        return draw_mprage(rng)
    if kind == 'inversion':
        return draw_t1_inversion(rng)
    if kind == 'gradient':
        return SpoiledGradientEcho(
            tr=rng.uniform(9, 28), te=rng.uniform(2, 5), flip=rng.uniform(16, 30)
        )
    return SpinEcho(
        tr=rng.uniform(400, 620) * (1 if field < 2 else 1.1),
        te=rng.uniform(8, 16),
        mt=rng.uniform(0.0, 0.25),
    )


def draw_t1_inversion(rng: np.random.Generator) -> InversionRecovery:
    """Draw a T1w inversion-recovery fast spin echo (TIRM, "T1 FLAIR"): fluid near its null."""
    return InversionRecovery(
        tr=rng.uniform(1900, 2700),
        te=rng.uniform(8, 24),
        ti=rng.uniform(780, 1000),
        train=rng.uniform(50, 120),
        mt=rng.uniform(0.1, 0.35),
        efficiency=rng.uniform(0.75, 1.0),
    )


def draw_mprage(rng: np.random.Generator) -> Mprage:
    """Draw an MPRAGE protocol, across the vendors' settings."""
    ti = rng.uniform(800, 1050)
    return Mprage(
        tr=rng.uniform(1900, 2500),
        ti=ti,
        te=rng.uniform(2.2, 4),
        flip=rng.uniform(7, 10),
        spacing=rng.uniform(6.5, 8.2),
        echoes=int(rng.integers(150, 192)),
        efficiency=rng.uniform(0.92, 0.98),
    )


def draw_t2w(rng: np.random.Generator, thick: bool) -> SpinEcho:
    """Draw a fast spin-echo T2w protocol, 2D (`thick`) or 3D with its effective echo time."""
    if thick:
        tr, te, train = rng.uniform(2800, 6000), rng.uniform(80, 120), rng.uniform(100, 200)
        return SpinEcho(tr, te, train, mt=rng.uniform(0.05, 0.25))
    return SpinEcho(rng.uniform(2500, 3600), rng.uniform(80, 130), rng.uniform(250, 600))


def draw_flair(
    rng: np.random.Generator, tissues: Mapping[str, Tissue], *, thick: bool
) -> InversionRecovery:
    """Draw a FLAIR protocol, 2D (`thick`) or 3D, as a radiographer would keep it.

    Of a few dozen candidates, the first in which cortex is brighter than white matter, lesions
    stand out and fluid is dark, as in every clinical FLAIR; else the one that comes nearest.
    """
    candidates = [_any_flair(rng, thick) for _ in range(30)]
    return min(candidates, key=lambda sequence: _implausible(sequence, tissues))


def _implausible(sequence: InversionRecovery, tissues: Mapping[str, Tissue]) -> float:
    """How far a FLAIR's contrast is from what real ones show; 0 where it is within their range."""
    white = sequence.signal(tissues['white'])
    cortex, fluid = (sequence.signal(tissues[name]) / white for name in ('cortex', 'ventricle'))
    short = [1.12 - cortex, cortex - 1.45, abs(fluid) - 0.3]
    for name in ('lesion', 'oedema'):
        shown = sequence.signal(tissues[name]) / white
        short += [max(1.25, cortex + 0.1) - shown, shown - 1.8]
    return sum(max(0.0, float(amount)) for amount in short)


def _any_flair(rng: np.random.Generator, thick: bool) -> InversionRecovery:
    if thick:
        tr, train, te = rng.uniform(8000, 11000), rng.uniform(150, 300), rng.uniform(90, 140)
        mt = rng.uniform(0.1, 0.35)
    else:
        tr, train, te = rng.uniform(4800, 8000), rng.uniform(400, 700), rng.uniform(110, 170)
        mt = rng.uniform(0.1, 0.35)
    ti = null_inversion_time(4265.0, tr, train) * rng.uniform(0.97, 1.02)
    return InversionRecovery(tr, te, ti, train, mt)


def draw_epi(rng: np.random.Generator) -> SpinEcho:
    """Draw the spin echo of a diffusion-weighted echo-planar protocol."""
    return SpinEcho(tr=rng.uniform(3600, 9000), te=rng.uniform(65, 95))
