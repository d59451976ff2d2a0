"""The command that trains what ships, in miniature: a general network, specialists, one abroad."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_flair.models.files import load_model
from bids_flair.models.trees import BoostedTrees
from bids_flair.training import __main__ as command
from bids_flair.training.boosting import Boosting

PAIR = ('T1w', 'T2w')


@pytest.fixture
def derivatives(tmp_path) -> Path:
    """Two people of one scanner: balls of white matter around fluid."""
    distance = np.sqrt(((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0))
    tissue = np.select([distance < 7, distance < 14], [2, 1], 0)
    for seed, label in enumerate(('01', '02')):
        anat = tmp_path / f'ds/sub-{label}/anat'
        anat.mkdir(parents=True)
        for name, values in (('T1w', (0, 8, 2)), ('T2w', (0, 2, 9)), ('FLAIR', (0, 5, 1))):
            noise = np.random.default_rng(seed).normal(1, 0.03, tissue.shape)
            image = nib.Nifti1Image((np.array(values)[tissue] * noise).astype('f4'), np.eye(4))
            image.to_filename(anat / f'sub-{label}_space-T1w_desc-preproc_{name}.nii.gz')
    description = {'Name': 'Balls', 'BIDSVersion': '1.10.0', 'License': 'CC0'}
    (tmp_path / 'ds/dataset_description.json').write_text(json.dumps(description))
    return tmp_path / 'ds'


@pytest.mark.parametrize('wrong', [['2', '5'], ['2', '1', '2']])
def test_every_patch_size_needs_its_convolutions(wrong, capsys):
    with pytest.raises(SystemExit):
        command.parse(['--out', 'out', '--convolutions', *wrong])
    assert '--convolutions takes 3 numbers' in capsys.readouterr().err
    assert command.parse(['--out', 'out', '--convolutions', '2', '5', '2']).convolutions == [
        2,
        5,
        2,
    ]


@pytest.mark.slow
def test_specialists_join_a_general_network(derivatives, tmp_path, monkeypatch):
    monkeypatch.setattr(command, 'STYLES', 20)
    monkeypatch.setattr(command, 'Boosting', partial(Boosting, voxels=500))

    def train(name: str, *options: str) -> Path:
        shared = ['--data', derivatives, '--simulated', 0, '--real', 1, '--steps', 2]
        arguments = [*shared, '--cache', tmp_path / 'people', '--out', tmp_path / name, *options]
        monkeypatch.setattr(sys, 'argv', ['bids_flair.training', *map(str, arguments)])
        command.main()
        return tmp_path / name / 'model.safetensors'

    general = train('general', '--leave-out', 'sub-02')
    of_t1w = train('T1w', '--leave-out', 'sub-02', '--start', general, '--inputs', 'T1w')
    model = load_model(
        train('all', '--leave-out', 'sub-02', '--start', general, '--abroad', general, of_t1w,
              '--specialists', 2, '--seed', 5, '--convolutions', 2, 3, 2)
    )  # fmt: skip
    seen = [one.architecture.inputs for one in model.network.specialists]
    assert seen == [PAIR] * 3 + [('T1w',)] * 2 + [('T2w',)] * 2
    # The last of several begins with the general network, in its shape.
    shapes = [one.architecture.convolutions for one in model.network.specialists[:2]]
    assert shapes == [(2, 3, 2), ()]
    assert not any(n.architecture.convolutions for n in model.network.specialists[3::2])
    kinds = [type(one) is BoostedTrees for one in model.network.specialists]
    assert kinds == [False, False, True, False, True, False, True]
    accords = json.loads((tmp_path / 'all/accords.json').read_text())
    assert model.network.accords[1:].tolist() == pytest.approx(list(accords.values()))
    elsewhere = tmp_path / 'elsewhere.json'
    elsewhere.write_text(json.dumps(dict.fromkeys(accords, 0.25)))
    other = load_model(
        train('all', '--leave-out', 'sub-02', '--start', general, '--abroad', general,
              '--specialists', 2, '--seed', 5, '--convolutions', 2, 3, 2,
              '--accords', elsewhere)
    )  # fmt: skip
    assert other.network.accords.tolist() == [0.25] * 7
    abroad = [one.architecture.inputs for one in model.network.abroad]
    assert abroad == [load_model(general).network.architecture.inputs, ('T1w',)]
    trained = model.card['specialist_training']
    assert [one['networks'] for one in trained] == [2, 1, 1]
    assert [one['configuration']['steps'] for one in trained] == [2, 2, 2]
    for one in trained:
        assert one['configuration']['seed'] == 5
        assert one['people'] == ['sub-01']
        assert one['trees'] == {**asdict(Boosting()), 'voxels': 500, 'seed': 5}
    assert [entry['person'] for entry in model.card['scores_on_people_left_out']] == ['sub-02']


@pytest.mark.slow
def test_a_model_of_simulated_people_only_says_so_and_one_of_real_people_does_not(
    derivatives, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, 'STYLES', 20)

    def train(name: str, *options: str) -> bool:
        arguments = ['--out', tmp_path / name, '--steps', 1, *options]
        monkeypatch.setattr(sys, 'argv', ['bids_flair.training', *map(str, arguments)])
        command.main()
        return load_model(tmp_path / name / 'model.safetensors').network.simulated_only

    everybody = ['--data', derivatives, '--leave-out', 'sub-01', 'sub-02']
    assert train('simulated', *everybody, '--simulated', 1) is True
    assert train('real', *everybody[:-1], '--simulated', 0) is False
