"""What is written beside the images: gradients, field maps; and what stops a wrong geometry."""

from dataclasses import replace

import dicom_series as series
import nibabel as nib
import numpy as np
import pytest

from bids_flair.dicom.convert import Converted, check_positions, scratch_folder
from bids_flair.dicom.geometry import check_series
from bids_flair.dicom.headers import find_series
from bids_flair.dicom.plan import Item
from bids_flair.dicom.recognise import Decision
from bids_flair.dicom.write import Product, gradient_texts, paired
from bids_flair.errors import BidsFlairError, ExitCode


@pytest.fixture
def one(tmp_path):
    """An oblique series, and the affine that its image has to have."""
    series.write_classic(tmp_path / 'x', series.phantom(), series.affine('oblique'), series.T1W)
    (found,) = find_series([tmp_path / 'x'])
    return found, series.affine('oblique')


def product(one, kind: str, stem: str, folder, **sidecar) -> Product:
    item = Item(one[0], Decision(kind, ''), stem)
    gradients = folder / 'a.bval', folder / 'a.bvec'
    return Product(item, Converted(folder / 'a.nii', folder / 'a.json', *gradients), sidecar)


def test_opposite_phase_encodings_are_tied_together(one, tmp_path):
    dwi = product(one, 'dwi', 'dwi/dwi', tmp_path, PhaseEncodingDirection='j-')
    known = {'PhaseEncodingDirection': 'j', 'TotalReadoutTime': 0.05}
    epi = product(one, 'epi', 'fmap/epi', tmp_path, **known)
    (series_, field_map), dropped = paired([dwi, epi])
    assert dropped == []
    assert field_map.sidecar['IntendedFor'] == ['bids::dwi/dwi.nii.gz']
    assert series_.sidecar['B0FieldSource'] == field_map.sidecar['B0FieldIdentifier']


@pytest.mark.parametrize(
    'sidecar',
    [
        {'PhaseEncodingDirection': 'j-', 'TotalReadoutTime': 0.05},
        {'PhaseEncodingDirection': 'i', 'TotalReadoutTime': 0.05},
        {'PhaseEncodingDirection': 'j'},
        {'TotalReadoutTime': 0.05},
    ],
)
def test_a_b0_that_corrects_nothing_is_left_out(one, tmp_path, sidecar):
    dwi = product(one, 'dwi', 'dwi/dwi', tmp_path, PhaseEncodingDirection='j-')
    kept, dropped = paired([dwi, product(one, 'epi', 'fmap/epi', tmp_path, **sidecar)])
    assert [item.item.stem for item in kept] == ['dwi/dwi']
    assert 'left out' in dropped[0]


def test_gradients_become_finite_and_of_unit_length(one, tmp_path):
    (tmp_path / 'a.bval').write_text('1.25 1000 998.5\n')
    (tmp_path / 'a.bvec').write_text('nan 2 0.6\nnan 0 0.8\nnan 0 0.0001\n')
    texts = gradient_texts(product(one, 'dwi', 'dwi/dwi', tmp_path))
    assert texts['.bval'] == '1.25 1000 998.5\n'
    bvec = np.array([line.split() for line in texts['.bvec'].splitlines()], float)
    assert not bvec[:, 0].any()
    np.testing.assert_allclose(np.linalg.norm(bvec[:, 1:], axis=0), 1, atol=1e-6)


@pytest.mark.parametrize('lost', ['0', 'nan'])
def test_a_weighted_volume_needs_a_direction(one, tmp_path, lost):
    (tmp_path / 'a.bval').write_text('0 1000\n')
    (tmp_path / 'a.bvec').write_text(f'0 {lost}\n' * 3)
    with pytest.raises(BidsFlairError, match=r'volumes \[1\] have no direction') as caught:
        gradient_texts(product(one, 'dwi', 'dwi/dwi', tmp_path))
    assert caught.value.code == ExitCode.DATA_UNUSABLE


def test_a_right_geometry_passes_in_any_order_of_axes(one):
    found, affine = one
    img = nib.Nifti1Image(np.zeros(series.SHAPE, np.uint8), affine)
    for image in (img, nib.as_closest_canonical(img)):
        check_positions(found, check_series(found), image)


@pytest.mark.parametrize('wrong', ['moved', 'squeezed', 'turned'])
def test_a_wrong_geometry_does_not_pass(one, wrong):
    found, affine = one
    if wrong == 'moved':
        affine[2, 3] += 0.3
    elif wrong == 'squeezed':
        affine[:3, 2] *= 0.98
    else:
        affine[:3, 2] *= -1
    img = nib.Nifti1Image(np.zeros(series.SHAPE, np.uint8), affine)
    with pytest.raises(BidsFlairError, match='the geometry is wrong'):
        check_positions(found, check_series(found), img)


def test_a_series_with_a_hole_is_refused_whatever_its_numbers(one):
    found, _ = one
    frames = tuple(replace(frame, number=1) for frame in found.frames if frame.number != 6)
    with pytest.raises(BidsFlairError, match='slices are missing'):
        check_series(replace(found, frames=frames, announced=11))


def test_scratch_folders_have_no_space(tmp_path, monkeypatch):
    (tmp_path / 'a b').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'a b'))
    with scratch_folder(tmp_path) as folder:
        assert ' ' not in str(folder)
    with (
        pytest.raises(BidsFlairError, match='set TMPDIR'),
        scratch_folder(tmp_path / 'a b') as folder,
    ):
        pass
