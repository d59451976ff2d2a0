"""Specialists are heard at home alone, whatever the brain, and never on what they did not see."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from bids_flair.models.committee import (
    AGREES,
    AGREES_ALONE,
    ALIKE,
    AT_HOME,
    DISAGREES,
    DISAGREES_ALONE,
    SHARE,
    SHARE_ABROAD,
    SHARE_ALONE,
    STRANGER,
    UNLIKE,
    Committee,
    accord_of,
    distance,
    relations,
    relations_of,
    unlikeness,
)
from bids_flair.models.files import load_model, save_model
from bids_flair.models.finishing import (
    DETAIL,
    FURTHER_DOWN,
    filled_in,
    finish,
    fluid_kept_dark,
    held_back,
    with_detail,
)
from bids_flair.models.inference import predict, synthesis_of
from bids_flair.models.network import Architecture, PatchRegressor
from bids_flair.models.normalisation import normalise
from bids_flair.models.trees import BoostedTrees, TreesArchitecture

PAIR = ('T1w', 'T2w')
CPU = torch.device('cpu')


def network(seed: int, inputs: tuple[str, ...], style: int = 4) -> PatchRegressor:
    torch.manual_seed(seed)
    made = PatchRegressor(Architecture(inputs, levels=2, stem=2, width=4, blocks=1, style=style))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    # No answer below 0, where all of them would be alike.
    made.mean.bias.data += 3
    return made.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def seen(phantom):
    return normalise({name: phantom.arrays[name] for name in PAIR}, phantom.mask)


@pytest.fixture
def committee(phantom, seen):
    home = relations_of(seen.pick(PAIR), phantom.mask, PAIR)
    alone = Committee(network(0, ('T1w', 'T2w', 'MD')), abroad=[network(3, ('T1w', 'T2w'))])
    return alone.joined_by(network(1, PAIR, style=0), home)


def mixture(rng, amounts, noise=0.02):
    """Voxels (2, n) of white matter, grey matter and fluid as one scanner shows them."""
    tissue = rng.choice(3, 20000, p=amounts)
    share = rng.random((2, 20000)) * 0.4
    levels = np.array([[1.0, 0.75, 0.2], [1.0, 1.5, 3.0]])
    mixed = (1 - share) * levels[:, tissue] + share * levels[:, np.roll(tissue, 1)]
    return mixed + noise * rng.standard_normal(mixed.shape)


def test_how_contrasts_relate_tells_scanners_and_not_brains():
    rng = np.random.default_rng(0)
    young = relations(mixture(rng, (0.5, 0.45, 0.05)), PAIR)
    old = relations(mixture(rng, (0.4, 0.35, 0.25)), PAIR)
    elsewhere = mixture(rng, (0.5, 0.45, 0.05))
    elsewhere[0] = 1 + 0.5 * (elsewhere[0] - 1)
    assert distance(young, old) < AT_HOME
    assert distance(young, relations(elsewhere, PAIR)) > STRANGER


def test_how_often_a_contrast_has_a_value_tells_scanners_by_one():
    rng = np.random.default_rng(0)
    young, old = mixture(rng, (0.5, 0.43, 0.07)), mixture(rng, (0.45, 0.4, 0.15))
    elsewhere = 1 + 0.5 * (young - 1)
    young, old, elsewhere = (relations(v[:1], ['T1w']) for v in (young, old, elsewhere))
    assert unlikeness(young, young) == 0
    assert unlikeness(young, old) < ALIKE
    assert unlikeness(young, elsewhere) > UNLIKE
    assert unlikeness(young, np.full((2, 1, 1, 10), np.nan)) == np.inf


def test_from_one_contrast_a_specialist_of_other_values_is_not_heard(committee, phantom):
    images = normalise({'T1w': phantom.arrays['T1w']}, phantom.mask)
    specialist = network(4, ('T1w',), style=0)
    accord = accord_of(specialist, committee.generalist, images, phantom.mask)
    faint = 500 + 0.4 * phantom.arrays['T1w']
    values = normalise({'T1w': faint}, phantom.mask).pick(['T1w'])
    home = relations_of(values, phantom.mask, ['T1w'])
    voices = committee.joined_by(specialist, home, accord).voices(images, phantom.mask)
    assert [voice.role for voice in voices] == ['abroad', 'generalist']


def test_a_contrast_that_is_not_there_relates_to_nothing(phantom, seen):
    values = seen.pick(PAIR).values[:, phantom.mask].astype(float)
    values[1] = np.nan
    found = relations(values, PAIR)
    assert np.isnan(found[0]).all()
    assert np.isnan(found[1][~np.eye(2, dtype=bool)]).all()
    assert distance(relations(values, PAIR), np.ones((2, 2, 2, 10))) == np.inf


def test_at_home_the_answer_is_the_mean_of_both(committee, phantom, seen):
    roles = [voice.role for voice in committee.voices(seen, phantom.mask)]
    assert roles == ['specialist', 'generalist']
    mean, below, _ = predict(committee, seen, phantom.mask, CPU)
    special = predict(committee.specialists[0], seen, phantom.mask, CPU)
    general = predict(committee.generalist, seen, phantom.mask, CPU)
    both, reach = (SHARE * special[i] + (1 - SHARE) * general[i] for i in (0, 1))
    np.testing.assert_allclose(below, reach, atol=1e-5)
    expected = with_detail(both, phantom.mask, DETAIL * SHARE)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    assert mean[phantom.mask].std() > both[phantom.mask].std()


def test_elsewhere_the_network_for_foreign_scanners_has_its_say(committee, phantom):
    faint = {'T1w': 500 + 0.1 * phantom.arrays['T1w'], 'T2w': phantom.arrays['T2w']}
    images = normalise(faint, phantom.mask)
    # Some of it brighter than what is held back, and some not.
    for one in (committee.abroad[0], committee.generalist):
        one.mean.bias.data -= 1.7
    mean, below, above = predict(committee, images, phantom.mask, CPU)
    members = (committee.abroad[0], committee.generalist)
    abroad, general = (np.stack(predict(one, images, phantom.mask, CPU)) for one in members)
    said = SHARE_ABROAD * abroad + (1 - SHARE_ABROAD) * general
    sober = held_back(fluid_kept_dark(said[0], images, phantom.mask, 1.0), phantom.mask, 1.0)
    expected = filled_in(sober, phantom.mask, 1.0)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_allclose(mean - below, sober - FURTHER_DOWN * said[1], atol=1e-5)
    np.testing.assert_allclose(sober + above, said[0] + said[2], atol=1e-5)
    assert (mean < said[0] - 0.01).any()


def test_what_saw_simulated_people_only_is_abroad_wherever_it_answers_alone(seen, phantom):
    alone = network(3, PAIR)
    alone.mean.bias.data -= 1.7
    usual = predict(alone, seen, phantom.mask, CPU)
    alone.simulated_only = True
    assert [voice.role for voice in alone.voices(seen, phantom.mask)] == ['abroad']
    expected = finish(*usual, seen, phantom.mask, at_home=0.0, abroad=1.0)
    for found, wanted in zip(predict(alone, seen, phantom.mask, CPU), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (expected[0] < usual[0] - 0.01).any()


def test_one_contrast_does_not_tell_a_specialist_of_two_that_it_is_at_home(committee, phantom):
    images = normalise({'T1w': phantom.arrays['T1w']}, phantom.mask)
    voices = committee.voices(images, phantom.mask)
    assert [voice.role for voice in voices] == ['abroad', 'generalist']
    np.testing.assert_allclose(voices[0].weight[phantom.mask], SHARE_ABROAD)


def test_abroad_one_contrast_has_a_network_of_its_own(committee, phantom):
    of_t1w = network(5, ('T1w',))
    both = Committee(committee.generalist, abroad=[*committee.abroad, of_t1w])

    def heard(*names: str) -> PatchRegressor:
        images = normalise({name: phantom.arrays[name] for name in names}, phantom.mask)
        return both.voices(images, phantom.mask)[0].network

    assert heard('T1w') is of_t1w
    for names in (('T2w',), PAIR, ('T1w', 'MD')):
        assert heard(*names) is committee.abroad[0]
    assert heard('MD') is committee.generalist


def test_from_one_contrast_its_specialist_is_heard_as_far_as_it_agrees(committee, phantom, seen):
    images = normalise({'T1w': phantom.arrays['T1w']}, phantom.mask)
    specialist = network(4, ('T1w',), style=0)
    accord = accord_of(specialist, committee.generalist, images, phantom.mask)
    home = relations_of(images.pick(['T1w']), phantom.mask, ['T1w'])

    def heard(at_home: float) -> dict[str, float]:
        voices = committee.joined_by(specialist, home, at_home).voices(images, phantom.mask)
        return {voice.role: np.max(voice.weight[phantom.mask]) for voice in voices[:-1]}

    assert heard(accord) == pytest.approx({'specialist': SHARE_ALONE})
    assert heard(accord + AGREES_ALONE - 0.01) == pytest.approx({'specialist': SHARE_ALONE})
    between = heard(accord + (AGREES_ALONE + DISAGREES_ALONE) / 2)
    assert between == pytest.approx({'specialist': SHARE_ALONE / 2, 'abroad': SHARE_ABROAD / 2})
    assert heard(accord + DISAGREES_ALONE + 0.01) == pytest.approx({'abroad': SHARE_ABROAD})
    both = committee.joined_by(specialist, home, accord).voices(seen, phantom.mask)
    assert specialist not in [voice.network for voice in both]


def test_a_specialist_that_contradicts_the_general_network_as_it_did_not_at_home_is_not_heard(
    committee, phantom, seen
):
    """A scanner may look like a known one by chance, and a specialist be far off there."""
    specialist, general = committee.specialists[0], committee.generalist
    home = relations_of(seen.pick(PAIR), phantom.mask, PAIR)
    accord = accord_of(specialist, general, seen, phantom.mask)

    def heard(at_home: float) -> float:
        joined = Committee(general).joined_by(specialist, home, at_home)
        voices = joined.voices(seen, phantom.mask)
        return sum(np.max(voice.weight) for voice in voices if voice.role == 'specialist')

    assert heard(accord) == pytest.approx(SHARE)
    assert heard(accord + AGREES - 0.01) == pytest.approx(SHARE)
    assert heard(accord + (AGREES + DISAGREES) / 2) == pytest.approx(SHARE / 2)
    assert heard(accord + DISAGREES + 0.01) == 0


def test_accord_is_the_correlation_from_what_the_specialist_sees(committee, phantom):
    arrays = {name: phantom.arrays[name] for name in (*PAIR, 'MD')}
    three, two = (
        normalise({name: arrays[name] for name in names}, phantom.mask)
        for names in ((*PAIR, 'MD'), PAIR)
    )
    specialist, general = committee.specialists[0], committee.generalist
    found = accord_of(specialist, general, three, phantom.mask)
    ours, theirs = (
        predict(one, two, phantom.mask, CPU)[0][phantom.mask] for one in (specialist, general)
    )
    # Not in every block.
    assert 0.05 < abs(found) < 0.95
    assert found == pytest.approx(np.corrcoef(ours, theirs)[0, 1], abs=0.05)


def test_where_slices_are_missing_no_specialist_is_heard(committee, phantom):
    arrays = {name: phantom.arrays[name].copy() for name in PAIR}
    arrays['T2w'][:, :, 44:] = 0
    voices = committee.voices(normalise(arrays, phantom.mask), phantom.mask)
    specialist, abroad, general = (voice.weight for voice in voices)
    assert specialist.max() == pytest.approx(SHARE)
    assert specialist[:, :, 44:].max() == 0
    assert abroad[:, :, 44:].min() == SHARE_ABROAD
    np.testing.assert_allclose(specialist + abroad + general, 1)


def test_a_specialist_is_trusted_less_where_there_is_what_it_never_sees(committee, phantom):
    arrays = {name: phantom.arrays[name] for name in (*PAIR, 'MD')}
    specialist, *_ = committee.voices(normalise(arrays, phantom.mask), phantom.mask)
    assert specialist.weight.max() == pytest.approx(SHARE * 2 / 3)


def test_two_specialists_at_home_share_their_say(committee, phantom, seen):
    home = relations_of(seen.pick(PAIR), phantom.mask, PAIR)
    three = committee.joined_by(network(2, PAIR, style=0), home)
    voices = three.voices(seen, phantom.mask)
    assert [voice.role for voice in voices[:2]] == ['specialist', 'specialist']
    assert [np.max(voice.weight) for voice in voices[:2]] == pytest.approx([SHARE / 2] * 2)


def test_networks_have_one_half_of_the_say_and_trees_the_other(committee, phantom, seen):
    home = relations_of(seen.pick(PAIR), phantom.mask, PAIR)
    trees = BoostedTrees(TreesArchitecture(PAIR, trees=1, interval_trees=1))
    voices = (
        committee.joined_by(network(2, PAIR, style=0), home)
        .joined_by(trees, home)
        .voices(seen, phantom.mask)
    )
    shares = [np.max(voice.weight[phantom.mask]) for voice in voices]
    assert shares == pytest.approx([SHARE / 4, SHARE / 4, SHARE / 2, 1 - SHARE])


def test_the_shares_of_several_are_told_as_one_number(committee, phantom, seen, tmp_path):
    home = relations_of(seen.pick(PAIR), phantom.mask, PAIR)
    for seed in (6, 7):
        committee = committee.joined_by(network(seed, PAIR, style=0), home)
    card = {'inputs': ['T1w', 'T2w', 'MD'], 'target': 'FLAIR'}
    model = save_model(tmp_path / 'together.safetensors', committee, card)
    made = synthesis_of(phantom.images(*PAIR), phantom.mask_image(), model)
    assert made.shares == {'specialist': SHARE, 'generalist': round(1 - SHARE, 3)}


def test_two_specialists_are_not_trusted_more_than_one(committee, phantom, seen):
    """Half-way home, the second is of the same scanner: it makes nobody more at home."""
    home = relations_of(seen.pick(PAIR), phantom.mask, PAIR)
    home[0] += (AT_HOME + STRANGER) / 2
    alone = Committee(committee.generalist).joined_by(network(1, PAIR, style=0), home)
    both = alone.joined_by(network(2, PAIR, style=0), home)
    (one, general), (*two, rest) = (c.voices(seen, phantom.mask) for c in (alone, both))
    assert 0.4 * SHARE < np.max(one.weight) < 0.6 * SHARE
    np.testing.assert_allclose(two[0].weight + two[1].weight, one.weight)
    np.testing.assert_allclose(rest.weight, general.weight)


def test_a_committee_is_read_back_as_it_was_written(committee, phantom, seen, tmp_path):
    path = tmp_path / 'together.safetensors'
    save_model(path, committee, {'inputs': ['T1w', 'T2w', 'MD'], 'target': 'FLAIR'})
    again = load_model(path).network
    np.testing.assert_array_equal(
        predict(again, seen, phantom.mask, CPU), predict(committee, seen, phantom.mask, CPU)
    )


def test_a_committee_of_before_is_still_read(committee, phantom, seen, tmp_path):
    """It was never asked whether it agrees, and there was one network for abroad, not a list."""
    path = tmp_path / 'older.safetensors'
    model = save_model(path, committee, {'inputs': ['T1w', 'T2w', 'MD'], 'target': 'FLAIR'})
    older = load_tensors(path.read_bytes())
    del older['accords']
    older = {key.replace('abroad.0.', 'abroad.', 1): value for key, value in older.items()}
    content = save_tensors(older)
    path.write_bytes(content)
    card = model.card | {'sha256': hashlib.sha256(content).hexdigest()}
    card['abroad'] = card['abroad'][0]
    path.with_suffix('.json').write_text(json.dumps(card))
    again = load_model(path).network
    assert [v.role for v in again.voices(seen, phantom.mask)] == ['specialist', 'generalist']
    weights = (one.abroad[0].mean.weight for one in (again, committee))
    assert torch.equal(*weights)
