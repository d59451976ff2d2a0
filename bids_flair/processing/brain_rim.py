"""Moving the rim of a brain mask to where the image itself has it.

A registered atlas is off by a few millimetres, now inwards, now outwards. Averaged over the whole
surface those errors cancel: a classifier that sees only intensities learns from the atlas' labels
what the two sides of the rim look like in this very image, whatever its contrast. An error that
all of the surface shares it cannot see; that one is taken off by moving the whole rim to the depth
where the mean intensity falls most steeply: brain and fluid to bone, or cortex to dark fluid.
"""

import numpy as np
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier

# How far (mm) a rim moves for one unit of log odds from the classifier.
TRUST_MM = 3.0
SHADING_MM = 20.0
# The largest error taken off that the whole surface shares, and the skin left on the brain.
MOST_SHARED_MM, SKIN_MM = 3.0, 1.0
OFFSETS_MM = (-9, -6, -4, -2, 2, 4, 6, 9)


def fit_rim(
    data: np.ndarray, prior: np.ndarray, edge_mm: float, band_mm: float = 10.0
) -> np.ndarray:
    """Signed distance (mm, negative inside) to the rim of the brain.

    Parameters
    ----------
    data : ndarray
        Image on isotropic voxels.
    prior : ndarray of bool
        Where the atlas has the brain, on the same grid.
    band_mm : float
        How far from the prior's rim the true one is looked for.
    """
    distance = signed_distance(prior, edge_mm)
    data = _evened(data, distance, edge_mm)
    band = np.abs(distance) < band_mm
    features = _features(data, distance, band, edge_mm)
    labels = distance[band] < 0
    # Coarse on purpose, and blind to the place: it must not learn the atlas' errors by heart.
    model = HistGradientBoostingClassifier(
        max_iter=30, learning_rate=0.15, max_leaf_nodes=8, min_samples_leaf=500,
        early_stopping=False, random_state=0,
    )  # fmt: skip
    model.fit(features, labels)
    evidence = np.zeros(data.shape, np.float32)
    evidence[band] = -np.clip(model.decision_function(features), -3, 3)
    evidence = ndimage.gaussian_filter(evidence, 1.2 / edge_mm)
    return ndimage.gaussian_filter(distance, 1.5 / edge_mm) + TRUST_MM * evidence


def settle_rim(data: np.ndarray, mask: np.ndarray, edge_mm: float) -> np.ndarray:
    """Signed distance (mm) to a rim that lies just outside the steepest fall of mean intensity.

    Parameters
    ----------
    data : ndarray
        Image on isotropic voxels.
    mask : ndarray of bool
        The brain, on the same grid, with a rim that errs by a few mm the same way everywhere.
    """
    distance = signed_distance(mask, edge_mm)
    data = _evened(data, distance, edge_mm)
    distance = ndimage.gaussian_filter(distance, 1.5 / edge_mm)
    depths = np.arange(-MOST_SHARED_MM - 1, MOST_SHARED_MM + 1.1, 0.5)
    near = np.abs(distance) < depths[-1] + 1
    distances, values = distance[near], data[near]
    profile = np.array([values[np.abs(distances - depth) < 0.75].mean() for depth in depths])
    fall = profile[:-4] - profile[4:]
    return distance - depths[2:-2][np.argmax(fall)] - SKIN_MM


def _evened(data: np.ndarray, distance: np.ndarray, edge_mm: float) -> np.ndarray:
    """The image divided by the mean of the brain around each place: shading taken off."""
    inside = (distance < -4).astype(np.float32)
    sigma = SHADING_MM / edge_mm
    weight = ndimage.gaussian_filter(inside, sigma)
    mean = ndimage.gaussian_filter(data * inside, sigma) / np.maximum(weight, 1e-6)
    return data / np.where(weight > 1e-4, mean, np.median(data[inside > 0]))


def signed_distance(mask: np.ndarray, edge_mm: float) -> np.ndarray:
    """Distance (mm) to the border of a mask: negative inside, positive outside."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return ((outside - inside) * edge_mm).astype(np.float32)


def _features(data, distance, band, edge_mm: float) -> np.ndarray:
    """(n, m): the image here, blurred, its steepness, and the image further in and further out."""
    normal = np.stack(np.gradient(ndimage.gaussian_filter(distance, 4 / edge_mm)))
    normal = normal[:, band] / (np.linalg.norm(normal[:, band], axis=0) + 1e-6)
    where = np.argwhere(band).T.astype(np.float32)
    along = [
        ndimage.map_coordinates(data, where + offset / edge_mm * normal, order=1, mode='nearest')
        for offset in OFFSETS_MM
    ]
    blurred = [ndimage.gaussian_filter(data, sigma / edge_mm)[band] for sigma in (2, 4)]
    steep = ndimage.gaussian_gradient_magnitude(data, 2 / edge_mm)[band]
    return np.stack([data[band], *blurred, steep, *along], 1)
