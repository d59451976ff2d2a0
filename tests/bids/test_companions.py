"""Which sidecars and gradient files belong to an image."""

import pytest

from bids_flair.bids.companions import Companions


@pytest.fixture
def root(tmp_path):
    for name in (
        'dwi.json', 'task-rest_bold.json', 'acq-x_dwi.bval', 'sub-01/sub-01_dwi.json',
        'sub-01/ses-1/dwi/sub-01_ses-1_dir-AP_dwi.json', 'sub-01/ses-1/dwi/sub-01_ses-1_dwi.json',
        'sub-01/ses-1/dwi/sub-01_ses-1_dir-AP_dwi.bval',
        'sub-01/ses-1/dwi/sub-01_ses-1_dir-PA_dwi.bval',
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(root, image: str, extension: str) -> list[str]:
    found = Companions(root).of(root / 'sub-01/ses-1/dwi' / image, extension)
    return [path.name for path in found]


def test_the_nearest_and_most_specific_come_first(root):
    assert names(root, 'sub-01_ses-1_dir-AP_dwi.nii.gz', '.json') == [
        'sub-01_ses-1_dir-AP_dwi.json', 'sub-01_ses-1_dwi.json', 'sub-01_dwi.json', 'dwi.json',
    ]  # fmt: skip


def test_what_names_another_image_does_not_belong_to_it(root):
    image = 'sub-01_ses-1_dir-PA_dwi.nii.gz'
    assert names(root, image, '.bval') == ['sub-01_ses-1_dir-PA_dwi.bval']
    assert names(root, 'sub-01_ses-1_dwi.nii.gz', '.bval') == []
    assert names(root, 'sub-01_ses-1_acq-x_dwi.nii.gz', '.bval') == ['acq-x_dwi.bval']


def test_nothing_above_the_dataset_belongs_to_an_image(root):
    image = root / 'sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz'
    assert Companions(root / 'sub-01').nearest(image, '.json').name == 'sub-01_ses-1_dwi.json'
    assert (root / 'dwi.json') not in Companions(root / 'sub-01').of(image, '.json')
    assert Companions(root).nearest(image, '.bvec') is None
