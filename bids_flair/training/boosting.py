"""Fit gradient-boosted trees to people of one scanner."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from bids_flair.models.normalisation import CONTRASTS
from bids_flair.models.regressor import HIGH, LOW
from bids_flair.models.trees import HALO, BoostedTrees, TreesArchitecture, features
from bids_flair.training.corpus import BRIGHT, LESION, Cut, Person

# Features that a question is chosen from, and voxels that an answer is the mean of, at least.
SHARE_OF_FEATURES, LEAF_VOXELS = 0.3, 20


@dataclass(frozen=True)
class Boosting:
    """What a fit is asked to do.

    ``voxels`` are drawn from all people together; ``lesion`` is the share of them that are drawn
    among lesions, beside those that are drawn anywhere. People with few have fewer: each voxel of
    theirs is seen once as it lies and once mirrored.
    """

    voxels: int = 200_000
    lesion: float = 0.05
    learning_rate: float = 0.1
    seed: int = 0
    target: str = 'FLAIR'


def fit_trees(
    people: Sequence[Person], architecture: TreesArchitecture, boosting: Boosting
) -> BoostedTrees:
    """Trees for the mean (squared error) and for both limits of the interval (pinball loss).

    Half of the voxels are seen in a head mirrored left to right. The same people and the same
    ``boosting`` give the same trees.
    """
    rng = np.random.default_rng(boosting.seed)
    each = -(-boosting.voxels // len(people))
    drawn = [draw(rng, person.whole(), architecture, boosting, each) for person in people]
    seen, target = (np.concatenate(part) for part in zip(*drawn, strict=True))
    losses = ({}, _pinball(LOW), _pinball(HIGH))
    trees = BoostedTrees(architecture)
    first = 0
    for kind, (size, loss) in enumerate(zip(architecture.sizes, losses, strict=True)):
        regression = HistGradientBoostingRegressor(
            max_iter=size,
            learning_rate=boosting.learning_rate,
            max_leaf_nodes=2**architecture.depth,
            max_depth=architecture.depth,
            max_features=SHARE_OF_FEATURES,
            min_samples_leaf=LEAF_VOXELS,
            early_stopping=False,
            random_state=boosting.seed,
            **loss,
        ).fit(seen, target)
        keep_trees(trees, regression, kind, first)
        first += size
    return trees


def _pinball(quantile: float) -> dict[str, str | float]:
    return {'loss': 'quantile', 'quantile': quantile}


def draw(
    rng: np.random.Generator,
    cut: Cut,
    architecture: TreesArchitecture,
    boosting: Boosting,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, m) and target (n,) of at most so many voxels of the brain."""
    k, chosen = CONTRASTS.index(boosting.target), [CONTRASTS.index(i) for i in architecture.inputs]
    there = (cut.depth > 0) & cut.presence[k] & cut.presence[chosen].any(0)
    lesions = there & ((cut.kind == LESION) | (cut.kind == BRIGHT))
    volumes = (cut.values[chosen], cut.presence[chosen].astype(np.float32))
    halves = []
    for turn in (slice(None), slice(None, None, -1)):
        keep = np.zeros(there.shape, bool)
        for among, share in ((there, 1 - boosting.lesion), (lesions, boosting.lesion)):
            places = np.flatnonzero(among)
            few = min(round(share * count / 2), len(places))
            keep.flat[rng.choice(places, few, replace=False)] = True
        keep = keep[turn]
        x = np.concatenate([np.nan_to_num(volume[:, turn]) for volume in volumes])
        x = np.pad(x, [(0, 0)] + 3 * [(HALO, HALO)])[None].astype(np.float32)
        found = features(torch.from_numpy(x), torch.from_numpy(keep.copy())[None])
        halves.append((found.T.numpy(), cut.values[k][turn][keep]))
    seen, wanted = zip(*halves, strict=True)
    return np.concatenate(seen), np.concatenate(wanted)


def keep_trees(
    trees: BoostedTrees, regression: HistGradientBoostingRegressor, kind: int, first: int
) -> None:
    """Write what scikit-learn has grown into ``trees``, from its tree ``first`` on.

    A branch that ends early is lengthened by questions that everything answers alike.
    """
    trees.begin[kind] = float(np.squeeze(regression._baseline_prediction))
    for i, (grown,) in enumerate(regression._predictors, first):
        stack = [(0, 0)]
        while stack:
            place, number = stack.pop()
            node = grown.nodes[number]
            if node['is_leaf']:
                while place < trees.feature.shape[1]:
                    place = 2 * place + 1
                trees.leaf[i, place - trees.feature.shape[1]] = float(node['value'])
                continue
            trees.feature[i, place] = int(node['feature_idx'])
            trees.threshold[i, place] = float(node['num_threshold'])
            stack += [(2 * place + 1, int(node['left'])), (2 * place + 2, int(node['right']))]
