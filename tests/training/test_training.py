"""Training is reproducible, goes on where it stopped, sees what it should, and learns."""

import itertools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.metrics import structural_similarity

from bids_flair.errors import BidsFlairError
from bids_flair.models.network import Architecture
from bids_flair.training.cohort import find_cases
from bids_flair.training.corpus import (
    BORDER,
    BRIGHT,
    LESION,
    Person,
    open_case,
    read_person,
    share_samples,
    t1w_curve,
    t2w_curve,
    write_arrays,
    write_person,
)
from bids_flair.training.fit import Training, fit, losses
from bids_flair.training.sampling import (
    Batch,
    Sampling,
    augment,
    draw_ahead,
    draw_batch,
    draw_composition,
    draw_person,
    draw_styles,
    turn,
)

INPUTS = Architecture().inputs
SMALL = Training(
    steps=6,
    architecture=Architecture(levels=2, stem=4, width=8, blocks=1),
    sampling=Sampling(block=8, batch=2),
)


def _write(folder: Path, seed: int) -> Person:
    """A ball of white matter around fluid, with a lesion."""
    rng = np.random.default_rng(seed)
    distance = np.sqrt(((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0))
    labels = np.select([distance < 9, distance < 17], [2, 1], 0)
    labels[8:12, 18:22, 18:22] = 3
    tissues = {
        'T1w': (0, 800, 200, 500),
        'T2w': (0, 200, 900, 420),
        'FLAIR': (0, 100, 15, 150),
    }
    images = {
        name: (np.array(values)[labels] * rng.normal(1, 0.03, labels.shape)).astype(np.float32)
        for name, values in tissues.items()
    }
    write_person(folder, images, labels > 0, labels == 3)
    return read_person(folder)


def _draw(people: list[Person], sampling: Sampling, seed: int, step: int) -> Batch:
    return draw_batch([people], [], sampling, SMALL.architecture, seed, step)


@pytest.fixture(scope='module')
def people(tmp_path_factory) -> list[Person]:
    folder = tmp_path_factory.mktemp('people')
    return [_write(folder / f'p{i}', i) for i in range(2)]


def test_programs_that_prepare_one_person_at_once_do_not_hinder_each_other(tmp_path):
    folder = tmp_path / 'people' / 'p'

    def write(i: int) -> None:
        write_arrays(folder, {name: np.full((64, 64, 64), i) for name in 'abcd'})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [p.name for p in folder.parent.iterdir()] == ['p']
    assert len({np.load(file)[0, 0, 0] for file in folder.iterdir()}) == 1


def test_a_large_cohort_takes_neither_memory_nor_open_files(people):
    there = len(list(Path('/proc/self/fd').iterdir()))
    cohort = [read_person(people[0].folder, f'sub-{i}') for i in range(1000)]
    held = sum(p.sample.nbytes + sum(a.nbytes for a in p.places.values()) for p in cohort)
    assert len(list(Path('/proc/self/fd').iterdir())) < there + 10
    assert held < 1e9
    assert len(set(_draw(cohort, Sampling(batch=8), 0, 0).people)) > 4


def test_batches_drawn_ahead_come_in_order():
    drawn = draw_ahead(lambda step: (time.sleep(0.02 * (step % 3)), step)[1], range(9), 3)
    assert list(drawn) == list(range(9))


def test_a_failure_while_drawing_ahead_is_not_lost():
    with pytest.raises(ZeroDivisionError):
        list(draw_ahead(lambda step: 1 // (2 - step), range(5), 2))


def test_a_cohort_of_one_scanner_is_shown_as_it_is(people):
    """Same slices, fields of view and masks: only gain, gamma, shading and noise vary."""
    sampling = Sampling(foreign=0.0, drop=False, block=8, batch=8)
    for step in range(20):
        x = _draw(people, sampling, 0, step).x
        shown = x[:, len(INPUTS) :]
        # T1w and T2w are everywhere in the brain and nowhere else.
        assert (shown[:, 0] == shown[:, 1]).all()
    foreign = replace(sampling, foreign=1.0)
    drawn = [_draw(people, foreign, 0, step).x for step in range(20)]
    assert any((x[:, len(INPUTS)] != x[:, len(INPUTS) + 1]).any() for x in drawn)


def test_people_of_one_scanner_share_what_tells_their_protocol(people):
    shared = share_samples(people)
    np.testing.assert_array_equal(shared[0].sample, shared[1].sample)
    assert not np.array_equal(people[0].sample, people[1].sample)
    # Nobody is given contrasts of somebody else.
    bare = replace(people[1], sample=people[1].sample * [1, 0, 1, 1, 1, 1, 1])
    alone = share_samples([people[0], bare])
    assert not alone[1].sample[:, 1].any()
    assert alone[0].sample[:, 1].any()


def test_the_composition_of_a_sample_varies_around_what_it_was():
    rng = np.random.default_rng(0)
    sample = np.where(rng.random((2000, 2)) < 0.2, 3.0, 1.0).astype(np.float32)
    sample[:, 1] = 0
    bright = [(draw_composition(rng, sample)[:, 0] == 3).mean() for _ in range(200)]
    assert np.median(bright) == pytest.approx(0.2, abs=0.05)
    assert np.quantile(bright, 0.1) < 0.14
    assert np.quantile(bright, 0.9) > 0.26


def test_people_are_normalised_and_their_places_are_where_they_say(people):
    person = people[0]
    assert np.median(person.values[5][(person.depth > 2) & (person.depth < 6)]) == pytest.approx(
        1, abs=0.05
    )
    lesion = tuple(person.places[LESION].T)
    assert person.values[5][lesion].mean() == pytest.approx(1.5, abs=0.1)
    assert len(person.places[BORDER]) > 100
    assert not person.presence[2:5].any()


def test_the_same_step_draws_the_same_batch(people):
    first, second, other = (
        draw_batch([people], [], SMALL.sampling, SMALL.architecture, seed=1, step=step)
        for step in (4, 4, 5)
    )
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.x, other.x)


def test_targets_belong_to_their_voxels(people):
    """Mirrored, masked and shifted as it may be, a bright T2w voxel is fluid or lesion."""
    for step in range(20):
        batch = _draw(people, SMALL.sampling, seed=2, step=step)
        inner = batch.x[:, :, 6:-6, 6:-6, 6:-6].movedim(1, -1)[batch.keep]
        white = (inner[:, 0] > 0.9) & (inner[:, 1] > 0) & (inner[:, 1] < 1.2)
        if white.sum() > 50:
            assert batch.target[white].median() == pytest.approx(1, abs=0.1)


def test_blocks_are_turned_about_any_axes_all_their_volumes_alike():
    block = torch.arange(64).reshape(4, 4, 4)
    rng = np.random.default_rng(0)
    turned = [turn(rng, 0.5, torch.stack([block, -block]), block) for _ in range(2000)]
    for contrasts, depth in turned:
        assert torch.equal(contrasts, torch.stack([depth, -depth]))
    ways = Counter(tuple(depth.flatten().tolist()) for _, depth in turned)
    assert len(ways) == 48
    upright = ways[tuple(block.flatten().tolist())] + ways[tuple(block.flip(0).flatten().tolist())]
    assert upright / 2000 == pytest.approx(1 - 0.5 * 46 / 48, abs=0.04)


def test_people_in_thick_slices_are_not_turned(tmp_path):
    """Whose images have a direction: a block that lies across it looks like no other person."""

    def turned(blur: tuple[int, int, int]) -> float:
        noise = np.random.default_rng(0).normal(100, 10, (30, 30, 30))
        brain = np.zeros((30, 30, 30), bool)
        brain[5:25, 5:25, 5:25] = True
        images = {'T1w': noise, 'FLAIR': uniform_filter(noise, blur)}
        folder = tmp_path / str(blur)
        write_person(folder, images, brain, np.zeros_like(brain))
        return Sampling.of_one_scanner([read_person(folder)]).turned

    assert turned((2, 2, 2)) == 0.5
    for thick in ((1, 1, 4), (4, 1, 1)):
        assert turned(thick) == 0


def test_every_subset_of_the_contrasts_occurs_and_never_none():
    rng = np.random.default_rng(0)
    values, presence = torch.ones(5, 6, 6, 6), torch.ones(5, 6, 6, 6, dtype=torch.bool)
    seen = set()
    for _ in range(1500):
        x, style = augment(rng, INPUTS, values, presence, torch.ones(5, 20))
        assert torch.equal(torch.isfinite(style).all(1), x[5:].flatten(1).any(1))
        assert (x[:5][x[5:] == 0] == 0).all()
        seen.add(tuple(x[5:].flatten(1).any(1).tolist()))
    assert seen == set(itertools.product([False, True], repeat=5)) - {(False,) * 5}


def test_lesions_are_sampled_more_often_than_they_are(people):
    def share(lesion: float) -> float:
        sampling = Sampling(block=8, batch=2, lesion=lesion, border=0.0)
        weights = torch.cat([
            _draw(people, sampling, seed=0, step=step).weight for step in range(20)
        ])  # fmt: skip
        return float((weights > 1).float().mean())

    assert share(0.8) > 2 * share(0.0)


def test_the_same_seed_gives_the_same_weights(people, tmp_path):
    a, b = (fit([people], [], SMALL, tmp_path / f'{name}.safetensors').network for name in 'ab')
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


def test_in_half_precision_layers_calculate_and_weights_are_kept_whole(people, tmp_path):
    half = replace(SMALL, precision='bfloat16')
    whole, rounded = (
        fit([people], [], training, tmp_path / f'{training.precision}.safetensors').network
        for training in (SMALL, half)
    )
    pairs = list(zip(whole.parameters(), rounded.parameters(), strict=True))
    assert all(y.dtype == torch.float32 for _, y in pairs)
    assert not all(torch.equal(x, y) for x, y in pairs)
    for x, y in pairs:
        torch.testing.assert_close(x, y, rtol=0, atol=2e-2)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(people, tmp_path, monkeypatch):
    expected = fit([people], [], SMALL, tmp_path / 'whole.safetensors').network
    ticks = itertools.count()
    with monkeypatch.context() as context:
        context.setattr('bids_flair.training.fit.time.monotonic', lambda: next(ticks) * 20.0)
        part = fit([people], [], SMALL, tmp_path / 'part.safetensors', minutes=1.5)
    assert 0 < part.steps < SMALL.steps
    resumed = fit([people], [], SMALL, tmp_path / 'part.safetensors')
    assert resumed.steps == SMALL.steps
    for x, y in zip(expected.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-7)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_it_learns(people, tmp_path, precision):
    training = Training(
        steps=150,
        precision=precision,
        architecture=SMALL.architecture,
        sampling=Sampling(block=8, batch=4),
    )
    network = fit([people], [], training, tmp_path / 'c.safetensors').network
    batch = draw_batch(
        [people], [], Sampling(block=16, batch=4), SMALL.architecture, seed=9, step=0
    )
    with torch.inference_mode():
        mean, reach = network(batch.x, batch.style, batch.keep)
    for found, constant in zip(
        losses(batch, mean, reach)[:2],
        losses(batch, torch.ones_like(mean), reach)[:2],
        strict=True,
    ):
        assert float(found) < 0.8 * float(constant)


def test_the_interval_is_best_where_it_holds_nine_tenths():
    target = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    keep = torch.ones(1, 100, 20, 10, dtype=torch.bool)
    batch = Batch(torch.empty(0), torch.empty(0), keep, target, torch.ones(len(target)))
    reaches = torch.linspace(1.2, 2.1, 91)
    found = [losses(batch, torch.zeros_like(target), r.expand(len(target), 2))[2] for r in reaches]
    assert reaches[int(torch.stack(found).argmin())] == pytest.approx(1.645, abs=0.03)


def test_the_structural_loss_is_one_minus_ssim():
    rng = np.random.default_rng(0)
    images = gaussian_filter(rng.normal(1, 1, (2, 24, 24, 24)), (0, 2, 2, 2)).astype(np.float32)
    keep = torch.ones(1, 24, 24, 24, dtype=torch.bool)
    pred, true = (torch.from_numpy(image).flatten() for image in images)
    batch = Batch(torch.empty(0), torch.empty(0), keep, true, torch.ones(len(true)))
    found = 1 - float(losses(batch, pred, torch.ones(len(true), 2))[1])
    expected = structural_similarity(
        *images, data_range=2.2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )[1][3:-3, 3:-3, 3:-3].mean()  # fmt: skip
    # The window of the loss is a little smaller: it must fit into a block.
    assert found == pytest.approx(expected, abs=0.02)


def test_cases_are_found_by_name_and_read(tmp_path):
    anat = tmp_path / 'ds' / 'sub-1' / 'anat'
    anat.mkdir(parents=True)
    for name, value in (('T1w', 900), ('FLAIR', 100)):
        data = np.zeros((30, 30, 30), np.float32)
        data[5:25, 5:25, 5:25] = np.random.default_rng(0).normal(value, 5, (20, 20, 20))
        nib.save(
            nib.Nifti1Image(data, np.eye(4)), anat / f'sub-1_space-X_desc-preproc_{name}.nii.gz'
        )
    (case,) = find_cases(tmp_path / 'ds')
    assert set(case.images) == {'T1w', 'FLAIR'}
    person = open_case(case, tmp_path / 'cache')
    assert person.presence[[0, 5]].any()
    assert not person.presence[1:5].any()


def test_a_dataset_without_flair_is_refused(tmp_path):
    with pytest.raises(BidsFlairError, match='nobody to train on'):
        find_cases(tmp_path)


def test_another_protocol_keeps_white_matter_and_the_order_of_intensities():
    rng = np.random.default_rng(0)
    values = np.linspace(0, 6, 601)
    for _ in range(50):
        for draw, fluid in ((t1w_curve, 0.2), (t2w_curve, 4.0)):
            shown = draw(rng, fluid)(values)
            assert shown[100] == 1
            assert (np.diff(shown) >= -1e-9).all()
            assert (shown >= 0).all()


def test_sessions_of_one_dataset_do_not_outweigh_another(people):
    """One person of one dataset is drawn as often as three of another together."""
    rng = np.random.default_rng(0)
    few, many = [people[0]], [people[1]] * 3
    drawn = [draw_person(rng, [few, many], [], SMALL.sampling) for _ in range(2000)]
    assert np.mean([person is people[0] for person in drawn]) == pytest.approx(0.5, abs=0.05)


def test_styles_are_those_of_the_people(people):
    styles = draw_styles([people], [], SMALL.sampling, INPUTS, seed=0, count=40)
    assert np.isnan(styles[:, 2:]).all()
    # White matter is most of the phantom, and 1 in both.
    np.testing.assert_allclose(np.median(styles[:, :2, 3], 0), 1, atol=0.1)


def test_a_run_may_begin_with_another_models_weights(people, tmp_path):
    first = fit([people], [], SMALL, tmp_path / 'first.safetensors').network
    gentle = replace(SMALL, steps=1, learning_rate=1e-9)
    again = tmp_path / 'second.safetensors'
    second = fit([people], [], gentle, again, start=first).network
    for x, y in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_bright_spots_stand_in_for_lesions_that_nobody_drew(tmp_path):
    rng = np.random.default_rng(0)
    brain = np.zeros((40, 40, 40), bool)
    brain[4:36, 4:36, 4:36] = True
    flair = rng.normal(100, 2, brain.shape).astype(np.float32) * brain
    flair[16:20, 16:20, 16:20] = 160
    flair[26, 26, 26] = 160
    images = {'T1w': rng.normal(900, 10, brain.shape).astype(np.float32) * brain, 'FLAIR': flair}
    write_person(tmp_path / 'a', images, brain, np.zeros_like(brain))
    assert len(read_person(tmp_path / 'a').places[BRIGHT]) == 64
    drawn = np.zeros_like(brain)
    drawn[8:11, 8:11, 8:11] = True
    write_person(tmp_path / 'b', images, brain, drawn)
    person = read_person(tmp_path / 'b')
    assert (len(person.places[BRIGHT]), len(person.places[LESION])) == (0, 27)
