"""A model is read back as it was written, or the error says what is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.models.cards import SHIPPED, shipped_models
from bids_flair.models.files import load_model, save_model
from bids_flair.models.network import Architecture, PatchRegressor


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / 'mine.safetensors'
    network = PatchRegressor(Architecture(levels=2, stem=2, width=4, blocks=1))
    save_model(path, network, {'inputs': ['T1w'], 'target': 'FLAIR'})
    return path


@pytest.mark.parametrize('given', ['mine.safetensors', 'mine.json', '.'])
def test_round_trip_from_either_file_or_their_folder(saved, given):
    model = load_model(saved.parent / given)
    assert model.name == 'mine'
    assert model.card['inputs'] == ['T1w']
    assert model.network.architecture.width == 4
    again = load_model(saved)
    for a, b in zip(model.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_how_often_each_patch_is_convolved_is_kept(tmp_path):
    shape = Architecture(stem=2, width=4, blocks=1, convolutions=(2, 5, 2))
    save_model(
        tmp_path / 'deep.safetensors',
        PatchRegressor(shape),
        {'inputs': ['T1w'], 'target': 'FLAIR'},
    )
    assert load_model(tmp_path).network.architecture == shape


@pytest.mark.parametrize('only', [True, False])
def test_what_saw_simulated_people_only_is_still_known_to(saved, only):
    network = load_model(saved).network
    network.simulated_only = only
    save_model(saved, network, {'inputs': ['T1w'], 'target': 'FLAIR'})
    assert load_model(saved).network.simulated_only is only


def test_weights_that_are_not_those_of_the_card_are_refused(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(BidsFlairError, match=r'mine\.safetensors') as error:
        load_model(saved)
    assert error.value.code == ExitCode.DATA_UNUSABLE


def test_half_a_model_names_the_missing_half(saved):
    saved.with_suffix('.json').unlink()
    with pytest.raises(BidsFlairError, match=r'mine\.json.* is missing'):
        load_model(saved)


def test_a_card_of_another_network_is_refused(saved):
    card = json.loads(saved.with_suffix('.json').read_text())
    card['architecture']['width'] = 6
    saved.with_suffix('.json').write_text(json.dumps(card))
    with pytest.raises(BidsFlairError, match='does not hold the network'):
        load_model(saved)


def test_a_folder_of_several_models_is_ambiguous(saved):
    shutil.copy(saved, saved.with_name('other.safetensors'))
    with pytest.raises(BidsFlairError, match='holds 2'):
        load_model(saved.parent)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BidsFlairError, match='default') as error:
        load_model('nonesuch')
    assert error.value.code == ExitCode.INPUT_MISSING


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / 'model.pt'
    torch.save({}, path)
    with pytest.raises(BidsFlairError, match='safetensors'):
        load_model(path)


def test_shipped_models_are_small_and_say_where_they_come_from():
    assert 'default' in shipped_models()
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 20e6
    for name in shipped_models():
        model = load_model(name)
        assert {'training_data', 'configuration', 'normalisation'} <= set(model.card)
        alone = getattr(model.network, 'generalist', model.network)
        assert alone.simulated_only is (not model.card['training_data']['real']['people'])
