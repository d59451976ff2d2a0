"""Gradients are understood, and the tensor comes out as it was put in."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from scipy.spatial.transform import Rotation

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.diffusion import (
    brain_displacements,
    fit_maps,
    load_series,
    turn_gradients,
)
from bids_flair.processing.gradients import Gradients, read_gradients, write_gradients

SHAPE = (12, 13, 14)
AFFINES = {
    'LAS': from_matvec(np.diag([-2.0, 2.0, 2.0]), (12, -13, -14)),
    'RAS oblique': from_matvec(
        Rotation.from_euler('xyz', (10, 20, -15), degrees=True).as_matrix() * 2, (-12, -13, -14)
    ),
}
# mm2/s, along an axis that is none of the image's.
EIGENVALUES = np.array([1.5e-3, 0.5e-3, 0.4e-3])
FRAME = Rotation.from_euler('xyz', (30, 40, 50), degrees=True).as_matrix()
TENSOR = FRAME @ np.diag(EIGENVALUES) @ FRAME.T
MD = EIGENVALUES.mean()
FA = np.sqrt(1.5 * ((EIGENVALUES - MD) ** 2).sum() / (EIGENVALUES**2).sum())


def world_vectors(n=20):
    vectors = np.random.default_rng(3).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def to_fsl(vectors, affine):
    """From world to image axes, the first one reversed where the determinant is positive."""
    rotation = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    along = vectors @ rotation
    return along * (-1, 1, 1) if np.linalg.det(affine) > 0 else along


def write_series(folder, affine, bvals, vectors, motions=None):
    """A uniform head with TENSOR; `motions` turn it under gradients that stay."""
    motions = np.eye(4)[None].repeat(len(bvals), 0) if motions is None else motions
    signals = []
    for b, g, motion in zip(bvals, vectors, motions, strict=True):
        turned = motion[:3, :3] @ TENSOR @ motion[:3, :3].T
        signals.append(np.full(SHAPE, 900 * np.exp(-b * g @ turned @ g)))
    data = np.stack(signals, -1).astype(np.float32)
    nib.Nifti1Image(data, affine).to_filename(folder / 'dwi.nii.gz')
    np.savetxt(folder / 'dwi.bval', [bvals], fmt='%g')
    np.savetxt(folder / 'dwi.bvec', to_fsl(vectors, affine).T, fmt='%.6f')
    return [folder / f'dwi.{kind}' for kind in ('nii.gz', 'bval', 'bvec')]


def series(folder, affine, motions=None, b0=(0.0, 1.25)):
    vectors = np.vstack([np.zeros((len(b0), 3)), world_vectors()])
    bvals = np.array([*b0, *[1000.0] * 20])
    return write_series(folder, affine, bvals, vectors, motions), vectors


@pytest.mark.parametrize('name', AFFINES)
def test_directions_come_back_in_world_coordinates(name, tmp_path):
    files, vectors = series(tmp_path, AFFINES[name])
    _, gradients = load_series(*files)
    np.testing.assert_allclose(gradients.directions, vectors, atol=1e-5)
    assert gradients.b0.tolist() == [0, 1]
    assert np.isfinite(gradients.directions).all()


@pytest.mark.parametrize('moving', [False, True])
@pytest.mark.parametrize('name', AFFINES)
def test_tensor_comes_back(name, moving, tmp_path):
    affine = AFFINES[name]
    motions = np.eye(4)[None].repeat(22, 0)
    if moving:
        turns = Rotation.from_euler('xyz', np.random.default_rng(1).normal(0, 20, (22, 3)), True)
        motions[:, :3, :3] = turns.as_matrix()
    files, _ = series(tmp_path, affine, motions)
    dwi, gradients = load_series(*files)
    mask = np.zeros((6, 6, 6), bool)
    mask[1:5, 1:5, 1:5] = True
    centre = from_matvec(np.eye(3), (-2.5, -2.5, -2.5))
    maps = fit_maps(dwi, gradients, motions, np.eye(4), centre, mask)
    for key, expected in (('MD', MD), ('FA', FA), ('S0', 900)):
        values = np.asarray(maps[key].dataobj)
        np.testing.assert_allclose(values[mask], expected, rtol=2e-3)
        assert (values[~mask] == 0).all()


def test_high_shells_are_left_out(tmp_path):
    vectors = np.vstack([np.zeros((1, 3)), world_vectors(40)])
    bvals = np.array([0.0, *[1000.0] * 20, *[3000.0] * 20])
    files = write_series(tmp_path, AFFINES['LAS'], bvals, vectors)
    _, gradients = load_series(*files)
    assert gradients.usable.tolist() == list(range(21))


def test_a_single_high_shell_is_better_than_nothing(tmp_path):
    vectors = np.vstack([np.zeros((1, 3)), world_vectors(20)])
    files = write_series(tmp_path, AFFINES['LAS'], np.array([0.0, *[2500.0] * 20]), vectors)
    _, gradients = load_series(*files)
    assert len(gradients.usable) == 21


def test_missing_bvec_is_named(tmp_path):
    files, _ = series(tmp_path, AFFINES['LAS'])
    files[2].unlink()
    with pytest.raises(BidsFlairError, match=r'dwi\.bvec: not found') as error:
        load_series(*files)
    assert error.value.code == ExitCode.INPUT_MISSING


def test_wrong_count_is_named(tmp_path):
    files, _ = series(tmp_path, AFFINES['LAS'])
    files[1].write_text('0 1000 1000')
    with pytest.raises(BidsFlairError, match=r'3 b-values.*22 volumes') as error:
        load_series(*files)
    assert error.value.code == ExitCode.DATA_UNUSABLE


def test_weighted_volume_without_direction_is_named(tmp_path):
    files, vectors = series(tmp_path, AFFINES['LAS'])
    vectors[7] = 0
    np.savetxt(files[2], to_fsl(vectors, AFFINES['LAS']).T)
    with pytest.raises(BidsFlairError, match=r'volumes \[7\]'):
        load_series(*files)


def test_b0_vectors_that_are_not_numbers_do_no_harm(tmp_path):
    files, vectors = series(tmp_path, AFFINES['LAS'])
    vectors[:2] = np.nan
    np.savetxt(files[2], to_fsl(vectors, AFFINES['LAS']).T)
    _, gradients = load_series(*files)
    assert (gradients.directions[:2] == 0).all()


def test_rows_or_columns(tmp_path):
    files, vectors = series(tmp_path, AFFINES['LAS'])
    np.savetxt(files[2], to_fsl(vectors, AFFINES['LAS']))
    dwi = nib.load(files[0])
    np.testing.assert_allclose(
        read_gradients(dwi, files[1], files[2]).directions, vectors, atol=1e-6
    )


def test_directions_in_a_plane_cannot_make_a_tensor(tmp_path):
    angles = np.linspace(0, np.pi, 20, endpoint=False)
    flat = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    files = write_series(
        tmp_path, AFFINES['LAS'], np.array([0, *[1000] * 20]), np.vstack([np.zeros((1, 3)), flat])
    )
    with pytest.raises(BidsFlairError, match='independent directions'):
        load_series(*files)


@pytest.mark.parametrize('name', AFFINES)
def test_gradients_are_written_as_they_were_read(name, tmp_path):
    files, _ = series(tmp_path, AFFINES[name])
    dwi, gradients = load_series(*files)
    write_gradients(gradients, dwi.affine, tmp_path / 'bval', tmp_path / 'bvec')
    np.testing.assert_allclose(np.loadtxt(tmp_path / 'bvec'), np.loadtxt(files[2]), atol=2e-6)
    again = read_gradients(dwi, tmp_path / 'bval', tmp_path / 'bvec')
    np.testing.assert_allclose(again.directions, gradients.directions, atol=1e-6)
    np.testing.assert_array_equal(again.bvals, gradients.bvals)


def test_of_an_affine_motion_only_the_turn_turns_the_gradients():
    turn = Rotation.from_euler('xyz', (5, -8, 12), degrees=True).as_matrix()
    stretched = from_matvec(turn @ np.diag([1.02, 0.97, 1.0]), (3, 4, 5))
    gradients = Gradients(np.array([0.0, 1000.0]), np.array([[0.0, 0, 0], [0.6, 0.8, 0]]))
    turned = turn_gradients(gradients, np.array([0, 1]), np.stack([stretched] * 2))
    np.testing.assert_allclose(turned.directions[1], turn.T @ gradients.directions[1], atol=1e-9)
    assert (turned.directions[0] == 0).all()


def test_displacements_are_those_of_the_brain():
    """Where the series has it, not about the origin: one that turns about itself moves little."""
    brain = np.zeros((20, 20, 20), np.uint8)
    brain[5:15, 5:15, 5:15] = 1
    mask = nib.Nifti1Image(brain, from_matvec(np.eye(3), (91, -10, -10)))
    to_b0 = from_matvec(np.eye(3), (-100, 0, 0))
    shift = from_matvec(np.eye(3), (0, 3, 4))
    turn = from_matvec(Rotation.from_euler('z', 10, degrees=True).as_matrix())
    still, shifted, turned = brain_displacements(np.stack([np.eye(4), shift, turn]), mask, to_b0)
    assert still == 0
    assert shifted == pytest.approx(5)
    # Mean distance from the middle of a square of 10 mm is .38 of its side.
    assert turned == pytest.approx(np.radians(10) * 3.8, rel=0.05)
