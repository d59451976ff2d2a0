"""The view of a raw dataset in which every session has a FLAIR, acquired or synthetic."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_flair.bids.collect import collect
from bids_flair.bids.feed import _scanner_image, feed, participant_links, prepare_feed, refuse_view
from bids_flair.bids.names import output_path
from bids_flair.bids.session import SessionInputs
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings

# Tilted, and left-right reversed, as scanners store images.
AFFINE = nib.affines.from_matvec(
    np.diag([-1, 1, 1]) @ nib.eulerangles.euler2mat(x=0.3), [40.0, -20.0, 7.0]
)
VALUES = np.linspace(0, 1.7, 8 * 9 * 10).reshape(8, 9, 10).astype(np.float32)


class Study:
    """A raw dataset of images too small to look at, and the derivatives made of it."""

    def __init__(self, root: Path):
        self.settings = Settings(root / 'raw', root / 'out', feed=root / 'feed')
        self.raw, self.view = self.settings.bids_dir, self.settings.feed
        description = {'Name': 'Study', 'BIDSVersion': '1.8.0', 'DatasetDOI': 'doi:10.1/x'}
        self.write('dataset_description.json', json.dumps(description))
        self.write('README', 'A dataset of images that are too small to look at, for tests.\n')
        self.write('participants.tsv', 'participant_id\nsub-01\nsub-02\nsub-03\n')

    def write(self, name: str, text: str = '') -> Path:
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def image(self, name: str) -> Path:
        image = nib.Nifti1Image(np.zeros(VALUES.shape, np.int16), AFFINE)
        image.set_qform(AFFINE, 1)
        image.set_sform(AFFINE, 1)
        image.header.set_xyzt_units('mm', 'sec')
        image.to_filename(self.write(name))
        return self.raw / name

    def feed(self, *labels: str, failed: tuple[str, ...] = ()) -> None:
        """Feed the participants of these labels, or all; sessions in ``failed`` have failed."""
        sessions = collect(self.settings_for(labels))
        done = [inputs for inputs in sessions if inputs.label not in failed]
        for inputs in done:
            self.derive(inputs)
        prepare_feed(sessions, self.settings)
        feed(done, [inputs for inputs in sessions if inputs.label in failed], self.settings)

    def settings_for(self, labels: tuple[str, ...]) -> Settings:
        return Settings(self.raw, self.settings.output_dir, participants=labels)

    def derive(self, inputs: SessionInputs) -> None:
        path = self.settings.output_dir / output_path('synthetic_flair', inputs)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(VALUES, AFFINE).to_filename(path)
        sidecar = {
            'SynthesisInputs': ['T1w'],
            'SynthesisModel': {'name': 'default'},
            'OutOfDistributionScore': 1.3,
            'MedianUncertainty': 0.1,
            'Warnings': ['the inputs look unlike anything that the model was trained on'],
        }
        path.with_name(path.name.replace('.nii.gz', '.json')).write_text(json.dumps(sidecar))

    def fed(self) -> set[str]:
        """All that the view holds."""
        below = (path.relative_to(self.view) for path in self.view.rglob('*'))
        return {path.as_posix() for path in below if not (self.view / path).is_dir()}


@pytest.fixture
def study(tmp_path) -> Study:
    study = Study(tmp_path)
    for label in ('01', '02'):
        study.image(f'sub-{label}/anat/sub-{label}_T1w.nii.gz')
    study.image('sub-02/anat/sub-02_acq-2d_FLAIR.nii.gz')
    study.write('sub-01/func/sub-01_task-rest_events.tsv', 'onset\tduration\n')
    return study


TOP = {'README', 'participants.tsv', 'dataset_description.json'}
SYNTHETIC = {f'sub-01/anat/sub-01_rec-synth_FLAIR.{kind}' for kind in ('nii.gz', 'json')}
FIRST = {'sub-01/anat/sub-01_T1w.nii.gz', 'sub-01/func/sub-01_task-rest_events.tsv'}
SECOND = {f'sub-02/anat/sub-02_{name}.nii.gz' for name in ('T1w', 'acq-2d_FLAIR')}


def test_originals_are_linked_and_a_missing_flair_is_added(study):
    study.feed()
    assert study.fed() == TOP | FIRST | SECOND | SYNTHETIC
    for name in TOP - {'dataset_description.json'} | FIRST | SECOND:
        link = study.view / name
        assert link.is_symlink() and not link.parent.is_symlink()
        assert link.resolve() == study.raw / name
    assert not any((study.view / name).is_symlink() for name in SYNTHETIC)


def test_synthetic_image_is_integer_and_where_it_was_made(study):
    study.feed()
    image = nib.load(study.view / 'sub-01/anat/sub-01_rec-synth_FLAIR.nii.gz')
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(image.dataobj.get_unscaled(), np.rint(VALUES * 1000))
    for matrix, code in (image.get_qform(coded=True), image.get_sform(coded=True)):
        np.testing.assert_allclose(matrix, AFFINE, atol=1e-5)
        assert code == 1


def test_a_sheared_grid_has_no_qform(study, tmp_path):
    """Which would lie elsewhere: a qform knows no shear."""
    sheared = AFFINE.copy()
    sheared[0, 1] += 0.2
    image = nib.Nifti1Image(VALUES, sheared)
    image.to_filename(tmp_path / 'made.nii')
    written = nib.Nifti1Image.from_bytes(
        gzip.decompress(_scanner_image(tmp_path / 'made.nii', tmp_path / 'made.nii'))
    )
    assert written.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(written.affine, sheared, atol=1e-5)


def test_sidecar_says_what_it_is_and_nothing_of_an_acquisition(study):
    study.feed()
    text = (study.view / 'sub-01/anat/sub-01_rec-synth_FLAIR.json').read_text()
    sidecar = json.loads(text)
    assert sidecar['SyntheticImage'] is True and sidecar['SkullStripped'] is True
    assert 'not acquired' in sidecar['Description']
    assert sidecar['Warnings'] and sidecar['OutOfDistributionScore'] == 1.3
    assert sidecar['Sources'] == [
        'bids::sub-01/anat/sub-01_T1w.nii.gz',
        'bids:bids_flair:sub-01/anat/sub-01_space-T1w_desc-synth_FLAIR.nii.gz',
    ]
    assert not any(word in text for word in ('Time', 'Manufacturer', 'FlipAngle'))
    description = json.loads((study.view / 'dataset_description.json').read_text())
    assert description['DatasetType'] == 'raw'
    assert description['DatasetLinks']['bids_flair'] == study.settings.output_dir.as_uri()
    assert description['SourceDatasets'] == [{'URL': study.raw.as_uri(), 'DOI': 'doi:10.1/x'}]
    assert 'DatasetDOI' not in description


@pytest.mark.parametrize('entities', ['ce-gadolinium', 'part-phase', 'acq-x_run-2', 'rec-synth'])
def test_any_acquired_flair_keeps_the_synthetic_one_out(study, entities):
    study.feed()
    acquired = f'sub-01/anat/sub-01_{entities}_FLAIR.nii.gz'
    study.image(acquired)
    study.feed()
    assert study.fed() == TOP | FIRST | SECOND | {acquired}
    assert (study.view / acquired).resolve() == study.raw / acquired


def test_sessions_are_told_apart(tmp_path):
    study = Study(tmp_path)
    for session in ('a', 'b'):
        study.image(f'sub-01/ses-{session}/anat/sub-01_ses-{session}_T1w.nii.gz')
    study.image('sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii')
    study.feed()
    assert {name for name in study.fed() if 'FLAIR' in name} == {
        'sub-01/ses-a/anat/sub-01_ses-a_rec-synth_FLAIR.nii.gz',
        'sub-01/ses-a/anat/sub-01_ses-a_rec-synth_FLAIR.json',
        'sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii',
    }


def test_running_again_changes_nothing_that_is_right(study):
    study.feed()
    before = {name: (study.view / name).lstat().st_ino for name in study.fed()}
    study.feed()
    after = {name: (study.view / name).lstat().st_ino for name in study.fed()}
    assert {name for name in before if before[name] != after[name]} <= {'dataset_description.json'}


def test_running_again_follows_the_raw_dataset(study):
    study.feed()
    foreign = study.view / 'sub-01/anat/notes.txt'
    foreign.write_text('mine')
    elsewhere = study.view / 'sub-01/anat/elsewhere'
    elsewhere.symlink_to('/nowhere')
    shutil.rmtree(study.raw / 'sub-01/func')
    study.image('sub-01/anat/sub-01_T2w.nii.gz')
    (study.raw / 'participants.tsv').unlink()
    shutil.rmtree(study.raw / 'sub-02')
    study.feed()
    assert foreign.exists() and elsewhere.is_symlink()
    assert study.fed() - {'sub-01/anat/notes.txt', 'sub-01/anat/elsewhere'} == {
        'README',
        'dataset_description.json',
        'sub-01/anat/sub-01_T1w.nii.gz',
        'sub-01/anat/sub-01_T2w.nii.gz',
        *SYNTHETIC,
    }
    assert not (study.view / 'sub-01/func').exists() and not (study.view / 'sub-02').exists()


def test_a_session_that_fails_loses_what_it_had_and_others_are_left_alone(study):
    study.image('sub-03/anat/sub-03_T1w.nii.gz')
    study.feed()
    study.feed('01', failed=('sub-01',))
    assert not SYNTHETIC & study.fed()
    assert 'sub-03/anat/sub-03_rec-synth_FLAIR.nii.gz' in study.fed()


def test_a_file_in_the_place_of_a_link_is_left_alone(study, caplog):
    study.feed()
    path = study.view / 'sub-01/anat/sub-01_T1w.nii.gz'
    path.unlink()
    path.write_text('defaced by hand')
    study.feed()
    assert path.read_text() == 'defaced by hand'


def test_sidecars_of_acquired_flairs_do_not_speak_of_synthetic_ones(study):
    """By inheritance they would: a synthetic image would have an echo time."""
    from bids import BIDSLayout

    study.write('acq-2d_FLAIR.json', '{"EchoTime": 0.1}')
    study.write('FLAIR.json', '{"InversionTime": 2.2}')
    study.write('T1w.json', '{"EchoTime": 0.003}')
    study.write('sub-01/anat/sub-01_FLAIR.json', '{"EchoTime": 0.2}')
    study.feed()
    layout = BIDSLayout(study.view)
    flairs = layout.get(suffix='FLAIR', extension='.nii.gz')
    metadata = {flair.entities['subject']: flair.get_metadata() for flair in flairs}
    assert metadata['02'] == {'EchoTime': 0.1, 'InversionTime': 2.2}
    assert not {'EchoTime', 'InversionTime'} & set(metadata['01'])
    t1w = layout.get(suffix='T1w', subject='01', extension='.nii.gz')[0]
    assert t1w.get_metadata() == {'EchoTime': 0.003}


def test_of_two_sidecars_with_one_name_in_the_view_the_nearer_counts(tmp_path, caplog):
    study = Study(tmp_path)
    for label in ('1', '2'):
        study.image(f'sub-01/ses-{label}/anat/sub-01_ses-{label}_FLAIR.nii.gz')
    study.image('sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz')
    study.write('FLAIR.json', '{"InversionTime": 2.2}')
    nearer = study.write('sub-01/sub-01_FLAIR.json', '{"EchoTime": 0.1}')
    links = participant_links(study.raw, '01')
    assert links[Path('sub-01/ses-1/sub-01_ses-1_FLAIR.json')] == nearer
    assert f'what {nearer} says, not what {study.raw}/FLAIR.json adds' in caplog.text


def test_hidden_files_and_other_folders_stay_out_but_bidsignore_counts(study):
    for name in ('.git/config', 'derivatives/x/a.txt', 'sourcedata/a', 'code/run.sh',
                 'sub-01/anat/.DS_Store'):  # fmt: skip
        study.write(name)
    study.write('.bidsignore', 'extra*\n')
    study.write('extra.txt')
    study.write('phenotype/age.tsv', 'participant_id\tage\nsub-01\t3\n')
    study.feed()
    added = {'.bidsignore', 'extra.txt', 'phenotype/age.tsv'}
    assert study.fed() == TOP | FIRST | SECOND | SYNTHETIC | added


def test_links_stay_right_when_both_are_moved(study, tmp_path_factory):
    study.feed()
    link = study.view / 'sub-01/anat/sub-01_T1w.nii.gz'
    assert str(link.readlink()) == '../../../raw/sub-01/anat/sub-01_T1w.nii.gz'
    moved = tmp_path_factory.mktemp('other') / 'study'
    study.raw.parent.rename(moved)
    assert (moved / 'feed/sub-01/anat/sub-01_T1w.nii.gz').exists()
    again = Study.__new__(Study)
    again.settings = Settings(moved / 'raw', moved / 'out', feed=moved / 'feed')
    again.raw, again.view = again.settings.bids_dir, again.settings.feed
    again.feed()
    assert again.fed() == TOP | FIRST | SECOND | SYNTHETIC


def test_links_are_absolute_where_only_the_root_is_shared(tmp_path):
    view = Path('/dev/shm') / f'bids_flair-{os.getpid()}'
    study = Study(tmp_path)
    study.image('sub-01/anat/sub-01_T1w.nii.gz')
    if not os.access('/dev/shm', os.W_OK):
        pytest.skip('no second folder below the root that may be written to')
    study.settings = Settings(study.raw, tmp_path / 'out', feed=view)
    try:
        study.feed()
        target = (view / 'sub-01/anat/sub-01_T1w.nii.gz').readlink()
        assert target == study.raw / 'sub-01/anat/sub-01_T1w.nii.gz'
    finally:
        shutil.rmtree(view)


def test_a_participant_who_is_a_link_is_not_written_through(study):
    """Subsets of datasets are often made of linked folders: the original must stay as it is."""
    (study.raw / 'derivatives').symlink_to(study.raw.parent)
    elsewhere = study.raw.parent / 'elsewhere'
    (study.raw / 'sub-01').rename(elsewhere)
    (study.raw / 'sub-01').symlink_to(elsewhere)
    before = sorted(study.raw.rglob('*')) + sorted(elsewhere.rglob('*'))
    study.feed()
    assert sorted(study.raw.rglob('*')) + sorted(elsewhere.rglob('*')) == before
    assert study.fed() == TOP | FIRST | SECOND | SYNTHETIC
    assert not (study.view / 'sub-01').is_symlink()


def test_links_lead_through_the_links_of_a_datalad_dataset(study):
    """Content that was not fetched leaves a link to nowhere, and may be fetched later."""
    path = study.raw / 'sub-01/anat/sub-01_T2w.nii.gz'
    path.symlink_to('../../.git/annex/objects/key')
    study.feed()
    link = study.view / 'sub-01/anat/sub-01_T2w.nii.gz'
    assert link.is_symlink() and not link.exists()
    (study.raw / '.git/annex/objects').mkdir(parents=True)
    (study.raw / '.git/annex/objects/key').write_text('content')
    assert link.read_text() == 'content'


def _feed(root: Path, label: str) -> None:
    study = Study.__new__(Study)
    study.settings = Settings(root / 'raw', root / 'out', feed=root / 'feed')
    study.raw, study.view = study.settings.bids_dir, study.settings.feed
    study.feed(label)


def test_many_jobs_feed_one_folder(tmp_path):
    study = Study(tmp_path)
    labels = [f'{n:02}' for n in range(1, 9)]
    for label in labels:
        study.image(f'sub-{label}/anat/sub-{label}_T1w.nii.gz')
    with ProcessPoolExecutor(4) as pool:
        for job in [pool.submit(_feed, tmp_path, label) for label in labels * 2]:
            job.result()
    assert study.fed() == TOP | {
        f'sub-{label}/anat/sub-{label}_{name}'
        for label in labels
        for name in ('T1w.nii.gz', 'rec-synth_FLAIR.nii.gz', 'rec-synth_FLAIR.json')
    }


@pytest.mark.parametrize('what', ['file', 'dataset', 'other view'])
def test_a_folder_of_something_else_is_refused(study, tmp_path, what):
    if what == 'file':
        study.view.write_text('')
    elif what == 'dataset':
        study.view.mkdir()
        (study.view / 'dataset_description.json').write_text('{"Name": "precious"}')
    else:
        other = Study(tmp_path / 'other')
        other.image('sub-01/anat/sub-01_T1w.nii.gz')
        other.settings = Settings(other.raw, tmp_path / 'out', feed=study.view)
        other.feed()
    with pytest.raises(BidsFlairError, match='name a folder that is new or empty') as error:
        study.feed()
    assert error.value.code == ExitCode.CANNOT_WRITE


def test_a_view_is_no_input(study):
    study.feed()
    for generated_by in ({'Name': 'x'}, ['x'], [{'Name': 'x'}], None):
        study.write('dataset_description.json', json.dumps({'GeneratedBy': generated_by}))
        refuse_view(study.raw)
    with pytest.raises(BidsFlairError, match=f'give the dataset that it shows, {study.raw}'):
        refuse_view(study.view)


def test_a_view_that_lost_its_source_is_refused(study):
    study.feed()
    path = study.view / 'dataset_description.json'
    description = json.loads(path.read_text())
    del description['SourceDatasets']
    path.write_text(json.dumps(description))
    with pytest.raises(BidsFlairError, match='remove the folder'):
        study.feed()


def test_a_view_that_cannot_be_written_is_an_error_with_a_code(study):
    settings = Settings(study.raw, study.settings.output_dir, feed=Path('/proc/feed'))
    with pytest.raises(BidsFlairError, match='cannot be written to') as error:
        prepare_feed([], settings)
    assert error.value.code == ExitCode.CANNOT_WRITE


def test_niworkflows_finds_one_flair_for_everyone(study):
    from niworkflows.utils.bids import collect_data

    study.feed()
    first, second = (collect_data(study.view, label)[0] for label in ('01', '02'))
    assert [Path(p).name for p in first['flair']] == ['sub-01_rec-synth_FLAIR.nii.gz']
    assert [Path(p).name for p in second['flair']] == ['sub-02_acq-2d_FLAIR.nii.gz']
    assert len(first['t1w']) == 1 and not first['t2w']


def test_recon_all_is_given_the_synthetic_flair(study):
    """What sMRIPrep and fMRIPrep ask niworkflows: is it fine enough for the pial surface?"""
    from niworkflows.interfaces.freesurfer import FSDetectInputs

    study.feed()
    flair = study.view / 'sub-01/anat/sub-01_rec-synth_FLAIR.nii.gz'
    t1w = study.view / 'sub-01/anat/sub-01_T1w.nii.gz'
    found = FSDetectInputs(t1w_list=[str(t1w)], flair_list=[str(flair)]).run().outputs
    assert found.use_flair and found.flair == str(flair)


def test_it_is_valid_raw_bids(study):
    study.write('FLAIR.json', '{"InversionTime": 2.2}')
    study.feed()
    validator = Path(sys.executable).with_name('bids-validator-deno')
    answer = subprocess.run(
        [validator, '--json', study.view], capture_output=True, text=True, check=False
    )
    issues = json.loads(answer.stdout)['issues']['issues']
    assert [i for i in issues if i['severity'] == 'error'] == []
    assert answer.returncode == 0
