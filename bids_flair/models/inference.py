"""From images of a person to a synthetic FLAIR."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from scipy.ndimage import affine_transform, binary_fill_holes, find_objects

from bids_flair.models.blocks import predict_alone, style
from bids_flair.models.committee import SHARE_ABROAD
from bids_flair.models.files import Model, load_model, needs_every_input
from bids_flair.models.finishing import finish
from bids_flair.models.normalisation import CONTRASTS, Normalised, normalise
from bids_flair.models.placement import into_place
from bids_flair.models.regressor import Predictor, Voice
from bids_flair.processing.resampling import spread

LOGGER = logging.getLogger(__name__)
SAME_GRID_MM = 1e-3
REGISTER = 'register one to the other first, or let the participant level do it'
VOXEL_TOLERANCE = 0.05
# Width of a normal distribution's 90 % interval in standard deviations.
INTERVAL_SDS = 2 * 1.645


@dataclass(frozen=True)
class Synthesis:
    """A synthetic FLAIR and how it came about.

    Attributes
    ----------
    flair : Nifti1Image
        float32, on the inputs' grid, 0 outside the mask; white matter is 1.
    low, high : Nifti1Image
        Limits of the 90 % interval, in the same units.
    std : Nifti1Image
        The interval's width as that of a normal distribution, in standard deviations.
    factors : dict
        Per contrast, what its values were divided by.
    unfamiliarity : float
        How far the inputs are from those of the training; above 1, nothing like them was seen.
    intensities : dict
        Per contrast, `STYLE_QUANTILES` over the brain, 'found' here and the 'mean' and 'sd' of
        the training that ``unfamiliarity`` is measured from.
    shares : dict
        What networks of each kind counted for in the brain: 'generalist', 'specialist' (who knows
        the scanner), 'abroad' (where no specialist does).
    warnings : tuple of str
        What a person should look at.
    card : dict
        The model's card.
    """

    flair: nib.Nifti1Image
    low: nib.Nifti1Image
    high: nib.Nifti1Image
    std: nib.Nifti1Image
    factors: dict[str, float]
    unfamiliarity: float
    intensities: dict[str, dict[str, list[float]]]
    shares: dict[str, float]
    warnings: tuple[str, ...]
    card: dict[str, Any]


def synthesize(
    images: Mapping[str, SpatialImage],
    mask: SpatialImage | None = None,
    model: str | Path = 'default',
    device: str = 'auto',
    *,
    return_interval: bool = False,
) -> nib.Nifti1Image | tuple[nib.Nifti1Image, nib.Nifti1Image, nib.Nifti1Image]:
    """Synthesise a FLAIR, and the interval it lies in, from any of T1w, T2w, MD, FA and S0.

    What a person should look at, such as inputs unlike those of the training, is given as a
    Python warning too.

    Parameters
    ----------
    images : mapping of str to image
        Keys among 'T1w', 'T2w', 'MD', 'FA', 'S0'; values are nibabel images in any units, all on
        one grid and registered: what lies more than a millimetre off the T1w, or the first that
        there is, is moved, with a warning (of another person: with a warning alone). Voxels that
        a contrast does not cover are 0 or not finite. MD in mm2/s (or any power of ten of it).
    mask : image, optional
        The brain, on the same grid. Default: all that is not 0 where the T1w (else the T2w or S0)
        has been stripped of skull and air, else it is found in it, which takes a minute.
    model : str or Path
        Name of a shipped model, or a file: see :func:`bids_flair.models.files.load_model`.
    device : str
        'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.
    return_interval : bool
        Also give the limits of the interval that holds the true value in nine of ten voxels.

    Returns
    -------
    flair : Nifti1Image
        float32, on the same grid, in units of its white matter, 0 outside the mask.
    low, high : Nifti1Image
        If `return_interval`: the limits, in the same units.

    Raises
    ------
    TypeError
        If something is no image, such as the name of a file.
    ValueError
        If a key is no contrast, there is none, the grids differ, the mask is empty, or the device
        is not usable.
    BidsFlairError
        If the model cannot be read.
    """
    made = synthesis_of(images, mask, model, device)
    for text in made.warnings:
        warnings.warn(text, stacklevel=2)
    return (made.flair, made.low, made.high) if return_interval else made.flair


def synthesis_of(
    images: Mapping[str, SpatialImage],
    mask: SpatialImage | None = None,
    model: str | Path | Model = 'default',
    device: str = 'auto',
) -> Synthesis:
    """As :func:`synthesize`, with warnings in the result alone."""
    loaded = model if isinstance(model, Model) else load_model(model)
    torch_device = pick_device(device)
    known = loaded.network.architecture.inputs
    reference = check_grids(images, mask, known)
    missing = [name for name in known if name not in images]
    if missing and needs_every_input(loaded):
        raise ValueError(
            f'the model {loaded.name} takes {", ".join(known)} together, and {", ".join(missing)} '
            'is missing'
        )
    mask, doubts = brain_mask(images) if mask is None else (mask, ())
    grid = Grid.around(reference, mask)
    inputs = {name: grid.inputs_1mm(image) for name, image in images.items()}
    brain = grid.brain_1mm()
    inputs, moved = into_place(inputs, brain)
    normalised = normalise(inputs, brain)
    voices = loaded.network.voices(normalised, brain, torch_device)
    mean, below, above = _together(voices, normalised, brain, torch_device)
    unfamiliarity, intensities = _beside_training(voices, normalised, brain)
    calibration = loaded.card.get('calibration', {})
    below *= calibration.get('below', 1.0)
    above *= calibration.get('above', 1.0)
    return Synthesis(
        flair=grid.output(mean, brain),
        low=grid.output(np.maximum(mean - below, 0), brain),
        high=grid.output(mean + above, brain),
        std=grid.output((below + above) / INTERVAL_SDS, brain),
        factors=normalised.factors,
        unfamiliarity=unfamiliarity,
        intensities=intensities,
        shares=_shares(voices, brain),
        warnings=doubts + moved + normalised.warnings + _unfamiliar(unfamiliarity),
        card=loaded.card,
    )


def _beside_training(
    voices: Sequence[Voice], images: Normalised, brain: np.ndarray
) -> tuple[float, dict[str, dict[str, list[float]]]]:
    """What the network to which a person is most familiar thinks, and the figures behind it."""
    closest: tuple[float, dict[str, dict[str, list[float]]]] = (math.inf, {})
    for network in (voice.network for voice in voices):
        names, known = network.architecture.inputs, network.familiarity()
        found = style(images.pick(names), brain)
        score = known.score(found)
        if score <= closest[0]:
            figures = zip(names, found, known.mean, known.spread, strict=True)
            closest = (
                score,
                {
                    name: {'found': here.tolist(), 'mean': mean.tolist(), 'sd': sd.tolist()}
                    for name, here, mean, sd in figures
                    if np.isfinite(here).all()
                },
            )
    return closest


def _shares(voices: Sequence[Voice], brain: np.ndarray) -> dict[str, float]:
    shares: dict[str, float] = {}
    for voice in voices:
        share = np.broadcast_to(voice.weight, brain.shape)[brain].mean()
        shares[voice.role] = shares.get(voice.role, 0.0) + float(share)
    return {role: round(share, 3) for role, share in shares.items()}


def _unfamiliar(score: float) -> tuple[str, ...]:
    if score <= 1:
        return ()
    return (
        f'the inputs look unlike anything that the model was trained on (score {score:.1f}, at '
        'most 1 is familiar): are contrasts mixed up, cut off, or of another kind? Look at the '
        'synthetic image before it is used.',
    )


def predict(
    predictor: Predictor, images: Normalised, mask: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict every voxel of a mask on a 1 mm grid in RAS order.

    Of the images (all of `CONTRASTS`) each network sees those that are its inputs.

    Returns
    -------
    mean, below, above : ndarray of float32, shape of the mask
        FLAIR in units of its white matter, and how far its 90 % interval reaches to either side
        before calibration; 0 outside the mask.
    """
    return _together(predictor.voices(images, mask, device), images, mask, device)


def _together(
    voices: Sequence[Voice], images: Normalised, mask: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total = np.zeros((3, *mask.shape), np.float32)
    for voice in voices:
        if np.any(voice.weight):
            total += voice.weight * predict_alone(voice.network, images, mask, device)
    at_home, nobody_knows = (_said(voices, role) for role in ('specialist', 'abroad'))
    # All of it where such a network has no general one beside it.
    abroad = np.minimum(nobody_knows / SHARE_ABROAD, 1)
    return finish(*total, images, mask, at_home=at_home, abroad=abroad)


def _said(voices: Sequence[Voice], role: str) -> float | np.ndarray:
    """What all networks of a kind count for."""
    return sum((voice.weight for voice in voices if voice.role == role), start=0.0)


def pick_device(name: str) -> torch.device:
    """The device of a name; 'auto' takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        If the device asked for cannot be used, with the reason. Another is never taken instead.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
        if name == 'cpu' and torch.backends.mps.is_available():
            name = 'mps'
        LOGGER.info('device: %s', name)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps') from error
    if device.type not in ('cpu', 'cuda', 'mps'):
        raise ValueError(f'unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps')
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {name!r} cannot be used: {error}') from error
    return device


def check_grids(
    images: Mapping[str, SpatialImage],
    mask: SpatialImage | None,
    known: Sequence[str] = CONTRASTS,
) -> SpatialImage:
    """Make sure that all images are known contrasts on one grid, and return one of them."""
    unknown = sorted(set(images) - set(known))
    if unknown:
        raise ValueError(f'unknown contrasts {unknown}: use {list(known)}')
    if not images:
        raise ValueError(f'no image given: at least one of {list(known)} is needed')
    named = {name: images[name] for name in known if name in images}
    named |= {} if mask is None else {'mask': mask}
    _refuse_what_is_no_volume(named)
    first, reference = next(iter(named.items()))
    for name, image in named.items():
        if _shape(image) != _shape(reference):
            raise ValueError(
                f'{name} and {first} are not on one grid: shapes {_shape(image)} and '
                f'{_shape(reference)}; {REGISTER}'
            )
        distance = np.abs(image.affine - reference.affine).max()
        if distance > SAME_GRID_MM:
            raise ValueError(
                f'{name} and {first} are not on one grid: their affines differ by '
                f'{distance:.3g}; {REGISTER}'
            )
    return reference


def _refuse_what_is_no_volume(images: Mapping[str, SpatialImage]) -> None:
    for name, image in images.items():
        if not isinstance(image, SpatialImage):
            raise TypeError(
                f'{name} is to be a nibabel image, not {type(image).__name__}: read a file with '
                'nibabel.load, or give an array its affine with nibabel.Nifti1Image'
            )
        if len(_shape(image)) != 3:
            raise ValueError(f'{name} is to be one volume, not of shape {_shape(image)}')


def brain_mask(
    images: Mapping[str, SpatialImage],
) -> tuple[nib.Nifti1Image, tuple[str, ...]]:
    """The brain: what is not zero in stripped images, else extracted from the best one.

    With it what a person should look at.
    """
    best = next(n for n in ('T1w', 'T2w', 'FLAIR', 'S0', 'MD', 'FA') if n in images)
    image = images[best]
    data = np.asarray(image.dataobj, dtype=np.float32).reshape(_shape(image))
    if best in ('MD', 'FA') or _is_stripped(data):
        covered = np.isfinite(data) & (data != 0)
        return nib.Nifti1Image(binary_fill_holes(covered).astype(np.uint8), image.affine), ()
    from bids_flair.processing.brain_mask import extract_brain

    found = extract_brain(nib.Nifti1Image(data, image.affine))
    return found.image, tuple(f'Brain mask: {text}' for text in found.warnings)


def _is_stripped(data: np.ndarray) -> bool:
    """Whether most of the frame, and all but a little of its faces, is exactly zero."""
    nothing = ~np.isfinite(data) | (data == 0)
    faces = [nothing.take(i, axis).mean() for axis in range(3) for i in (0, -1)]
    return nothing.mean() > 0.5 and min(faces) > 0.9


@dataclass(frozen=True)
class Grid:
    """The brain's own box: of the images in RAS order, and of 1 mm voxels over it.

    Nothing outside the box counts, so that the result does not depend on the field of view.
    """

    reference: SpatialImage
    brain: np.ndarray
    box: tuple[slice, ...]
    zooms: np.ndarray

    @classmethod
    def around(cls, reference: SpatialImage, mask: SpatialImage) -> 'Grid':
        """The box of a mask on the grid of ``reference``; ValueError if the mask is empty."""
        brain = _in_ras(mask) > 0.5
        if not brain.any():
            raise ValueError('the brain mask is empty')
        box = find_objects(brain.astype(np.uint8))[0]
        sizes = nib.affines.voxel_sizes(nib.as_closest_canonical(reference).affine)
        zooms = np.where(np.abs(sizes - 1) <= VOXEL_TOLERANCE, 1.0, sizes)
        return cls(reference, brain[box], box, zooms)

    @property
    def shape_1mm(self) -> tuple[int, ...]:
        return tuple(np.ceil(self.zooms * self.brain.shape - 1e-6).astype(int).tolist())

    def brain_1mm(self) -> np.ndarray:
        """The mask at 1 mm, bool."""
        return _sample(self.brain.astype(np.float32), 1 / self.zooms, self.shape_1mm, 1) >= 0.5

    def inputs_1mm(self, image: SpatialImage) -> np.ndarray:
        """Values at 1 mm; 0 stays 0 and is not smeared into its neighbours."""
        volume = _in_ras(image)[self.box]
        covered = np.isfinite(volume) & (volume != 0)
        if (self.zooms == 1).all() or not covered.any():
            return np.where(covered, volume, 0)
        step, shape = 1 / self.zooms, self.shape_1mm
        values = _sample(spread(volume, covered), step, shape, 3)
        return np.where(_sample(covered.astype(np.uint8), step, shape, 0), values, 0)

    def output(self, volume_1mm: np.ndarray, brain_1mm: np.ndarray) -> nib.Nifti1Image:
        """On the grid and in the axis order that the images came in, 0 outside the brain."""
        values = volume_1mm
        if not (self.zooms == 1).all():
            volume = spread(volume_1mm, brain_1mm)
            values = np.maximum(_sample(volume, self.zooms, self.brain.shape, 3), 0)
        canonical = nib.as_closest_canonical(self.reference)
        full = np.zeros(_shape(canonical), np.float32)
        full[self.box][self.brain] = values[self.brain]
        back = nib.orientations.ornt_transform(
            nib.io_orientation(canonical.affine), nib.io_orientation(self.reference.affine)
        )
        array = nib.orientations.apply_orientation(full, back)
        return nib.Nifti1Image(np.ascontiguousarray(array), self.reference.affine)


def _sample(
    volume: np.ndarray, step: np.ndarray, shape: tuple[int, ...], order: int
) -> np.ndarray:
    """Every ``step`` voxels, the outer corners of both grids being one point."""
    offset = (step - 1) / 2
    return affine_transform(volume, np.diag(step), offset, shape, order=order, mode='nearest')


def _in_ras(image: SpatialImage) -> np.ndarray:
    canonical = nib.as_closest_canonical(image)
    return np.asarray(canonical.dataobj, dtype=np.float32).reshape(_shape(canonical))


def _shape(image: SpatialImage) -> tuple[int, ...]:
    """Shape without the single time points some scanners write."""
    shape = tuple(image.shape)
    return shape[:3] if math.prod(shape[3:]) == 1 else shape
