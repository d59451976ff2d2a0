"""What is taken of other pipelines' outputs, and what is left."""

import json
from pathlib import Path

import numpy as np
import pytest
from prepared_datasets import (
    write_description,
    write_fmriprep,
    write_image,
    write_qsiprep,
    write_qsirecon,
)

from bids_flair.bids.collect import collect
from bids_flair.bids.derivatives import read_derivatives
from bids_flair.bids.names import output_path, source_uris
from bids_flair.bids.session import SessionInputs
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings


@pytest.fixture
def raw(tmp_path) -> Path:
    """A dataset with a T1w and a T2w and a series of diffusion."""
    root = tmp_path / 'raw'
    _write_raw(root / 'sub-01', 'sub-01')
    description = {'Name': 'test', 'BIDSVersion': '1.10.0'}
    (root / 'dataset_description.json').write_text(json.dumps(description))
    return root


def _write_raw(folder: Path, stem: str) -> None:
    for contrast in ('T1w', 'T2w'):
        write_image(folder / 'anat' / f'{stem}_{contrast}.nii.gz')
    write_image(folder / 'dwi' / f'{stem}_dwi.nii.gz', np.ones((4, 4, 4, 7), np.float32))
    (folder / 'dwi' / f'{stem}_dwi.bval').write_text('0' + ' 1000' * 6)
    (folder / 'dwi' / f'{stem}_dwi.bvec').write_text('\n'.join(['0 1 1 1 1 1 1'] * 3))


def collected(raw: Path, *derivatives, **settings) -> dict[str, SessionInputs]:
    given = tuple(str(text) for text in derivatives)
    found = collect(Settings(raw, raw.parent / 'out', derivatives=given, **settings))
    return {inputs.label: inputs for inputs in found}


def test_names_come_from_the_dataset_or_the_user(tmp_path):
    fmriprep = write_fmriprep(tmp_path / 'a')
    qsirecon = write_qsirecon(tmp_path / 'b')
    found = read_derivatives([str(fmriprep), f'mine={qsirecon}'])
    assert [one.name for one in found] == ['fmriprep', 'mine', 'qsirecon-dsistudio']


def test_a_raw_dataset_is_no_derivative(raw):
    with pytest.raises(BidsFlairError, match='not a derivative dataset') as raised:
        read_derivatives([str(raw)])
    assert raised.value.code == ExitCode.NOT_BIDS


def test_anatomy_of_fmriprep(raw, tmp_path):
    found = collected(raw, write_fmriprep(tmp_path / 'fmriprep'))['sub-01']
    assert set(found.prepared) == {'T1w', 'mask', 'T2w'}
    assert found.images['T1w'].name == 'sub-01_desc-preproc_T1w.nii.gz'
    assert found.images['T2w'].name == 'sub-01_space-T1w_desc-preproc_T2w.nii.gz'
    assert found.images['dwi'].name == 'sub-01_dwi.nii.gz'
    assert found.in_place('T2w') and not found.in_place('dwi')
    assert found.reference_space == 'T1w'
    assert source_uris('T2w', found, raw) == [
        'bids:fmriprep:sub-01/anat/sub-01_space-T1w_desc-preproc_T2w.nii.gz'
    ]


def test_qsiprep_is_not_on_the_t1w(raw, tmp_path):
    """The reference stays the T1w as acquired; what is turned is brought there."""
    found = collected(raw, write_qsiprep(tmp_path / 'qsiprep'))['sub-01']
    assert found.images['T1w'] == raw / 'sub-01/anat/sub-01_T1w.nii.gz'
    assert set(found.prepared) == {'dwi'}
    assert not found.in_place('dwi')
    assert found.positions['dwi'].name == 'sub-01_from-ACPC_to-anat_mode-image_xfm.mat'
    assert found.bval.name == 'sub-01_acq-realistic_space-ACPC_desc-preproc_dwi.bval'
    assert found.acquisition.opposite is None


def test_space_of_an_older_qsiprep(raw, tmp_path):
    """Before 1.0 the turned space was called T1w, and that of its T1w not at all."""
    root = write_description(tmp_path / 'qsiprep', 'QSIPrep', '0.21.4')
    write_image(root / 'sub-01/anat/sub-01_desc-preproc_T1w.nii.gz')
    dwi = write_image(root / 'sub-01/dwi/sub-01_space-T1w_desc-preproc_dwi.nii.gz')
    found = collected(raw, root)['sub-01']
    assert found.images['T1w'].parent == raw / 'sub-01/anat'
    assert found.prepared['dwi'].path == dwi
    assert not found.in_place('dwi')


def test_maps_of_qsirecon_with_the_mean_b0_of_qsiprep(raw, tmp_path):
    derivatives = write_qsiprep(tmp_path / 'qsiprep'), write_qsirecon(tmp_path / 'qsirecon')
    found = collected(raw, *derivatives)['sub-01']
    assert set(found.prepared) == {'dwi', 'MD', 'FA'}
    assert found.tensor_maps == ('MD', 'FA', 'S0')
    assert found.guide is None
    assert [uri.split(':')[1] for uri in source_uris('dwi', found, raw)] == [
        'qsirecon-dsistudio', 'qsirecon-dsistudio', 'qsiprep',
    ]  # fmt: skip


def test_maps_alone_are_guided_by_what_shows_most(raw, tmp_path):
    qsirecon = write_qsirecon(tmp_path / 'qsirecon')
    found = collected(raw, qsirecon)['sub-01']
    assert found.tensor_maps == ('MD', 'FA')
    assert 'dwi' not in found.images
    assert found.contrasts == ('T1w', 'T2w', 'dwi')
    assert found.guide.image == 'MD'
    write_qsirecon(tmp_path / 'qsirecon', s0=True)
    assert collected(raw, qsirecon)['sub-01'].guide.image == 'S0'
    anatomy = write_description(tmp_path / 'anatomy', 'QSIPrep')
    write_image(anatomy / 'sub-01/anat/sub-01_space-ACPC_desc-preproc_T1w.nii.gz')
    write_qsirecon(tmp_path / 'other')
    assert collected(raw, anatomy, tmp_path / 'other')['sub-01'].guide.image == 'T1w'


def test_maps_named_as_dtifit_names_them(raw, tmp_path):
    root = write_description(tmp_path / 'fsl', 'my scripts')
    for name in ('FA', 'MD', 'S0', 'L1', 'V1'):
        write_image(root / f'sub-01/dwi/sub-01_space-T1w_desc-dtifit_{name}.nii.gz')
    found = collected(raw, root)['sub-01']
    assert set(found.prepared) == {'MD', 'FA', 'S0'}
    assert found.in_place('dwi')
    assert found.prepared['MD'].source.name == 'my-scripts'


def test_kurtosis_is_no_tensor(raw, tmp_path):
    root = write_description(tmp_path / 'dki', 'QSIRecon')
    write_image(root / 'sub-01/dwi/sub-01_space-ACPC_model-dki_param-md_dwimap.nii.gz')
    found = collected(raw, root)['sub-01']
    assert not found.prepared
    assert found.images['dwi'] == raw / 'sub-01/dwi/sub-01_dwi.nii.gz'


def test_average_of_sessions_is_not_taken_for_one_of_them(raw, tmp_path):
    for session in ('a', 'b'):
        _write_raw(raw / f'sub-02/ses-{session}', f'sub-02_ses-{session}')
    fmriprep = write_fmriprep(tmp_path / 'fmriprep', '02')
    qsiprep = write_qsiprep(tmp_path / 'qsiprep', '02', 'b')
    found = collected(raw, fmriprep, qsiprep, participants=('02',))
    first, second = found['sub-02_ses-a'], found['sub-02_ses-b']
    assert not first.prepared
    assert any('of all sessions together' in text for text in first.passed_over)
    assert second.images['T1w'].parent == raw / 'sub-02/ses-b/anat'
    assert set(second.prepared) == {'dwi'}


def test_one_session_may_be_written_without_its_label(raw, tmp_path):
    _write_raw(raw / 'sub-02/ses-a', 'sub-02_ses-a')
    found = collected(raw, write_fmriprep(tmp_path / 'fmriprep', '02'), participants=('02',))
    assert set(found['sub-02_ses-a'].prepared) == {'T1w', 'mask', 'T2w'}


def test_without_raw_data(tmp_path):
    fmriprep = write_fmriprep(tmp_path / 'fmriprep', '03')
    qsiprep = write_qsiprep(tmp_path / 'qsiprep', '03')
    both = collected(fmriprep, qsiprep, derivatives_only=True)['sub-03']
    assert set(both.prepared) == {'T1w', 'mask', 'T2w', 'dwi'}
    assert both.reference_space == 'T1w'
    alone = collected(qsiprep, derivatives_only=True)['sub-03']
    assert alone.reference_space == 'ACPC'
    assert alone.in_place('dwi') and not alone.positions
    assert output_path('synthetic_flair', alone).endswith('_space-ACPC_desc-synth_FLAIR.nii.gz')
    assert output_path('preproc_t1w', alone).endswith('_space-ACPC_desc-preproc_T1w.nii.gz')
    assert output_path('brain_mask', alone).endswith('_space-ACPC_desc-brain_mask.nii.gz')


def test_sessions_without_raw_data(tmp_path):
    root = write_qsiprep(tmp_path / 'qsiprep', '03', 'a')
    write_qsiprep(root, '03', 'b')
    found = collected(root, derivatives_only=True)
    assert set(found) == {'sub-03_ses-a', 'sub-03_ses-b'}
    assert all(one.images['T1w'].parent.name == 'anat' for one in found.values())
    assert set(collected(root, derivatives_only=True, sessions=('b',))) == {'sub-03_ses-b'}


def test_nothing_to_take_from(raw):
    with pytest.raises(BidsFlairError, match='--derivatives') as raised:
        collected(raw, derivatives_only=True)
    assert raised.value.code == ExitCode.INPUT_MISSING


def test_participant_that_nobody_prepared(tmp_path):
    fmriprep = write_fmriprep(tmp_path / 'fmriprep', '03')
    with pytest.raises(BidsFlairError, match='it has 03'):
        collected(fmriprep, derivatives_only=True, participants=('04',))
