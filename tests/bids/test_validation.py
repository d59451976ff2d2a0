"""What the official validator says, and when it is asked."""

import json
import shutil

import pytest

from bids_flair.bids.validation import _find_validator, validator_errors


@pytest.mark.skipif(_find_validator() is None, reason='VALIDATOR ABSENT: bids-validator-deno')
def test_it_is_asked_once_where_a_database_is_kept(tmp_path):
    data, database = tmp_path / 'data', tmp_path / 'db'
    (data / 'sub-01' / 'anat').mkdir(parents=True)
    description = {'Name': 'test', 'BIDSVersion': '1.10.0', 'Authors': ['One', 'Two']}
    (data / 'dataset_description.json').write_text(json.dumps(description))
    stray = data / 'sub-01' / 'anat' / 'scan.nii.gz'
    stray.touch()
    first = validator_errors(data, database)
    assert any('scan.nii.gz' in text for text in first)
    stray.unlink()
    assert validator_errors(data, database) == first
    shutil.rmtree(database)
    assert not any('scan.nii.gz' in text for text in validator_errors(data, database))
