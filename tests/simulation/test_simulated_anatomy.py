"""Shipped heads, their codes, and the people made of them."""

import numpy as np
import pytest

from bids_flair.simulation.anatomy import (
    FOLDER,
    MIXTURES,
    PAIRS,
    Borders,
    Head,
    code_of,
    load_anatomy,
    make_head,
    shipped,
)
from bids_flair.simulation.lesions import add_pathology, lesion_fraction, survey
from bids_flair.simulation.physics import TISSUES


def test_every_code_is_a_mixture_that_sums_to_one():
    np.testing.assert_allclose(MIXTURES[:, :-1].sum(1), 1)
    for first, second in PAIRS:
        row = MIXTURES[code_of(first, second, 1)]
        assert row[TISSUES.index(first)] == 0.75
        assert row[TISSUES.index(second)] == 0.25


@pytest.mark.parametrize('name', shipped())
def test_shipped_heads_are_small_and_hold_a_brain_of_plausible_size(name):
    assert (FOLDER / f'{name}.nii.gz').stat().st_size < 1_000_000
    anatomy = load_anatomy(name)
    assert 1.1 < anatomy.brain.sum() / 1e6 < 1.9
    white, cortex = (
        MIXTURES[:, TISSUES.index(n)][anatomy.codes].sum() / 1e6 for n in ('white', 'cortex')
    )
    assert 0.35 < white < 0.75
    assert 0.45 < cortex < 0.95
    ventricle = MIXTURES[:, TISSUES.index('ventricle')][anatomy.codes].sum() / 1e3
    assert 8 < ventricle < 60


def test_heads_differ_and_fractions_sum_to_one():
    anatomy = load_anatomy(shipped()[0])
    heads = [make_head(anatomy, np.random.default_rng(seed), 6.0) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(heads[0].fractions, heads[1].fractions)
    assert heads[0].fractions.shape != heads[2].fractions.shape
    for head in heads:
        np.testing.assert_allclose(head.fractions.sum(1), 1, atol=1e-4)
        assert head.fractions.min() >= -1e-4
        litres = head.brain.sum() * head.voxel_mm**3 / 1e6
        assert 0.9 < litres < 2.4


def test_brain_only_leaves_out_the_scalp_and_keeps_the_brain():
    anatomy = load_anatomy(shipped()[0])
    whole, brain = (
        make_head(anatomy, np.random.default_rng(0), 5.0, brain_only=only)
        for only in (False, True)
    )
    assert brain.fraction('fat').sum() < 0.05 * whole.fraction('fat').sum()
    assert brain.brain.sum() == pytest.approx(whole.brain.sum(), rel=0.03)


def test_pathology_replaces_tissue_and_makes_none():
    anatomy = load_anatomy(shipped()[0])
    loads = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        head = make_head(anatomy, rng, 5.0, brain_only=True)
        add_pathology(rng, head)
        np.testing.assert_allclose(head.fractions.sum(1), 1, atol=1e-3)
        assert head.fractions.min() > -1e-3
        loads.append((lesion_fraction(head) > 0.5).sum() * 5**3 / 1e3)
    assert min(loads) < 1
    assert max(loads) > 5


def test_distances_change_from_voxel_to_voxel_and_not_in_steps():
    # A ball of fluid in white matter, 1 mm voxels: what is measured every 2 mm is not blocky.
    shape = (30, 30, 30)
    grid = np.argwhere(np.ones(shape))
    fractions = np.zeros((len(grid), len(TISSUES)), np.float32)
    from_centre = np.linalg.norm(grid - 14.5, axis=1)
    fluid = from_centre < 6
    fractions[fluid, TISSUES.index('ventricle')] = 1
    fractions[~fluid, TISSUES.index('white')] = 1
    fractions[0] = np.eye(len(TISSUES))[TISSUES.index('cortex')]
    head = Head(shape, np.eye(4), np.ones(shape, bool), fractions, np.ones(len(grid), np.float32))
    away = survey(head).from_ventricle
    far = from_centre > 9
    assert np.abs(away - (from_centre - 6))[far].max() < 2.5
    steps = np.diff(away.reshape(shape)[:, 14, 14])[22:28]
    assert ((steps > 0.3) & (steps < 1.7)).all()


def test_borders_make_mixtures_purer_and_leave_pure_voxels_alone():
    white, cortex, sulcus = (TISSUES.index(name) for name in ('white', 'cortex', 'sulcus'))
    fractions = np.zeros((4, len(TISSUES)), np.float32)
    fractions[0, cortex] = 1
    fractions[1, [white, cortex]] = 0.75, 0.25
    fractions[2, [cortex, sulcus]] = 0.5, 0.5
    fractions[3, [cortex, sulcus]] = 0.25, 0.75
    weight = np.ones(len(TISSUES), np.float32)
    sharp = Borders(2.0, weight).draw_anew(fractions)
    np.testing.assert_allclose(sharp[:3].max(1), [1, 0.9, 0.5], rtol=1e-5)
    weight[sulcus] = 0.5
    narrow = Borders(1.0, weight).draw_anew(fractions)
    np.testing.assert_allclose(narrow[[2, 3], sulcus], [1 / 3, 0.6], rtol=1e-5)
    np.testing.assert_allclose(narrow.sum(1), 1, rtol=1e-5)


def test_people_have_pure_cortex():
    # Real cortex is 2.5 mm thick: of its 2 mm voxels some hold nothing else. As coded, a tenth.
    anatomy = load_anatomy(shipped()[0])
    shares = []
    for seed in range(3):
        head = make_head(anatomy, np.random.default_rng(seed), 2.0, brain_only=True)
        cortex = head.fractions[:, TISSUES.index('cortex')]
        shares.append(cortex[cortex > 0.95].sum() / cortex.sum())
    assert min(shares) > 0.12
    assert max(shares) - min(shares) > 0.05
