"""Programs that stand in for FSL where its licence keeps it away.

Each takes FSL's command line, names its files and writes its matrices and vectors as FSL does, by
definitions that are written down here anew rather than taken from the package; what it computes
comes from ANTs and numpy. So names, units, directions and orders of a whole run are tested;
how good FSL's own results are is not. With a real FSL the same tests run on the real programs.
"""

import os
import stat
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

PROGRAMS = (
    'bet', 'bet2', 'dtifit', 'eddy_correct', 'eddy_openmp', 'flirt', 'fslmerge', 'fslroi',
    'fslsplit', 'fslstats', 'fslval', 'imglob', 'imtest', 'remove_ext', 'topup',
)  # fmt: skip
COARSE_MM = 3.0
EXTENSIONS = {'NIFTI': '.nii', 'NIFTI_GZ': '.nii.gz'}


def install(folder: Path, leave_out: tuple[str, ...] = ()) -> Path:
    """Make a folder that looks like FSLDIR; returns it."""
    (folder / 'bin').mkdir(parents=True)
    (folder / 'etc' / 'flirtsch').mkdir(parents=True)
    (folder / 'etc' / 'flirtsch' / 'bbr.sch').write_text('# as FSL has it\n')
    (folder / 'etc' / 'fslversion').write_text('6.0.0:stand-in\n')
    for program in set(PROGRAMS) - set(leave_out):
        file = folder / 'bin' / program
        file.write_text(
            f'#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n'
            f'import fsl_stand_in\nfsl_stand_in.main({program!r}, sys.argv[1:])\n'
        )
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return folder


def main(program: str, arguments: list[str]) -> None:
    """Run one of the programs."""
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = '1'
    assert os.environ['FSLDIR'] == str(Path(sys.argv[0]).parents[1])
    globals()[program](arguments)


def load(name: str) -> nib.Nifti1Image:
    """An image, named with or without its extension."""
    stem = name.removesuffix('.gz').removesuffix('.nii')
    (found,) = (Path(stem + ext) for ext in EXTENSIONS.values() if Path(stem + ext).exists())
    img = nib.load(found)
    return nib.Nifti1Image(np.asarray(img.dataobj, np.float32), img.affine)


def save(data: np.ndarray, affine: np.ndarray, name: str) -> None:
    """Write an image in the format that FSLOUTPUTTYPE asks for."""
    stem = name.removesuffix('.gz').removesuffix('.nii')
    img = nib.Nifti1Image(data.astype(np.float32), affine)
    img.to_filename(stem + EXTENSIONS[os.environ['FSLOUTPUTTYPE']])


def options_of(arguments: list[str], flags: tuple[str, ...] = ()) -> dict[str, str]:
    """``-name value`` and ``--name=value``; names in `flags` stand alone."""
    found, left = {}, list(arguments)
    while left:
        name, equals, value = left.pop(0).partition('=')
        name = name.lstrip('-')
        found[name] = value if equals else '' if name in flags else left.pop(0)
    return found


def voxels_to_fsl(img: nib.Nifti1Image) -> np.ndarray:
    """Voxel indices to FSL's millimetres, counted from the other end unless mirrored."""
    edges = np.sqrt((img.affine[:3, :3] ** 2).sum(0))
    scale = np.diag([*edges, 1.0])
    if np.linalg.det(img.affine[:3, :3]) > 0:
        scale[0] = [-edges[0], 0, 0, (img.shape[0] - 1) * edges[0]]
    return scale


def fsl_matrix(to_moving: np.ndarray, fixed, moving) -> np.ndarray:
    """FSL's matrix (moving to fixed) for a world transform, fixed to moving (RAS+)."""
    from_moving = np.linalg.inv(to_moving)
    world_to_voxels = np.linalg.inv(fixed.affine)
    voxels_to_world = moving.affine @ np.linalg.inv(voxels_to_fsl(moving))
    return voxels_to_fsl(fixed) @ world_to_voxels @ from_moving @ voxels_to_world


def register(fixed, moving, kind: str, weight=None, start=None) -> np.ndarray:
    """World transform, fixed to moving (RAS+), by ANTs."""
    import ants

    lps = np.diag([-1.0, -1, 1, 1])

    def image(img):
        affine = lps @ img.affine
        edges = np.sqrt((affine[:3, :3] ** 2).sum(0))
        return ants.from_numpy(
            np.asarray(img.dataobj, np.float32), affine[:3, 3].tolist(), edges.tolist(),
            affine[:3, :3] / edges,
        )  # fmt: skip

    def coarse(img):
        edges = [max(edge, COARSE_MM) for edge in image(img).spacing]
        return ants.resample_image(image(img), edges, use_voxels=False, interp_type=0)

    found = ants.registration(
        coarse(fixed), coarse(moving), type_of_transform=kind, aff_metric='mattes',
        initial_transform=start, mask=None if weight is None else coarse(weight),
        mask_all_stages=weight is not None, aff_random_sampling_rate=0.3,
        aff_iterations=(40, 20), aff_shrink_factors=(2, 1), aff_smoothing_sigmas=(1, 0),
    )['fwdtransforms'][-1]  # fmt: skip
    transform = ants.read_transform(found)
    linear = np.reshape(transform.parameters[:9], (3, 3))
    centre = np.asarray(transform.fixed_parameters)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = transform.parameters[9:12] + centre - linear @ centre
    return lps @ matrix @ lps


def bet(arguments: list[str]) -> None:
    """Everything above Otsu's threshold, shrunk or grown with -f."""
    from skimage.filters import threshold_otsu

    source, target, *rest = arguments
    options = options_of(rest, flags=('m', 'R'))
    img = load(source)
    assert nib.aff2axcodes(img.affine) == ('L', 'A', 'S'), 'BET takes the third axis to go up'
    assert {'m', 'R'} <= set(options)
    smooth = ndimage.gaussian_filter(np.asarray(img.dataobj), 1)
    mask = ndimage.binary_opening(smooth > 0.5 * threshold_otsu(smooth))
    grow = round(10 * (0.5 - float(options['f'])))
    if grow:
        change = ndimage.binary_dilation if grow > 0 else ndimage.binary_erosion
        mask = change(mask, iterations=abs(grow))
    stem = target.removesuffix('.nii')
    save(np.asarray(img.dataobj) * mask, img.affine, stem)
    save(mask, img.affine, f'{stem}_mask')


def flirt(arguments: list[str]) -> None:
    """Rigid registration from the header, or from matched centres of mass.

    Along a boundary it is taken to have been there already.
    """
    options = options_of(arguments, flags=('usesqform', 'nosearch'))
    fixed, moving = load(options['ref']), load(options['in'])
    assert options['dof'] == '6'
    if options['cost'] == 'bbr':
        white = load(options['wmseg'])
        assert white.shape == fixed.shape and 0 < np.asarray(white.dataobj).mean() < 0.5
        assert Path(options['schedule']).is_file()
        np.savetxt(options['omat'], np.loadtxt(options['init']), fmt='%.10f')
        save(np.asarray(fixed.dataobj), fixed.affine, options['out'])
        return
    assert (options['cost'], options['searchcost']) == ('normmi', 'normmi')
    start = 'identity' if 'usesqform' in options else None
    found = register(fixed, moving, 'Rigid', load(options['refweight']), start)
    np.savetxt(options['omat'], fsl_matrix(found, fixed, moving), fmt='%.10f')
    save(np.asarray(fixed.dataobj), fixed.affine, options['out'])


def eddy_correct(arguments: list[str]) -> None:
    """An affine per volume, in a log as FLIRT's output makes it."""
    source, target, reference = arguments
    series = load(source)
    fixed = series.slicer[..., int(reference)]
    stem = target.removesuffix('.nii')
    with Path(f'{stem}.ecclog').open('a') as log:
        for number in range(series.shape[3]):
            moving = series.slicer[..., number]
            found = (
                np.eye(4) if number == 0 else register(fixed, moving, 'Affine', None, 'identity')
            )
            rows = '\n'.join(
                ' '.join(f'{value:.9f}' for value in row) + '  '
                for row in fsl_matrix(found, fixed, moving)
            )
            log.write(f'processing {stem}_tmp{number:04d}\n\nFinal result: \n{rows}\n\n')
    save(np.asarray(series.dataobj), series.affine, stem)


def eddy_openmp(arguments: list[str]) -> None:
    """Rigid motion undone by linear interpolation, the vectors turned with the head."""
    options = options_of(arguments, flags=('data_is_shelled',))
    series, mask = load(options['imain']), load(options['mask'])
    rows = np.atleast_2d(np.loadtxt(options['acqp']))
    index = np.loadtxt(options['index']).ravel().astype(int)
    bvals, bvecs = np.loadtxt(options['bvals']).ravel(), np.loadtxt(options['bvecs'])
    assert mask.shape == series.shape[:3] and mask.get_fdata().any()
    assert len(index) == len(bvals) == bvecs.shape[1] == series.shape[3]
    assert index.max() <= len(rows) and (np.abs(rows[:, :3]).sum(1) == 1).all()
    assert ((rows[:, 3] >= 0.01) & (rows[:, 3] <= 0.2)).all()
    if 'topup' in options:
        assert load(options['topup'] + '_fieldcoef').shape == series.shape[:3]
        assert Path(options['topup'] + '_movpar.txt').exists()
    fixed = series.slicer[..., 0]
    corrected, turned = np.empty(series.shape, np.float32), bvecs.copy()
    moved = np.zeros((series.shape[3], 2))
    mirrored = np.diag([-1.0 if np.linalg.det(series.affine[:3, :3]) > 0 else 1.0, 1, 1])
    axes = series.affine[:3, :3] / np.sqrt((series.affine[:3, :3] ** 2).sum(0)) @ mirrored
    for number in range(series.shape[3]):
        moving = series.slicer[..., number]
        found = np.eye(4) if number == 0 else register(fixed, moving, 'Rigid', None, 'identity')
        to_voxels = np.linalg.inv(series.affine) @ found @ series.affine
        corrected[..., number] = ndimage.affine_transform(
            np.asarray(moving.dataobj), to_voxels, order=1
        )
        moved[number, 0] = np.linalg.norm(found[:3, 3])
        turned[:, number] = axes.T @ found[:3, :3].T @ axes @ bvecs[:, number]
    # eddy leaves values below 0 where its splines overshoot.
    corrected[0, 0, 0] = -1
    save(corrected, series.affine, options['out'])
    np.savetxt(options['out'] + '.eddy_rotated_bvecs', turned, fmt='%.8f')
    np.savetxt(options['out'] + '.eddy_parameters', np.zeros((series.shape[3], 16)))
    np.savetxt(options['out'] + '.eddy_movement_rms', moved)


def topup(arguments: list[str]) -> None:
    """No field at all: all files that topup leaves, and the images as they came."""
    options = options_of(arguments)
    series = load(options['imain'])
    rows = np.loadtxt(options['datain'])
    assert options['config'] == 'b02b0.cnf' and not any(n % 2 for n in series.shape[:3])
    assert len(rows) == series.shape[3] == 2 and (rows[0, :3] == -rows[1, :3]).all()
    zero = np.zeros(series.shape[:3])
    save(zero, series.affine, options['out'] + '_fieldcoef')
    np.savetxt(options['out'] + '_movpar.txt', np.zeros((2, 6)))
    save(np.asarray(series.dataobj), series.affine, options['iout'])
    save(zero, series.affine, options['fout'])
    Path(options['logout']).write_text('')
    for number in (1, 2):
        save(zero, series.affine, f'{options["dfout"]}_{number:02d}')
        save(zero + 1, series.affine, f'{options["jacout"]}_{number:02d}')
        np.savetxt(f'{options["rbmout"]}_{number:02d}.mat', np.eye(4))


def fslroi(arguments: list[str]) -> None:
    """Some volumes of a series; one of them is three-dimensional."""
    source, target, first, size = arguments
    series = load(source)
    part = np.asarray(series.dataobj)[..., int(first) : int(first) + int(size)]
    save(part[..., 0] if int(size) == 1 else part, series.affine, target)


def dtifit(arguments: list[str]) -> None:
    """Weighted least squares on the logarithm; maps in the units of the b-values."""
    options = options_of(arguments, flags=('wls',))
    assert 'wls' in options
    series, mask = load(options['k']), np.asarray(load(options['m']).dataobj) > 0
    x, y, z = np.loadtxt(options['r'])
    b = np.loadtxt(options['b']).ravel()
    design = np.stack(
        [b * x * x, 2 * b * x * y, 2 * b * x * z, b * y * y, 2 * b * y * z, b * z * z, b * 0 + 1],
        1,
    )
    signals = np.asarray(series.dataobj)[mask].astype(float)
    weighted = signals[:, :, None] * design
    target = signals * np.log(np.maximum(signals, 1e-6))
    normal = np.einsum('vni,vnj->vij', weighted, weighted)
    right = np.einsum('vni,vn->vi', weighted, target)
    parameters = -np.linalg.solve(normal, right[..., None])[..., 0]
    tensors = parameters[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(tensors)
    mean = values.mean(1)
    squares = np.maximum((values**2).sum(1), 1e-20)
    fa = np.sqrt(1.5 * ((values - mean[:, None]) ** 2).sum(1) / squares)
    maps = {'MD': mean, 'FA': fa, 'S0': np.exp(-parameters[:, 6]), 'MO': mean * 0}
    for number in (1, 2, 3):
        maps[f'L{number}'] = values[:, 3 - number]
        maps[f'V{number}'] = vectors[:, :, 3 - number]
    for name, found in maps.items():
        data = np.zeros((*mask.shape, *found.shape[1:]), np.float32)
        data[mask] = found
        save(data, series.affine, f'{options["o"]}_{name}')
