"""Make bids_flair/processing/atlas from the whole-head T1w of three people.

    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 OMP_NUM_THREADS=1 \\
        python benchmarks/build_atlas.py DATA OUT [--without PERSON]

DATA holds the datasets `anatomies` and `dwi-philips`. The first person's brain is found by an
inflated surface and the (already stripped) MNI152 template; the others' with an atlas of the
first; each mask is then closed over the sulci. The atlas is the mean of all three and of their
mirror images, each registered (affine) to the first person and then to the mean of that round.
`--without` leaves one person out, to judge the atlas on someone it has not seen.
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from scipy import ndimage

from bids_flair.processing.brain_mask import (
    FINE_MM,
    WORK_MM,
    Atlas,
    align,
    find_brain,
    isotropic,
    refined,
)
from bids_flair.processing.brain_surface import inflate

PEOPLE = {
    'anatomies-01': 'anatomies/sub-01/anat/sub-01_T1w.nii.gz',
    'anatomies-02': 'anatomies/sub-02/anat/sub-02_T1w.nii.gz',
    'philips': 'dwi-philips/sub-01/anat/sub-01_T1w.nii.gz',
}
SULCUS_MM = 6.0
SIZE_MM = np.array([192, 236, 240])
# The brain's middle lies above the grid's: below it there is neck.
MIDDLE_MM = np.array([0, 0, 30])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--without', choices=list(PEOPLE))
    options = parser.parse_args()
    heads = {
        name: isotropic(nib.as_closest_canonical(nib.load(options.data / path)), FINE_MM)
        for name, path in PEOPLE.items()
    }
    people = find_all(heads)
    used = [person for name, person in people.items() if name != options.without]
    atlas = mean_of(used)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, person in people.items():
        nib.save(person.brain, options.out / f'{name}_mask.nii.gz')
    save(atlas, options.out)


def find_all(heads: dict[str, nib.Nifti1Image]) -> dict[str, Atlas]:
    """Every head with its brain: the first from MNI152, the others from the first."""
    first, *others = heads
    people = {first: person_of(heads[first], seed_mask(heads[first]))}
    for name in others:
        mask, agreement = find_brain(heads[name], people[first])
        print(f'{name}: {mask.sum() * FINE_MM**3 / 1e6:.2f} l, agreement {agreement:.3f}')
        people[name] = person_of(heads[name], mask)
    return people


def seed_mask(head: nib.Nifti1Image) -> np.ndarray:
    """Brain of a head with even shading and dark skull: inflated surface, then MNI152."""
    data = np.asarray(head.dataobj)
    bright = data > 0.1 * np.percentile(data, 99)
    vertex = np.flatnonzero(ndimage.binary_opening(bright, iterations=3).any((0, 1)))[-1]
    middle = [*ndimage.center_of_mass(bright[..., vertex - 60 :])[:2], vertex - 40]
    distance = np.sqrt(((np.indices(data.shape).T - middle) ** 2).sum(-1)).T * FINE_MM
    surface = inflate(np.where(distance < 115, data, 0), FINE_MM, distance < 70, threshold=0.5)
    stripped = nib.Nifti1Image(np.where(surface, data, 0), head.affine)
    template, mask = load_mni152_template(resolution=2), load_mni152_brain_mask(resolution=2)
    mni = Atlas(*(nib.Nifti1Image(img.get_fdata(dtype=np.float32), img.affine)
                  for img in (template, mask)))  # fmt: skip
    return refined(head, mni, align(isotropic(stripped, WORK_MM), mni))


def person_of(head: nib.Nifti1Image, mask: np.ndarray) -> Atlas:
    """A head in units of its brain's median, with its brain closed over the sulci."""
    near = ndimage.distance_transform_edt(~mask) * FINE_MM <= SULCUS_MM
    closed = ndimage.distance_transform_edt(near) * FINE_MM > SULCUS_MM
    closed = ndimage.binary_fill_holes(closed | mask)
    data = np.asarray(head.dataobj)
    scaled = np.clip(data / np.median(data[closed]), 0, 2.5)
    return Atlas(
        nib.Nifti1Image(scaled.astype(np.float32), head.affine),
        nib.Nifti1Image(closed.astype(np.float32), head.affine),
    )


def mean_of(people: list[Atlas]) -> Atlas:
    """Mean head and brain on a common grid: two rounds, the second with mirror images."""
    grid = grid_around(people[0].centre)
    mirrored = [mirror(person) for person in people]
    target = people[0]
    for members in (people, [*people, *mirrored]):
        work = isotropic(in_grid(target.head, np.eye(4), grid), WORK_MM)
        matrices = [align(work, person) for person in members]
        target = Atlas(
            mean_in([person.head for person in members], matrices, grid),
            mean_in([person.brain for person in members], matrices, grid),
        )
    return target


def grid_around(centre: np.ndarray) -> nib.Nifti1Image:
    shape = tuple(int(n) for n in SIZE_MM / FINE_MM)
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1])
    affine[:3, 3] = centre - MIDDLE_MM - SIZE_MM / 2
    return nib.Nifti1Image(np.zeros(shape, np.float32), affine)


def mean_in(images, matrices, grid: nib.Nifti1Image) -> nib.Nifti1Image:
    """Mean of images on a grid whose world each of `matrices` takes to an image's world."""
    moved = [in_grid(img, matrix, grid) for img, matrix in zip(images, matrices, strict=True)]
    return nib.Nifti1Image(np.mean([img.dataobj for img in moved], axis=0), grid.affine)


def in_grid(img: nib.Nifti1Image, matrix: np.ndarray, grid: nib.Nifti1Image) -> nib.Nifti1Image:
    to_source = np.linalg.inv(img.affine) @ matrix @ grid.affine
    data = np.asarray(img.dataobj)
    return nib.Nifti1Image(
        ndimage.affine_transform(data, to_source, output_shape=grid.shape, order=1), grid.affine
    )


def mirror(person: Atlas) -> Atlas:
    return Atlas(*(nib.Nifti1Image(np.asarray(img.dataobj)[::-1], img.affine)
                   for img in (person.head, person.brain)))  # fmt: skip


def save(atlas: Atlas, out: Path) -> None:
    """As uint8: the head with 100 for its brain's median, the probability times 255."""
    for name, img, scale in (('head', atlas.head, 100), ('brain', atlas.brain, 255)):
        values = np.clip(np.round(np.asarray(img.dataobj) * scale), 0, 255).astype(np.uint8)
        nib.save(nib.Nifti1Image(values, img.affine), out / f'{name}.nii.gz')


if __name__ == '__main__':
    main()
