"""How much a participant's images look like those that a model was trained on.

What is compared are the quantiles of every contrast over the brain, as one normal distribution
over all of them. Any subset of the contrasts has its marginal distribution, so that no subset
needs a fit of its own.
"""

from dataclasses import dataclass

import numpy as np

# This share of what a model was trained on is called familiar.
FAMILIAR = 0.995
# Keeps the covariance invertible; in the units of the images.
SMALLEST_SD = 0.03


@dataclass(frozen=True)
class Familiarity:
    """What the styles of the training images were like.

    Attributes
    ----------
    mean : ndarray, shape (contrasts, quantiles)
    covariance : ndarray, shape (contrasts * quantiles, contrasts * quantiles)
    limits : ndarray, shape (contrasts,)
        Largest distance that is familiar, with one, two, ... contrasts at hand.
    """

    mean: np.ndarray
    covariance: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, styles: np.ndarray, rng: np.random.Generator) -> 'Familiarity':
        """Learn it from training images.

        Parameters
        ----------
        styles : ndarray, shape (n, contrasts, quantiles)
            NaN where a contrast is absent.
        rng : Generator
            For the subsets on which the limits are measured.
        """
        contrasts = styles.shape[1]
        flat = styles.reshape(len(styles), -1)
        present = np.isfinite(flat).astype(float)
        # A contrast that nobody has is no reason to stop: its mean is 0.
        mean = np.nansum(flat, 0) / np.maximum(present.sum(0), 1)
        centred = np.nan_to_num(flat - mean)
        pairs = np.maximum(present.T @ present, 1)
        # Pairs were seen in different people: only when clipped is it surely a covariance.
        sizes, axes = np.linalg.eigh(centred.T @ centred / pairs)
        covariance = (axes * np.maximum(sizes, SMALLEST_SD**2)) @ axes.T
        found = cls(mean.reshape(styles.shape[1:]), covariance, np.ones(contrasts))
        limits = []
        for count in range(1, contrasts + 1):
            distances = []
            for style in styles:
                there = np.flatnonzero(np.isfinite(style).all(1))
                if len(there) >= count:
                    part = np.full_like(style, np.nan)
                    kept = rng.choice(there, count, replace=False)
                    part[kept] = style[kept]
                    distances.append(found.distance(part))
            limits.append(np.quantile(distances, FAMILIAR) if distances else np.inf)
        return cls(found.mean, covariance, np.array(limits))

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each quantile in training, shape (contrasts, quantiles)."""
        return np.sqrt(np.diag(self.covariance)).reshape(self.mean.shape)

    def distance(self, style: np.ndarray) -> float:
        """Mahalanobis distance per value: about 1 for what was common in training."""
        present = np.isfinite(style).ravel()
        away = (style - self.mean).ravel()[present]
        inverse = np.linalg.solve(self.covariance[np.ix_(present, present)], away)
        return float(np.sqrt(away @ inverse / max(len(away), 1)))

    def score(self, style: np.ndarray) -> float:
        """Distance over the largest familiar one: above 1, nothing like it was seen."""
        count = int(np.isfinite(style).all(1).sum())
        return self.distance(style) / float(self.limits[count - 1]) if count else np.inf
