"""What the command line understands, and what it refuses with which exit code."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bids_flair import __version__
from bids_flair.cli import parser as parser_module
from bids_flair.cli.parser import build_parser, parse
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings

HEAVY = {
    'torch',
    'nipype',
    'niworkflows',
    'numpy',
    'bids',
    'nibabel',
    'scipy',
    'yaml',
    'psutil',
    'pydicom',
}


@pytest.fixture
def dirs(tmp_path, monkeypatch):
    """Start in a folder that holds an empty dataset ``ds``."""
    (tmp_path / 'ds').mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(dirs):
    """Parse what follows the positionals."""
    return lambda *options: parse(['ds', 'out', 'participant', *map(str, options)])


@pytest.fixture
def refused(dirs, capsys):
    """Parse something wrong; give its exit code and what the user reads."""

    def refuse(*argv) -> tuple[int, str]:
        with pytest.raises((SystemExit, BidsFlairError)) as caught:
            parse([str(argument) for argument in argv])
        if isinstance(caught.value, SystemExit):
            return caught.value.code, capsys.readouterr().err
        return caught.value.code, str(caught.value)

    return refuse


def test_defaults(run, dirs, monkeypatch):
    monkeypatch.setattr(parser_module, 'usable_cpus', lambda: 5)
    monkeypatch.setattr(parser_module, 'usable_memory_gb', lambda: 7.2)
    expected = Settings(
        bids_dir=dirs / 'ds',
        output_dir=dirs / 'out',
        work_dir=dirs / 'work',
        nprocs=5,
        omp_nthreads=4,
        mem_gb=7.2,
    )
    assert run() == expected


def test_work_goes_into_the_output_where_the_current_folder_is_read_only(run, dirs, monkeypatch):
    monkeypatch.setattr(parser_module.os, 'access', lambda *_: False)
    assert run().work_dir == dirs / 'out' / 'work'
    assert run('-w', 'elsewhere').work_dir == dirs / 'elsewhere'


def test_every_setting_can_be_asked_for_and_nothing_else():
    asked = {action.dest for action in build_parser()._actions}
    known = {field.name for field in dataclasses.fields(Settings)}
    assert asked - {'help', 'version', 'config_file'} == known


@pytest.mark.parametrize('flag', ['--participant-label', '--participant_label'])
def test_participants(run, flag):
    assert run(flag, 'sub-01', '02', '01').participants == ('01', '02')


@pytest.mark.parametrize('flag', ['--session-label', '--session-id'])
def test_sessions(run, flag):
    assert run(flag, 'ses-pre', 'post').sessions == ('pre', 'post')


@pytest.mark.parametrize('flag', ['--nprocs', '--nthreads', '--n-cpus', '--n_cpus'])
def test_nprocs(run, flag):
    assert run(flag, '3').nprocs == 3


@pytest.mark.parametrize(('nprocs', 'threads'), [(1, 1), (2, 1), (4, 3), (9, 8), (64, 8)])
def test_threads_follow_processes(run, nprocs, threads):
    assert run('--nprocs', nprocs).omp_nthreads == threads
    assert run('--nprocs', nprocs, '--omp-nthreads', 2).omp_nthreads == 2


@pytest.mark.parametrize(
    ('text', 'gb'),
    [('8000', 8), ('500M', 0.5), ('2000000k', 2), ('16G', 16), ('1.5GB', 1.5), ('2t', 2000)],
)
def test_memory(run, text, gb):
    assert run('--mem', text).mem_gb == pytest.approx(gb)


@pytest.mark.parametrize('text', ['0', '-3G', 'G', '8X', '8 apples', ''])
def test_memory_that_is_none(refused, text):
    code, message = refused('ds', 'out', 'participant', f'--mem={text}')
    assert code == ExitCode.WRONG_ARGUMENTS
    assert 'is not a size of memory' in message


def test_dwi_stands_for_its_maps_in_the_order_of_the_model(run):
    assert run('--inputs', 'dwi', 'T1w').inputs == ('T1w', 'MD', 'FA', 'S0')
    assert run('--inputs', 'FA', 'T2w', 'FA').inputs == ('T2w', 'FA')


@pytest.mark.parametrize('device', ['auto', 'cpu', 'mps', 'cuda', 'cuda:3'])
def test_device(run, device):
    assert run('--device', device).device == device


def test_model_paths_become_absolute(run, dirs):
    assert run('--model', 'paper').model == 'paper'
    assert run('--model', 'mine.safetensors').model == str(dirs / 'mine.safetensors')
    assert run('--model', 'models/mine').model == str(dirs / 'models' / 'mine')


def test_verbosity_counts(run):
    assert run('-vv').verbosity == 2
    assert run('-v', '--verbose', '-v').verbosity == 3


def test_paths_become_absolute(run, dirs):
    settings = run('--work-dir', '../w', '--bids-database-dir', 'db')
    assert settings.bids_database_dir == dirs / 'db'
    assert all(p.is_absolute() for p in (settings.bids_dir, settings.output_dir))
    assert settings.work_dir.resolve() == dirs.parent / 'w'


def test_output_in_derivatives_of_the_input(dirs):
    settings = parse(['ds', 'ds/derivatives/bids_flair', 'participant'])
    assert settings.output_dir == dirs / 'ds' / 'derivatives' / 'bids_flair'


def test_filters_keep_plain_json_under_contrast_names(run, dirs):
    written = {'t1w': {'acquisition': None, 'run': [1, 2]}, 'FLAIR': {'session': '*'}, 'DWI': {}}
    (dirs / 'filters.json').write_text(json.dumps(written))
    assert run('--bids-filter-file', 'filters.json').bids_filters == {
        'T1w': {'acquisition': None, 'run': [1, 2]},
        'FLAIR': {'session': '*'},
        'dwi': {},
    }


def test_plugin(run, dirs):
    (dirs / 'plugin.yml').write_text('plugin: SLURM\nplugin_args:\n  max_jobs: 4\n')
    expected = {'plugin': 'SLURM', 'plugin_args': {'max_jobs': 4}}
    assert run('--use-plugin', 'plugin.yml').plugin == expected
    assert run('--nipype-plugin-file', 'plugin.yml').plugin == expected


def test_dicom_of_one_participant_into_a_dataset_that_need_not_be_there(dirs):
    (dirs / 'scans').mkdir()
    asked = ['--dicom', 'scans', './scans', '--participant-label', 'sub-01']
    settings = parse(['new', 'out', 'participant', *asked, '--session-label', 'a'])
    assert settings.dicom == (str(dirs / 'scans'),)
    assert settings.bids_dir == dirs / 'new'
    assert (settings.participants, settings.sessions) == (('01',), ('a',))


def test_dicom_rules(run, dirs):
    rules = {'rules': [{'kind': 'T1w', 'reason': 'ours', 'when': {'echo_time': [None, 5]}}]}
    (dirs / 'rules.json').write_text(json.dumps(rules))
    options = ('--dicom', 'ds', '--participant-label', '01', '--dicom-rules', 'rules.json')
    settings = run(*options)
    assert settings.dicom_rules == rules
    (dirs / 'bids_flair.toml').write_text(settings.to_toml())
    assert run('--config-file', 'bids_flair.toml') == settings


@pytest.mark.parametrize(
    ('options', 'code', 'message'),
    [
        ('participant --dicom ds', 2, 'name it with --participant-label'),
        ('participant --dicom ds --participant-label 1 2', 2, 'one participant'),
        ('participant --dicom ds --participant-label 1 --session-label a b', 2, 'one session'),
        ('participant --dicom ds --participant-label a_b', 2, "not 'a_b'"),
        ('participant --dicom no --participant-label 1', 66, 'no does not exist'),
        ('participant --participant-label 1 --dicom-rules r.json', 2, 'give the folders'),
        (
            'group --model-name m --dicom ds --participant-label 1',
            2,
            'goes with the participant level',
        ),
    ],
)
def test_dicom_that_is_refused(refused, dirs, options, code, message):
    (dirs / 'r.json').write_text('{"rules": [{"kind": null, "reason": "x", "when": {}}]}')
    found, said = refused('ds', 'out', *options.split())
    assert found == code
    assert message in said


def test_command_line_before_file_before_defaults(run, dirs):
    (dirs / 'run.toml').write_text(
        'bids_dir = "elsewhere"\nbackend = "embedded"\nnprocs = 4\nmem_gb = 16\nverbosity = 2\n'
        'low_mem = true\nparticipants = ["sub-01"]\ninputs = ["dwi"]\nwork_dir = "w"\n'
        '[bids_filters.t1w]\nacquisition = "mprage"\n'
    )
    settings = run('--config-file', 'run.toml', '--nprocs', '2', '-v')
    assert settings.bids_dir == dirs / 'ds'
    assert (settings.nprocs, settings.verbosity) == (2, 1)
    assert (settings.backend, settings.mem_gb, settings.low_mem) == ('embedded', 16, True)
    assert settings.participants == ('01',)
    assert settings.inputs == ('MD', 'FA', 'S0')
    assert settings.work_dir == dirs / 'w'
    assert settings.bids_filters == {'T1w': {'acquisition': 'mprage'}}
    assert settings.omp_nthreads == 1
    assert settings.device == 'auto'


def test_record_of_a_run_repeats_it(run, dirs):
    (dirs / 'plugin.yml').write_text('plugin: Linear\n')
    first = run('--inputs', 'T1w', '--use-plugin', 'plugin.yml', '--mem', '3G', '--debug', '-v')
    (dirs / 'bids_flair.toml').write_text(first.to_toml())
    assert run('--config-file', 'bids_flair.toml') == first


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('colour = "red"', "no setting 'colour'"),
        ('nprocs = "four"', "nprocs cannot be 'four'"),
        ('nprocs = true', 'nprocs cannot be True'),
        ('low_mem = 1', 'low_mem cannot be 1'),
        ('participants = "01"', "participants cannot be '01'"),
        ('participants = [1]', r'participants cannot be [1]'),
        ('nprocs = 0', 'nprocs must be at least 1'),
        ('mem_gb = -1.0', 'mem_gb must be above 0'),
        ('device = "gpu"', "not 'gpu'"),
        ('backend = "spm"', "not 'spm'"),
        ('inputs = ["PDw"]', 'no input PDw'),
        ('nprocs = ', 'is not TOML'),
    ],
)
def test_configuration_that_is_refused(refused, dirs, text, message):
    (dirs / 'run.toml').write_text(text)
    code, said = refused('ds', 'out', 'participant', '--config-file', 'run.toml')
    assert code == ExitCode.WRONG_ARGUMENTS
    assert message in said


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--device', 'gpu'], "not 'gpu'"),
        (['--device', 'cuda:'], "not 'cuda:'"),
        (['--device', 'cuda:1x'], "not 'cuda:1x'"),
        (['--backend', 'spm'], "invalid choice: 'spm'"),
        (['--inputs', 'FLAIR'], 'it cannot be an input'),
        (['--inputs', 'bold'], "invalid choice: 'bold'"),
        (['--nprocs', '0'], 'nprocs must be at least 1'),
        (['--omp-nthreads', '0'], 'omp_nthreads must be at least 1'),
        (['--random-seed', '-1'], 'random_seed must be at least 0'),
        (['--nproc', '2'], 'unrecognized arguments'),
    ],
)
def test_values_that_are_refused(refused, options, message):
    code, said = refused('ds', 'out', 'participant', *options)
    assert code == ExitCode.WRONG_ARGUMENTS
    assert message in said


@pytest.mark.parametrize(
    ('flag', 'text', 'message'),
    [
        ('--bids-filter-file', '{"t1w": ', 'is not JSON'),
        ('--bids-filter-file', '[]', 'one JSON object'),
        ('--bids-filter-file', '{"bold": {}}', "no contrast 'bold'"),
        ('--bids-filter-file', '{"t1w": "mprage"}', "not 'mprage'"),
        ('--dicom-rules', '[]', 'a list "rules"'),
        ('--dicom-rules', '{"rules": [{"kind": "T1w"}]}', 'rule 1 must hold'),
        ('--use-plugin', 'plugin: [', 'is not YAML'),
        ('--use-plugin', 'SLURM', 'must hold a mapping'),
        ('--use-plugin', 'plugin_args: {}', 'needs plugin'),
        ('--use-plugin', 'plugin: SLURM\nargs: {}', 'needs plugin'),
        ('--use-plugin', 'plugin: Slurm', "no plugin 'Slurm'"),
        ('--use-plugin', 'plugin: SLURMGraph', 'does not wait'),
    ],
)
def test_files_that_are_refused(refused, dirs, flag, text, message):
    (dirs / 'file').write_text(text)
    code, said = refused('ds', 'out', 'participant', flag, 'file')
    assert code == ExitCode.WRONG_ARGUMENTS
    assert message in said


@pytest.mark.parametrize(
    'flag', ['--bids-filter-file', '--dicom-rules', '--use-plugin', '--config-file']
)
@pytest.mark.parametrize('name', ['missing', 'ds', 'binary'])
def test_files_that_cannot_be_read(refused, dirs, flag, name):
    (dirs / 'binary').write_bytes(b'\xff\xfe\x00\x80')
    code, said = refused('ds', 'out', 'participant', flag, name)
    assert code == ExitCode.WRONG_ARGUMENTS
    assert f'cannot read {name}' in said


def test_a_level_that_is_refused(refused):
    code, said = refused('ds', 'out', 'session')
    assert code == ExitCode.UNKNOWN_LEVEL
    assert 'Unknown level session' in said


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ([], 'say how it is to be called'),
        (['--model-name', 'a/b'], 'letters, digits'),
        (['--model-name', 'm', '--inputs', 'FLAIR'], 'both input and target'),
        (['--model-name', 'm', '--fine-tune', 'default', '--inputs', 'T1w'], 'keeps the network'),
        (['--model-name', 'm', '--compare', 'all', '--inputs', 'T1w'], 'leave out --inputs'),
        (['--model-name', 'm', '--epochs', '0'], 'epochs must be above 0'),
        (['--model-name', 'm', '--dropout', '1'], 'below 1'),
    ],
)
def test_trainings_that_make_no_sense(refused, options, message):
    code, said = refused('ds', 'out', 'group', *options)
    assert code == ExitCode.WRONG_ARGUMENTS
    assert message in said


def test_input_that_is_missing(refused, dirs):
    code, said = refused('nowhere', 'out', 'participant')
    assert code == ExitCode.INPUT_MISSING
    assert str(dirs / 'nowhere') in said


def test_output_that_is_the_input(refused, dirs):
    (dirs / 'link').symlink_to('ds')
    for output in ('ds', 'ds/', './ds/../ds', 'link'):
        code, said = refused('ds', output, 'participant')
        assert code == ExitCode.WRONG_ARGUMENTS
        assert 'is the input dataset' in said


def test_work_inside_the_input(refused, dirs, monkeypatch):
    assert refused('ds', 'out', 'participant', '-w', 'ds/work')[0] == ExitCode.WRONG_ARGUMENTS
    monkeypatch.chdir(dirs / 'ds')
    code, said = refused('.', '../out', 'participant')
    assert code == ExitCode.WRONG_ARGUMENTS
    assert '--work-dir' in said


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--feed', 'ds'], 'lies in the input dataset'),
        (['--feed', 'ds/fed'], 'lies in the input dataset'),
        (['--feed', 'out'], 'lies in the output directory'),
        (['--feed', 'out/fed'], 'lies in the output directory'),
        (['--feed', 'w', '-w', 'w/x'], 'may hold the other'),
        (['--feed', 'w/x', '-w', 'w'], 'may hold the other'),
        (['--feed', 'fed', '--reports-only'], '--reports-only makes no FLAIR'),
        (['--feed', 'fed', '--boilerplate-only'], '--boilerplate-only makes no FLAIR'),
        (['--feed', 'fed', '--derivatives-only'], 'leave out --derivatives-only'),
    ],
)
def test_feeds_that_make_no_sense(refused, options, message):
    code, said = refused('ds', 'out', 'participant', *options)
    assert code == ExitCode.WRONG_ARGUMENTS
    assert message in said


def test_a_feed_beside_the_derivatives(run, refused, dirs):
    for folder in ('fed', 'ds/derivatives/fed'):
        assert run('--feed', folder).feed == dirs / folder
    said = refused('ds', 'out', 'group', '--model-name', 'm', '--feed', 'fed')[1]
    assert '--feed goes with the participant level' in said


@pytest.mark.parametrize(('work', 'kept'), [('.', 'ds'), ('out', 'out')])
def test_cleaning_that_would_delete_data(refused, run, dirs, work, kept):
    code, said = refused('ds', 'out', 'participant', '-w', work, '--clean-workdir')
    assert code == ExitCode.WRONG_ARGUMENTS
    assert f'would delete {dirs / kept}' in said
    assert run('-w', work).work_dir == dirs / work


@pytest.mark.parametrize('argv', [[], ['ds'], ['ds', 'out']])
def test_missing_positionals(refused, argv):
    code, said = refused(*argv)
    assert code == ExitCode.WRONG_ARGUMENTS
    assert 'required' in said


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(['--version'])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f'bids_flair {__version__}'


def test_help_explains_every_option_and_states_defaults_once():
    text = build_parser().format_help()
    for action in build_parser()._actions:
        assert action.help, action.dest
        assert all(flag in text for flag in action.option_strings)
    assert '(default: auto)' in text
    assert text.count('default: 1') == 0
    assert argparse.SUPPRESS not in text


def test_parsing_imports_nothing_heavy():
    code = (
        'import sys; from bids_flair.cli import parser; parser.build_parser().format_help(); '
        'print(*{name.partition(".")[0] for name in sys.modules})'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert 'bids_flair' in done.stdout
    assert not HEAVY & set(done.stdout.split())
