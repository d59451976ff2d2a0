"""data_descriptor.json holds what the program takes, asks for and writes."""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bids_flair
from bids_flair.cli import parser
from bids_flair.descriptor import load_descriptor
from bids_flair.errors import ExitCode

POSITIONALS = {'bids_dir': 'bids_dir', 'output_dir': 'output_dir', 'analysis_level': 'levels'}
READ_FILES = (parser.read_filters, parser.read_rules, parser.read_plugin, parser.read_config)
PATHS = ('bids_dir', 'dicom')


@pytest.fixture(scope='module')
def boutiques_descriptor(root):
    return json.loads((root / 'data_descriptor.json').read_text())


@pytest.fixture(scope='module')
def inputs(boutiques_descriptor):
    return [i for i in boutiques_descriptor['inputs'] if i['id'] != 'output_dir_mounted']


def _actions():
    shown_only = (argparse._HelpAction, argparse._VersionAction)
    return [a for a in parser.build_parser()._actions if not isinstance(a, shown_only)]


def _action_of(entry):
    for action in _actions():
        if entry.get('command-line-flag') in action.option_strings:
            return action
        if not action.option_strings and POSITIONALS.get(entry['id']) == action.dest:
            return action
    raise LookupError(f'{entry["id"]} is not on the command line')


def test_valid_boutiques_and_bids_app(boutiques_descriptor):
    bids = pytest.importorskip('boutiques.bids')
    validator = pytest.importorskip('boutiques.validator')
    validator.validate_descriptor(copy.deepcopy(boutiques_descriptor))
    bids.validate_bids(boutiques_descriptor, valid=True)


@pytest.mark.parametrize('given', [True, False])
def test_command_line_that_boutiques_makes(root, tmp_path, given):
    """Of two inputs of one key Boutiques forgets it where the first is not given."""
    pytest.importorskip('boutiques')
    arguments = []
    if given:
        values = {'bids_dir': 'setup.cfg', 'output_dir': '/new', 'analysis_level': ['participant']}
        (tmp_path / 'invocation.json').write_text(json.dumps(values))
        arguments = ['-i', str(tmp_path / 'invocation.json')]
    # What is not given is drawn at random.
    bosh = [Path(sys.executable).with_name('bosh'), 'exec', 'simulate', 'data_descriptor.json']
    for _ in range(1 if given else 5):
        done = subprocess.run(
            [*bosh, *arguments], cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        line = done.stdout.strip().splitlines()[-1]
        made, command = line.removeprefix('mkdir -p ').split('; ')
        program, bids_dir, output_dir, level, *_ = command.split()
        assert (program, output_dir) == ('/run.py', made)
        assert level in parser.LEVELS
        if given:
            assert (bids_dir, output_dir, level) == ('setup.cfg', '/new', 'participant')


def test_every_flag_is_described_once(inputs):
    assert sorted(_action_of(entry).dest for entry in inputs) == sorted(
        action.dest for action in _actions()
    )


def test_flags_take_the_same_values(inputs):
    for entry in inputs:
        action = _action_of(entry)
        choices = parser.LEVELS if action.dest == 'levels' else action.choices
        assert tuple(entry.get('value-choices', ())) == tuple(choices or ()), entry['id']
        assert entry.get('list', False) == (action.nargs == '+'), entry['id']
        assert entry['optional'] == bool(action.option_strings), entry['id']


def test_flags_are_of_the_same_type(inputs):
    for entry in inputs:
        action = _action_of(entry)
        if action.nargs == 0:
            assert entry['type'] == 'Flag', entry['id']
        elif action.type is int:
            assert (entry['type'], entry['integer']) == ('Number', True), entry['id']
        elif action.type is float:
            assert entry['type'] == 'Number', entry['id']
        elif action.type in READ_FILES or action.dest in PATHS:
            assert entry['type'] == 'File', entry['id']
        else:
            assert entry['type'] == 'String', entry['id']


def test_flags_have_the_same_defaults(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'ds').mkdir()
    settings = parser.parse(['ds', 'out', 'participant'])
    decided_by_the_machine = {'nprocs', 'omp_nthreads', 'mem_gb'}
    for entry in inputs:
        action = _action_of(entry)
        if not action.option_strings or action.dest in decided_by_the_machine | {'config_file'}:
            continue
        default = getattr(settings, action.dest)
        if isinstance(default, Path):
            default = str(default.relative_to(tmp_path))
        if entry['type'] == 'Flag':
            assert not default, entry['id']
        else:
            assert entry.get('default-value') == (None if default in ((), {}, '') else default)


def test_version_and_exit_codes(boutiques_descriptor):
    assert boutiques_descriptor['tool-version'] == bids_flair.__version__
    codes = {error['code'] for error in boutiques_descriptor['error-codes']}
    assert codes == set(ExitCode) - {ExitCode.DONE}


def test_the_package_carries_the_same_file(root):
    inside = Path(bids_flair.__file__).with_name('data_descriptor.json')
    assert inside.read_text() == (root / 'data_descriptor.json').read_text()


def test_contrasts():
    descriptor = load_descriptor()
    assert set(descriptor.contrasts) == {'T1w', 'T2w', 'FLAIR', 'dwi'}
    assert descriptor.model_inputs == ('T1w', 'T2w', 'MD', 'FA', 'S0')
    assert descriptor.reference_order == ('T1w', 'T2w', 'dwi')
    assert [c.name for c in descriptor.contrasts.values() if c.role == 'target'] == ['FLAIR']
    assert descriptor.contrasts['dwi'].companions == ('.bval', '.bvec')


def test_maps_have_the_units_they_are_written_with():
    descriptor = load_descriptor()
    for image in descriptor.contrasts['dwi'].derived:
        assert descriptor.outputs[image.name.lower()].sidecar['Units'] == image.units


RAW = [
    'sub-01/anat/sub-01_T1w.nii.gz',
    'sub-01/anat/sub-01_acq-hires_run-2_T1w.nii',
    'sub-01/anat/sub-01_part-mag_T1w.nii.gz',
    'sub-01/anat/sub-01_part-phase_T1w.nii.gz',
    'sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz',
    'sub-01/anat/sub-01_T1w.json',
    'sub-01/anat/sub-01_T2w.nii.gz',
    'sub-01/anat/sub-01_FLAIR.nii.gz',
    'sub-01/anat/sub-01_ce-gadolinium_FLAIR.nii.gz',
    'sub-01/dwi/sub-01_dir-AP_dwi.nii.gz',
    'sub-01/dwi/sub-01_dir-AP_dwi.bval',
    'sub-01/dwi/sub-01_dir-AP_dwi.bvec',
    'sub-01/dwi/sub-01_dir-AP_part-phase_dwi.nii.gz',
    'sub-01/dwi/sub-01_dir-PA_sbref.nii.gz',
]


@pytest.fixture(scope='module')
def layout(tmp_path_factory):
    from bids import BIDSLayout

    root = tmp_path_factory.mktemp('raw')
    (root / 'dataset_description.json').write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    for name in RAW:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{}' if name.endswith('.json') else '')
    return BIDSLayout(root, validate=False)


@pytest.mark.parametrize(
    ('contrast', 'found'),
    [('T1w', RAW[:3]), ('T2w', [RAW[6]]), ('FLAIR', [RAW[7]]), ('dwi', [RAW[9]])],
)
def test_queries_find_what_is_meant(layout, contrast, found):
    from bids.layout import Query

    query = load_descriptor().contrasts[contrast].query
    entities = {key: Query.NONE if value is None else value for key, value in query.items()}
    files = layout.get(return_type='filename', **entities)
    assert {Path(f).relative_to(layout.root).as_posix() for f in files} == set(found)


SUBJECT = {'subject': '01'}
ANAT, DWI = 'sub-01/anat/sub-01', 'sub-01/dwi/sub-01'
NAMES = [
    ('synthetic_flair', {'space': 'T1w'}, f'{ANAT}_space-T1w_desc-synth_FLAIR.nii.gz'),
    ('synthetic_flair', {'space': 'dwi'}, f'{ANAT}_space-dwi_desc-synth_FLAIR.nii.gz'),
    ('synthetic_flair_low', {'space': 'T1w'}, f'{ANAT}_space-T1w_desc-synthlow_FLAIR.nii.gz'),
    ('synthetic_flair_high', {'space': 'T1w'}, f'{ANAT}_space-T1w_desc-synthhigh_FLAIR.nii.gz'),
    ('synthetic_flair_std', {'space': 'T1w'}, f'{ANAT}_space-T1w_desc-synthstd_FLAIR.nii.gz'),
    ('synthetic_mask', {'space': 'T1w'}, f'{ANAT}_space-T1w_desc-synth_mask.nii.gz'),
    ('preproc_t1w', {}, f'{ANAT}_desc-preproc_T1w.nii.gz'),
    ('preproc_t2w', {'space': 'T1w'}, f'{ANAT}_space-T1w_desc-preproc_T2w.nii.gz'),
    ('preproc_t2w', {}, f'{ANAT}_desc-preproc_T2w.nii.gz'),
    ('preproc_flair', {'space': 'T1w'}, f'{ANAT}_space-T1w_desc-preproc_FLAIR.nii.gz'),
    ('brain_mask', {}, f'{ANAT}_desc-brain_mask.nii.gz'),
    ('md', {'space': 'T1w'}, f'{DWI}_space-T1w_model-tensor_param-md_dwimap.nii.gz'),
    ('fa', {'space': 'T2w'}, f'{DWI}_space-T2w_model-tensor_param-fa_dwimap.nii.gz'),
    ('s0', {}, f'{DWI}_model-tensor_param-s0_dwimap.nii.gz'),
    ('transform', {'from': 'T2w', 'to': 'T1w'}, f'{ANAT}_from-T2w_to-T1w_mode-image_xfm.txt'),
    (
        'transform',
        {'from': 'dwi', 'to': 'T1w', 'datatype': 'dwi'},
        f'{DWI}_from-dwi_to-T1w_mode-image_xfm.txt',
    ),
]


def test_every_output_is_named_here():
    assert {name for name, _, _ in NAMES} == set(load_descriptor().outputs)


@pytest.mark.parametrize(('name', 'entities', 'path'), NAMES)
def test_patterns_build_the_names(name, entities, path):
    from bids.layout.writing import build_path

    output = load_descriptor().outputs[name]
    entities = {**SUBJECT, **output.entities, **entities}
    assert build_path(entities, output.pattern) == path
    # A sink that tries all patterns in turn, as niworkflows does, must not take another.
    patterns = [o.pattern for o in load_descriptor().outputs.values()]
    assert build_path(entities, patterns) == path
    with_session = build_path({**entities, 'session': 'a'}, output.pattern)
    assert with_session == path.replace('sub-01/', 'sub-01/ses-a/').replace(
        'sub-01_', 'sub-01_ses-a_'
    )
    sidecar = build_path({**entities, 'extension': '.json'}, output.pattern)
    assert sidecar == path.replace('.nii.gz', '.json').replace('.txt', '.json')


def test_descriptions_cover_every_desc():
    descriptor = load_descriptor()
    written = {
        f'desc-{o.entities["desc"]}' for o in descriptor.outputs.values() if 'desc' in o.entities
    }
    assert set(descriptor.descriptions) == written


def test_sidecar_must_be_whole():
    output = load_descriptor().outputs['synthetic_flair']
    with pytest.raises(KeyError, match='SpatialReference'):
        output.metadata({'SkullStripped': True, 'Sources': []})
    values = {'SkullStripped': True, 'Sources': [], 'SpatialReference': 'orig'}
    assert output.metadata(values) == {
        'Description': output.description,
        'Units': 'arbitrary',
        **values,
    }


def test_outputs_pass_the_bids_validator(tmp_path):
    beside_python = Path(sys.executable).parent
    search = os.pathsep.join([str(beside_python), os.environ.get('PATH', '')])
    validator = shutil.which('bids-validator-deno', path=search)
    if validator is None:
        pytest.skip('bids-validator-deno is not installed (extra: validator)')
    _write_derivatives(tmp_path)
    done = subprocess.run(
        [validator, '--format', 'json', str(tmp_path)], capture_output=True, text=True
    )
    issues = json.loads(done.stdout)['issues']['issues']
    errors = [(i['code'], i['location']) for i in issues if i['severity'] == 'error']
    assert errors == []
    assert done.returncode == 0


def _write_derivatives(root: Path) -> None:
    """Write every output once, and beside them the files that the program puts at the top."""
    descriptor = load_descriptor()
    description = {
        'Name': 'bids_flair',
        'BIDSVersion': '1.10.0',
        'DatasetType': 'derivative',
        'GeneratedBy': [{'Name': 'bids_flair', 'Version': bids_flair.__version__}],
        'DatasetLinks': {'raw': 'https://example.org/raw'},
    }
    texts = {
        'dataset_description.json': json.dumps(description),
        '.bidsignore': '\n'.join(descriptor.bidsignore) + '\n',
        'README.md': 'Synthetic FLAIR.\n',
        'sub-01.html': '<html></html>',
        'sub-01/figures/sub-01_desc-synth_FLAIR.svg': '<svg/>',
        'sub-01/log/20240101-000000_abc/bids_flair.toml': '',
        'logs/CITATION.md': '',
        'group_FLAIR.tsv': 'a\tb\n1\t2\n',
        'group_FLAIR.html': '<html></html>',
        'descriptions.tsv': 'desc_id\tdescription\n'
        + ''.join(f'{key}\t{text}\n' for key, text in descriptor.descriptions.items()),
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, _, path in NAMES:
        _write_output(root / path, descriptor.outputs[name])


def _write_output(path: Path, output) -> None:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.txt':
        path.write_text('#Insight Transform File V1.0\n')
    else:
        image = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
        image.header.set_xyzt_units('mm', 'sec')
        image.to_filename(path)
    values = {
        'SkullStripped': True,
        'Sources': ['bids:raw:sub-01/anat/sub-01_T1w.nii.gz'],
        'SpatialReference': 'bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz',
    }
    sidecar = path.with_name(path.name.partition('.')[0] + '.json')
    sidecar.write_text(json.dumps(output.metadata(values)))


def test_the_model_knows_the_inputs_of_the_descriptor():
    from bids_flair.interfaces.synthesis import SynthesizeFlair
    from bids_flair.models.network import Architecture

    inputs = Architecture().inputs
    assert load_descriptor().model_inputs == inputs
    assert set(inputs) <= set(SynthesizeFlair.input_spec().trait_get())


def test_dicom_rules_are_rules():
    from bids_flair.dicom.recognise import check_rules

    rules = list(load_descriptor().dicom_rules)
    assert check_rules({'rules': rules}) == rules


def test_no_sidecar_of_a_converted_series_names_place_machine_or_time():
    told = ('Institution', 'Station', 'Serial', 'Date', 'AcquisitionTime', 'Name', 'Description')
    vendors = {'SequenceName', 'ReceiveCoilName', 'ManufacturersModelName'}
    for key in load_descriptor().dicom_sidecar_keys - vendors:
        assert not any(word in key for word in told), key
