"""What other pipelines prepared ends where it belongs, whatever space it comes from."""

import json
import shutil
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from prepared_datasets import write_description, write_image
from scipy.spatial.transform import Rotation
from small_heads import make_doll

from bids_flair.bids.collect import collect
from bids_flair.cli.main import run
from bids_flair.interfaces.diffusion import FitTensor, MeanB0
from bids_flair.interfaces.prepared import FindPosition
from bids_flair.processing.itk import read_itk, write_itk
from bids_flair.processing.prepared import adopt_map, diffusion_weighted, md_unit
from bids_flair.settings import Settings
from bids_flair.workflows.backends import embedded
from bids_flair.workflows.participant import init_session_wf, methods_text

# The T1w as acquired to the space of QSIPrep.
TURN = from_matvec(Rotation.from_euler('xyz', (9, -4, 6), degrees=True).as_matrix(), (3, -14, 8))


@pytest.fixture(scope='module')
def doll():
    """Contrasts and maps of one small head, and their affine on the T1w."""
    return make_doll(1)


@pytest.fixture(scope='module')
def raw(dolls, tmp_path_factory) -> Path:
    """A dataset of that head alone."""
    root = tmp_path_factory.mktemp('raw') / 'data'
    shutil.copytree(dolls, root, ignore=shutil.ignore_patterns('sub-02', 'sub-03'))
    return root


@pytest.fixture(scope='module')
def fmriprep(doll, tmp_path_factory) -> Path:
    images, affine = doll
    root = write_description(tmp_path_factory.mktemp('fmriprep'), 'fMRIPrep', '25.0.0')
    anat = root / 'sub-01/anat'
    write_image(anat / 'sub-01_desc-preproc_T1w.nii.gz', images['T1w'], affine)
    write_image(anat / 'sub-01_space-T1w_desc-preproc_T2w.nii.gz', images['T2w'], affine)
    brain = (images['T1w'] > 0).astype(np.uint8)
    write_image(anat / 'sub-01_desc-brain_mask.nii.gz', brain, affine)
    return root


@pytest.fixture(scope='module')
def qsirecon(doll, tmp_path_factory) -> Path:
    """MD in DSI Studio's unit, FA and S0, turned."""
    images, affine = doll
    root = write_description(tmp_path_factory.mktemp('qsirecon'), 'QSIRecon')
    for name, factor in (('MD', 1e3), ('FA', 1), ('S0', 1)):
        file = f'sub-01_space-ACPC_model-tensor_param-{name.lower()}_dwimap.nii.gz'
        write_image(root / 'sub-01/dwi' / file, images[name] * np.float32(factor), TURN @ affine)
    return root


@pytest.fixture(scope='module')
def qsiprep(raw, doll, tmp_path_factory) -> Path:
    """The series, turned with its T1w, and where the T1w lies in that space."""
    images, affine = doll
    root = write_description(tmp_path_factory.mktemp('qsiprep'), 'QSIPrep')
    anat, stem = root / 'sub-01/anat', 'sub-01_space-ACPC'
    write_image(anat / f'{stem}_desc-preproc_T1w.nii.gz', images['T1w'], TURN @ affine)
    brain = (images['T1w'] > 0).astype(np.uint8)
    write_image(anat / f'{stem}_desc-brain_mask.nii.gz', brain, TURN @ affine)
    write_itk(TURN, anat / 'to.txt')
    binary = anat / 'sub-01_from-ACPC_to-anat_mode-image_xfm.mat'
    ants.write_transform(ants.read_transform(str(anat / 'to.txt')), str(binary))
    (anat / 'to.txt').unlink()
    series = nib.load(raw / 'sub-01/dwi/sub-01_dwi.nii.gz')
    dwi = write_image(
        root / f'sub-01/dwi/{stem}_desc-preproc_dwi.nii.gz', series.get_fdata(), TURN @ affine
    )
    for kind in ('bval', 'bvec'):
        # FSL's vectors lie along the axes of the image, so that they turn with it.
        shutil.copy(
            raw / f'sub-01/dwi/sub-01_dwi.{kind}', dwi.with_name(dwi.name.replace('nii.gz', kind))
        )
    return root


def result_of(
    raw: Path, out: Path, model: Path, *derivatives, options=()
) -> dict[str, np.ndarray]:
    """Run the participant level; the images it wrote, and the FLAIR's sidecar."""
    given = [] if not derivatives else ['--derivatives', *map(str, derivatives)]
    code = run(
        [str(raw), str(out), 'participant', *given, *options, '-w', str(out / 'work'),
         '--nprocs', '2', '--backend', 'embedded', '--skip-bids-validation',
         '--model', str(model)]
    )  # fmt: skip
    assert code == 0
    images = {path.name: nib.load(path) for path in out.glob('sub-01/*/*.nii.gz')}
    (sidecar,) = out.glob('sub-01/anat/*_desc-synth_FLAIR.json')
    return {**images, 'sidecar': json.loads(sidecar.read_text())}


@pytest.mark.slow
def test_anatomy_and_turned_maps(raw, doll, fmriprep, qsirecon, tiny_model, tmp_path):
    images, affine = doll
    made = result_of(raw, tmp_path, tiny_model, fmriprep, qsirecon)
    t2w = made['sub-01_space-T1w_desc-preproc_T2w.nii.gz']
    inside = made['sub-01_desc-brain_mask.nii.gz'].get_fdata() > 0
    assert _agreement(t2w, images['T2w'], affine, inside) > 0.98
    for name in ('MD', 'FA', 'S0'):
        found = made[f'sub-01_space-T1w_model-tensor_param-{name.lower()}_dwimap.nii.gz']
        assert _agreement(found, images[name], affine, inside) > 0.9, name
    md = made['sub-01_space-T1w_model-tensor_param-md_dwimap.nii.gz'].get_fdata()
    assert 0.5e-3 < np.median(md[inside]) < 1.5e-3
    registrations = {report['Contrast']: report for report in made['sidecar']['Registrations']}
    assert registrations['T2w']['PositionFrom'] == 'fmriprep'
    assert 'PositionFrom' not in registrations['dwi']
    assert made['sidecar']['BrainMask']['MaskFrom'] == 'fmriprep'
    assert (
        'bids:fmriprep:sub-01/anat/sub-01_desc-preproc_T1w.nii.gz'
        in json.loads((tmp_path / 'sub-01/anat/sub-01_desc-preproc_T1w.json').read_text())[
            'Sources'
        ]
    )
    links = json.loads((tmp_path / 'dataset_description.json').read_text())['DatasetLinks']
    assert set(links) == {'raw', 'fmriprep', 'qsirecon'}
    assert 'taken from qsirecon' in (tmp_path / 'logs/CITATION.md').read_text()


def test_turned_series_is_placed_by_its_transform(raw, doll, fmriprep, qsiprep, tmp_path):
    """The steps between QSIPrep's series and maps on the T1w, without those around them."""
    images, affine = doll
    settings = Settings(
        raw, tmp_path, derivatives=(str(fmriprep), str(qsiprep)), work_dir=tmp_path
    )
    (session,) = collect(settings)
    mask = nib.load(session.prepared['mask'].path)
    placed = tmp_path / 'transform.txt'
    write_itk(read_itk(session.positions['dwi']), placed)
    b0 = MeanB0(dwi=session.images['dwi'], bval=session.bval, bvec=session.bvec)
    found = FindPosition(
        fixed=session.images['T1w'], mask=session.prepared['mask'].path, position=placed,
        moving=b0.run(cwd=str(tmp_path)).outputs.out_file, contrast='dwi', source='qsiprep',
    ).run(cwd=str(tmp_path))  # fmt: skip
    assert found.outputs.report['PositionFrom'] == 'qsiprep'
    np.testing.assert_allclose(read_itk(found.outputs.transform), TURN, atol=1e-4)
    fit = FitTensor(
        dwi=session.images['dwi'], bval=session.bval, bvec=session.bvec,
        mask=session.prepared['mask'].path, transform=found.outputs.transform,
    ).run(cwd=str(tmp_path))  # fmt: skip
    inside = mask.get_fdata() > 0
    for name in ('MD', 'FA'):
        made = nib.load(getattr(fit.outputs, name.lower()))
        assert _agreement(made, images[name], affine, inside) > 0.9, name


def test_position_that_does_not_hold(doll, tmp_path):
    """A transform of something else: the image is registered, and the report says so."""
    images, affine = doll
    brain = (images['T1w'] > 0).astype(np.uint8)
    files = {
        name: write_image(tmp_path / f'{name}.nii', data, matrix)
        for name, data, matrix in (
            ('fixed', images['T1w'], affine),
            ('mask', brain, affine),
            ('moving', images['T2w'], from_matvec(np.eye(3), (0, 70, 0)) @ affine),
        )
    }
    write_itk(from_matvec(np.eye(3), (60, 0, 0)), tmp_path / 'wrong.txt')
    found = FindPosition(
        **files, position=tmp_path / 'wrong.txt', contrast='T2w', source='other'
    ).run(cwd=str(tmp_path))
    assert found.outputs.trusted
    assert found.outputs.report['PositionFrom'].startswith('registered')
    shift = read_itk(found.outputs.transform)
    np.testing.assert_allclose(shift[:3, 3], (0, 70, 0), atol=3)


@pytest.mark.slow
def test_qsiprep_alone_without_raw_data(qsiprep, doll, tiny_model, tmp_path):
    images, affine = doll
    made = result_of(qsiprep, tmp_path, tiny_model, options=['--derivatives-only'])
    flair = made['sub-01_space-ACPC_desc-synth_FLAIR.nii.gz']
    assert (tmp_path / 'sub-01.html').exists()
    inside = made['sub-01_space-ACPC_desc-brain_mask.nii.gz'].get_fdata() > 0
    md = made['sub-01_space-ACPC_model-tensor_param-md_dwimap.nii.gz']
    assert _agreement(md, images['MD'], TURN @ affine, inside) > 0.85
    assert made['sidecar']['SynthesisInputs'] == ['T1w', 'MD', 'FA', 'S0']
    assert flair.get_fdata()[inside].std() > 0


def _agreement(found, data: np.ndarray, affine: np.ndarray, inside: np.ndarray) -> float:
    """Correlation with what was put in, at the same places in the world."""
    from bids_flair.processing.resampling import resample

    expected = resample(nib.Nifti1Image(data, affine), (found.shape, found.affine))
    return float(np.corrcoef(found.get_fdata()[inside], expected.get_fdata()[inside])[0, 1])


def test_units_of_diffusivity():
    values = np.full((4, 4, 4), 0.8e-3)
    assert [md_unit(values * factor) for factor in (1, 1e3, 1e6)] == [1.0, 1e-3, 1e-6]
    assert md_unit(3 * values) == 1.0


def test_maps_stay_within_what_can_be():
    """Splines overshoot at edges: FA not above 1, MD not below 0; nothing outside the brain."""
    fa = np.zeros((9, 9, 9), np.float32)
    fa[3:6] = 1
    mask = nib.Nifti1Image((np.indices((9, 9, 9))[0] > 1).astype(np.uint8), np.eye(4))
    shift = from_matvec(np.eye(3), (0.4, 0, 0))
    moved, factor = adopt_map(nib.Nifti1Image(fa, np.eye(4)), 'FA', mask, shift)
    data = moved.get_fdata()
    assert factor == 1
    assert data.min() == 0 and data.max() == 1
    assert not data[:2].any()


def test_guide_of_diffusivity_is_bright_in_tissue():
    md = np.zeros((6, 6, 6), np.float32)
    md[1:5] = 0.8
    md[2, 2, 2] = 3
    guide = diffusion_weighted(nib.Nifti1Image(md, np.eye(4))).get_fdata()
    assert guide[3, 3, 3] > 5 * guide[2, 2, 2] > 0
    assert guide[0, 0, 0] == 0


def test_no_step_is_left_of_what_was_prepared(raw, fmriprep, qsirecon, tmp_path):
    settings = Settings(
        raw, tmp_path, derivatives=(str(fmriprep), str(qsirecon)), work_dir=tmp_path, mem_gb=8.0
    )
    (session,) = collect(settings)
    workflow = init_session_wf(session, settings, embedded)
    nodes = {node.name for node in workflow._create_flat_graph().nodes()}
    assert {'adopt_mask', 'find_position_T2w', 'adopt_maps', 'register_dwi'} <= nodes
    assert not {'extract_brain', 'correct_bias', 'register_T2w', 'fit_tensor', 'mean_b0'} & nodes
    assert {'register_FLAIR', 'correct_bias_FLAIR'} <= nodes
    text = methods_text(workflow)
    assert 'fmriprep' in text and 'qsirecon' in text
