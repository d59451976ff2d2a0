#!/usr/bin/env python3
"""Make the tissue maps of bids_flair/simulation/anatomies/ from real whole-head T1w images.

    build_anatomies.py OUT NAME=T1W.nii.gz [NAME=T1W.nii.gz ...] [--work DIR]

Each image is bias-corrected and registered with the MNI152 2009a template (ANTs SyN, 2 mm). The
warped template mask gives the brain; tissue fractions come from the T1w itself, because in an
inversion-prepared or gradient-echo image a voxel's signal is linear in its tissue fractions; the
template only says where ventricles and deep nuclei are. The face is cut off, so that a head in the
package shows nobody. About 5 minutes per head on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
from nilearn import datasets
from scipy import ndimage

from bids_flair.simulation.anatomy import code_of

TISSUE_MAPS = ('t1', 'gm', 'wm', 'mask')
COORDINATES = ('x', 'y', 'z')
HEIGHT_MM = 200


# ------------------------------------------------------------------------------------- template
def template_maps() -> dict[str, nib.Nifti1Image]:
    """MNI152 T1w, tissue, mask and coordinate maps at 1 mm."""
    t1 = datasets.load_mni152_template(resolution=1)
    arrays = {
        't1': t1.get_fdata(),
        'gm': datasets.load_mni152_gm_template(resolution=1).get_fdata(),
        'wm': datasets.load_mni152_wm_template(resolution=1).get_fdata(),
        'mask': datasets.load_mni152_brain_mask(resolution=1).get_fdata(),
    }
    index = np.indices(t1.shape).reshape(3, -1).T
    mm = nib.affines.apply_affine(t1.affine, index).T.reshape(3, *t1.shape)
    arrays |= dict(zip(COORDINATES, mm, strict=True))
    return {k: nib.Nifti1Image(v.astype(np.float32), t1.affine) for k, v in arrays.items()}


def regions(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where ventricles and deep nuclei are to be looked for, from warped MNI coordinates.

    Drawn by hand on the template.
    """
    x, y, z = (maps[name] for name in COORDINATES)
    side, mask = np.abs(x), maps['mask'] > 0.5
    fluid = mask & (maps['gm'] + maps['wm'] < 0.5)

    def ellipsoid(cx: float, cy: float, cz: float, axes: tuple[float, float, float]) -> np.ndarray:
        a, b, c = axes
        return ((side - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2 < 1

    thalamus = mask & ellipsoid(11, -19, 7, (10, 14, 9)) & ~fluid
    pallidum = mask & ellipsoid(19, -4, -1, (6, 9, 6)) & ~thalamus
    box = (side > 5) & (side < 32) & (y > -28) & (y < 26) & (z > -10) & (z < 26)
    striatum = ndimage.binary_opening((maps['gm'] > 0.5) & box & mask, iterations=2)
    lateral = (side < 36) & (y > -58) & (y < 36) & (z > 0) & (z < 32)
    lateral &= (side > 2) | ((y > -25) & (y < 22) & (z < 20))
    lateral &= ~((side > 26) & (y > -25)) & ~((side < 14) & (y < -30))
    third = (side < 4) & (y > -30) & (y < 8) & (z > -12) & (z < 8)
    temporal = (side > 22) & (side < 38) & (y > -42) & (y < -8) & (z > -26) & (z < 2)
    fourth = (side < 10) & (y > -50) & (y < -34) & (z > -48) & (z < -18)
    inner = ndimage.distance_transform_edt(mask) > 18
    ventricular = inner & (lateral | third | temporal | fourth)
    return {
        'thalamus': thalamus,
        'pallidum': pallidum,
        'striatum': striatum & ~thalamus & ~pallidum,
        'ventricle': fluid & ventricular,
        'ventricular': ventricular,
    }


# --------------------------------------------------------------------------------- registration
def crop_neck(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Keep the upper `HEIGHT_MM` of the head; RAS."""
    image = nib.as_closest_canonical(image)
    data = image.get_fdata(dtype=np.float32)
    solid = ndimage.binary_opening(data > np.percentile(data, 99) * 0.12, iterations=2)
    top = np.flatnonzero(solid.sum((0, 1)) > 200).max()
    start = max(0, top - int(HEIGHT_MM / image.header.get_zooms()[2]))
    return image.slicer[:, :, start:]


def register(image: nib.Nifti1Image, work: Path) -> tuple[nib.Nifti1Image, dict[str, np.ndarray]]:
    """Bias-corrected head at 1 mm, and the template's maps on its grid."""
    work.mkdir(parents=True, exist_ok=True)
    maps = template_maps()
    for name, template in maps.items():
        nib.save(template, work / f'template_{name}.nii.gz')
    nib.save(crop_neck(image), work / 'cropped.nii.gz')
    head = ants.image_read(str(work / 'cropped.nii.gz'))
    head = ants.resample_image(head, (1, 1, 1), interp_type=4)
    coarse = ants.resample_image(head, (4, 4, 4))
    bias = ants.n4_bias_field_correction(
        coarse, mask=ants.get_mask(coarse), shrink_factor=1, return_bias_field=True
    )
    bias = ants.resample_image_to_target(bias, head).numpy()
    # The coarse field does not reach the outermost half voxel.
    head = head.new_image_like(head.numpy() / np.where(bias > 0.05, bias, 1))
    template, mask = (
        ants.resample_image(ants.image_read(str(work / f'template_{n}.nii.gz')), (2, 2, 2))
        for n in ('t1', 'mask')
    )
    mask = ants.threshold_image(mask, 0.5)
    moving = ants.resample_image(head, (2, 2, 2))
    affine = ants.registration(
        template, moving, 'Affine', mask=ants.morphology(mask, 'dilate', 2), random_seed=1
    )
    around = ants.apply_transforms(
        moving,
        ants.morphology(mask, 'dilate', 3),
        affine['invtransforms'],
        whichtoinvert=[True],
        interpolator='nearestNeighbor',
    )
    warp = ants.registration(
        moving * around, template, 'SyN', reg_iterations=(60, 40, 20), random_seed=1
    )
    warped = {
        name: ants.apply_transforms(
            head, ants.image_read(str(work / f'template_{name}.nii.gz')), warp['fwdtransforms']
        )
        for name in maps
    }
    ants.image_write(head, str(work / 'head.nii.gz'))
    for name, volume in warped.items():
        ants.image_write(volume, str(work / f'warped_{name}.nii.gz'))
    return load_registered(work)


def load_registered(work: Path) -> tuple[nib.Nifti1Image, dict[str, np.ndarray]]:
    """What `register` left in `work`."""

    def read(name: str) -> nib.Nifti1Image:
        return nib.as_closest_canonical(nib.load(work / f'{name}.nii.gz'))

    maps = {n: read(f'warped_{n}').get_fdata(dtype=np.float32) for n in TISSUE_MAPS + COORDINATES}
    return read('head'), maps


# --------------------------------------------------------------------------------- segmentation
def denoise(t1: np.ndarray, spread: float = 0.07) -> np.ndarray:
    """Bilateral filter over 3x3x3 voxels; `spread` is the noise, white matter being 1."""
    total, weights = t1.copy(), np.ones_like(t1)
    for shift in np.ndindex(3, 3, 3):
        step = np.array(shift) - 1
        if not step.any():
            continue
        other = np.roll(t1, tuple(step), (0, 1, 2))
        weight = np.exp(-0.5 * ((other - t1) / spread) ** 2 - 0.5 * (step**2).sum())
        total += weight * other
        weights += weight
    return total / weights


def blurred_within(values: np.ndarray, where: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of `values` over `where` only."""
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma)
    return ndimage.gaussian_filter(np.where(where, values, 0), sigma) / np.maximum(weight, 1e-3)


def normalise(t1: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
    """Divide by the local level of white matter."""
    likely = (maps['wm'] > 0.8) & (maps['mask'] > 0.5)
    level = np.median(t1[likely])
    white = likely & (np.abs(t1 / level - 1) < 0.15)
    local = blurred_within(t1, white, 12.0)
    near = ndimage.gaussian_filter(white.astype(np.float32), 12.0) > 5e-3
    return t1 / np.where(near, local, level)


def class_levels(t1: np.ndarray, brain: np.ndarray) -> tuple[float, float]:
    """Levels of fluid and cortex, white matter being 1: two steps of a three-class mixture."""
    values = t1[ndimage.binary_erosion(brain, iterations=2)]
    values = values[(values > 0) & (values < 1.3)]
    values = np.random.default_rng(0).choice(values, 100_000)
    mean, sd, share = np.array([0.2, 0.7, 1.0]), np.full(3, 0.1), np.full(3, 1 / 3)
    for _ in range(60):
        p = share * np.exp(-0.5 * ((values[:, None] - mean) / sd) ** 2) / sd
        p /= p.sum(1, keepdims=True) + 1e-12
        share = p.mean(0)
        mean = (p * values[:, None]).sum(0) / p.sum(0)
        sd = np.sqrt((p * (values[:, None] - mean) ** 2).sum(0) / p.sum(0)).clip(0.02, 0.12)
    fluid = min(mean[0], np.percentile(values, 2) + 0.08)
    return float(fluid), float(mean[1])


def brain_parts(
    t1: np.ndarray, mask: np.ndarray, fluid: float, cortex: float
) -> tuple[np.ndarray, np.ndarray]:
    """Brain mask, and the parenchyma in it: bright, and connected once thin bridges are cut."""
    tissue = mask & (t1 > (fluid + cortex) / 2) & (t1 < 1.35)
    core = ndimage.binary_opening(tissue, iterations=2)
    labels, _ = ndimage.label(core)
    core = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    tissue &= ndimage.binary_dilation(core, iterations=3)
    sheath = np.pad(tissue, 6)
    sheath = ndimage.distance_transform_edt(~sheath) <= 5
    sheath = ndimage.distance_transform_edt(sheath) > 5
    brain = ndimage.binary_fill_holes(sheath[6:-6, 6:-6, 6:-6]) & mask
    return brain | tissue, tissue


def quarters(fraction: np.ndarray) -> np.ndarray:
    """0 to 4; a little noise next to a pure value is rounded away."""
    stretched = np.clip((fraction - 0.5) * 1.15 + 0.5, 0, 1)
    return np.rint(stretched * 4).astype(np.uint8)


def paint(codes: np.ndarray, where: np.ndarray, part: np.ndarray, first: str, second: str) -> None:
    """Write mixtures of `first` with `part` (quarters) of `second` into `codes`."""
    table = np.array(
        [code_of(first), *(code_of(first, second, q) for q in (1, 2, 3)), code_of(second)],
        np.uint8,
    )
    codes[where] = table[part[where]]


def segment_brain(t1: np.ndarray, maps: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the brain (0 elsewhere), and the brain mask."""
    mask = maps['mask'] > 0.5
    fluid, cortex = class_levels(t1, mask)
    brain, _ = brain_parts(t1, mask, fluid, cortex)
    white = np.clip((t1 - cortex) / (1 - cortex), 0, 1)
    smooth = ndimage.uniform_filter(white, 3)
    white = np.where(smooth > 0.85, 1, white)
    grey = np.clip((t1 - fluid) / (cortex - fluid), 0, 1)

    codes = np.zeros(t1.shape, np.uint8)
    lower = brain & (t1 < cortex)
    paint(codes, lower, quarters(1 - grey), 'cortex', 'sulcus')
    paint(codes, brain & ~lower, quarters(1 - white), 'white', 'cortex')

    found = regions(maps)
    ventricle = find_ventricles(t1, found, brain, (fluid + cortex) / 2)
    nuclei = paint_nuclei(codes, t1, found, brain & ~ventricle, cortex)
    paint_ventricles(codes, t1, brain, ventricle, fluid, nuclei)
    vessels = brain & (t1 > 1.35)
    codes[vessels] = code_of('dura')
    return codes, brain


def find_ventricles(
    t1: np.ndarray, found: dict[str, np.ndarray], brain: np.ndarray, middle: float
) -> np.ndarray:
    """Dark voxels connected with the template's ventricles and not far from them."""
    prior = found['ventricle']
    near = ndimage.binary_dilation(prior, iterations=6) & found['ventricular']
    dark = brain & (t1 < middle)
    return ndimage.binary_propagation(prior & dark, mask=near & dark)


def paint_nuclei(
    codes: np.ndarray,
    t1: np.ndarray,
    found: dict[str, np.ndarray],
    where: np.ndarray,
    cortex: float,
) -> np.ndarray:
    """Deep grey matter: the warped outline, its edge with white matter taken from the T1w."""
    soft = {
        n: ndimage.gaussian_filter(found[n].astype(np.float32), 1.0)
        for n in ('thalamus', 'pallidum')
    }
    region = ndimage.binary_dilation(found['striatum'], iterations=2) & where
    # Striatum is brighter than cortex in a T1w; where it is pure lies 0.4 of the way to white.
    pure = cortex + 0.4 * (1 - cortex)
    border = np.clip((0.97 - t1) / (0.97 - pure), 0, 1)
    striatum = region & (border > 0.1) & (t1 > cortex - 0.15)
    thalamus = (soft['thalamus'] > 0.2) & where & (t1 > cortex - 0.1) & ~striatum
    pallidum = (soft['pallidum'] > 0.2) & where & ~thalamus & ~striatum
    paint(codes, striatum, quarters(border), 'white', 'deep')
    paint(codes, thalamus, quarters(soft['thalamus'] * 0.85), 'white', 'deep')
    paint(codes, pallidum, quarters(soft['pallidum']), 'white', 'pallidum')
    return striatum | thalamus | pallidum


def paint_ventricles(
    codes: np.ndarray,
    t1: np.ndarray,
    brain: np.ndarray,
    ventricle: np.ndarray,
    fluid: float,
    nuclei: np.ndarray,
) -> None:
    """Ventricles, and their edge: a mixture with what lies beside it, not a ring of cortex."""
    codes[ventricle] = code_of('ventricle')
    edge = ndimage.binary_dilation(ventricle, iterations=2) & brain
    deep = ndimage.binary_dilation(nuclei & ~edge, iterations=3)
    for name, level, where in (('white', 0.97, edge & ~deep), ('deep', 0.78, edge & deep)):
        amount = np.clip((level - t1) / (level - fluid), 0, 1)
        paint(codes, where, quarters(amount), name, 'ventricle')


def segment_head(
    codes: np.ndarray, t1: np.ndarray, brain: np.ndarray, mni: np.ndarray
) -> np.ndarray:
    """Add what is around the brain to `codes`: fluid, dura, bone, marrow, fat, soft tissue."""
    head = ndimage.binary_closing(t1 > 0.1, iterations=4)
    head = ndimage.binary_opening(head | brain, iterations=2)
    labels, _ = ndimage.label(head)
    head = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    for k in range(head.shape[2]):
        head[:, :, k] = ndimage.binary_fill_holes(head[:, :, k])
    head = (ndimage.gaussian_filter(head.astype(np.float32), 2) > 0.5) | brain
    from_brain = ndimage.distance_transform_edt(~brain)
    from_air = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1, 1:-1]

    smooth = ndimage.median_filter(t1, 3)
    names = np.full(t1.shape, 'soft', dtype='U8')
    names[smooth > 1.1] = 'fat'
    vault = (from_brain < 16) & (mni[2] > -20)
    names[(smooth < 0.4) & (from_air > 2)] = 'bone'
    names[vault & (smooth >= 0.4) & (from_brain < 8) & (from_air > 6)] = 'marrow'
    scalp = vault & (from_air <= 6)
    if np.percentile(smooth[scalp & (from_air > 2)], 75) < 0.9:
        # Fat was suppressed in this image: give the scalp the usual layers.
        names[vault & (from_air > 2) & (from_air <= 5)] = 'fat'
    names[from_air <= 2] = 'soft'
    names[vault & (from_brain <= 4) & (from_brain > 2.5)] = 'bone'
    names[from_brain <= 2.5] = 'dura'
    names[from_brain <= 1.5] = 'cistern'
    names[(smooth < 0.25) & (from_brain > 16) & (from_air > 4) & (mni[1] > -20)] = 'air'
    outside = head & ~brain
    for name in np.unique(names[outside]):
        codes[outside & (names == name)] = code_of(str(name))
    return codes


def cut(codes: np.ndarray, brain: np.ndarray, mni: np.ndarray) -> np.ndarray:
    """Remove the face (below a plane from above the brows to the throat) and the neck."""
    _, y, z = mni
    face = z < -70 + (y - 10) * (65 / 85)
    codes = np.where((face | (z < -88)) & ~brain, 0, codes)
    labels, _ = ndimage.label(codes > 0)
    return np.where(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1, codes, 0)


def mni_coordinates(maps: dict[str, np.ndarray]) -> np.ndarray:
    """Affine approximation of the MNI coordinates of every voxel, fitted inside the brain."""
    inside = ndimage.binary_erosion(maps['mask'] > 0.99, iterations=3)
    voxels = np.argwhere(inside)[::50]
    design = np.c_[voxels, np.ones(len(voxels))]
    index = np.indices(inside.shape, dtype=np.float32)
    out = []
    for name in COORDINATES:
        *slope, offset = np.linalg.lstsq(design, maps[name][inside][::50], rcond=None)[0]
        out.append(np.tensordot(np.float32(slope), index, 1) + np.float32(offset))
    return np.stack(out)


def segment(head: nib.Nifti1Image, maps: dict[str, np.ndarray]) -> nib.Nifti1Image:
    """Code map of a registered head, cropped."""
    t1 = denoise(denoise(normalise(head.get_fdata(dtype=np.float32), maps)))
    mni = mni_coordinates(maps)
    codes, brain = segment_brain(t1, maps)
    codes = cut(segment_head(codes, t1, brain, mni), brain, mni).astype(np.uint8)
    low, high = np.argwhere(codes > 0).min(0), np.argwhere(codes > 0).max(0) + 1
    box = tuple(slice(max(0, a - 2), b + 2) for a, b in zip(low, high, strict=True))
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    affine[:3, :3] = np.diag(np.round(np.diag(affine)[:3], 3))
    affine[:3, 3] = np.round(affine[:3, 3], 2)
    return nib.Nifti1Image(codes[box], affine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('heads', nargs='+', metavar='NAME=T1W')
    parser.add_argument('--work', type=Path, default=Path('work/anatomies'))
    args = parser.parse_args()
    for item in args.heads:
        name, path = item.split('=', 1)
        work = args.work / name
        done = (work / 'warped_z.nii.gz').exists()
        head, maps = load_registered(work) if done else register(nib.load(path), work)
        out = args.out / f'{name}.nii.gz'
        nib.save(segment(head, maps), out)
        print(f'{out}: {out.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
