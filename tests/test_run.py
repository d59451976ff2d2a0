"""The whole program on small simulated heads: what is written, what is said, how it ends."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from program import WITHOUT_FSL, call
from small_heads import write_tiny_model

from bids_flair.bids.collect import collect
from bids_flair.bids.validation import validator_errors
from bids_flair.errors import ExitCode
from bids_flair.processing.images import reference_grid
from bids_flair.reports.session import session_report
from bids_flair.settings import Settings

pytestmark = pytest.mark.slow

PREFIX = 'sub-01_space-T1w_'
EXPECTED = {
    f'anat/{PREFIX}desc-synth_FLAIR.nii.gz',
    f'anat/{PREFIX}desc-synthlow_FLAIR.nii.gz',
    f'anat/{PREFIX}desc-synthhigh_FLAIR.nii.gz',
    f'anat/{PREFIX}desc-synthstd_FLAIR.nii.gz',
    f'anat/{PREFIX}desc-synth_mask.nii.gz',
    'anat/sub-01_desc-preproc_T1w.nii.gz',
    f'anat/{PREFIX}desc-preproc_T2w.nii.gz',
    f'anat/{PREFIX}desc-preproc_FLAIR.nii.gz',
    'anat/sub-01_desc-brain_mask.nii.gz',
    'anat/sub-01_from-T2w_to-T1w_mode-image_xfm.txt',
    'anat/sub-01_from-FLAIR_to-T1w_mode-image_xfm.txt',
    'dwi/sub-01_from-dwi_to-T1w_mode-image_xfm.txt',
    *(f'dwi/{PREFIX}model-tensor_param-{name}_dwimap.nii.gz' for name in ('md', 'fa', 's0')),
}


def bids_flair(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'bids_flair', *map(str, arguments)],
        capture_output=True, text=True, check=False, **{'env': WITHOUT_FSL, **options},
    )  # fmt: skip


@pytest.fixture(scope='session')
def finished(dolls, tmp_path_factory):
    """One run over all dolls, shared by the tests that look at what it left."""
    folder = tmp_path_factory.mktemp('run')
    result = bids_flair(
        dolls, folder / 'out', 'participant', '-w', folder / 'work', '--nprocs', 2,
        '--feed', folder / 'fed',
    )  # fmt: skip
    assert result.returncode == ExitCode.DONE, result.stderr
    return folder / 'out', result


def test_expected_files_and_no_others(finished):
    out, _ = finished
    folder = out / 'sub-01'
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.is_file() and 'log' not in path.parts and path.suffix != '.json'
    }
    assert found == EXPECTED
    for path in found:
        assert (folder / path).with_name(Path(path).name.split('.')[0] + '.json').exists(), path


def test_images_share_one_grid_of_1_mm(finished, dolls):
    out, _ = finished
    shape, affine = reference_grid(nib.load(dolls / 'sub-01/anat/sub-01_T1w.nii.gz'))
    for path in EXPECTED:
        if path.endswith('.nii.gz'):
            img = nib.load(out / 'sub-01' / path)
            assert img.shape == shape, path
            np.testing.assert_allclose(img.affine, affine, atol=1e-4, err_msg=path)
            assert np.isfinite(img.get_fdata()).all(), path


def test_synthetic_flair_is_a_flair(finished, dolls):
    """Cerebrospinal fluid, bright in the T2w, is dark; and nothing is made outside the mask."""
    out, _ = finished
    anat = out / 'sub-01' / 'anat'
    flair = nib.load(anat / f'{PREFIX}desc-synth_FLAIR.nii.gz').get_fdata()
    mask = nib.load(anat / f'{PREFIX}desc-synth_mask.nii.gz').get_fdata() > 0
    t2w = nib.load(anat / f'{PREFIX}desc-preproc_T2w.nii.gz').get_fdata()
    assert (flair[~mask] == 0).all()
    fluid = mask & (t2w > np.percentile(t2w[mask], 97))
    tissue = mask & (t2w < np.percentile(t2w[mask], 50))
    assert np.median(flair[fluid]) < 0.75 * np.median(flair[tissue])
    assert 0.7 < np.median(flair[tissue]) < 1.5


def test_tensor_maps_hold_physical_values(finished):
    out, _ = finished
    dwi = out / 'sub-01' / 'dwi'
    md = nib.load(dwi / f'{PREFIX}model-tensor_param-md_dwimap.nii.gz').get_fdata()
    assert 0.5e-3 < np.median(md[md > 0]) < 1.6e-3
    sidecar = json.loads((dwi / f'{PREFIX}model-tensor_param-md_dwimap.json').read_text())
    assert sidecar['Units'] == 'mm2/s'


def test_sidecar_tells_how_it_was_made(finished):
    out, _ = finished
    sidecar = json.loads((out / 'sub-01' / 'anat' / f'{PREFIX}desc-synth_FLAIR.json').read_text())
    assert sidecar['SynthesisInputs'] == ['T1w', 'T2w', 'MD', 'FA', 'S0']
    assert len(sidecar['SynthesisModel']['sha256']) == 64
    assert sidecar['Backend'] == 'embedded'
    assert sidecar['SkullStripped'] is True
    assert 'bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz' in sidecar['Sources']
    assert {r['Contrast'] for r in sidecar['Registrations']} == {'T2w', 'FLAIR', 'dwi'}
    assert all(r['MutualInformation'] > 1 for r in sidecar['Registrations'])
    # The dolls keep still.
    assert 0 <= sidecar['HeadMotion']['LargestDisplacementMm'] < 1
    assert set(sidecar['IntensityFactors']) >= {'T1w', 'T2w', 'S0'}
    assert -1 <= sidecar['ScoresInBrain']['ssim'] <= 1


def test_score_is_that_of_the_written_images(finished):
    from bids_flair.scoring import score

    anat = finished[0] / 'sub-01' / 'anat'
    names = ('desc-synth_FLAIR', 'desc-preproc_FLAIR', 'desc-synth_mask')
    synthetic, acquired, mask = (
        nib.load(anat / f'{PREFIX}{name}.nii.gz').get_fdata() for name in names
    )
    again = score(synthetic, acquired, (mask > 0) & (acquired != 0))
    written = json.loads((anat / f'{PREFIX}desc-synth_FLAIR.json').read_text())['ScoresInBrain']
    assert written['ssim'] == pytest.approx(again['ssim'], abs=2e-3)


def test_participant_with_a_t2w_alone_has_its_own_space(finished):
    anat = finished[0] / 'sub-02' / 'anat'
    assert (anat / 'sub-02_space-T2w_desc-synth_FLAIR.nii.gz').exists()
    assert (anat / 'sub-02_desc-preproc_T2w.nii.gz').exists()


def test_a_stripped_image_keeps_its_own_shape_as_the_mask(finished, dolls):
    """Of voxels of 2 mm, each of which is eight of the reference grid."""
    mask = nib.load(finished[0] / 'sub-02' / 'anat' / 'sub-02_desc-brain_mask.nii.gz').get_fdata()
    acquired = nib.load(dolls / 'sub-02/anat/sub-02_T2w.nii.gz').get_fdata()
    assert (mask > 0).sum() == pytest.approx(8 * (acquired != 0).sum(), rel=0.01)
    assert 'sub-02: the inputs look unlike' not in finished[1].stderr


def test_participant_with_diffusion_alone(finished):
    out = finished[0] / 'sub-03'
    flair = nib.load(out / 'anat' / 'sub-03_space-dwi_desc-synth_FLAIR.nii.gz')
    sidecar = json.loads((out / 'anat/sub-03_space-dwi_desc-synth_FLAIR.json').read_text())
    assert sidecar['SynthesisInputs'] == ['MD', 'FA', 'S0']
    assert sidecar['SpatialReference'] == 'bids:raw:sub-03/dwi/sub-03_dwi.nii.gz'
    assert flair.get_fdata().max() > 0.5


def test_report_log_and_citation(finished):
    out, result = finished
    for label in ('01', '02', '03'):
        assert '<html' in (out / f'sub-{label}.html').read_text()
        (record,) = (out / f'sub-{label}' / 'log').glob('*/bids_flair.toml')
        assert Settings.from_toml(record.read_text()).output_dir == out
    assert 'FLAIR was synthesised' in (out / 'logs' / 'CITATION.md').read_text()
    assert '@misc{buildaflair' in (out / 'logs' / 'CITATION.bib').read_text()
    assert 'sub-01: registering T2w took' in result.stderr


def test_reports_are_made_anew_from_what_a_run_left(finished, dolls, tmp_path):
    out = Path(shutil.copytree(finished[0], tmp_path / 'out'))
    before = {path.name: path.read_bytes() for path in out.glob('sub-*.html')}
    for name in before:
        (out / name).unlink()
    result = bids_flair(
        dolls, out, 'participant', 'group', '--reports-only', '-w', tmp_path / 'work'
    )
    assert result.returncode == ExitCode.DONE, result.stderr
    assert {path.name: path.read_bytes() for path in out.glob('sub-*.html')} == before
    rows = (out / 'group_FLAIR.tsv').read_text().splitlines()
    assert [row.split('\t')[0] for row in rows[1:]] == ['sub-01', 'sub-02', 'sub-03']
    assert len({row.count('\t') for row in rows}) == 1


def test_little_is_kept_of_a_session_that_is_done(finished, dolls):
    """Of a thousand participants all at once: paths and figures, and no image."""
    settings = Settings(dolls, finished[0])
    pages = [session_report(inputs, finished[0], []) for inputs in collect(settings)]
    assert max(len(pickle.dumps(page)) for page in pages) < 20_000


def test_no_worker_looks_through_templates(finished):
    """niworkflows lists those in a folder, for 10 s, and all that there are in an empty one."""
    folder = finished[0].parent / 'work' / 'no_templates'
    assert [path.name for path in folder.iterdir()] == ['README']


def test_reports_of_nothing_are_refused(dolls, tmp_path):
    result = call(
        dolls, tmp_path / 'out', 'participant', '--reports-only', '-w', tmp_path / 'work'
    )
    assert result.returncode == ExitCode.INPUT_MISSING
    assert 'holds no earlier run' in result.stderr


def test_output_is_valid_bids(finished):
    out, _ = finished
    validator = Path(sys.executable).with_name('bids-validator-deno')
    answer = subprocess.run(
        [validator, '--json', out], capture_output=True, text=True, check=False
    )
    issues = json.loads(answer.stdout)['issues']['issues']
    assert [i for i in issues if i['severity'] == 'error'] == []
    assert answer.returncode == 0


def test_the_raw_dataset_is_fed(finished, dolls):
    from niworkflows.utils.bids import collect_data

    out, result = finished
    fed = out.with_name('fed')
    found = {label: collect_data(fed, label)[0]['flair'] for label in ('01', '02', '03')}
    names = {label: [Path(path).name for path in paths] for label, paths in found.items()}
    assert names == {
        '01': ['sub-01_FLAIR.nii.gz'],
        '02': ['sub-02_rec-synth_FLAIR.nii.gz'],
        '03': ['sub-03_rec-synth_FLAIR.nii.gz'],
    }
    image = nib.load(found['02'][0])
    derived = nib.load(out / 'sub-02/anat/sub-02_space-T2w_desc-synth_FLAIR.nii.gz')
    np.testing.assert_allclose(image.affine, derived.affine, atol=1e-5)
    np.testing.assert_allclose(image.get_fdata() / 1000, derived.get_fdata(), atol=5.1e-4)
    assert max(image.header.get_zooms()) < 1.2
    assert '2 synthetic FLAIR (sub-02, sub-03)' in result.stderr
    assert '1 acquired FLAIR kept (sub-01)' in result.stderr
    assert validator_errors(fed) == []


@pytest.fixture
def broken(dolls, tmp_path) -> Path:
    """A copy of the dataset that a test may damage."""
    return Path(shutil.copytree(dolls, tmp_path / 'data'))


@pytest.fixture(scope='session')
def damaged(dolls, tiny_model, tmp_path_factory):
    """One run over four participants of whom one has nothing amiss."""
    folder = tmp_path_factory.mktemp('damaged')
    data = Path(shutil.copytree(dolls, folder / 'data'))
    whole = data / 'sub-01/anat/sub-01_T1w.nii.gz'
    lost = data / 'sub-04/anat/sub-04_T2w.nii.gz'
    lost.parent.mkdir(parents=True)
    shutil.copy(whole, lost.with_name('sub-04_T1w.nii.gz'))
    img = nib.load(whole)
    noise = np.random.default_rng(0).rayleigh(100, img.shape).astype(np.float32)
    nib.Nifti1Image(noise, img.affine).to_filename(lost)
    whole.write_bytes(whole.read_bytes()[:2000])
    shutil.rmtree(data / 'sub-03')
    (data / 'sub-03' / 'func').mkdir(parents=True)
    result = bids_flair(
        data, folder / 'out', 'participant', '-w', folder / 'work', '--inputs', 'T1w', 'T2w',
        '--participant-label', '01', '02', '03', '04', '--model', tiny_model,
    )  # fmt: skip
    assert result.returncode == ExitCode.PARTICIPANT_FAILED, result.stderr
    return folder / 'out', result


def test_one_bad_participant_does_not_stop_the_others(damaged):
    out, result = damaged
    assert 'sub-01_T1w.nii.gz: cannot be read to its end' in result.stderr
    assert (out / 'sub-02/anat/sub-02_space-T2w_desc-synth_FLAIR.nii.gz').exists()
    assert 'truncated' in (out / 'sub-01.html').read_text()


def test_participant_without_any_input_is_named_and_counted(damaged):
    assert 'sub-03: no T1w, T2w or dwi image' in damaged[1].stderr


def test_a_contrast_that_cannot_be_registered_is_not_used(damaged):
    out, result = damaged
    assert 'sub-04: T2w was not used, its registration failed' in result.stderr
    anat = out / 'sub-04' / 'anat'
    sidecar = json.loads((anat / 'sub-04_space-T1w_desc-synth_FLAIR.json').read_text())
    assert sidecar['SynthesisInputs'] == ['T1w']
    assert not (anat / 'sub-04_space-T1w_desc-preproc_T2w.nii.gz').exists()


@pytest.mark.parametrize(
    ('damage', 'code', 'says'),
    [
        ('sub-01/dwi/sub-01_dwi.bvec', ExitCode.INPUT_MISSING, 'no bvec file belongs to it'),
        ('dataset_description.json', ExitCode.NOT_BIDS, 'dataset_description.json is missing'),
    ],
)
def test_missing_files_are_named(broken, tmp_path, damage, code, says):
    (broken / damage).unlink()
    result = call(
        broken, tmp_path / 'out', 'participant', '-w', tmp_path / 'work',
        '--participant-label', '01',
    )  # fmt: skip
    assert result.returncode == code
    assert says in result.stderr
    assert 'Traceback' not in result.stderr


def test_a_model_of_fewer_inputs_is_given_these_and_no_others(finished, dolls, tmp_path):
    """The participant also has a T1w and diffusion; the one without a T2w is told so.

    What the other run has left in the work folder is used again.
    """
    model = write_tiny_model(tmp_path / 'mine', inputs=('T2w',), needs_every_input=True)
    out = tmp_path / 'out'
    result = bids_flair(
        dolls, out, 'participant', '-w', finished[0].with_name('work'), '--model', model,
        '--participant-label', '01', '03',
    )  # fmt: skip
    assert result.returncode == ExitCode.PARTICIPANT_FAILED
    assert 'sub-03: lacks T2w' in result.stderr
    path = out / 'sub-01/anat' / f'{PREFIX}desc-synth_FLAIR.json'
    assert json.loads(path.read_text())['SynthesisInputs'] == ['T2w']


@pytest.mark.parametrize(
    ('card', 'says'),
    [
        ({'inputs': ('T1w',), 'target': 'T2w'}, 'makes a T2w'),
        ({'inputs': ('T1w',)}, 'takes T1w, and --inputs asks for T2w'),
        ({'inputs': ('T1w', 'T2w'), 'needs_every_input': True}, 'takes T1w, T2w together'),
    ],
)
def test_a_model_that_does_not_fit_is_refused(dolls, tmp_path, card, says):
    model = write_tiny_model(tmp_path / 'mine', **card)
    options = ('--model', model, '--inputs', 'T2w', '--dry-run')
    result = call(dolls, tmp_path / 'out', 'participant', *options)
    assert result.returncode == ExitCode.WRONG_ARGUMENTS
    assert says in result.stderr


def test_dry_run_writes_nothing(dolls, tmp_path):
    options = ('--dry-run', '--feed', 'fed')
    result = call(dolls, tmp_path / 'out', 'participant', *options, cwd=tmp_path)
    assert result.returncode == ExitCode.DONE
    assert 'sub-01: T1w (sub-01_T1w.nii.gz)' in result.stderr
    assert 'would feed' in result.stderr and '(sub-02, sub-03)' in result.stderr
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'fed').exists()


def test_fsl_that_is_not_there_is_an_error(dolls, tmp_path):
    environment = {**os.environ, 'FSLDIR': str(tmp_path)}
    result = call(dolls, tmp_path / 'out', 'participant', '--backend', 'fsl', env=environment)
    assert result.returncode == ExitCode.COMMAND_MISSING
    assert f'{tmp_path}/bin lacks bet, bet2, dtifit, flirt' in result.stderr
    assert 'Install FSL' in result.stderr and 'Traceback' not in result.stderr
    assert not (tmp_path / 'out').exists()


def test_cuda_that_is_not_there_is_an_error(dolls, tmp_path):
    result = call(dolls, tmp_path / 'out', 'participant', '--device', 'cuda:99')
    assert result.returncode == ExitCode.WRONG_ARGUMENTS
    assert 'cuda:99' in result.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('which', ['output', 'work'])
def test_folders_that_cannot_be_written(dolls, tmp_path, which):
    folders = {name: tmp_path / name for name in ('output', 'work')} | {which: '/proc/bids_flair'}
    result = call(dolls, folders['output'], 'participant', '-w', folders['work'])
    assert result.returncode == ExitCode.CANNOT_WRITE
    assert f'{which} directory /proc/bids_flair cannot be written to' in result.stderr
    assert 'Traceback' not in result.stderr


def test_cleaning_leaves_what_others_put_into_the_work_directory(dolls, tmp_path):
    work = tmp_path / 'work'
    (work / 'bids_flair_wf').mkdir(parents=True)
    for name in ('thesis.txt', 'bids_flair_wf/stale.txt'):
        (work / name).write_text('text')
    result = call(
        dolls, tmp_path / 'out', 'participant', '-w', work, '--clean-workdir', '--boilerplate-only'
    )
    assert result.returncode == ExitCode.DONE, result.stderr
    assert (work / 'thesis.txt').exists()
    assert not (work / 'bids_flair_wf' / 'stale.txt').exists()


def test_cleaning_for_one_participant_leaves_what_others_are_making(dolls, tmp_path):
    made = tmp_path / 'work' / 'bids_flair_wf'
    for label in ('01', '02'):
        (made / f'sub_{label}_wf').mkdir(parents=True)
    result = call(
        dolls, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', '--clean-workdir',
        '--boilerplate-only', '--participant-label', '01',
    )  # fmt: skip
    assert result.returncode == ExitCode.DONE, result.stderr
    assert [path.name for path in made.iterdir()] == ['sub_02_wf']


def test_stopping_on_the_first_crash_begins_no_other_session(broken, tmp_path):
    image = broken / 'sub-02/anat/sub-02_T2w.nii.gz'
    image.write_bytes(image.read_bytes()[:2000])
    result = bids_flair(
        broken, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', '--nprocs', '1',
        '--participant-label', '02', '03', '--stop-on-first-crash',
    )  # fmt: skip
    assert result.returncode == ExitCode.DATA_UNUSABLE
    assert 'sub-02 FAILED' in result.stderr
    assert not (tmp_path / 'out' / 'sub-03' / 'anat').exists()


def test_sessions_of_separate_calls_are_in_one_report(dolls, tmp_path):
    """As an array of one session per job has them."""
    data = tmp_path / 'data'
    for label in ('1', '2'):
        folder = data / f'sub-01/ses-{label}/anat'
        folder.mkdir(parents=True)
        (folder / f'sub-01_ses-{label}_T1w.nii.gz').write_bytes(b'no image')
    for name in ('dataset_description.json', 'README'):
        shutil.copy(dolls / name, data)
    for label in ('1', '2'):
        result = call(
            data, tmp_path / 'out', 'participant', '-w', tmp_path / 'work',
            '--session-label', label,
        )  # fmt: skip
        assert result.returncode == ExitCode.DATA_UNUSABLE, result.stderr
    report = (tmp_path / 'out/sub-01.html').read_text()
    assert 'sub-01_ses-1_T1w.nii.gz: cannot be read' in report
    assert 'sub-01_ses-2_T1w.nii.gz: cannot be read' in report


def test_run_py_is_the_same_program(root):
    result = subprocess.run(
        [sys.executable, root / 'run.py', '--version'], capture_output=True, text=True, check=True
    )
    assert result.stdout == bids_flair('--version').stdout
