"""How close a synthetic FLAIR is to the acquired one, inside the brain only.

Scores over a whole volume reward empty background (a constant zero has an SSIM of .81 on a
stripped brain), so every figure here but ``ssim_volume`` looks at the mask alone.
"""

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter1d
from scipy.stats import rankdata
from skimage.metrics import structural_similarity


def score(
    pred: np.ndarray,
    true: np.ndarray,
    mask: np.ndarray,
    lesion: np.ndarray | None = None,
    t1w: np.ndarray | None = None,
) -> dict[str, float]:
    """Compare a synthetic image with the acquired one.

    The units of both are arbitrary: the prediction is first multiplied by the one factor that
    fits it best in the mask, and nothing else is fitted.

    Parameters
    ----------
    pred, true : ndarray, shape (X, Y, Z)
        Synthetic and acquired image on one grid.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    lesion, t1w : ndarray, shape (X, Y, Z), optional
        Lesion mask, and the T1w from which normal-appearing white matter is taken. Lesion scores
        are given where both are.

    Returns
    -------
    dict
        ``ssim`` (Wang 2004: Gaussian window, sigma 1.5 voxels; data range is the 99.9th
        percentile of the acquired image in the mask), ``psnr_db``, ``nrmse`` (over the mean of
        the acquired image), ``corr``, ``ssim_volume``, ``scale``, and with lesions
        ``lesion_auc_*`` and ``lesion_cnr_*`` for ``true`` and ``pred``.

    Raises
    ------
    ValueError
        If shapes differ or the mask is empty.
    """
    mask = np.asarray(mask, bool)
    if not pred.shape == true.shape == mask.shape:
        raise ValueError(
            f'synthetic image {pred.shape}, acquired image {true.shape} and mask {mask.shape} '
            'must have one shape'
        )
    if not mask.any():
        raise ValueError('the mask to score in is empty')
    scale = best_scale(pred[mask], true[mask])
    top = float(np.percentile(true[mask], 99.9))
    a = np.where(mask, np.clip(pred.astype(float) * scale, 0, top), 0)
    b = np.where(mask, np.clip(true.astype(float), 0, top), 0)
    similarity = ssim_map(a, b, top)
    error = max(float(np.mean((a[mask] - b[mask]) ** 2)), 1e-12)
    scores = {
        'ssim': float(similarity[mask].mean()),
        'psnr_db': float(10 * np.log10(top**2 / error)),
        'nrmse': float(np.sqrt(error) / b[mask].mean()),
        'corr': correlation(a[mask], b[mask]),
        'ssim_volume': float(similarity.mean()),
        'scale': scale,
    }
    if lesion is not None and t1w is not None:
        scores |= _lesion_scores(a, b, mask, np.asarray(lesion) > 0.5, t1w)
    return scores


def best_scale(pred: np.ndarray, true: np.ndarray) -> float:
    """Factor on ``pred`` that brings it closest to ``true`` (least squares through zero)."""
    p, t = pred.astype(float), true.astype(float)
    return float((p @ t) / max(p @ p, 1e-12))


def ssim_map(a: np.ndarray, b: np.ndarray, data_range: float) -> np.ndarray:
    """SSIM at every voxel, with the window and constants of Wang 2004."""
    return structural_similarity(
        a,
        b,
        data_range=data_range,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; 0 where ``a`` is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 else 0.0


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive value is above a negative one (Mann-Whitney)."""
    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def normal_white_matter(t1w: np.ndarray, mask: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """Voxels within 8 % of the T1w's white-matter peak, over 2 voxels away from any lesion."""
    inside = t1w[mask]
    limits = np.percentile(inside, [40, 99.5])
    counts, edges = np.histogram(inside, 200, tuple(limits))
    peak = edges[np.argmax(gaussian_filter1d(counts.astype(float), 5))]
    return mask & (np.abs(t1w - peak) < 0.08 * peak) & ~binary_dilation(lesion, iterations=2)


def _lesion_scores(
    pred: np.ndarray, true: np.ndarray, mask: np.ndarray, lesion: np.ndarray, t1w: np.ndarray
) -> dict[str, float]:
    lesion = lesion & mask
    normal = normal_white_matter(t1w, mask, lesion)
    scores = {}
    for name, image in (('true', true), ('pred', pred)):
        inside, outside = image[lesion], image[normal]
        scores[f'lesion_auc_{name}'] = auc(inside, outside)
        contrast = float(inside.mean() - np.median(outside))
        scores[f'lesion_cnr_{name}'] = contrast / max(float(outside.std()), 1e-9)
    return scores
