"""Rigid registration of two contrasts of one head, with a verdict that can be acted on."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import center_of_mass, map_coordinates
from scipy.spatial.transform import Rotation
from skimage.filters import threshold_otsu
from skimage.metrics import normalized_mutual_information

from bids_flair.processing.itk import optimise, shrink
from bids_flair.processing.resampling import resample_labels

# Of the points between start and end, this share must carry signal in the moving image.
SMALLEST_OVERLAP = 0.6
# Below this gain over wrong poses the maximum found is no more than a ripple.
SMALLEST_PEAK = 1.3
# Edge of the voxels, in mm, on which poses are searched for and then refined.
SEARCH_MM, FINE_MM = 4.0, 2.0
SEARCH_POINTS, JUDGE_POINTS = 6_000, 60_000
SEARCH_DEGREES = (-16.0, 0.0, 16.0)
STARTS, APART_MM = 3, 10.0
# A refinement moves by less than the voxels of a diffusion image measure.
REFINED_MM = 2.0
BINS = 48


@dataclass(frozen=True)
class Registration:
    """A rigid transform and what speaks for or against it.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        Fixed world to moving world (RAS+, mm).
    mutual_information_start, mutual_information : float
        Normalised mutual information (Studholme 1999; 1 = independent, 2 = same) inside the
        fixed mask, with the headers as they came and with `matrix`.
    peak : float
        Excess of mutual information with `matrix` over its excess in the best of twelve wrong
        poses (10 mm or 15 degrees off): how far the solution stands out.
    overlap : float
        Share of the fixed mask that carries signal in the moving image, where that image covers
        it at all.
    coverage : float
        Share of the fixed mask inside the moving image's field of view.
    warnings : tuple of str
    """

    matrix: np.ndarray
    mutual_information_start: float
    mutual_information: float
    peak: float
    overlap: float
    coverage: float
    warnings: tuple[str, ...]

    @property
    def trusted(self) -> bool:
        """Whether the moved image may be used."""
        return not self.warnings

    def scores(self) -> dict[str, float | list[str]]:
        """Everything but the matrix, for a sidecar."""
        values = {key: value for key, value in asdict(self).items() if key != 'matrix'}
        return {
            _camel(key): round(value, 4) if isinstance(value, float) else list(value)
            for key, value in values.items()
        }


def register_rigid(
    fixed: nib.Nifti1Image, moving: nib.Nifti1Image, mask: nib.Nifti1Image, *, seed: int = 1
) -> Registration:
    """Find the rigid transform that brings `moving` onto `fixed`, wherever the two heads lie.

    Poses around the scanner's own coordinates and around the matched centres of mass are compared
    by mutual information; the best few are optimised (Mattes' mutual information inside `mask`),
    and the best of those is refined.

    Parameters
    ----------
    fixed, moving : Nifti1Image
        Three-dimensional, of any two contrasts.
    mask : Nifti1Image
        Brain mask on the grid of `fixed`.
    """
    points = mask_points(mask)
    coarse = tuple(shrink(img, SEARCH_MM) for img in (fixed, moving))
    search = _Similarity(*coarse, thin(points, SEARCH_POINTS))
    poses = sorted(_poses(points.mean(0), _centre_of_mass(moving)), key=search, reverse=True)
    starts = [np.eye(4), *distinct_poses(poses, search.points, STARTS, APART_MM)]
    ends = [_rigid(*coarse, mask, start, (2, 1), (60, 60), seed) for start in starts]
    best = max(ends, key=search)
    fine = tuple(shrink(img, FINE_MM) for img in (fixed, moving))
    matrix = _rigid(*fine, mask, best, (2, 1), (40, 40), seed)
    return best_of(fixed, moving, mask, (matrix, best))


def best_of(
    fixed: nib.Nifti1Image,
    moving: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    matrices: Iterable[np.ndarray],
) -> Registration:
    """Take and judge the best of several transforms, the identity among them.

    Parameters
    ----------
    fixed, moving, mask
        As for :func:`register_rigid`.
    matrices : iterable of ndarray, shape (4, 4)
        Fixed world to moving world (RAS+, mm), whatever program found them.
    """
    similarity = _Similarity(fixed, moving, thin(mask_points(mask), JUDGE_POINTS))
    return _judge(similarity, max((*matrices, np.eye(4)), key=similarity))


def refined(
    fixed: nib.Nifti1Image,
    moving: nib.Nifti1Image,
    mask: nib.Nifti1Image,
    start: np.ndarray,
    end: np.ndarray,
) -> Registration:
    """Judge what a refinement by other means than mutual information made of a transform.

    It counts unless it moved the brain by more than `REFINED_MM`, to where another border lay.
    """
    points = mask_points(mask)
    kept = end if mean_distance(start, end, points) <= REFINED_MM else start
    return _judge(_Similarity(fixed, moving, thin(points, JUDGE_POINTS)), kept)


def follow_rigid(
    fixed: nib.Nifti1Image, moving: nib.Nifti1Image, mask: nib.Nifti1Image, *, seed: int = 1
) -> np.ndarray:
    """Rigid matrix between two volumes of one series, known to lie close to each other."""
    images = (shrink(img, FINE_MM) for img in (fixed, moving))
    return _rigid(*images, mask, np.eye(4), (4, 2), (40, 30), seed)


@dataclass(frozen=True)
class Displacement:
    """How far one image lies off another that it should lie on.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        Fixed world to moving world (RAS+, mm).
    mm : float
        Mean distance over the mask by which `matrix` moves.
    similarity : float
        Excess of normalised mutual information (over 1, independent) with `matrix`.
    gain : float
        That over the excess without it.
    """

    matrix: np.ndarray
    mm: float
    similarity: float
    gain: float


def displacement(
    fixed: nib.Nifti1Image, moving: nib.Nifti1Image, mask: nib.Nifti1Image, *, seed: int = 1
) -> Displacement:
    """Look, near where it lies, for where an image fits better; parameters as `register_rigid`."""
    fine = tuple(shrink(img, FINE_MM) for img in (fixed, moving))
    matrix = _rigid(*fine, mask, np.eye(4), (2, 1), (60, 40), seed)
    points = mask_points(mask)
    similarity = _Similarity(fixed, moving, thin(points, JUDGE_POINTS))
    start, end = similarity(np.eye(4)) - 1, similarity(matrix) - 1
    mm = mean_distance(np.eye(4), matrix, points)
    return Displacement(matrix, mm, end, end / max(start, 1e-6))


def distinct_poses(
    poses: Iterable[np.ndarray], points: np.ndarray, most: int, apart_mm: float
) -> list[np.ndarray]:
    """The first few poses that move the points by more than `apart_mm` from one taken before."""
    taken: list[np.ndarray] = []
    for pose in poses:
        if all(mean_distance(pose, other, points) > apart_mm for other in taken):
            taken.append(pose)
        if len(taken) == most:
            break
    return taken


def mean_distance(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> float:
    """Mean distance (mm) between where two transforms take the same world points (n, 3)."""
    apart = apply_affine(first, points) - apply_affine(second, points)
    return float(np.linalg.norm(apart, axis=1).mean())


def _rigid(fixed, moving, mask, start, factors, iterations, seed: int) -> np.ndarray:
    mask = resample_labels(mask, (fixed.shape, fixed.affine))
    return optimise(
        fixed, moving, start,
        kind='Rigid', factors=factors, iterations=iterations, mask=mask, seed=seed,
    )  # fmt: skip


class _Similarity:
    """Normalised mutual information as a function of the transform, on a fixed set of points."""

    def __init__(self, fixed: nib.Nifti1Image, moving: nib.Nifti1Image, points: np.ndarray):
        self.points = points
        self.fixed_values = _sample(fixed, points)
        self.moving = nib.Nifti1Image(np.asarray(moving.dataobj, np.float32), moving.affine)
        data = np.asarray(self.moving.dataobj)
        self.air = 0.5 * threshold_otsu(data[data > 0])

    def moved(self, matrix: np.ndarray) -> np.ndarray:
        return _sample(self.moving, apply_affine(matrix, self.points))

    def __call__(self, matrix: np.ndarray) -> float:
        values = self.moved(matrix)
        covered = np.isfinite(values) & np.isfinite(self.fixed_values)
        if covered.mean() < 0.1:
            return 1.0
        return float(
            normalized_mutual_information(self.fixed_values[covered], values[covered], bins=BINS)
        )


def _judge(similarity: _Similarity, matrix: np.ndarray) -> Registration:
    start, end = similarity(np.eye(4)), similarity(matrix)
    centre = similarity.points.mean(0)
    wrong = max(similarity(matrix @ pose) for pose in _wrong_poses(centre))
    peak = (end - 1) / max(wrong - 1, 1e-6)
    values = similarity.moved(matrix)
    covered = np.isfinite(values)
    overlap = float((values[covered] > similarity.air).mean()) if covered.any() else 0.0
    warnings = []
    if peak < SMALLEST_PEAK:
        warnings.append(f'the position found hardly differs from wrong ones (peak {peak:.2f})')
    if overlap < SMALLEST_OVERLAP:
        warnings.append(f'only {overlap:.0%} of the brain falls on signal')
    return Registration(
        matrix=matrix,
        mutual_information_start=start,
        mutual_information=end,
        peak=float(peak),
        overlap=overlap,
        coverage=float(covered.mean()),
        warnings=tuple(warnings),
    )


def _wrong_poses(centre: np.ndarray) -> Iterator[np.ndarray]:
    for axis in range(3):
        for sign in (-1, 1):
            yield _shift(sign * 10.0 * np.eye(3)[axis])
            yield _turn(sign * 15.0 * np.eye(3)[axis], centre)


def _poses(fixed_centre: np.ndarray, moving_centre: np.ndarray) -> Iterator[np.ndarray]:
    """Poses worth a look: scanner coordinates and matched centres, raised, lowered and turned."""
    for base in (np.zeros(3), moving_centre - fixed_centre):
        for height in (-25.0, 0.0, 25.0):
            shift = _shift(base + np.array([0, 0, height]))
            for degrees in product(SEARCH_DEGREES, repeat=3):
                yield shift @ _turn(np.array(degrees), fixed_centre)


def _shift(vector: np.ndarray) -> np.ndarray:
    return from_matvec(np.eye(3), vector)


def _turn(degrees: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Rotation about the world's x, y and z axis in turn, around a point."""
    linear = Rotation.from_euler('xyz', degrees, degrees=True).as_matrix()
    return from_matvec(linear, centre - linear @ centre)


def mask_points(mask: nib.Nifti1Image) -> np.ndarray:
    """World coordinates (n, 3) of the voxels of a mask."""
    return apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0))


def thin(points: np.ndarray, most: int) -> np.ndarray:
    """About as many of the points as wanted, evenly taken."""
    return points[:: max(1, len(points) // most)]


def _centre_of_mass(img: nib.Nifti1Image) -> np.ndarray:
    """World coordinates of the centre of an image's intensity."""
    data = np.asarray(img.dataobj, dtype=np.float32)
    return apply_affine(img.affine, center_of_mass(np.clip(data, 0, None)))


def _sample(img: nib.Nifti1Image, points: np.ndarray) -> np.ndarray:
    """Values at world points, linearly interpolated; NaN outside the field of view."""
    voxels = apply_affine(np.linalg.inv(img.affine), points).T
    data = np.asarray(img.dataobj, dtype=np.float32)
    values = map_coordinates(data, voxels, order=1, mode='nearest')
    limits = np.array(img.shape)[:, None] - 0.5
    values[~((voxels >= -0.5) & (voxels <= limits)).all(0)] = np.nan
    return values


def _camel(key: str) -> str:
    return ''.join(part.title() if part != 'mm' else part for part in key.split('_'))
