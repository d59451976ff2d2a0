"""Networks for one scanner: what they begin with, and that no more is done than asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bids_flair.models.network import Architecture, PatchRegressor
from bids_flair.training import fit, specialist
from bids_flair.training.boosting import Boosting
from bids_flair.training.corpus import read_person, write_person
from bids_flair.training.distributed import World
from bids_flair.training.fit import Training
from bids_flair.training.sampling import Sampling, draw_styles
from bids_flair.training.specialist import (
    specialised,
    train_specialists,
    train_trees,
    training_of_twin,
)

SHAPE = {'levels': 2, 'stem': 4, 'width': 8, 'blocks': 1}
TRAINING = Training(
    steps=4,
    architecture=Architecture(('T1w', 'T2w'), **SHAPE, style=0),
    sampling=Sampling(block=8, batch=2, drop=False, foreign=0.0),
)


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('person')
    rng = np.random.default_rng(0)
    distance = np.sqrt(((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0))
    tissue = np.select([distance < 9, distance < 17], [2, 1], 0)
    images = {
        name: (np.array(values)[tissue] * rng.normal(1, 0.03, tissue.shape)).astype(np.float32)
        for name, values in (('T1w', (0, 8, 2)), ('T2w', (0, 2, 9)), ('FLAIR', (0, 5, 1)))
    }
    write_person(folder / 'p', images, tissue > 0, tissue == 3)
    return [read_person(folder / 'p')]


@pytest.fixture(params=[(), (2, 3)])
def general(request) -> PatchRegressor:
    """A network of five inputs whose answers depend on the style."""
    torch.manual_seed(0)
    network = PatchRegressor(Architecture(**SHAPE, style=6, convolutions=request.param)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_a_specialised_network_answers_as_the_general_one_on_its_scanner(general, people):
    network = specialised(general, people, TRAINING).eval()
    shape = replace(TRAINING.architecture, convolutions=general.architecture.convolutions)
    assert network.architecture == shape
    known, length = general.architecture.inputs, 8 + 2 * general.architecture.halo
    x = torch.zeros(1, 2, len(known), length, length, length)
    rng = np.random.default_rng(1)
    x[0, 0, :2] = torch.from_numpy(rng.uniform(0.2, 2, (2, length, length, length)))
    x[0, 1, :2] = 1
    own = x[:, :, :2].flatten(1, 2)
    style = torch.full((1, len(known), 7), torch.nan)
    inputs = TRAINING.architecture.inputs
    drawn = draw_styles([people], [], TRAINING.sampling, inputs, TRAINING.seed, 200)
    style[0, :2] = torch.from_numpy(drawn.mean(0))
    with torch.no_grad():
        expected = general(x.flatten(1, 2), style)
        found = network(own, style[:, :2])
        elsewhere = general(x.flatten(1, 2), style + 0.5)
    for ours, theirs, other in zip(found, expected, elsewhere, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ours, other, atol=1e-3)


def test_a_general_network_of_one_scanner_has_nothing_to_make_its_own(general, people):
    styleless = PatchRegressor(replace(general.architecture, style=0))
    network = specialised(styleless, people, TRAINING)
    assert torch.equal(network.mean.weight, styleless.mean.weight)


def test_the_last_of_several_begins_with_the_general_network(general, people, tmp_path):
    still = replace(TRAINING, steps=0)
    first, last = train_specialists(people, general, still, 2, tmp_path / 'state.bin')
    expected = specialised(general, people, TRAINING)
    assert last.network.architecture == expected.architecture
    assert first.network.architecture == TRAINING.architecture
    assert torch.equal(last.network.mean.weight, expected.mean.weight)
    assert not torch.allclose(first.network.mean.weight, expected.mean.weight)


def test_every_third_is_shown_its_people_as_they_lie():
    often = replace(TRAINING, sampling=replace(TRAINING.sampling, turned=0.5))
    twins = [training_of_twin(often, twin) for twin in range(4)]
    assert [twin.sampling.turned for twin in twins] == [0.5, 0.5, 0.0, 0.5]
    assert [twin.seed - often.seed for twin in twins] == [0, 1, 2, 3]


def test_a_network_that_had_stopped_early_is_not_trained_on(people, tmp_path, monkeypatch):
    """Resuming while the second of two is trained asks for the first one again."""
    monkeypatch.setattr(fit, 'EPOCH_STEPS', 1)
    impatient = replace(TRAINING, steps=9, patience=1, learning_rate=0.0)
    run = (people, [], impatient, tmp_path / 'state.bin')
    stopped = fit.fit([run[0]], *run[1:], validation=people[0])
    again = fit.fit([run[0]], *run[1:], validation=people[0])
    assert stopped.steps == again.steps < 9
    assert torch.equal(stopped.network.mean.weight, again.network.mean.weight)


def test_trees_that_were_grown_are_not_grown_again(people, tmp_path, monkeypatch):
    asked = (people, ('T1w', 'T2w'), TRAINING.sampling, Boosting(voxels=500))
    once = train_trees(*asked, tmp_path / 'state.bin')
    monkeypatch.setattr(specialist, 'fit_trees', None)
    again = train_trees(*asked, tmp_path / 'state.bin')
    assert once.leaf.any()
    for key, value in once.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_of_several_processes_the_first_alone_keeps_its_trees(people, tmp_path):
    asked = (people, ('T1w', 'T2w'), TRAINING.sampling, Boosting(voxels=500))
    train_trees(*asked, tmp_path / 'state.bin', World(rank=1, size=2))
    assert not list(tmp_path.iterdir())
