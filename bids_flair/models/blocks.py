"""One network's answer, block by block of voxels."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from bids_flair.models.normalisation import LARGEST_WEIGHTED, Normalised
from bids_flair.models.regressor import STYLE_QUANTILES, Regressor

TILE = 64
Corner = tuple[int, int, int]


def predict_alone(
    network: Regressor, images: Normalised, mask: np.ndarray, device: torch.device
) -> np.ndarray:
    """Predict every voxel of a mask: the mean and both reaches, float32 (3, X, Y, Z)."""
    stride = network.architecture.stride
    length = stride * math.ceil(min(TILE, max(mask.shape)) / stride)
    return predict_blocks(network, images, mask, device, tiles(mask, length), length)


def predict_blocks(
    network: Regressor,
    images: Normalised,
    mask: np.ndarray,
    device: torch.device,
    corners: Iterable[Corner],
    length: int,
    asked: np.ndarray | None = None,
) -> np.ndarray:
    """As `predict_alone`, in cubes of ``length`` voxels alone; 0 elsewhere.

    Of the mask all voxels are predicted, or those ``asked`` for. Of the images (all of
    `CONTRASTS`) the network sees those that are its inputs.
    """
    network = network.to(device)
    inputs = images.pick(network.architecture.inputs)
    halo = network.architecture.halo
    asked = mask if asked is None else asked
    out = np.zeros((3, *mask.shape), np.float32)
    seen = torch.from_numpy(style(inputs, mask)[None]).to(device)
    with torch.inference_mode():
        for corner in corners:
            block = tuple(slice(c, c + length) for c in corner)
            begin = [c - halo for c in corner]
            values, presence = (
                cut_box(a, begin, (length + 2 * halo,) * 3)
                for a in (inputs.values, inputs.presence)
            )
            x = torch.from_numpy(np.concatenate([values, presence])[None])
            keep = torch.from_numpy(cut_box(asked, corner, (length,) * 3)[None])
            mean, reach = network(x.to(device), seen, keep.to(device))
            out[:, *block][:, asked[block]] = torch.cat([mean[:, None], reach], 1).T.cpu().numpy()
    # Far from anything it was trained on a network answers without bounds.
    return np.clip(out, 0, LARGEST_WEIGHTED)


def style(inputs: Normalised, mask: np.ndarray) -> np.ndarray:
    """Quantiles of each contrast over the brain, float32 (contrasts, quantiles); NaN if absent."""
    found = np.full((len(inputs.values), len(STYLE_QUANTILES)), np.nan, np.float32)
    for i, (values, presence) in enumerate(zip(inputs.values, inputs.presence, strict=True)):
        if (presence & mask).any():
            found[i] = np.quantile(values[presence & mask], STYLE_QUANTILES)
    return found


def tiles(mask: np.ndarray, length: int) -> Iterator[Corner]:
    """Corners of the tiles that hold any voxel of the mask."""
    for x, y, z in np.ndindex(*(math.ceil(n / length) for n in mask.shape)):
        corner = (x * length, y * length, z * length)
        if mask[tuple(slice(c, c + length) for c in corner)].any():
            yield corner


def cut_box(
    volume: np.ndarray, corner: Sequence[int], shape: Sequence[int], fill: float = 0
) -> np.ndarray:
    """A box from the last three axes, `fill` where it reaches beyond the volume."""
    out = np.full((*volume.shape[:-3], *shape), fill, volume.dtype)
    source, target = [...], [...]
    for begin, size, n in zip(corner, shape, volume.shape[-3:], strict=True):
        first, last = max(begin, 0), max(min(begin + size, n), 0)
        source.append(slice(first, last))
        target.append(slice(first - begin, max(last - begin, 0)))
    out[tuple(target)] = volume[tuple(source)]
    return out
