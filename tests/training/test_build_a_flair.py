"""The paper's network has the paper's shape, sees the right voxels, and learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from bids_flair.errors import BidsFlairError
from bids_flair.models.inference import predict
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.paper import PaperArchitecture, PaperNetwork
from bids_flair.training.build_a_flair import (
    Recipe,
    brain_of,
    gather_patches,
    predict_voxels,
    train_paper,
)
from bids_flair.training.checkpoint import write_checkpoint
from bids_flair.training.corpus import Cut
from bids_flair.training.evaluation import choose

T1W, FLAIR = CONTRASTS.index('T1w'), CONTRASTS.index('FLAIR')
QUICK = Recipe(epochs=6, voxels=200)


def _person(seed: int) -> Cut:
    """Smooth random T1w and T2w, and a FLAIR that follows from the T1w alone."""
    rng = np.random.default_rng(seed)
    shape = (24, 24, 24)
    values = np.zeros((len(CONTRASTS), *shape), np.float32)
    for i in range(2):
        smooth = gaussian_filter(rng.normal(size=shape), 2)
        values[i] = np.clip(1 + 0.3 * smooth / smooth.std(), 0, 2)
    values[FLAIR] = np.clip(2 - values[T1W], 0, None)
    presence = np.zeros(values.shape, bool)
    presence[[0, 1, FLAIR]] = True
    # The brain touches one side of the array.
    depth = np.full(shape, 3, np.int8)
    depth[:, :, 20:] = -3
    sample = np.zeros((1, len(CONTRASTS)), np.float32)
    return Cut(values, presence, depth, np.zeros(shape, np.uint8), sample, np.ones(1, np.float32))


@pytest.fixture(scope='module')
def people() -> list[Cut]:
    return [_person(seed) for seed in range(3)]


def _linear(network: PaperNetwork) -> list[nn.Linear]:
    return [layer for layer in network.layers if isinstance(layer, nn.Linear)]


def _network(*inputs: str, **options) -> PaperNetwork:
    return PaperNetwork(PaperArchitecture(inputs, **options)).eval()


def _predict(network: PaperNetwork, person: Cut) -> np.ndarray:
    names = network.architecture.inputs
    return predict(network, choose(person, names), brain_of(person), torch.device('cpu'))[0]


@pytest.mark.parametrize('inputs', [('T1w',), ('T1w', 'T2w'), CONTRASTS[:5]])
def test_ten_layers_taper_linearly_from_the_patch_to_one_neuron(inputs):
    network = _network(*inputs)
    layers = _linear(network)
    assert len(layers) == 10
    widths = np.array([layers[0].in_features, *(layer.out_features for layer in layers)])
    assert (widths[0], widths[-1]) == (125 * len(inputs), 1)
    steps = np.diff(widths)
    assert (np.abs(steps - steps.mean()) <= 1).all()
    assert network.regress(torch.zeros(7, 125 * len(inputs))).shape == (7,)


def test_half_is_dropped_after_layers_2_4_6_and_8():
    dense, found = 0, []
    for layer in _network('T1w').layers:
        dense += isinstance(layer, nn.Linear)
        if isinstance(layer, nn.Dropout):
            assert layer.p == 0.5
            found.append(dense)
    assert found == [2, 4, 6, 8]
    without = _network('T1w', dropout=0.0)
    assert not any(isinstance(layer, nn.Dropout) for layer in without.layers)


def test_the_literal_form_ends_with_a_relu_and_the_default_one_does_not():
    torch.manual_seed(0)
    literal, default = _network('T1w', 'T2w', literal=True), _network('T1w', 'T2w')
    assert isinstance(literal.layers[-1], nn.ReLU)
    assert isinstance(default.layers[-1], nn.Linear)
    # PyTorch's own initialisation is uniform with variance 1 / (3 n), He's has 2 / n.
    for network, variance in ((literal, 1 / 3), (default, 2)):
        first = _linear(network)[0]
        found = float(first.weight.detach().var()) * first.in_features
        assert found == pytest.approx(variance, rel=0.1)


def test_patches_are_centred_on_their_voxels_and_padded_with_zeros():
    values = np.zeros((len(CONTRASTS), 6, 6, 6), np.float32)
    values[:2] = np.arange(1, 2 * 6**3 + 1, dtype=np.float32).reshape(2, 6, 6, 6)
    depth = np.ones((6, 6, 6), np.int8)
    person = Cut(values, values > 0, depth, depth, values[:0], depth[0, 0])
    places = np.array([[0, 0, 0], [5, 2, 3], [3, 3, 3]])
    patches = gather_patches(person, ('T1w', 'T2w'), places)
    assert patches.shape == (3, 250)
    for c in range(2):
        np.testing.assert_array_equal(patches[:, 125 * c + 62], values[c][tuple(places.T)])
    np.testing.assert_array_equal(patches[2].reshape(2, 5, 5, 5), values[:2, 1:6, 1:6, 1:6])
    corner = patches[0].reshape(2, 5, 5, 5)
    np.testing.assert_array_equal(corner[:, 2:, 2:, 2:], values[:2, :3, :3, :3])
    assert not corner[:, :2].any()
    assert not corner[:, :, :2].any()
    assert not corner[..., :2].any()


def test_every_voxel_of_the_brain_is_predicted_and_no_other(people):
    found = predict_voxels(lambda patches: patches[:, 62], people[0], ['T1w'])
    brain = brain_of(people[0])
    assert brain[0].any()
    np.testing.assert_array_equal(found, np.where(brain, people[0].values[T1W], 0))


def test_the_model_predicts_what_its_layers_make_of_the_patches(people):
    """Whatever tile a voxel lies in, and however the tile is cut into chunks."""
    torch.manual_seed(0)
    network = _network('T1w', 'T2w').requires_grad_(False)
    expected = predict_voxels(
        lambda patches: network.regress(torch.from_numpy(patches)).numpy(),
        people[0],
        ['T1w', 'T2w'],
    )
    np.testing.assert_allclose(_predict(network, people[0]), expected, rtol=1e-4, atol=1e-5)


def test_chunks_change_nothing(people, monkeypatch):
    network = _network('T1w', 'T2w')
    whole = _predict(network, people[0])
    monkeypatch.setattr('bids_flair.models.paper.CHUNK', 999)
    np.testing.assert_allclose(_predict(network, people[0]), whole, rtol=1e-4, atol=1e-5)


def test_it_learns(people):
    recipe = Recipe(15, voxels=1000, batch=25, learning_rate=1e-3)
    architecture = PaperArchitecture(('T1w',), dropout=0.0)
    network, history = train_paper(people[:2], people[1], architecture, recipe)
    brain = brain_of(people[2])
    true = people[2].values[FLAIR][brain]
    error = _predict(network, people[2])[brain] - true
    assert np.mean(error**2) < 0.3 * true.var()
    assert history[-1].loss < history[0].loss
    assert network.errors[0] < 0 < network.errors[1]


def test_the_best_epoch_is_kept(people, monkeypatch):
    kept = []
    for errors in ([0.5, 0.1], [0.5, 0.1, 0.9, 0.1, 0.3]):
        following = iter(errors)
        monkeypatch.setattr(
            'bids_flair.training.build_a_flair._validation_error',
            lambda *_, following=following: next(following),
        )
        recipe = Recipe(epochs=len(errors), voxels=200)
        architecture = PaperArchitecture(('T1w',))
        kept.append(train_paper(people[:1], people[2], architecture, recipe)[0].state_dict())
    for name, weights in kept[0].items():
        assert torch.equal(weights, kept[1][name])


def test_an_interrupted_recipe_goes_on_as_if_it_had_not_been(people, tmp_path, monkeypatch):
    architecture = PaperArchitecture(('T1w',))
    expected, _ = train_paper(people[:2], people[2], architecture, QUICK)
    file, seen = tmp_path / 'checkpoint.safetensors', {'epoch': 0}

    def stop_after_three(*arguments):
        seen['epoch'] += 1
        if seen['epoch'] > 3:
            raise KeyboardInterrupt
        return write_checkpoint(*arguments)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        name = 'bids_flair.training.build_a_flair.write_checkpoint'
        context.setattr(name, stop_after_three)
        train_paper(people[:2], people[2], architecture, QUICK, checkpoint=file)
    resumed, history = train_paper(people[:2], people[2], architecture, QUICK, checkpoint=file)
    assert [line.epoch for line in history] == list(range(1, QUICK.epochs + 1))
    for name, weights in expected.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name])


def test_a_loss_that_is_no_number_names_the_participant(people):
    broken = replace(people[0], values=np.full_like(people[0].values, np.nan))
    with pytest.raises(BidsFlairError, match='participant 0'):
        train_paper([broken], people[1], PaperArchitecture(('T1w',)), QUICK)


def test_patience_ends_a_training_that_gets_no_better(people, monkeypatch):
    following = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    monkeypatch.setattr(
        'bids_flair.training.build_a_flair._validation_error', lambda *_: next(following)
    )
    recipe = Recipe(epochs=5, voxels=200, patience=2)
    _, history = train_paper(people[:1], people[2], PaperArchitecture(('T1w',)), recipe)
    assert [line.validation for line in history] == [0.5, 0.4, 0.6, 0.7]
