"""Pictures: the right slices, the right way round, in the right window."""

import nibabel as nib
import numpy as np
import pytest

from bids_flair.reports import figures

WIDTH = 900


@pytest.fixture
def layout(head):
    return figures.plan_layout(head.path('mask'), WIDTH)


def tiles(picture, layout, plane):
    """Cut a row of slices into its slices."""
    width = layout.tile_size(plane)[0]
    pixels = np.asarray(picture)
    starts = range(0, pixels.shape[1], width + figures.GAP)
    return [pixels[:, start : start + width] for start in starts]


def test_slices_lie_inside_the_brain(layout):
    for axis, (cuts, count) in enumerate(zip(layout.cuts, figures.SLICES, strict=True)):
        assert len(set(cuts)) == count
        assert all(layout.brain.take(cut, axis=axis).any() for cut in cuts)


def test_every_row_has_the_same_scale_and_fits_the_width(layout):
    volume = np.zeros(layout.brain.shape, np.float32)
    widths = [figures.draw(volume, layout, (0, 1), planes=[plane]).width for plane in range(3)]
    assert max(widths) <= WIDTH
    assert max(widths) > WIDTH - 20
    scales = [
        np.divide(layout.tile_size(plane), layout.extent_mm[list(figures.IN_PLANE[plane])])
        for plane in range(3)
    ]
    assert np.allclose(scales, layout.pixels_per_mm, rtol=0.03)


@pytest.mark.parametrize('plane', [1, 2], ids=['coronal', 'axial'])
def test_left_of_the_participant_is_left_in_the_picture(head, layout, plane):
    lesion = figures.load_cropped(head.path('lesion'), layout)
    row = figures.draw(lesion, layout, (0, 1), planes=[plane])
    middle = tiles(row, layout, plane)[4]
    body = middle[20:-20]  # without the labels
    half = body.shape[1] // 2
    assert body[:, :half].max() > 200
    assert body[:, half:].max() < 50


def test_front_is_right_and_top_is_up_in_sagittal_slices(tmp_path, head, layout):
    values = np.zeros(head.shape, np.float32)
    values[:, 34:38, 26:30] = 1  # in front and above
    marked = figures.load_cropped(head.save(values, tmp_path / 'marked.nii.gz'), layout)
    row = figures.draw(marked, layout, (0, 1), planes=[0])
    rows, columns = np.nonzero(tiles(row, layout, 0)[3][20:-20] > 200)
    height, width = np.shape(tiles(row, layout, 0)[3])
    assert columns.min() > width / 2
    assert rows.max() + 20 < height / 2


def test_positions_are_world_coordinates(layout):
    middle = layout.position_mm(0, layout.cuts[0][3])
    assert abs(middle) <= 2  # the ellipsoid is centred at x = 0
    positions = [layout.position_mm(2, cut) for cut in layout.cuts[2]]
    assert positions == sorted(positions)
    assert -30 < positions[0] < -18
    assert 18 < positions[-1] < 30


def test_load_cropped_accepts_any_orientation_of_the_same_grid(tmp_path, head, layout):
    image = nib.load(head.path('T2w'))
    turned = tmp_path / 'turned.nii.gz'
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt('PSR')), turned)
    assert np.array_equal(
        figures.load_cropped(turned, layout), figures.load_cropped(head.path('T2w'), layout)
    )


def test_load_cropped_refuses_another_grid(tmp_path, head, layout):
    other = head.save(np.ones(head.shape, np.float32), tmp_path / 'shifted.nii.gz', shift_mm=1)
    with pytest.raises(ValueError, match=r'shifted\.nii\.gz: not on the grid of the brain mask'):
        figures.load_cropped(other, layout)


def test_load_cropped_turns_uncovered_voxels_black(tmp_path, head, layout):
    values = np.full(head.shape, np.nan, np.float32)
    path = head.save(values, tmp_path / 'uncovered.nii.gz')
    assert not figures.load_cropped(path, layout).any()


def test_plan_layout_refuses_an_empty_mask(tmp_path, head):
    empty = head.save(np.zeros(head.shape, np.uint8), tmp_path / 'empty.nii.gz')
    with pytest.raises(ValueError, match='holds no voxel'):
        figures.plan_layout(empty, WIDTH)


def test_window_ignores_skull_and_uncovered_voxels(head, layout):
    volume = figures.load_cropped(head.path('T1w'), layout)
    low, high = figures.brain_window(volume, layout)
    assert high < 350  # the skull is at 450
    cut = volume.copy()
    cut[:, : cut.shape[1] // 2] = 0
    assert figures.brain_window(cut, layout)[0] > 0.5 * low > 0


def test_outline_surrounds_the_brain_only(head, layout):
    volume = np.zeros(layout.brain.shape, np.float32)
    plain = np.asarray(figures.draw(volume, layout, (0, 1)).convert('RGB')).astype(int)
    outlined = np.asarray(figures.draw(volume, layout, (0, 1), outline=True)).astype(int)
    yellow = (outlined != plain).any(axis=2).mean()
    assert 0.005 < yellow < 0.1


def test_edges_follow_the_moving_image(head, layout):
    volume = figures.load_cropped(head.path('T2w'), layout)
    moved = np.roll(volume, 4, axis=1)
    edges = [np.asarray(figures.draw_edges(shown, layout)) == 2 for shown in (volume, moved)]
    overlap = (edges[0] & edges[1]).sum() / edges[0].sum()
    assert edges[0].any()
    assert overlap < 0.5


def test_difference_colours_tell_the_sign_without_colour():
    ramp = figures.colour_bar(figures.DIFFERENCE).convert('L')
    assert (np.diff(np.asarray(ramp)[0].astype(int)) >= -1).all()
    assert np.ptp(np.asarray(ramp)) > 120
