"""The group level from the command line: whom it trains on, what it writes, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import write_participant

from bids_flair.cli.main import run
from bids_flair.errors import ExitCode
from bids_flair.models.committee import SHARE
from bids_flair.models.files import load_model
from bids_flair.models.inference import synthesis_of
from bids_flair.models.normalisation import normalise
from bids_flair.models.trees import BoostedTrees
from bids_flair.training import build_a_flair, cohort_model, fit, specialist
from bids_flair.training.cohort_model import read_table


@pytest.fixture(scope='module')
def cohort(tmp_path_factory) -> Path:
    """Four participants in a derivative dataset; the last has no diffusion."""
    data = tmp_path_factory.mktemp('cohort')
    description = {'Name': 'cohort', 'BIDSVersion': '1.10.0', 'DatasetType': 'derivative'}
    (data / 'dataset_description.json').write_text(json.dumps(description))
    for label in ('1', '2', '3'):
        write_participant(data, label)
    write_participant(data, '4', ('T1w', 'T2w', 'FLAIR'))
    return data


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch):
    for module in (fit, cohort_model):
        monkeypatch.setattr(module, 'EPOCH_STEPS', 4)
    monkeypatch.setattr(specialist, 'STYLES', 40)


def train(data: Path, out: Path, *options: str) -> int:
    folders = [str(data), str(out), 'group', '-w', str(out.with_name('work'))]
    return run([*folders, '--omp-nthreads', '1', '--device', 'cpu', *options])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder).network.state_dict()


@pytest.fixture(scope='module')
def trained(cohort, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('run') / 'out'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, 'EPOCH_STEPS', 4)
        patch.setattr(cohort_model, 'EPOCH_STEPS', 4)
        options = ('--model-name', 'mine', '--holdout', '4', '--epochs', '2')
        assert train(cohort, out, *options) == ExitCode.DONE
    return out


def test_a_model_is_one_folder_with_its_card_history_and_scores(trained):
    folder = trained / 'models' / 'mine'
    card = json.loads((folder / 'model.json').read_text())
    assert card['target'] == 'FLAIR'
    assert card['inputs'] == ['T1w', 'T2w', 'MD', 'FA', 'S0']
    people = card['training_data']
    assert len(people['people']) == 2
    assert len(people['validation']) == 1
    assert 'sub-4' not in people['people'] + people['validation']
    history = read_table(folder / 'history.tsv')
    assert [row['epoch'] for row in history] == ['1', '2']
    assert all(float(row['validation']) > 0 for row in history)
    (row,) = read_table(folder / 'scores.tsv')
    assert row['participant_id'] == 'sub-4'
    assert row['inputs'] == 'T1w+T2w'
    assert 0 < float(row['lesion_auc_pred']) <= 1
    assert not (folder / 'checkpoint').exists()


def test_the_report_stands_alone(trained):
    html = (trained / 'group_mine.html').read_text()
    assert 'sub-4' in html
    assert 'http' not in html
    assert (trained / 'models/mine/figures/sub-4.png').stat().st_size > 1000


def test_the_model_synthesises(trained, cohort):
    anat = cohort / 'sub-4/anat'
    images = {
        'T1w': nib.load(anat / 'sub-4_desc-preproc_T1w.nii.gz'),
        'T2w': nib.load(anat / 'sub-4_space-T1w_desc-preproc_T2w.nii.gz'),
    }
    made = synthesis_of(images, model=trained / 'models/mine', device='cpu')
    assert made.flair.get_fdata().max() > 0.2
    assert np.isfinite(made.high.get_fdata()).all()


def test_a_model_is_never_overwritten(trained, cohort, capsys):
    before = (trained / 'models/mine/model.json').read_bytes()
    code = train(cohort, trained, '--model-name', 'mine', '--epochs', '1')
    assert code == ExitCode.CANNOT_WRITE
    assert 'Choose another --model-name' in capsys.readouterr().err
    assert (trained / 'models/mine/model.json').read_bytes() == before


def test_who_lacks_what_is_said(cohort, tmp_path, capsys):
    data = tmp_path / 'data'
    write_participant(data, '7', ('T1w', 'FLAIR'))
    write_participant(data, '8', ('T1w', 'T2w'))
    (data / 'dataset_description.json').write_text(
        (cohort / 'dataset_description.json').read_text()
    )
    code = train(data, tmp_path / 'out', '--model-name', 'x', '--inputs', 'T1w', 'T2w')
    told = capsys.readouterr().err
    assert code == ExitCode.INPUT_MISSING
    assert 'sub-7 lacks T2w' in told
    assert 'sub-8 lacks FLAIR' in told
    assert not (tmp_path / 'out').exists()


def test_an_unknown_label_is_named(cohort, tmp_path, capsys):
    code = train(cohort, tmp_path / 'out', '--model-name', 'x', '--holdout', '99')
    assert code == ExitCode.NOTHING_MATCHED
    told = capsys.readouterr().err
    assert '99' in told
    assert 'Known: 1, 2, 3, 4' in told


def test_images_on_two_grids_are_refused(cohort, tmp_path, capsys):
    data = tmp_path / 'data'
    write_participant(data, '5')
    write_participant(data, '6', shift=1.0)
    (data / 'dataset_description.json').write_text(
        (cohort / 'dataset_description.json').read_text()
    )
    code = train(data, tmp_path / 'out', '--model-name', 'x')
    assert code == ExitCode.DATA_UNUSABLE
    told = capsys.readouterr().err
    assert 'sub-6' in told
    assert 'not on one grid' in told
    assert not list((tmp_path / 'out').rglob('*.safetensors'))


def test_an_image_without_sidecar_is_refused(cohort, tmp_path, capsys):
    data = tmp_path / 'data'
    for label in ('5', '6'):
        write_participant(data, label)
    (data / 'sub-6/anat/sub-6_space-T1w_desc-preproc_T2w.json').unlink()
    (data / 'dataset_description.json').write_text(
        (cohort / 'dataset_description.json').read_text()
    )
    code = train(data, tmp_path / 'out', '--model-name', 'x')
    assert code == ExitCode.INPUT_MISSING
    assert 'sub-6_space-T1w_desc-preproc_T2w' in capsys.readouterr().err


@pytest.mark.parametrize('recipe', ['default', 'build-a-flair'])
def test_a_training_that_was_killed_resumes_to_the_same_weights(
    recipe, cohort, tmp_path, monkeypatch
):
    options = ('--model-name', 'm', '--recipe', recipe, '--inputs', 'T1w', 'T2w', '--epochs', '3')
    assert train(cohort, tmp_path / 'a' / 'out', *options) == ExitCode.DONE
    module = fit if recipe == 'default' else build_a_flair
    write, count = module.write_checkpoint, []

    def die_after_two(*arguments):
        write(*arguments)
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(module, 'write_checkpoint', die_after_two)
        assert train(cohort, tmp_path / 'b' / 'out', *options) == 130
    assert train(cohort, tmp_path / 'b' / 'out', *options) == ExitCode.CANNOT_WRITE
    assert train(cohort, tmp_path / 'b' / 'out', *options, '--resume') == ExitCode.DONE
    whole, resumed = (weights(tmp_path / name / 'out/models/m') for name in 'ab')
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_a_t2w_from_flair_and_diffusion(cohort, tmp_path):
    out = tmp_path / 'out'
    options = ('--model-name', 't2', '--target', 'T2w', '--inputs', 'FLAIR', 'MD', 'S0')
    assert train(cohort, out, *options, '--holdout', '3', '--epochs', '6') == ExitCode.DONE
    card = json.loads((out / 'models/t2/model.json').read_text())
    assert card['target'] == 'T2w'
    assert card['inputs'] == ['MD', 'S0', 'FLAIR']
    (row,) = read_table(out / 'models/t2/scores.tsv')
    assert float(row['corr']) > 0.5


def test_the_paper_to_the_letter_and_its_deviations(cohort, tmp_path):
    out = tmp_path / 'out'
    options = ('--recipe', 'build-a-flair', '--inputs', 'T1w', 'T2w', '--epochs', '2')
    assert train(cohort, out, '--model-name', 'plain', *options) == ExitCode.DONE
    assert train(cohort, out, '--model-name', 'literal', *options, '--literal') == ExitCode.DONE
    cards = [
        json.loads((out / f'models/{n}/model.json').read_text()) for n in ('plain', 'literal')
    ]
    assert cards[0]['deviations'] == ['He initialisation', 'no ReLU on the last neuron']
    assert cards[1]['deviations'] == []


def test_sets_of_inputs_are_ranked(cohort, tmp_path):
    out = tmp_path / 'out'
    options = ('--recipe', 'build-a-flair', '--epochs', '3', '--holdout', '3')
    code = train(cohort, out, '--model-name', 'c', '--compare', 'T1w', 'S0+MD', *options)
    assert code == ExitCode.DONE
    rows = read_table(out / 'models/c/comparison.tsv')
    assert {row['inputs'] for row in rows} == {'T1w', 'MD+S0'}
    assert float(rows[0]['ssim']) >= float(rows[1]['ssim'])
    assert load_model(out / 'models/c/MD+S0').card['inputs'] == ['MD', 'S0']
    assert 'Ranking' in (out / 'group_c.html').read_text()


def test_the_sets_of_table_1_have_a_name(cohort, tmp_path, capsys):
    options = ('--model-name', 'all', '--compare', 'table1', '--dry-run')
    assert train(cohort, tmp_path / 'out', *options) == ExitCode.DONE
    said = capsys.readouterr().err
    assert 'T1w+T2w+MD+S0' in said
    assert said.count(';') == 10
    assert 'sub-4' not in said.split('holdout')[0].split('training:')[1]


def test_fine_tuning_adds_specialists_that_are_heard_on_their_own_scanner(
    cohort, tmp_path, monkeypatch
):
    monkeypatch.setattr(fit, 'EPOCH_STEPS', 4)
    monkeypatch.setattr(cohort_model, 'EPOCH_STEPS', 4)
    out = tmp_path / 'out'
    options = (
        '--model-name',
        'tuned',
        '--fine-tune',
        'default',
        '--holdout',
        '3',
        '--validation',
        '2',
    )
    assert train(cohort, out, *options, '--epochs', '1') == ExitCode.DONE
    shipped, tuned = load_model('default'), load_model(out / 'models/tuned')
    assert tuned.card['started_from']['sha256'] == shipped.card['sha256']
    images = {name: nib.load(path) for name, path in images_of(cohort, '3').items()}
    kept = tuned.network.generalist.state_dict()
    general = getattr(shipped.network, 'generalist', shipped.network).state_dict()
    assert all(torch.equal(kept[key], value) for key, value in general.items())
    assert len(tuned.network.specialists) == len(shipped.network.specialists) + 3
    own = list(tuned.network.specialists)[-3:]
    assert [type(one) is BoostedTrees for one in own] == [False, False, True]
    assert all(one.architecture.inputs == ('T1w', 'T2w') for one in own)
    history = read_table(out / 'models/tuned/history.tsv')
    assert [(row['network'], row['epoch']) for row in history] == [('1', '1'), ('2', '1')]
    brain = nib.load(cohort / 'sub-3/anat/sub-3_desc-brain_mask.nii.gz').get_fdata() > 0
    seen = normalise({k: image.get_fdata() for k, image in images.items()}, brain)
    heard = {voice.network: voice.weight for voice in tuned.network.voices(seen, brain)}
    assert sum(heard[one].max() for one in own) == pytest.approx(SHARE)
    faint = seen.values.copy()
    faint[0] = 1 + 0.2 * (faint[0] - 1)
    strange = replace(seen, values=faint * seen.presence)
    assert not {*own} & {voice.network for voice in tuned.network.voices(strange, brain)}


def images_of(data: Path, label: str) -> dict[str, Path]:
    anat = data / f'sub-{label}/anat'
    return {
        'T1w': anat / f'sub-{label}_desc-preproc_T1w.nii.gz',
        'T2w': anat / f'sub-{label}_space-T1w_desc-preproc_T2w.nii.gz',
    }


def test_one_contrast_does_not_tell_a_scanner(cohort, tmp_path, caplog):
    data = tmp_path / 'data'
    data.mkdir()
    shutil.copy(cohort / 'dataset_description.json', data)
    for label in ('1', '2'):
        write_participant(data, label, ('T1w', 'FLAIR'))
    out = tmp_path / 'out'
    options = ('--model-name', 'tuned', '--fine-tune', 'default')
    assert train(data, out, *options) == ExitCode.INPUT_MISSING
    assert not list(out.rglob('plan.json'))


@pytest.mark.slow
def test_two_processes_train_as_one_does(cohort, tmp_path):
    scores = []
    for name, launcher in (
        ('one', [sys.executable, '-m', 'bids_flair']),
        ('two', [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2', '-m',
                 'bids_flair']),
    ):  # fmt: skip
        out = tmp_path / name
        command = [*launcher, cohort, out, 'group', '-w', tmp_path / f'work-{name}', '--device',
                   'cpu', '--omp-nthreads', '1', '--model-name', 'm', '--recipe', 'build-a-flair',
                   '--dropout', '0', '--inputs', 'T1w', 'T2w', '--epochs', '15', '--holdout',
                   '4']  # fmt: skip
        done = subprocess.run(
            [str(part) for part in command],
            env=os.environ | {'OMP_NUM_THREADS': '1'},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (row,) = read_table(out / 'models/m/scores.tsv')
        scores.append(float(row['ssim']))
    assert scores[0] == pytest.approx(scores[1], abs=0.005)
