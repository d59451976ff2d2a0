"""Files of the output dataset."""

import json
from pathlib import Path

import pytest

from bids_flair.bids.dataset import check_writable, write_dataset_files
from bids_flair.bids.files import write_atomically
from bids_flair.bids.names import output_path, source_uris
from bids_flair.bids.session import SessionInputs
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings
from bids_flair.workflows.backends import embedded


@pytest.fixture
def settings(tmp_path) -> Settings:
    bids_dir = tmp_path / 'raw'
    bids_dir.mkdir()
    description = {'Name': 'Cohort', 'BIDSVersion': '1.8.0', 'License': 'CC0'}
    (bids_dir / 'dataset_description.json').write_text(json.dumps(description))
    return Settings(bids_dir, tmp_path / 'out')


def test_description_links_to_the_source(settings):
    write_dataset_files(settings, embedded)
    description = json.loads((settings.output_dir / 'dataset_description.json').read_text())
    assert description['DatasetType'] == 'derivative'
    (program,) = description['GeneratedBy']
    assert program['Name'] == 'bids_flair'
    assert 'embedded' in program['Description'] and 'antspyx' in program['Description']
    assert description['DatasetLinks'] == {'raw': settings.bids_dir.as_uri()}
    assert description['License'] == 'CC0'
    assert 'figures' in (settings.output_dir / '.bidsignore').read_text().splitlines()
    rows = (settings.output_dir / 'descriptions.tsv').read_text().splitlines()
    assert rows[0] == 'desc_id\tdescription'
    assert any(row.startswith('desc-synth\t') for row in rows)


def test_atomic_write_replaces_and_leaves_no_part(tmp_path):
    path = tmp_path / 'a.txt'
    write_atomically(path, 'one')
    write_atomically(path, 'two')
    assert path.read_text() == 'two'
    assert [file.name for file in tmp_path.iterdir()] == ['a.txt']


def test_what_is_there_already_is_not_written_again(tmp_path):
    path = tmp_path / 'a.txt'
    write_atomically(path, 'é\n')
    before = path.stat().st_ino
    write_atomically(path, 'é\n')
    assert path.stat().st_ino == before


def test_unwritable_folder_is_refused_before_work_begins():
    # /proc refuses new files even to root.
    with pytest.raises(BidsFlairError, match='cannot be written') as error:
        check_writable(Path('/proc/bids_flair'), 'output directory')
    assert error.value.code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('synthetic_flair', 'sub-1/ses-2/anat/sub-1_ses-2_space-T1w_desc-synth_FLAIR.nii.gz'),
        ('preproc_t1w', 'sub-1/ses-2/anat/sub-1_ses-2_desc-preproc_T1w.nii.gz'),
        ('preproc_t2w', 'sub-1/ses-2/anat/sub-1_ses-2_space-T1w_desc-preproc_T2w.nii.gz'),
        ('md', 'sub-1/ses-2/dwi/sub-1_ses-2_space-T1w_model-tensor_param-md_dwimap.nii.gz'),
        ('transform:T2w', 'sub-1/ses-2/anat/sub-1_ses-2_from-T2w_to-T1w_mode-image_xfm.txt'),
        ('transform:dwi', 'sub-1/ses-2/dwi/sub-1_ses-2_from-dwi_to-T1w_mode-image_xfm.txt'),
    ],
)
def test_names_of_outputs(name, expected):
    inputs = SessionInputs('1', '2', {'T1w': Path('a'), 'T2w': Path('b'), 'dwi': Path('c')})
    assert output_path(name, inputs) == expected


def test_reference_without_t1w_names_its_space():
    inputs = SessionInputs('1', None, {'T2w': Path('b')})
    assert output_path('preproc_t2w', inputs) == 'sub-1/anat/sub-1_desc-preproc_T2w.nii.gz'
    assert output_path('synthetic_flair', inputs).endswith('_space-T2w_desc-synth_FLAIR.nii.gz')


def test_sources_of_raw_images():
    inputs = SessionInputs('1', None, {'T1w': Path('/d/sub-1/anat/x.nii.gz')})
    assert source_uris('T1w', inputs, Path('/d')) == ['bids:raw:sub-1/anat/x.nii.gz']
