"""What is found in datasets of many shapes."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from bids_flair.bids.collect import check_dataset, collect
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings


class Dataset:
    """A raw dataset of images too small to look at."""

    def __init__(self, root: Path):
        self.root = root
        description = {'Name': 'test', 'BIDSVersion': '1.10.0'}
        self.write('dataset_description.json', json.dumps(description))

    def write(self, name: str, text: str = '') -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def image(self, name: str, edges=(1, 1, 1), shape=(4, 4, 4)) -> Path:
        path = self.write(name)
        nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*edges, 1])).to_filename(path)
        return path

    def series(self, stem: str, directions: int = 6, bvec: bool = True) -> Path:
        bvals = [0] + [1000] * directions
        path = self.image(f'{stem}.nii.gz', shape=(4, 4, 4, len(bvals)))
        self.write(f'{stem}.bval', ' '.join(map(str, bvals)))
        if bvec:
            self.write(f'{stem}.bvec', '\n'.join(' '.join('1' * len(bvals)) for _ in range(3)))
        return path

    def collect(self, **settings):
        found = collect(Settings(self.root, self.root.parent / 'out', **settings))
        return {inputs.label: inputs for inputs in found}


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return Dataset(tmp_path / 'data')


def test_everything_of_a_participant_without_sessions(dataset):
    t1w = dataset.image('sub-01/anat/sub-01_T1w.nii.gz')
    t2w = dataset.image('sub-01/anat/sub-01_T2w.nii')
    flair = dataset.image('sub-01/anat/sub-01_FLAIR.nii.gz')
    dwi = dataset.series('sub-01/dwi/sub-01_dwi')
    found = dataset.collect()['sub-01']
    assert found.images == {'T1w': t1w, 'T2w': t2w, 'FLAIR': flair, 'dwi': dwi}
    assert found.bval == dwi.parent / 'sub-01_dwi.bval'
    assert found.bvec == dwi.parent / 'sub-01_dwi.bvec'
    assert found.session is None
    assert found.reference == 'T1w'


def test_sessions_are_kept_apart(dataset):
    for session in ('a', 'b'):
        dataset.image(f'sub-01/ses-{session}/anat/sub-01_ses-{session}_T2w.nii.gz')
    found = dataset.collect()
    assert set(found) == {'sub-01_ses-a', 'sub-01_ses-b'}
    assert found['sub-01_ses-a'].reference == 'T2w'
    assert set(dataset.collect(sessions=('b',))) == {'sub-01_ses-b'}


def test_gradients_may_be_inherited_from_the_root(dataset):
    dwi = dataset.image('sub-01/dwi/sub-01_dwi.nii.gz', shape=(4, 4, 4, 7))
    bval = dataset.write('dwi.bval', '0 ' + '1000 ' * 6)
    bvec = dataset.write('dwi.bvec', '1 1 1 1 1 1 1\n' * 3)
    found = dataset.collect()['sub-01']
    assert (found.images['dwi'], found.bval, found.bvec) == (dwi, bval, bvec)


def test_finest_voxels_win_and_the_rest_is_named(dataset):
    dataset.image('sub-01/anat/sub-01_acq-2d_T1w.nii.gz', edges=(0.5, 0.5, 4))
    fine = dataset.image('sub-01/anat/sub-01_acq-mprage_run-1_T1w.nii.gz')
    dataset.image('sub-01/anat/sub-01_acq-mprage_run-2_T1w.nii.gz')
    found = dataset.collect()['sub-01']
    assert found.images['T1w'] == fine
    assert len(found.passed_over) == 2
    assert any('acq-2d' in text for text in found.passed_over)


def test_images_that_mean_something_else_are_not_taken(dataset):
    plain = dataset.image('sub-01/anat/sub-01_run-2_T1w.nii.gz', edges=(2, 2, 2))
    dataset.image('sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz')
    dataset.image('sub-01/anat/sub-01_part-phase_T1w.nii.gz')
    dataset.image('derivatives/x/sub-01/anat/sub-01_T1w.nii.gz')
    found = dataset.collect()['sub-01']
    assert found.images == {'T1w': plain}


def test_opposite_phase_b0_is_passed_over(dataset):
    full = dataset.series('sub-01/dwi/sub-01_dir-PA_dwi', directions=30)
    dataset.series('sub-01/dwi/sub-01_dir-AP_dwi', directions=0)
    found = dataset.collect()['sub-01']
    assert found.images['dwi'] == full
    assert 'dir-AP' in found.passed_over[0]


def encoded(dataset, stem: str, direction: str, **fields) -> None:
    sidecar = {'PhaseEncodingDirection': direction, 'TotalReadoutTime': 0.04, **fields}
    dataset.write(f'{stem}.json', json.dumps(sidecar))


def test_field_map_of_opposite_phase_encoding_is_found(dataset):
    dataset.series('sub-01/dwi/sub-01_dwi')
    encoded(dataset, 'sub-01/dwi/sub-01_dwi', 'j')
    for direction, axis in (('AP', 'j'), ('PA', 'j-'), ('LR', 'i-')):
        stem = f'sub-01/fmap/sub-01_dir-{direction}_epi'
        dataset.image(f'{stem}.nii.gz')
        encoded(dataset, stem, axis, TotalReadoutTime=0.05)
    found = dataset.collect()['sub-01'].acquisition
    assert (found.axis, found.readout_s, found.opposite_readout_s) == ('j', 0.04, 0.05)
    assert found.opposite.name == 'sub-01_dir-PA_epi.nii.gz'
    assert found.opposite_bval is None


def test_series_of_opposite_phase_encoding_will_do(dataset):
    for direction, axis, number in (('PA', 'j', 30), ('AP', 'j-', 0)):
        stem = f'sub-01/dwi/sub-01_dir-{direction}_dwi'
        dataset.series(stem, directions=number)
        encoded(dataset, stem, axis)
    found = dataset.collect()['sub-01'].acquisition
    assert found.opposite.name == 'sub-01_dir-AP_dwi.nii.gz'
    assert found.opposite_bval.name == 'sub-01_dir-AP_dwi.bval'


@pytest.mark.parametrize(('intended', 'taken'), [
    ('bids::sub-01/dwi/sub-01_dwi.nii.gz', True),
    (['ses-1/func/sub-01_bold.nii.gz'], False),
])  # fmt: skip
def test_field_map_for_other_images_is_left_alone(dataset, intended, taken):
    dataset.series('sub-01/dwi/sub-01_dwi')
    encoded(dataset, 'sub-01/dwi/sub-01_dwi', 'j')
    dataset.image('sub-01/fmap/sub-01_epi.nii.gz')
    encoded(dataset, 'sub-01/fmap/sub-01_epi', 'j-', IntendedFor=intended)
    assert (dataset.collect()['sub-01'].acquisition.opposite is not None) == taken


def test_opposite_is_told_in_the_world_not_along_the_voxels(dataset):
    """Stored the other way round, the same axis with another sign is the same encoding."""
    dataset.series('sub-01/dwi/sub-01_dwi')
    encoded(dataset, 'sub-01/dwi/sub-01_dwi', 'j')
    path = dataset.image('sub-01/fmap/sub-01_epi.nii.gz', edges=(1, -1, 1))
    encoded(dataset, 'sub-01/fmap/sub-01_epi', 'j-')
    assert nib.load(path).affine[1, 1] == -1
    assert dataset.collect()['sub-01'].acquisition.opposite is None
    encoded(dataset, 'sub-01/fmap/sub-01_epi', 'j')
    assert dataset.collect()['sub-01'].acquisition.opposite == path


def test_phase_encoding_is_inherited_and_its_sign_may_be_unknown(dataset):
    dataset.series('sub-01/dwi/sub-01_dwi')
    dataset.write('dwi.json', json.dumps({'PhaseEncodingAxis': 'i', 'TotalReadoutTime': 0.1}))
    dataset.write('sub-01/dwi/sub-01_dwi.json', '{"TotalReadoutTime": 0.06}')
    found = dataset.collect()['sub-01'].acquisition
    assert (found.axis, found.readout_s) == ('i', 0.06)


def test_complete_series_before_one_without_bvec(dataset):
    dataset.series('sub-01/dwi/sub-01_run-1_dwi', directions=60, bvec=False)
    whole = dataset.series('sub-01/dwi/sub-01_run-2_dwi', directions=12)
    assert dataset.collect()['sub-01'].images['dwi'] == whole


def test_filters_narrow_each_contrast(dataset):
    dataset.image('sub-01/anat/sub-01_T1w.nii.gz')
    chosen = dataset.image('sub-01/anat/sub-01_acq-x_T1w.nii.gz', edges=(2, 2, 2))
    found = dataset.collect(bids_filters={'T1w': {'acquisition': '*'}})['sub-01']
    assert found.images['T1w'] == chosen
    found = dataset.collect(bids_filters={'T1w': {'acquisition': None}})['sub-01']
    assert found.images['T1w'].name == 'sub-01_T1w.nii.gz'


def test_participant_without_inputs_is_kept_to_be_named(dataset):
    dataset.image('sub-01/anat/sub-01_T1w.nii.gz')
    dataset.image('sub-02/func/sub-02_task-rest_bold.nii.gz')
    found = dataset.collect()
    assert found['sub-02'].reference is None


def test_session_without_inputs_is_no_failure_of_the_participant(dataset):
    dataset.image('sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz')
    dataset.image('sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz')
    assert set(dataset.collect()) == {'sub-01_ses-1'}


def test_similar_labels_are_told_apart(dataset):
    for label in ('1', '10', '101'):
        dataset.image(f'sub-{label}/anat/sub-{label}_T1w.nii.gz')
    assert set(dataset.collect(participants=('10',))) == {'sub-10'}


def test_unknown_label_names_those_that_are_known(dataset):
    dataset.image('sub-01/anat/sub-01_T1w.nii.gz')
    with pytest.raises(BidsFlairError, match=r'no participant 99.*it has 01') as error:
        dataset.collect(participants=('99',))
    assert error.value.code == ExitCode.NOTHING_MATCHED


def test_nothing_matched(dataset):
    dataset.image('sub-01/anat/sub-01_T1w.nii.gz')
    with pytest.raises(BidsFlairError, match='matches the selection') as error:
        dataset.collect(sessions=('9',))
    assert error.value.code == ExitCode.NOTHING_MATCHED


def test_database_serves_other_participants_later(dataset, tmp_path):
    for label in ('01', '02'):
        dataset.image(f'sub-{label}/anat/sub-{label}_T1w.nii.gz')
    database = tmp_path / 'db'
    assert set(dataset.collect(participants=('01',), bids_database_dir=database)) == {'sub-01'}
    assert set(dataset.collect(participants=('02',), bids_database_dir=database)) == {'sub-02'}


def test_database_of_another_dataset_is_refused(dataset, tmp_path):
    dataset.image('sub-01/anat/sub-01_T1w.nii.gz')
    other = Dataset(tmp_path / 'other')
    other.image('sub-01/anat/sub-01_T1w.nii.gz')
    other.collect(bids_database_dir=tmp_path / 'db')
    with pytest.raises(BidsFlairError, match='name another folder'):
        dataset.collect(bids_database_dir=tmp_path / 'db')


COLLECT = """
import sys
from pathlib import Path
from bids_flair.bids.collect import collect
from bids_flair.settings import Settings
root, database = map(Path, sys.argv[1:])
sys.stdin.readline()
print(len(collect(Settings(root, root.parent / 'out', bids_database_dir=database))))
"""


def test_jobs_that_make_one_database_at_once_all_find_everything(dataset, tmp_path):
    """Were it made in place, whoever comes second would read what is there of it so far."""
    for number in range(30):
        dataset.image(f'sub-{number:02}/anat/sub-{number:02}_T1w.nii.gz')
    command = [sys.executable, '-c', COLLECT, dataset.root, tmp_path / 'db']
    jobs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for job in jobs:
        job.stdin.write('\n')
        job.stdin.flush()
    assert [job.communicate()[0] for job in jobs] == ['30\n'] * 3
    assert [path.name for path in (tmp_path / 'db').iterdir()] == ['layout_index.sqlite']


def test_a_thousand_participants_are_asked_for_like_ten(dataset, tmp_path):
    """As many questions to the database for many as for few: time grows with the dataset only."""
    counts = []
    for number in (3, 12):
        for label in range(number):
            dataset.image(f'sub-{label:02}/anat/sub-{label:02}_T1w.nii.gz')
            dataset.series(f'sub-{label:02}/dwi/sub-{label:02}_dwi')
            encoded(dataset, f'sub-{label:02}/dwi/sub-{label:02}_dwi', 'j')
        database = tmp_path / f'db{number}'
        dataset.collect(bids_database_dir=database)
        statements = []

        def count(*told, statements=statements):
            statements.append(told[2])

        event.listen(Engine, 'before_cursor_execute', count)
        found = dataset.collect(bids_database_dir=database)
        event.remove(Engine, 'before_cursor_execute', count)
        assert len(found) == number
        counts.append(len(statements))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ('text', 'says'),
    [(None, 'is missing'), ('{', 'not JSON'), ('{"Name": "x"}', 'lacks BIDSVersion'),
     ('{"Name": "x", "BIDSVersion": "1.8.0"}', 'no folder sub-')],
)  # fmt: skip
def test_what_is_no_dataset_is_refused(tmp_path, text, says):
    if text is not None:
        (tmp_path / 'dataset_description.json').write_text(text)
    with pytest.raises(BidsFlairError, match=says) as error:
        check_dataset(tmp_path)
    assert error.value.code == ExitCode.NOT_BIDS
