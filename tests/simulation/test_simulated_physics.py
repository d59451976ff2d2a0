"""Signal equations against their textbook limits, and drawn contrasts against real scans."""

import numpy as np
import pytest

from bids_flair.simulation import physics
from bids_flair.simulation.physics import (
    InversionRecovery,
    Mprage,
    SpinEcho,
    SpoiledGradientEcho,
    Tissue,
)

WHITE = Tissue(t1=850, t2=70, pd=0.7, mt=1.0)
FLUID = Tissue(t1=4300, t2=2400, pd=1.0)


@pytest.mark.parametrize(('tr', 'expected'), [(9500, 2533), (5000, 1811)])
def test_null_inversion_time_agrees_with_the_literature(tr, expected):
    assert physics.null_inversion_time(4300, tr) == pytest.approx(expected, abs=1)


def test_flair_nulls_fluid_at_the_null_time_and_changes_sign_there():
    ti = physics.null_inversion_time(4300, 9500, train=300)
    assert InversionRecovery(9500, 110, ti, train=300).signal(FLUID) == pytest.approx(0, abs=1e-9)
    assert InversionRecovery(9500, 110, ti - 100, train=300).signal(FLUID) < 0
    assert InversionRecovery(9500, 110, ti + 100, train=300).signal(FLUID) > 0


def test_spin_echo_reaches_proton_density_when_relaxed():
    assert SpinEcho(tr=1e6, te=0).signal(WHITE) == pytest.approx(0.7)
    assert SpinEcho(tr=1e6, te=70).signal(WHITE) == pytest.approx(0.7 / np.e)


def test_gradient_echo_peaks_at_the_ernst_angle():
    ernst = np.rad2deg(np.arccos(np.exp(-20 / WHITE.t1)))
    best = SpoiledGradientEcho(20, 0, ernst).signal(WHITE)
    assert best > SpoiledGradientEcho(20, 0, ernst + 5).signal(WHITE)
    assert best > SpoiledGradientEcho(20, 0, ernst - 5).signal(WHITE)


def test_mprage_agrees_with_a_simulation_pulse_by_pulse():
    scan = Mprage(tr=2300, ti=900, te=0, flip=9, spacing=7, echoes=160, efficiency=0.96)
    mz, angle, t1 = 1.0, np.deg2rad(9), WHITE.t1

    def relax(m: float, time: float) -> float:
        return 1 + (m - 1) * np.exp(-time / t1)

    for _ in range(30):
        mz = relax(-0.96 * mz, 900 - 80 * 7)
        for pulse in range(160):
            if pulse == 80:
                centre = np.sin(angle) * mz
            mz = relax(np.cos(angle) * mz, 7)
        mz = relax(mz, 2300 - 900 - 80 * 7)
    assert scan.signal(WHITE) == pytest.approx(0.7 * centre, rel=1e-6)


@pytest.mark.parametrize(('md', 'fa'), [(0.8, 0.0), (0.8, 0.4), (1.1, 0.85)])
def test_axial_tensor_has_the_asked_diffusivity_and_anisotropy(md, fa):
    along, across = physics.axial_tensor(md, fa)
    values = np.array([along, across, across])
    assert values.mean() == pytest.approx(md)
    spread = np.sqrt(1.5 * ((values - md) ** 2).sum() / (values**2).sum())
    assert spread == pytest.approx(fa, abs=1e-9)


@pytest.mark.parametrize('field', [1.5, 3.0])
@pytest.mark.parametrize('thick', [True, False])
def test_drawn_flairs_look_like_flairs(field, thick):
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(60):
        tissues = physics.draw_tissues(rng, field)
        signal = physics.signals(physics.draw_flair(rng, tissues, thick=thick), tissues)
        ratios.append(np.abs(signal / signal[physics.TISSUES.index('white')]))
    cortex, lesion, fluid = (
        np.median(np.array(ratios)[:, physics.TISSUES.index(name)])
        for name in ('cortex', 'lesion', 'ventricle')
    )
    assert 1.1 < cortex < 1.35
    assert 1.4 < lesion < 2.0
    assert fluid < 0.2


def test_lesions_that_look_almost_like_fluid_are_bright_in_flair():
    """As in sub-19 of open-ms-mni: T1w .34, T2w 2.7 of white (fluid .14, 3.6), FLAIR 1.4."""
    rng = np.random.default_rng(0)
    white, lesion, fluid = (physics.TISSUES.index(n) for n in ('white', 'oedema', 'ventricle'))
    alike = []
    for _ in range(200):
        tissues = physics.draw_tissues(rng, 3.0)
        t1w, t2w, flair = (
            np.abs(physics.signals(sequence, tissues))
            for sequence in (
                physics.draw_t1_inversion(rng),
                physics.draw_t2w(rng, thick=True),
                physics.draw_flair(rng, tissues, thick=True),
            )
        )
        towards_fluid = [(i[white] - i[lesion]) / (i[white] - i[fluid]) for i in (t1w, t2w)]
        if min(towards_fluid) > 0.6:
            alike.append(flair[lesion] / flair[white])
    assert len(alike) > 10
    assert np.median(alike) > 1.25
    assert min(alike) > 1


def test_inversion_recovery_t1w_has_dark_fluid_and_grey_cortex():
    """As the 3 T scans of open-ms-mni: fluid .05 to .18 of white matter, cortex about .75."""
    rng = np.random.default_rng(2)
    shown = []
    for _ in range(60):
        tissues = physics.draw_tissues(rng, 3.0)
        signal = np.abs(physics.signals(physics.draw_t1_inversion(rng), tissues))
        shown.append(signal / signal[physics.TISSUES.index('white')])
    cortex, fluid = (
        np.median(np.array(shown)[:, physics.TISSUES.index(name)])
        for name in ('cortex', 'ventricle')
    )
    assert 0.55 < cortex < 0.85
    assert fluid < 0.25


def test_drawn_t1w_and_t2w_have_their_order_of_brightness():
    rng = np.random.default_rng(1)
    for _ in range(40):
        tissues = physics.draw_tissues(rng, 3.0)
        white, cortex, fluid = (physics.TISSUES.index(n) for n in ('white', 'cortex', 'ventricle'))
        t1w = np.abs(physics.signals(physics.draw_mprage(rng), tissues))
        t2w = physics.signals(physics.draw_t2w(rng, thick=True), tissues)
        assert t1w[white] > t1w[cortex] > t1w[fluid]
        assert t2w[white] < t2w[cortex] < t2w[fluid]
