"""Pictures for the reports: slices of a volume as small images that fit inside an HTML file.

All pictures of a session cut the same slices at the same scale, so that they can be compared.
Left in the picture is the participant's left (neurological convention).
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib import colormaps, get_data_path
from matplotlib.colors import Colormap, LinearSegmentedColormap
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.feature import canny

PLANES = ('sagittal', 'coronal', 'axial')
SLICES = (7, 9, 9)  # rows of about equal width: a brain is longer than it is wide
IN_PLANE = ((1, 2), (0, 2), (0, 1))  # axes of the volume that run right and up in the picture
SIDES = (('P', 'A'), ('L', 'R'), ('L', 'R'))
MARGIN_MM = 10
GAP = 3  # pixels between slices
OUTLINE = '#ffd400'
FONT = Path(get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')

GREYS = colormaps['gray']
# Lightness rises from end to end, so that the sign shows in a grey print and to any eye.
DIFFERENCE = LinearSegmentedColormap.from_list(
    'difference', ['#1238c4', '#2f62c8', '#777777', '#f0a330', '#fff0b8']
)
UNCERTAINTY = colormaps['magma']


@dataclass(frozen=True)
class Layout:
    """Which slices the pictures of a session show, and how large.

    Attributes
    ----------
    shape, affine
        The grid after reorientation to RAS+.
    box : tuple of slice
        The brain with a margin, in voxels of that grid.
    cuts : tuple of tuple of int
        Per axis (sagittal, coronal, axial), the slices shown, counted from the box's start.
    brain : numpy.ndarray of bool
        The brain mask inside the box.
    width : int
        Of the widest row of slices, in pixels.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    box: tuple[slice, slice, slice]
    cuts: tuple[tuple[int, ...], ...]
    brain: np.ndarray
    width: int

    @property
    def extent_mm(self) -> np.ndarray:
        """Size of the box along its three axes."""
        return np.array(self.brain.shape) * nib.affines.voxel_sizes(self.affine)

    @property
    def pixels_per_mm(self) -> float:
        """The one scale of all pictures of the session."""
        return min(
            (self.width - GAP * (count - 1)) / (count * self.extent_mm[axes[0]])
            for count, axes in zip(SLICES, IN_PLANE, strict=True)
        )

    def tile_size(self, plane: int) -> tuple[int, int]:
        """Width and height in pixels of one slice in a plane (0 sagittal ... 2 axial)."""
        width, height = self.extent_mm[list(IN_PLANE[plane])] * self.pixels_per_mm
        return max(1, int(width)), max(1, int(height))

    def position_mm(self, plane: int, cut: int) -> float:
        """World coordinate of a slice along its axis, in mm, at the middle of the box."""
        voxel = [
            part.start + size / 2 for part, size in zip(self.box, self.brain.shape, strict=True)
        ]
        voxel[plane] = self.box[plane].start + cut
        return float(nib.affines.apply_affine(self.affine, voxel)[plane])


def plan_layout(mask: Path, width: int) -> Layout:
    """Choose the slices to show from a brain mask.

    Parameters
    ----------
    mask : Path
        NIfTI image, brain above 0.
    width : int
        Of the pictures to be made with the layout, in pixels.

    Raises
    ------
    ValueError
        The mask is empty.
    """
    values, affine = _load_canonical(mask)
    brain = values > 0
    if not brain.any():
        raise ValueError(f'{mask}: the brain mask holds no voxel')
    margins = np.ceil(MARGIN_MM / nib.affines.voxel_sizes(affine)).astype(int)
    box, cuts = [], []
    for axis, (margin, count) in enumerate(zip(margins, SLICES, strict=True)):
        inside = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = int(inside[0]), int(inside[-1])
        start = max(0, first - int(margin))
        box.append(slice(start, min(brain.shape[axis], last + int(margin) + 1)))
        rim = 0.1 * (last - first)  # the outermost slices show little brain
        positions = np.linspace(first + rim, last - rim, count).round().astype(int) - start
        cuts.append(tuple(positions.tolist()))
    return Layout(brain.shape, affine, tuple(box), tuple(cuts), brain[tuple(box)], width)


def load_cropped(path: Path, layout: Layout) -> np.ndarray:
    """Load a volume and crop it to the layout's box.

    Parameters
    ----------
    path : Path
        NIfTI image on the grid of the layout's mask.
    layout : Layout

    Returns
    -------
    numpy.ndarray
        float32, in RAS+ order; 0 where the image is not finite.

    Raises
    ------
    ValueError
        The image is on another grid.
    """
    values, affine = _load_canonical(path)
    if values.shape != layout.shape or not np.allclose(affine, layout.affine, atol=1e-2):
        raise ValueError(
            f'{path}: not on the grid of the brain mask '
            f'(shape {values.shape}, wanted {layout.shape}; the affines must agree as well)'
        )
    return np.nan_to_num(values[layout.box], posinf=0, neginf=0)


def brain_window(volume: np.ndarray, layout: Layout) -> tuple[float, float]:
    """Grey-level window: the 0.5th and 99.8th percentile of covered voxels in the brain."""
    values = volume[layout.brain]
    covered = values[values != 0]
    if covered.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(covered, (0.5, 99.8))
    return float(low), float(max(high, low + 1e-12))


def draw(
    volume: np.ndarray,
    layout: Layout,
    window: tuple[float, float],
    colours: Colormap = GREYS,
    outline: bool = False,
    planes: Sequence[int] = (0, 1, 2),
) -> Image.Image:
    """Draw one row of slices per plane, with sides and positions written in.

    Parameters
    ----------
    volume : numpy.ndarray
        What `load_cropped` returns.
    layout : Layout
    window : tuple of float
        Values shown as the first and the last colour.
    colours : Colormap
    outline : bool
        Draw the border of the brain mask.
    planes : sequence of int
        0 sagittal, 1 coronal, 2 axial.

    Returns
    -------
    PIL.Image.Image
        Mode L for greys, else RGB.
    """
    rows = []
    for plane in planes:
        level = (_row(volume, layout, plane) - window[0]) / (window[1] - window[0])
        grey = (level.clip(0, 1) * 255).astype(np.uint8)
        if colours is GREYS and not outline:
            row = Image.fromarray(grey)
        else:
            row = Image.fromarray(colours(np.arange(256), bytes=True)[grey, :3])
        if outline:
            row = _draw_outline(row, _row(layout.brain.astype(np.float32), layout, plane) > 0.5)
        _write_labels(row, layout, plane)
        rows.append(row)
    return _stack(rows)


def draw_edges(volume: np.ndarray, layout: Layout) -> Image.Image:
    """Draw the edges of a volume as a transparent layer that fits a picture of `draw`.

    Returns
    -------
    PIL.Image.Image
        Mode P: edge, dark rim and transparent; all three planes.
    """
    low, high = brain_window(volume, layout)
    level = ((volume - low) / (high - low)).clip(0, 1)
    sigma = 2 * layout.pixels_per_mm
    rows = []
    for plane in range(3):
        tiles = [_tile(level, layout, plane, cut) for cut in layout.cuts[plane]]
        lines = _join([canny(tile, sigma, 0.05, 0.12).astype(np.float32) for tile in tiles]) > 0
        indices = np.where(binary_dilation(lines), 1, 0).astype(np.uint8)
        indices[lines] = 2
        rows.append(Image.fromarray(indices))
    layer = _stack(rows)
    layer.putpalette([0, 0, 0, 0, 0, 0, *ImageColor.getrgb(OUTLINE)])
    layer.info['transparency'] = bytes([0, 110, 255])
    return layer


def data_uri(image: Image.Image) -> str:
    """Encode a picture for the `src` of an HTML image: layers as PNG, all else as WebP."""
    buffer = io.BytesIO()
    if image.mode == 'P':
        image.save(buffer, 'PNG', bits=2)
        kind = 'png'
    else:
        image.save(buffer, 'WEBP', quality=82, method=1)
        kind = 'webp'
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def colour_bar(colours: Colormap) -> Image.Image:
    """Draw a colour map from left to right, to be stretched to a bar."""
    ramp = colours(np.linspace(0, 1, 256), bytes=True)[None, :, :3]
    return Image.fromarray(np.repeat(ramp, 8, axis=0))


def _load_canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    values = image.get_fdata(dtype=np.float32, caching='unchanged')
    image = nib.as_closest_canonical(nib.Nifti1Image(values, image.affine))
    return np.asarray(image.dataobj), image.affine


def _tile(volume: np.ndarray, layout: Layout, plane: int, cut: int) -> np.ndarray:
    upright = np.ascontiguousarray(np.moveaxis(volume, plane, 0)[cut].T[::-1])
    tile = Image.fromarray(upright).resize(layout.tile_size(plane), Image.Resampling.BICUBIC)
    return np.asarray(tile)


def _join(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Put tiles in a row, a gap between them."""
    gap = np.zeros((tiles[0].shape[0], GAP), np.float32)
    parts = [part for tile in tiles for part in (tile, gap)]
    return np.hstack(parts[:-1])


def _row(volume: np.ndarray, layout: Layout, plane: int) -> np.ndarray:
    return _join([_tile(volume, layout, plane, cut) for cut in layout.cuts[plane]])


def _stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Put rows below each other, centred; black (index 0) where a row is narrower."""
    width = max(row.width for row in rows)
    height = sum(row.height for row in rows) + GAP * (len(rows) - 1)
    picture = Image.new(rows[0].mode, (width, height))
    top = 0
    for row in rows:
        picture.paste(row, ((width - row.width) // 2, top))
        top += row.height + GAP
    return picture


def _draw_outline(row: Image.Image, inside: np.ndarray) -> Image.Image:
    """Draw the border of a mask as a bright line with a dark rim, to show on any grey."""
    pixels = np.array(row)
    line = inside & ~binary_erosion(inside, iterations=2)
    pixels[binary_dilation(line)] = 0
    pixels[line] = ImageColor.getrgb(OUTLINE)
    return Image.fromarray(pixels)


def _write_labels(row: Image.Image, layout: Layout, plane: int) -> None:
    """Write the sides into the outer slices and each slice's position below it."""
    pen = ImageDraw.Draw(row)
    size = max(9, layout.width // 120)
    style = {
        'font': ImageFont.truetype(FONT, size),
        'fill': 'white',
        'stroke_width': 2,
        'stroke_fill': 'black',
    }
    left, right = SIDES[plane]
    pen.text((4, 2), left, anchor='la', **style)
    pen.text((row.width - 4, 2), right, anchor='ra', **style)
    step = layout.tile_size(plane)[0] + GAP
    for index, cut in enumerate(layout.cuts[plane]):
        label = f'{"xyz"[plane]} {round(layout.position_mm(plane, cut)):+d}'.replace('-', '−')
        pen.text((index * step + 4, row.height - 3), label, anchor='ld', **style)
