"""What FSL is asked to do, told without FSL; and what is said where FSL is not whole."""

import logging
import re
from pathlib import Path

import fsl_stand_in
import pytest

from bids_flair.bids.acquisition import Acquisition
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.workflows.backends import embedded, fsl, fsl_tools, load_backend
from bids_flair.workflows.backends.fsl_distortion import init_eddy_wf, init_topup_wf

WORK = Path('/work')
BOTH_WAYS = Acquisition('j', 0.04, Path('pa.nii'), None, 0.04)


@pytest.fixture
def fsldir(tmp_path, monkeypatch):
    """Make FSLDIR, of which some programs may be missing."""

    def make(*missing: str) -> Path:
        folder = fsl_stand_in.install(tmp_path / f'fsl{len(missing)}', missing)
        monkeypatch.setenv('FSLDIR', str(folder))
        return folder

    # A name of the user's that is none must not matter.
    monkeypatch.setenv('FSLOUTPUTTYPE', 'NONSENSE')
    return make


def files(tmp_path, *names: str) -> list[str]:
    for name in names:
        (tmp_path / name).touch()
    return [str(tmp_path / name) for name in names]


def node_of(workflow, name: str):
    (node,) = (
        workflow.get_node(full) for full in workflow.list_node_names() if full.endswith(name)
    )
    return node


def command_of(workflow, name: str, folder: Path, **inputs: str) -> str:
    """Command line of a node once its files are there, without the paths of the files."""
    node = node_of(workflow, name)
    for field, file in inputs.items():
        (folder / file).touch()
        setattr(node.inputs, field, str(folder / file))
    return node.interface.cmdline.replace(f'{folder}/', '')


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that commands are told in: BET's is relative to it."""
    folder = tmp_path / 'node'
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize('fraction', fsl.BET_FRACTIONS)
def test_bet(fsldir, here, fraction):
    fsldir()
    name = f'bet_{100 * fraction:.0f}'
    command = command_of(fsl.init_brain_mask_wf(), name, here, in_file='head.nii')
    assert command == f'bet head.nii brain.nii -f {fraction:.2f} -m -R'


FLIRT = (
    'flirt -in moving.nii -ref fixed.nii -out moving_flirt.nii -omat flirt.mat -cost normmi '
    '-searchcost normmi -dof 6 {}-refweight mask.nii{}'
)


@pytest.mark.parametrize(
    ('start', 'before', 'after'), [('header', '-nosearch ', ' -usesqform'), ('search', '', '')]
)
def test_flirt(fsldir, here, start, before, after):
    fsldir()
    workflow = fsl.init_registration_wf(contrast='T2w', seed=0)
    command = command_of(
        workflow, f'flirt_{start}_T2w', here,
        in_file='moving.nii', reference='fixed.nii', ref_weight='mask.nii',
    )  # fmt: skip
    assert command == FLIRT.format(before, after)


def test_flirt_along_the_boundary(fsldir, here):
    """A b=0 image to a T1w: there it was measured to be better than mutual information."""
    folder = fsldir()
    workflow = fsl.init_registration_wf(contrast='dwi', seed=0, reference='T1w')
    files = {'in_file': 'moving.nii', 'reference': 'fixed.nii', 'wm_seg': 'white.nii'}
    command = command_of(workflow, 'flirt_boundary', here, in_matrix_file='start.mat', **files)
    assert sorted(command.split('-')) == sorted(
        'flirt -in moving.nii -ref fixed.nii -out moving_flirt.nii -omat boundary.mat -cost bbr '
        f'-dof 6 -init start.mat -schedule {folder}/etc/flirtsch/bbr.sch -wmseg white.nii'.split(
            '-'
        )
    )


@pytest.mark.parametrize(('contrast', 'reference'), [('T2w', 'T1w'), ('dwi', 'T2w'), ('dwi', '')])
def test_no_boundary_where_mutual_information_is_better_or_none_is_seen(
    fsldir, contrast, reference
):
    fsldir()
    workflow = fsl.init_registration_wf(contrast=contrast, seed=0, reference=reference)
    assert not any('boundary' in name for name in workflow.list_node_names())


def test_dtifit(fsldir, here):
    fsldir()
    workflow = fsl.init_tensor_wf(omp_nthreads=1, acquisition=Acquisition())
    command = command_of(
        workflow, 'dtifit', here, dwi='signals.nii', mask='mask.nii', bvals='bval', bvecs='bvec'
    )
    assert command == 'dtifit -k signals.nii -o dti -m mask.nii -r bvec -b bval --wls'


def test_eddy_correct(fsldir, here):
    fsldir('eddy_openmp')
    workflow = fsl.init_tensor_wf(omp_nthreads=1, acquisition=BOTH_WAYS)
    command = command_of(workflow, 'eddy_correct', here, in_file='series.nii')
    assert command == 'eddy_correct series.nii series_edc.nii 0'
    names = workflow.list_node_names()
    assert not any(name.endswith(('.eddy', '.topup')) for name in names)


EDDY = (
    '{} --flm=quadratic --ff=10.0 --acqp=acquisition.txt --bvals=bval --bvecs=bvec '
    '--imain=series.nii --index=index.txt --mask=mask.nii {}--interp=spline --data_is_shelled '
    '--resamp=jac --niter=5 --nvoxhp=1000 --out=eddy --slm=linear{}'
)
EDDY_INPUTS = {
    'in_file': 'series.nii', 'in_mask': 'mask.nii', 'in_bval': 'bval', 'in_bvec': 'bvec',
    'in_acqp': 'acquisition.txt', 'in_index': 'index.txt',
}  # fmt: skip


@pytest.mark.parametrize('program', fsl_tools.EDDY_PROGRAMS)
@pytest.mark.parametrize('threads', [1, 3])
def test_eddy_under_each_of_its_names(fsldir, here, program, threads):
    folder = fsldir('eddy_openmp')
    content = b'#!/bin/sh\n' if program == 'eddy_openmp' else b'#!/bin/sh\n# --nthr: threads\n'
    (folder / 'bin' / program).write_bytes(content)
    (folder / 'bin' / program).chmod(0o755)
    workflow = init_eddy_wf(Acquisition('j'), omp_nthreads=threads, unwarps=False)
    command = command_of(workflow, 'eddy', here, **EDDY_INPUTS)
    option = f' --nthr={threads}' if program == 'eddy_cpu' else ''
    assert sorted(command.split()) == sorted(EDDY.format(program, '', option).split())
    node = node_of(workflow, 'eddy')
    assert node.inputs.environ['OMP_NUM_THREADS'] == str(threads) == str(node.n_procs)
    assert node.inputs.environ['FSLOUTPUTTYPE'] == 'NIFTI_GZ'


def test_eddy_after_topup(fsldir, here):
    fsldir()
    workflow = init_eddy_wf(BOTH_WAYS, omp_nthreads=1, unwarps=True)
    topup = {'in_topup_movpar': 'pair_base_movpar.txt', 'in_topup_fieldcoef': 'x_fieldcoef.nii'}
    command = command_of(workflow, 'eddy', here, **EDDY_INPUTS, **topup)
    assert '--topup=x ' in command


def test_topup(fsldir, here):
    fsldir()
    opposite, pair = files(here, 'pa.nii', 'pair.nii')
    workflow = init_topup_wf(Acquisition('j', 0.04, Path(opposite)))
    assert command_of(workflow, 'topup', here, in_file=pair, encoding_file='acqp.txt') == (
        'topup --config=b02b0.cnf --datain=acqp.txt --imain=pair.nii --out=pair_base '
        '--iout=pair_corrected.nii --fout=pair_field.nii --jacout=jac --logout=pair_topup.log '
        '--rbmout=xfm --dfout=warpfield'
    )
    command = command_of(workflow, 'unwarped_b0', here, in_file='pair_corrected.nii')
    assert command == 'fslroi pair_corrected.nii pair_corrected_roi.nii 0 1'


def test_commands_depend_on_fsldir_alone(fsldir):
    """PATH begins with its programs, and the output type is none of the user's."""
    folder = fsldir()
    for workflow in (
        fsl.init_brain_mask_wf(),
        fsl.init_registration_wf(contrast='T2w', seed=0),
        fsl.init_tensor_wf(omp_nthreads=1, acquisition=Acquisition()),
    ):
        nodes = map(workflow.get_node, workflow.list_node_names())
        commands = [node for node in nodes if hasattr(node.interface, 'cmd')]
        assert commands
        for node in commands:
            environment = node.inputs.environ
            assert environment['PATH'].startswith(f'{folder}/bin:')
            assert environment['FSLDIR'] == str(folder)
            assert environment['FSLOUTPUTTYPE'] == node.inputs.output_type
            assert node.inputs.output_type in ('NIFTI', 'NIFTI_GZ')


def test_topup_only_with_eddy_and_an_opposite_image(fsldir, tmp_path):
    (opposite,) = files(tmp_path, 'pa.nii')
    both = Acquisition('j', 0.04, Path(opposite))
    fsldir()
    assert fsl.init_unwarping_wf(acquisition=both) is not None
    assert fsl.init_unwarping_wf(acquisition=Acquisition('j')) is None
    assert embedded.init_unwarping_wf(acquisition=both) is None
    fsldir('topup')
    assert fsl.init_unwarping_wf(acquisition=both) is None
    fsldir('eddy_openmp', 'x')
    assert fsl.init_unwarping_wf(acquisition=both) is None


def test_methods_tell_which_way_was_taken(fsldir):
    fsldir()
    acquisition = Acquisition()
    text = fsl.init_tensor_wf(omp_nthreads=1, acquisition=acquisition).visit_desc()
    assert 'corrected with eddy' in text and 'was taken to run along' in text
    fsldir('eddy_openmp')
    text = fsl.init_tensor_wf(omp_nthreads=1, acquisition=acquisition).visit_desc()
    assert 'eddy_correct' in text and 'one interpolation' in text


def test_every_citation_has_its_entry(fsldir, root, tmp_path):
    (opposite,) = files(tmp_path, 'pa.nii')
    entries = (root / 'bids_flair/workflows/references.bib').read_text()
    text = fsl.REGISTERED_BY + embedded.REGISTERED_BY
    for missing in ((), ('eddy_openmp',)):
        fsldir(*missing)
        for workflow in (
            fsl.init_brain_mask_wf(),
            init_topup_wf(Acquisition('j', 0.04, Path(opposite))),
            fsl.init_tensor_wf(omp_nthreads=1, acquisition=Acquisition()),
        ):
            text += workflow.visit_desc()
    cited = set(re.findall(r'@(\w+)', text))
    assert cited == {'ants', 'bet', 'eddy', 'flirt', 'fsl', 'topup'}
    assert all(f'{{{key},' in entries for key in cited)


@pytest.mark.parametrize(
    ('missing', 'says'),
    [
        (('bet', 'dtifit'), 'bin lacks bet, dtifit'),
        (
            ('eddy_openmp', 'eddy_correct'),
            r'neither eddy \(eddy_openmp, .* \(missing: eddy_correct',
        ),
        (('eddy_openmp', 'imglob'), r'missing: imglob'),
    ],
)
def test_what_fsl_lacks_is_named(fsldir, missing, says):
    fsldir(*missing)
    with pytest.raises(BidsFlairError, match=says) as error:
        load_backend('fsl', WORK)
    assert error.value.code == ExitCode.COMMAND_MISSING
    assert 'Install FSL 6.0' in str(error.value) and '--backend embedded' in str(error.value)


def test_fsldir_that_is_not_set_or_no_folder(monkeypatch, tmp_path):
    monkeypatch.delenv('FSLDIR', raising=False)
    with pytest.raises(BidsFlairError, match='FSLDIR is not set'):
        load_backend('fsl', WORK)
    monkeypatch.setenv('FSLDIR', str(tmp_path / 'no'))
    with pytest.raises(BidsFlairError, match='which is no folder'):
        load_backend('fsl', WORK)


def test_dc_is_asked_for_only_where_bet_uses_it(fsldir, monkeypatch):
    folder = fsldir()
    monkeypatch.setattr(fsl_tools.shutil, 'which', lambda name: None)
    assert fsl_tools.problems(WORK) == []
    with (folder / 'bin' / 'bet').open('a') as script:
        script.write('# i=`echo "$i 1 + p" | dc -`\n')
    assert "system's program dc" in fsl_tools.problems(WORK)[0]


def test_a_space_in_the_work_directory_is_refused(fsldir):
    fsldir()
    with pytest.raises(BidsFlairError, match='holds a space'):
        load_backend('fsl', Path('/my data/work'))


def test_auto_takes_fsl_where_it_is_whole_and_says_why(fsldir, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger('bids_flair'), 'propagate', True)
    with caplog.at_level(logging.INFO):
        fsldir('bet2')
        assert load_backend('auto', WORK) is embedded
        assert 'backend embedded, not fsl' in caplog.text and 'lacks bet2' in caplog.text
        fsldir()
        assert load_backend('auto', WORK) is fsl
    assert 'FSL 6.0.0' in caplog.text and 'eddy_openmp for eddy currents' in caplog.text
    assert load_backend('embedded', WORK) is embedded
    assert fsl.package_versions()['FSL'] == '6.0.0'
