"""Skull stripping of any contrast: an atlas of the head, checked by a method that needs none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.metrics import normalized_mutual_information
from threadpoolctl import threadpool_limits

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.brain_rim import fit_rim, settle_rim, signed_distance
from bids_flair.processing.brain_surface import inflate
from bids_flair.processing.itk import optimise
from bids_flair.processing.registration import distinct_poses
from bids_flair.processing.resampling import resample_labels

ATLAS = Path(__file__).parent / 'atlas'
WORK_MM, FINE_MM = 3.0, 2.0
# How far from the rim (mm) its true place is looked for, in turn.
BANDS_MM = (14.0, 9.0)
# How far outside the atlas' brain the rim may end up.
FARTHEST_MM = 12.0
# Slices with less brain than this are spinal cord.
CORD_MM2 = 500.0
# Half the width of what joins brain to brain.
NECK_MM = 6.0
# Everything further below the top of the head than this is neck and shoulders.
HEAD_HEIGHT_MM = 150.0
# Normalised mutual information that a head must gain to differ in size or proportions from the
# atlas, per squared logarithm of each stretch: without it, a head that lacks face and neck is
# matched by a flattened atlas.
STRETCH_COST = 0.1
# From the skin at the vertex to the middle of the brain.
CENTRE_DEPTH_MM = 78.0
SEARCH_POINTS, STARTS, APART_MM = 5_000, 3, 15.0
# From a premature infant's on.
SMALLEST_STRIPPED_LITRES, LARGEST_STRIPPED_LITRES = 0.1, 2.1
LEAST_UNDER_SURFACE = 0.38
LEAST_AGREEMENT = 0.90
LEAST_LITRES, MOST_LITRES = 0.9, 2.0
SIDES = (('left', 'right'), ('posterior', 'anterior'), ('inferior', 'superior'))


@dataclass(frozen=True)
class BrainMask:
    """Where the brain is, and how far that can be trusted.

    Attributes
    ----------
    image : Nifti1Image
        uint8, 1 in the brain (sulcal fluid, cerebellum and brainstem included), on the grid of
        the image it was found in.
    volume_l : float
        Volume in litres.
    agreement : float
        Dice coefficient of the atlas' mask with that of the deformable surface; NaN where the
        image was stripped already.
    stripped : bool
        Whether the image came stripped and was taken as it is.
    warnings : tuple of str
        What a person should look at.
    """

    image: nib.Nifti1Image
    volume_l: float
    agreement: float
    stripped: bool
    warnings: tuple[str, ...]


def extract_brain(image: nib.Nifti1Image) -> BrainMask:
    """Find the brain in one image of a head, whatever its contrast, orientation or coverage.

    An atlas of the head is registered (affine, best of many starting poses, by mutual
    information, which asks nothing of the contrast), its brain brought over, and the rim moved to
    where the image has it (`brain_rim`). A deformable registration in between pulled the rim into
    the gyri of real heads, and was left out. Independently, a surface is inflated inside
    the head (Smith, Hum Brain Mapp 17, 143, 2002) until it meets the dark rim of skull and fluid;
    where the two disagree, that is said in the warnings. The result is reproducible to the
    bit where ITK has one thread.

    Parameters
    ----------
    image : Nifti1Image
        Three-dimensional, in any unit and orientation. Values that are not finite count as 0.

    Raises
    ------
    BidsFlairError
        If the image is not a single volume or holds no head.
    """
    head = _canonical(image)
    ready = stripped_mask(head)
    if ready is not None:
        return _describe(image, head, ready)
    # More threads would add in another order each time.
    with threadpool_limits(1):
        mask, agreement = find_brain(head, stored_atlas())
    return _describe(image, head, mask, agreement)


def choose_brain(image: nib.Nifti1Image, candidates: Sequence[nib.Nifti1Image]) -> BrainMask:
    """Take the one of several brain masks that agrees best with the atlas.

    Parameters
    ----------
    image : Nifti1Image
        As for :func:`extract_brain`, which raises the same errors.
    candidates : sequence of Nifti1Image
        Masks of the same head, on any grids. Where the image was stripped already its own shape
        is the mask, and they are not looked at.

    Returns
    -------
    BrainMask
        Its ``agreement`` is the Dice coefficient of the one taken with the atlas' mask.
    """
    head = _canonical(image)
    ready = stripped_mask(head)
    if ready is not None:
        return _describe(image, head, ready)
    with threadpool_limits(1):
        expected = atlas_brain(head, stored_atlas())[0]
    grid = (head.shape, head.affine)
    masks = [np.asarray(resample_labels(c, grid).dataobj) > 0 for c in candidates]
    best = max(masks, key=lambda mask: dice(mask, expected))
    return _describe(image, head, best, dice(best, expected))


def _canonical(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """A head in RAS+ order, finite; refused where it cannot be one."""
    data = np.asarray(image.dataobj, dtype=np.float32)
    if data.ndim != 3 or not np.ptp(data[np.isfinite(data)]) > 0:
        raise BidsFlairError(
            f'no brain to be found in an image of shape {image.shape} with '
            f'{"several volumes" if data.ndim != 3 else "one value everywhere"}',
            ExitCode.DATA_UNUSABLE,
        )
    finite = np.nan_to_num(data, nan=0, posinf=0, neginf=0)
    return nib.as_closest_canonical(nib.Nifti1Image(finite, image.affine))


def _describe(image, head, mask: np.ndarray, agreement: float | None = None) -> BrainMask:
    """What is known of a mask on the grid of `head`; without `agreement`, of a stripped image."""
    volume = float(mask.sum() * voxel_sizes(head.affine).prod() / 1e6)
    stripped = agreement is None
    agreement = np.nan if stripped else float(agreement)
    return BrainMask(
        image=_on_grid_of(image, mask, head.affine),
        volume_l=volume,
        agreement=agreement,
        stripped=stripped,
        warnings=tuple(mask_warnings(mask, volume, agreement)),
    )


def find_brain(head: nib.Nifti1Image, atlas: 'Atlas') -> tuple[np.ndarray, float]:
    """Mask on the grid of `head` (RAS+), and its Dice coefficient with the inflated surface."""
    mask, matrix, work = atlas_brain(head, atlas)
    rough = _moved_brain(atlas, matrix, work)
    surface = inflate(_only_near(work, rough), WORK_MM, rough > 0.5)
    return mask, dice(_resampled(surface.astype(np.float32), work.affine, head) > 0.5, mask)


def atlas_brain(
    head: nib.Nifti1Image, atlas: 'Atlas'
) -> tuple[np.ndarray, np.ndarray, nib.Nifti1Image]:
    """The atlas' way alone: mask on the grid of `head`, matrix to the atlas, working image."""
    work = _without_neck(isotropic(head, WORK_MM))
    matrix = align(work, atlas)
    return refined(head, atlas, matrix), matrix, work


def without_neck(head: nib.Nifti1Image) -> nib.Nifti1Image:
    """A head in RAS+ order, cut off where it is deeper than a head is high."""
    edge = voxel_sizes(head.affine)[2]
    cut_mm = _lowest_slice(isotropic(head, WORK_MM)) * WORK_MM
    return head.slicer[:, :, int(cut_mm / edge) :]


def refined(head: nib.Nifti1Image, atlas: 'Atlas', matrix: np.ndarray) -> np.ndarray:
    """The rim moved from where the atlas has it to where the image has it, on the image's grid."""
    fine = isotropic(head, FINE_MM)
    data = np.asarray(fine.dataobj)
    data = np.clip(data, *np.percentile(data, [0.1, 99.8]))
    expected = _moved_brain(atlas, matrix, fine) > 0.5
    allowed = signed_distance(expected, FINE_MM) < FARTHEST_MM
    allowed &= _above_foramen(atlas, matrix, fine)
    mask = expected
    for band_mm in BANDS_MM:
        mask = _without_tails((fit_rim(data, mask, FINE_MM, band_mm) < 0) & allowed)
    distance = settle_rim(data, mask, FINE_MM)
    return ndimage.binary_fill_holes(_largest(_resampled(distance, fine.affine, head) < 0))


def _above_foramen(atlas: 'Atlas', matrix: np.ndarray, grid: nib.Nifti1Image) -> np.ndarray:
    """Where a grid lies above the plane at which the atlas' brain ends and its cord begins."""
    area = (np.asarray(atlas.brain.dataobj) > 0.5).sum((0, 1)) * FINE_MM**2
    lowest = atlas.brain.affine[2] @ (0, 0, np.flatnonzero(area > CORD_MM2)[0], 1)
    height = (matrix @ grid.affine)[2]
    steps = np.ogrid[tuple(slice(n) for n in grid.shape)]
    return sum(h * step for h, step in zip(height, steps, strict=False)) + height[3] > lowest


def _without_tails(mask: np.ndarray) -> np.ndarray:
    """Cut off what hangs on by a neck: orbits, nerves and vessels."""
    core = _largest(ndimage.distance_transform_edt(np.pad(mask, 1, 'edge')) > NECK_MM / FINE_MM)
    near = ndimage.distance_transform_edt(~core) <= (NECK_MM + 2) / FINE_MM
    return mask & near[1:-1, 1:-1, 1:-1]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Twice the common voxels of two masks over all of theirs; 0 where both are empty."""
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))


@dataclass(frozen=True)
class Atlas:
    """Mean head (arbitrary units, like a T1w) and probability of brain (0 to 1), on one grid."""

    head: nib.Nifti1Image
    brain: nib.Nifti1Image

    @property
    def centre(self) -> np.ndarray:
        """World coordinates of the middle of the brain."""
        return apply_affine(self.brain.affine, ndimage.center_of_mass(self.brain.get_fdata()))


@cache
def stored_atlas() -> Atlas:
    head, brain = (nib.load(ATLAS / f'{name}.nii.gz') for name in ('head', 'brain'))
    return Atlas(
        nib.Nifti1Image(np.asarray(head.dataobj, np.float32), head.affine),
        nib.Nifti1Image(np.asarray(brain.dataobj, np.float32) / 255, brain.affine),
    )


def isotropic(img: nib.Nifti1Image, edge_mm: float) -> nib.Nifti1Image:
    """Resample to isotropic voxels along the image's own axes, smoothed against aliasing."""
    edges = voxel_sizes(img.affine)
    sigma = np.sqrt(np.maximum(edge_mm**2 - edges**2, 0)) / 2.355 / edges
    smooth = ndimage.gaussian_filter(np.asarray(img.dataobj, np.float32), sigma, truncate=3)
    shape = np.maximum(np.round(np.array(img.shape) * edges / edge_mm).astype(int), 1)
    affine = nib.affines.rescale_affine(img.affine, img.shape, (edge_mm,) * 3, tuple(shape))
    to_source = np.linalg.inv(img.affine) @ affine
    data = ndimage.affine_transform(
        smooth, to_source, output_shape=tuple(shape), order=1, mode='nearest'
    )
    return nib.Nifti1Image(data, affine)


def _foreground(data: np.ndarray) -> np.ndarray:
    """The head: what is brighter than a tenth of the bright tissue, in one piece."""
    bright = data > 0.1 * np.percentile(data, 99)
    return _largest(ndimage.binary_opening(bright))


def _without_neck(work: nib.Nifti1Image) -> nib.Nifti1Image:
    """Cut what lies deeper than a head is high, and the brightest and darkest half percent."""
    lowest = _lowest_slice(work)
    data = np.asarray(work.dataobj)[:, :, lowest:]
    data = np.clip(data, *np.percentile(data, [0.5, 99.5]))
    affine = work.affine @ from_matvec(np.eye(3), [0, 0, lowest])
    return nib.Nifti1Image(data, affine)


def _lowest_slice(work: nib.Nifti1Image) -> int:
    """The first slice of a working image that may still hold brain."""
    top = np.flatnonzero(_foreground(np.asarray(work.dataobj)).any((0, 1)))[-1]
    return max(0, int(top - HEAD_HEIGHT_MM / WORK_MM))


def align(work: nib.Nifti1Image, atlas: Atlas) -> np.ndarray:
    """Affine (4, 4), world of `work` to world of the atlas: the best of many starts."""
    head = _foreground(np.asarray(work.dataobj))
    similarity = _Similarity(work, atlas.head)
    poses = sorted(_poses(work, head, atlas.centre), key=similarity, reverse=True)
    starts = distinct_poses(poses, similarity.points, STARTS, APART_MM)
    settings = {'factors': (3, 2), 'iterations': (100, 60)}
    sized = [optimise(work, atlas.head, s, kind='Similarity', **settings) for s in starts]
    best = max(sized, key=similarity)
    return max(best, optimise(work, atlas.head, best, kind='Affine', **settings), key=similarity)


def _poses(work, head, atlas_centre) -> Iterator[np.ndarray]:
    """Turned, raised and scaled versions of the head, its vertex where the atlas has it."""
    top = np.flatnonzero(head.any((0, 1)))[-1]
    upper = head.copy()
    upper[:, :, : max(0, int(top - 2 * CENTRE_DEPTH_MM / WORK_MM))] = False
    voxel = np.array(ndimage.center_of_mass(upper))
    for depth in (CENTRE_DEPTH_MM, CENTRE_DEPTH_MM - 20, CENTRE_DEPTH_MM - 40):
        voxel[2] = top - depth / WORK_MM
        centre = apply_affine(work.affine, voxel)
        for pitch, roll, yaw, forward, scale in product(
            (-30, -15, 0, 15, 30), (-15, 0, 15), (-15, 0, 15), (-12, 0, 12), (0.92, 1.05)
        ):
            turn = Rotation.from_euler('xyz', (pitch, roll, yaw), degrees=True).as_matrix() / scale
            yield from_matvec(turn, atlas_centre + np.array([0, forward, 0]) - turn @ centre)


class _Similarity:
    """How well an affine matches an image to the atlas: mutual information less stretching."""

    def __init__(self, work: nib.Nifti1Image, atlas_head: nib.Nifti1Image):
        head = ndimage.binary_dilation(_foreground(np.asarray(work.dataobj)), iterations=3)
        voxels = np.argwhere(head)
        voxels = voxels[:: max(1, len(voxels) // SEARCH_POINTS)]
        self.points = apply_affine(work.affine, voxels)
        self.values = np.asarray(work.dataobj)[tuple(voxels.T)]
        self.atlas = ndimage.gaussian_filter(np.asarray(atlas_head.dataobj), 1)
        self.to_voxels = np.linalg.inv(atlas_head.affine)

    def __call__(self, matrix: np.ndarray) -> float:
        voxels = apply_affine(self.to_voxels @ matrix, self.points).T
        seen = ndimage.map_coordinates(self.atlas, voxels, order=1, mode='nearest')
        stretch = np.log(np.linalg.svd(matrix[:3, :3], compute_uv=False))
        shared = normalized_mutual_information(self.values, seen, bins=32)
        return float(shared - STRETCH_COST * (stretch**2).sum())


def _moved_brain(atlas: Atlas, matrix: np.ndarray, grid: nib.Nifti1Image) -> np.ndarray:
    """The atlas' brain probability on a grid whose world `matrix` takes to the atlas' world."""
    to_atlas = np.linalg.inv(atlas.brain.affine) @ matrix @ grid.affine
    brain = np.asarray(atlas.brain.dataobj)
    return ndimage.affine_transform(brain, to_atlas, output_shape=grid.shape, order=1)


def _only_near(work: nib.Nifti1Image, rough: np.ndarray) -> np.ndarray:
    """The image, dark where it is more than 18 mm from where the atlas expects brain."""
    data = np.asarray(work.dataobj)
    near = ndimage.distance_transform_edt(rough < 0.5) * WORK_MM < 18
    return np.where(near, data, data.min())


def _resampled(values: np.ndarray, affine: np.ndarray, target: nib.Nifti1Image) -> np.ndarray:
    """Linear interpolation onto another grid."""
    to_source = np.linalg.inv(affine) @ target.affine
    return ndimage.affine_transform(
        values, to_source, output_shape=target.shape, order=1, mode='nearest'
    )


def _on_grid_of(image: nib.Nifti1Image, mask: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """Turn a mask on the RAS+ version of an image back to the image's own axes."""
    axes = nib.io_orientation(image.affine)
    back = nib.orientations.ornt_transform(nib.io_orientation(affine), axes)
    data = nib.orientations.apply_orientation(mask.astype(np.uint8), back)
    result = nib.Nifti1Image(data, image.affine, image.header)
    result.set_data_dtype(np.uint8)
    result.header.set_slope_inter(1, 0)
    return result


def stripped_mask(head: nib.Nifti1Image) -> np.ndarray | None:
    """The measured region (holes filled) of an image that holds nothing but a brain, else None.

    Such an image has one value all around, a brain's volume, and no dark skull under its surface.
    Measured on 16 whole heads and 12 stripped images of T1w, T2w, FLAIR and b0: the darkest layer
    has .04 to .27 of the intensity at the core in heads, .54 to 1.09 in stripped ones.
    """
    data = np.asarray(head.dataobj)
    around = np.median(np.concatenate([data[end].ravel() for end in _FACES]))
    measured = np.abs(data - around)
    present = measured > 1e-3 * np.percentile(measured, 99)
    small = isotropic(nib.Nifti1Image(present.astype(np.float32), head.affine), FINE_MM)
    whole = _solid(np.asarray(small.dataobj) > 0.5)
    litres = whole.sum() * FINE_MM**3 / 1e6
    if present.mean() > 0.7 or not SMALLEST_STRIPPED_LITRES < litres < LARGEST_STRIPPED_LITRES:
        return None
    values = np.asarray(isotropic(nib.Nifti1Image(measured, head.affine), FINE_MM).dataobj)
    if _darkest_layer(values, whole) < LEAST_UNDER_SURFACE:
        return None
    return ndimage.binary_fill_holes(_largest(present))


_FACES = [np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]]


def _darkest_layer(values: np.ndarray, whole: np.ndarray) -> float:
    """Intensity of the darkest layer 6 to 21 mm under the surface, relative to the core's.

    Dark means the 20th percentile of a layer; only the middle heights count, where a head is
    scalp, skull and brain from outside inwards.
    """
    # Where the field of view ends above and below there is no surface.
    depth = ndimage.distance_transform_edt(np.pad(whole, ((1, 1), (1, 1), (0, 0))))
    depth = depth[1:-1, 1:-1] * FINE_MM
    slices = np.flatnonzero(whole.any((0, 1)))
    lowest, highest = np.quantile(slices, [0.4, 0.9]).astype(int)
    depth, values = depth[:, :, lowest:highest], values[:, :, lowest:highest]
    core = np.median(values[depth > 25])
    layers = [values[(depth > above) & (depth <= above + 3)] for above in range(6, 21, 3)]
    return min(np.percentile(layer, 20) for layer in layers) / core


def _solid(mask: np.ndarray) -> np.ndarray:
    """The largest piece of a mask with its fissures and holes filled."""
    piece = np.pad(_largest(ndimage.binary_opening(mask)), 6)
    return ndimage.binary_fill_holes(ndimage.binary_closing(piece, iterations=3))[6:-6, 6:-6, 6:-6]


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of a mask; the mask itself if it is empty."""
    labels, count = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else mask


def mask_warnings(mask: np.ndarray, volume: float, agreement: float = np.nan) -> Iterator[str]:
    """What a person should know of a mask, an array in RAS+ order of `volume` litres."""
    if agreement < LEAST_AGREEMENT:
        yield (
            f'Two ways of finding the brain agree poorly (Dice {agreement:.2f}; '
            f'{LEAST_AGREEMENT:.2f} or more is usual): look at the brain mask before using '
            'anything made with it.'
        )
    if not LEAST_LITRES <= volume <= MOST_LITRES:
        yield (
            f'The brain mask holds {volume:.2f} l, outside the {LEAST_LITRES} to {MOST_LITRES} l '
            'of nearly all people: part of the brain is missing from the image, or the mask '
            'is wrong.'
        )
    cut = [
        f'{side} ({np.take(mask, end, axis).sum()} voxels)'
        for axis, names in enumerate(SIDES)
        for end, side in zip((0, -1), names, strict=True)
        if np.take(mask, end, axis).any()
    ]
    if cut:
        yield f'The brain mask reaches the edge of the image: {", ".join(cut)}.'
