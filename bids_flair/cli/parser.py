"""The command line: what may be asked for, and the refusal of what cannot be meant.

Imports nothing heavy, so that ``--help`` answers at once.
"""

import argparse
import json
import os
import re
import tomllib
from argparse import ArgumentTypeError
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_origin

from bids_flair import __version__
from bids_flair.cli.resources import usable_cpus, usable_memory_gb
from bids_flair.descriptor import load_descriptor
from bids_flair.dicom.recognise import check_rules
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.settings import Settings, typed
from bids_flair.workflows.cluster import refusal

LEVELS = ('participant', 'group')
RECIPES = ('default', 'build-a-flair')
TARGETS = ('FLAIR', 'T2w', 'T1w')
BACKENDS = ('auto', 'embedded', 'fsl')
MODEL_NAME = re.compile(r'[A-Za-z0-9_-]+')
LABEL = re.compile(r'[A-Za-z0-9]+')
DEVICE = re.compile(r'auto|cpu|mps|cuda(:\d+)?')
MEMORY = re.compile(r'(\d+(?:\.\d+)?)([KMGT]?)B?', re.IGNORECASE)
GB_PER_UNIT = {'K': 1e-6, '': 1e-3, 'M': 1e-3, 'G': 1.0, 'T': 1e3}
MOST_DEFAULT_THREADS = 8


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Understand the command line and the configuration file it may name.

    What the command line says goes before what the file says, and that before the defaults of
    :class:`Settings`. Resources that nobody asked for are those the process may use.

    Raises
    ------
    SystemExit
        With code 2 if the arguments do not fit the usage.
    BidsFlairError
        If they do, but make no sense together or on this machine.
    """
    given = vars(build_parser().parse_args(argv))
    from_file = given.pop('config_file', {})
    settings = _complete({**from_file, **given})
    _refuse_levels(settings.levels)
    _refuse_values(settings)
    _refuse_folders(settings)
    if settings.feed:
        _refuse_feed(settings)
    return settings


def build_parser() -> argparse.ArgumentParser:
    """Parser whose result holds only what was asked for, under the names of :class:`Settings`."""
    parser = argparse.ArgumentParser(
        prog='bids_flair',
        description='Gives every participant of a BIDS dataset a T2-FLAIR, synthesised from the '
        'T1w, T2w and diffusion images that the participant has.',
        argument_default=argparse.SUPPRESS,
        formatter_class=_HelpWithDefaults,
        allow_abbrev=False,
    )
    parser.add_argument(
        'bids_dir',
        type=Path,
        help='folder of the raw BIDS dataset; nothing is written into it but by --dicom',
    )
    parser.add_argument(
        'output_dir', type=Path, help='folder for the derivatives; made if it is not there'
    )
    parser.add_argument(
        'levels',
        nargs='+',
        metavar='{' + ','.join(LEVELS) + '}',
        help='participant: preprocess every participant and synthesise the FLAIR; group: train '
        'a model of your own on what the participant level wrote, or compare all participants '
        '(--reports-only)',
    )
    _add_selection(parser.add_argument_group('which data'))
    _add_feed(parser.add_argument_group('what else is written'))
    _add_synthesis(parser.add_argument_group('how the FLAIR is made'))
    _add_training(parser.add_argument_group('how a model is trained (group)'))
    _add_resources(parser.add_argument_group('how much of the machine is used'))
    _add_run(parser.add_argument_group('how the run goes'))
    _add_messages(parser.add_argument_group('what the run tells'))
    return parser


class _HelpWithDefaults(argparse.HelpFormatter):
    """Help that ends in the default wherever :class:`Settings` holds one worth a word."""

    def _get_help_string(self, action: argparse.Action) -> str:
        defaults = {f.name: f.default for f in fields(Settings)}
        default = defaults.get(action.dest)
        takes_value = action.option_strings and action.nargs != 0
        if (
            not takes_value
            or 'default:' in action.help
            or not isinstance(default, str | int | Path)
        ):
            return action.help
        return f'{action.help} (default: {default})'


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--participant-label',
        '--participant_label',
        dest='participants',
        nargs='+',
        metavar='LABEL',
        help='participants to work on, with or without sub- (default: all)',
    )
    group.add_argument(
        '--session-label',
        '--session-id',
        dest='sessions',
        nargs='+',
        metavar='LABEL',
        help='sessions to work on, with or without ses- (default: all)',
    )
    group.add_argument(
        '--bids-filter-file',
        dest='bids_filters',
        type=read_filters,
        metavar='JSON',
        help='narrow down which image is taken, such as {"t1w": {"acquisition": "mprage"}}; '
        'null: the entity must be absent, "*": it may have any value; contrasts: '
        + ', '.join(load_descriptor().contrasts),
    )
    group.add_argument(
        '--bids-database-dir',
        type=Path,
        metavar='DIR',
        help='folder of a pybids database of the dataset; read if it is there, else made, so '
        'that later runs need not look through the dataset again',
    )
    group.add_argument(
        '-d',
        '--derivatives',
        nargs='+',
        metavar='[NAME=]PATH',
        help='derivative datasets of fMRIPrep, sMRIPrep, QSIPrep, QSIRecon or others, such as '
        'fmriprep=/out/fmriprep: what they have prepared is not computed again',
    )
    group.add_argument(
        '--derivatives-only',
        action='store_true',
        help='work on what --derivatives hold, without raw data; BIDS_DIR may be such a dataset',
    )
    group.add_argument(
        '--dicom',
        nargs='+',
        metavar='PATH',
        help='folders of DICOM of the one participant named by --participant-label, of any '
        'nesting: converted into BIDS_DIR first, where nothing is overwritten; --dry-run shows '
        'what would become of each series',
    )
    group.add_argument(
        '--dicom-rules',
        type=read_rules,
        metavar='JSON',
        help='rules of your own on which series is which contrast, see docs/dicom.md',
    )
    group.add_argument(
        '--skip-bids-validation', action='store_true', help='do not run the BIDS validator'
    )


def _add_feed(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--feed',
        type=Path,
        metavar='DIR',
        help='folder for a view of BIDS_DIR, kept up to date, for programs that read raw data: '
        'links to the originals, and the synthetic image (rec-synth) in every session without an '
        'acquired FLAIR, see docs/stack.md',
    )


def _add_synthesis(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--inputs',
        nargs='+',
        choices=(*load_descriptor().model_inputs, 'FLAIR', 'dwi'),
        metavar='CONTRAST',
        help=f'contrasts the FLAIR may be made from: {", ".join(load_descriptor().model_inputs)}, '
        f'or dwi for {", ".join(load_descriptor().contrasts["dwi"].images)} '
        '(default: all that the participant has); for group, what the model takes, FLAIR too '
        'where that is not the target',
    )
    group.add_argument(
        '--model',
        metavar='NAME|PATH',
        help='a model that ships with bids_flair, or the path of one of your own',
    )
    group.add_argument(
        '--backend',
        choices=BACKENDS,
        help='what does the preprocessing: embedded (ANTs and DIPY, part of this installation), '
        'fsl (your installation of FSL), or auto: fsl where it is complete, else embedded',
    )
    group.add_argument(
        '--device',
        metavar='{auto,cpu,cuda,cuda:N,mps}',
        help='what the model runs on; auto takes a GPU where a usable one is found, and a '
        'device that was asked for by name is never replaced by another',
    )
    group.add_argument(
        '--random-seed',
        type=int,
        metavar='N',
        help='seed of everything that draws random numbers',
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--model-name', metavar='NAME', help='name of the new model, in OUTPUT_DIR/models'
    )
    group.add_argument(
        '--recipe',
        choices=RECIPES,
        help='default: the network that ships, trained on your data; build-a-flair: the network '
        'and the training of the paper',
    )
    group.add_argument('--target', choices=TARGETS, help='the contrast that the model makes')
    group.add_argument(
        '--holdout',
        nargs='+',
        metavar='LABEL',
        help='participants that are never trained on; the model is scored on them',
    )
    group.add_argument(
        '--validation',
        nargs='+',
        metavar='LABEL',
        help='participants whose error is followed during training '
        '(default: one drawn at random, if three or more are left)',
    )
    group.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='length of the training (default: 40, of build-a-flair 500)',
    )
    group.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        help='blocks of voxels per step, of build-a-flair voxels (default: 4, 100)',
    )
    group.add_argument(
        '--learning-rate',
        type=float,
        metavar='RATE',
        help='largest one (default: 3e-3, of build-a-flair 1e-4)',
    )
    group.add_argument(
        '--patience',
        type=int,
        metavar='N',
        help='stop after so many epochs without a smaller validation error (default: never)',
    )
    group.add_argument(
        '--dropout',
        type=float,
        metavar='SHARE',
        help='of build-a-flair; 0 for none, which measures better',
    )
    group.add_argument(
        '--literal',
        action='store_true',
        help='build-a-flair to the letter: default initialisation and a ReLU on the last neuron, '
        'with which it seldom trains',
    )
    group.add_argument(
        '--fine-tune',
        metavar='NAME|PATH',
        help='train specialists for your scanner that join this model, such as default',
    )
    group.add_argument(
        '--compare',
        nargs='+',
        metavar='SET',
        help='train one model per set of inputs, such as T1w+T2w T1w+MD+S0, and rank them; '
        'table1: the ten sets of the paper; all: every set there is',
    )
    group.add_argument(
        '--resume', action='store_true', help='go on with a training that was cut short'
    )


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        '--n_cpus',
        type=int,
        metavar='N',
        help='processors used at once (default: all that this process may use)',
    )
    group.add_argument(
        '--omp-nthreads',
        type=int,
        metavar='N',
        help='most threads of a single step '
        f'(default: one less than --nprocs, at least 1 and at most {MOST_DEFAULT_THREADS})',
    )
    group.add_argument(
        '--mem',
        dest='mem_gb',
        type=memory_gb,
        metavar='SIZE',
        help='memory the run may take, such as 16G (K, M, G or T; a bare number is in MB; '
        'default: 90 %% of what is available)',
    )
    group.add_argument(
        '--low-mem',
        action='store_true',
        help='use less memory at the price of time and disk space',
    )
    group.add_argument(
        '--use-plugin',
        '--nipype-plugin-file',
        dest='plugin',
        type=read_plugin,
        metavar='YAML',
        help='Nipype plugin to run with, for a cluster: a file with plugin and plugin_args, see '
        'docs/clusters.md',
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '-w',
        '--work-dir',
        type=Path,
        metavar='DIR',
        help='folder for intermediate results; a run that was cut short resumes from it (default: '
        'work, in the current folder or, where that is read-only, in the output)',
    )
    group.add_argument(
        '--clean-workdir',
        action='store_true',
        help='remove what earlier runs left in the work folder',
    )
    group.add_argument(
        '--config-file',
        type=read_config,
        metavar='TOML',
        help='settings of an earlier run (bids_flair.toml in its log folder) or of your own; '
        'the command line overrides them',
    )
    group.add_argument(
        '--stop-on-first-crash',
        action='store_true',
        help='end the whole run when one step fails, instead of going on with the other '
        'participants',
    )
    group.add_argument(
        '--dry-run', action='store_true', help='say what would be done for whom, and stop'
    )
    group.add_argument(
        '--boilerplate-only',
        action='store_true',
        help='write only the text for your methods section, with its citations',
    )
    group.add_argument(
        '--reports-only',
        action='store_true',
        help='make the reports anew from what an earlier run left: of each participant, or for '
        'group a table of all with every quality figure, group_FLAIR.tsv and .html',
    )


def _add_messages(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '-v',
        '--verbose',
        dest='verbosity',
        action='count',
        help='say more; -vv and -vvv say more still',
    )
    group.add_argument(
        '--debug', action='store_true', help='keep everything that helps to find a fault'
    )
    group.add_argument('--write-graph', action='store_true', help='draw the graph of the workflow')
    group.add_argument(
        '--resource-monitor',
        action='store_true',
        help='record the memory and processor use of every step',
    )
    group.add_argument('--version', action='version', version=f'%(prog)s {__version__}')


def memory_gb(text: str) -> float:
    """GB (1e9 bytes) in a size such as '16G', '500M' or '500' (MB).

    Raises
    ------
    ArgumentTypeError
        If the text is not a size above zero.
    """
    match = MEMORY.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise ArgumentTypeError(f'{text!r} is not a size of memory such as 16G, 500M or 16000')
    return float(match[1]) * GB_PER_UNIT[match[2].upper()]


def read_filters(name: str) -> dict[str, Any]:
    """Read a filter file as it is.

    Raises
    ------
    ArgumentTypeError
        If it cannot be read, or is not a JSON object.
    """
    try:
        filters = json.loads(_read_text(name))
    except json.JSONDecodeError as error:
        raise ArgumentTypeError(f'{name} is not JSON: {error}') from error
    if not isinstance(filters, dict):
        raise ArgumentTypeError(f'{name} must hold one JSON object, with contrasts as its keys')
    return filters


def read_rules(name: str) -> dict[str, Any]:
    """Read rules for recognising series of DICOM.

    Raises
    ------
    ArgumentTypeError
        If the file cannot be read, is not JSON, or holds a rule that could never be followed.
    """
    try:
        content = json.loads(_read_text(name))
        check_rules(content)
    except ValueError as error:
        raise ArgumentTypeError(f'{name}: {error}') from error
    return content


def read_plugin(name: str) -> dict[str, Any]:
    """Read the Nipype plugin and its arguments as they are.

    Raises
    ------
    ArgumentTypeError
        If the file cannot be read, or is not a YAML mapping.
    """
    import yaml

    try:
        plugin = yaml.safe_load(_read_text(name))
    except yaml.YAMLError as error:
        raise ArgumentTypeError(f'{name} is not YAML: {error}') from error
    if not isinstance(plugin, dict):
        raise ArgumentTypeError(f'{name} must hold a mapping with plugin and plugin_args')
    return plugin


def read_config(name: str) -> dict[str, Any]:
    """Read a configuration file: TOML with the names and kinds of :class:`Settings`.

    Raises
    ------
    ArgumentTypeError
        If it cannot be read, or holds a setting that does not exist or is of the wrong kind.
    """
    try:
        values = tomllib.loads(_read_text(name))
    except tomllib.TOMLDecodeError as error:
        raise ArgumentTypeError(f'{name} is not TOML: {error}') from error
    kinds = {f.name: f.type for f in fields(Settings)}
    for key, value in values.items():
        if key not in kinds:
            raise ArgumentTypeError(f'{name}: there is no setting {key!r}')
        if not _is_of_kind(value, kinds[key]):
            raise ArgumentTypeError(f'{name}: {key} cannot be {value!r}')
    return typed(values)


def _read_text(name: str) -> str:
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentTypeError(f'cannot read {name}: {error}') from error


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Whether a value of a TOML file can become a setting of this kind."""
    if kind in (Path, Path | None):
        return isinstance(value, str)
    if kind == tuple[str, ...]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(kind, UnionType):
        return isinstance(value, int | float)
    if get_origin(kind) is dict:
        return isinstance(value, dict | str)
    return type(value) is kind


def _complete(values: dict[str, Any]) -> Settings:
    """Settings with every path absolute, every label bare and every resource decided."""
    nprocs = values.get('nprocs') or usable_cpus()
    threads = max(1, min(nprocs - 1, MOST_DEFAULT_THREADS))
    memory = values.get('mem_gb') or usable_memory_gb()
    resources = {'nprocs': nprocs, 'omp_nthreads': threads, 'mem_gb': memory}
    work_dir = _default_work_dir(values['output_dir'])
    settings = Settings(**{**resources, 'work_dir': work_dir, **values})
    database = settings.bids_database_dir
    return replace(
        settings,
        bids_dir=_absolute(settings.bids_dir),
        output_dir=_absolute(settings.output_dir),
        work_dir=_absolute(settings.work_dir),
        bids_database_dir=_absolute(database) if database else None,
        derivatives=_unique(_absolute_derivative(text) for text in settings.derivatives),
        feed=_absolute(settings.feed) if settings.feed else None,
        dicom=_unique(str(_absolute(Path(path))) for path in settings.dicom),
        levels=_unique(settings.levels),
        participants=_unique(label.removeprefix('sub-') for label in settings.participants),
        sessions=_unique(label.removeprefix('ses-') for label in settings.sessions),
        bids_filters=_filters(settings.bids_filters),
        inputs=_images(settings.inputs),
        model=_absolute_model(settings.model),
        fine_tune=_absolute_model(settings.fine_tune) if settings.fine_tune else '',
        compare=tuple(settings.compare),
        holdout=_unique(label.removeprefix('sub-') for label in settings.holdout),
        validation=_unique(label.removeprefix('sub-') for label in settings.validation),
    )


def _absolute_derivative(text: str) -> str:
    """``NAME=PATH`` or ``PATH`` with the path absolute."""
    name, equals, path = text.rpartition('=')
    return f'{name}{equals}{_absolute(Path(path))}'


def _default_work_dir(output_dir: Path) -> Path:
    """Below the current folder or, where that is read-only as in many a container, the output."""
    return Path('work') if os.access('.', os.W_OK) else output_dir / 'work'


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _absolute_model(model: str) -> str:
    """The name of a model as it is, the path of one (with a folder or an extension) absolute."""
    path = Path(model)
    return model if path.name == model and not path.suffix else str(_absolute(path))


def _unique(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(labels))


def _filters(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The filters asked for, under the names of the contrasts however these were spelt."""
    known = {name.lower(): name for name in load_descriptor().contrasts}
    for name, entities in asked.items():
        if name.lower() not in known:
            raise _wrong(f'There is no contrast {name!r} to filter: {", ".join(known.values())}.')
        if not isinstance(entities, dict):
            raise _wrong(f'The filter of {name} must hold BIDS entities, not {entities!r}.')
    return {known[name.lower()]: entities for name, entities in asked.items()}


def _images(asked: Iterable[str]) -> tuple[str, ...]:
    """The images asked for in the order in which a model sees them, ``dwi`` as its maps."""
    asked = set(asked)
    descriptor = load_descriptor()
    if 'dwi' in asked:
        asked = asked - {'dwi'} | set(descriptor.contrasts['dwi'].images)
    known = (*descriptor.model_inputs, 'FLAIR')
    if unknown := asked - set(known):
        raise _wrong(f'There is no input {", ".join(sorted(unknown))}.')
    return tuple(image for image in known if image in asked)


def _refuse_levels(levels: tuple[str, ...]) -> None:
    if unknown := set(levels) - set(LEVELS):
        message = f'Unknown level {", ".join(sorted(unknown))}: known are {", ".join(LEVELS)}.'
        raise BidsFlairError(message, ExitCode.UNKNOWN_LEVEL)


def _refuse_values(settings: Settings) -> None:
    # Here rather than in argparse, so that a configuration file is held to the same.
    if not DEVICE.fullmatch(settings.device):
        raise _wrong(f'The device is auto, cpu, cuda, cuda:N or mps, not {settings.device!r}.')
    if settings.backend not in BACKENDS:
        raise _wrong(f'The backend is one of {", ".join(BACKENDS)}, not {settings.backend!r}.')
    _refuse_training(settings)
    _refuse_dicom(settings)
    _refuse_derivatives(settings)
    lowest = {'nprocs': 1, 'omp_nthreads': 1, 'random_seed': 0, 'verbosity': 0}
    for name, least in lowest.items():
        if getattr(settings, name) < least:
            raise _wrong(f'{name} must be at least {least}, not {getattr(settings, name)}.')
    if settings.mem_gb <= 0:
        raise _wrong(f'mem_gb must be above 0, not {settings.mem_gb}.')
    if settings.plugin and set(settings.plugin) | {'plugin_args'} != {'plugin', 'plugin_args'}:
        raise _wrong(f'A plugin needs plugin and may have plugin_args, not {settings.plugin}.')
    if settings.plugin and (why := refusal(settings.plugin['plugin'])):
        raise _wrong(why)


def _refuse_folders(settings: Settings) -> None:
    if not settings.bids_dir.is_dir() and not settings.dicom:
        message = f'The input directory {settings.bids_dir} does not exist.'
        raise BidsFlairError(message, ExitCode.INPUT_MISSING)
    bids_dir, output_dir, work_dir = (
        path.resolve() for path in (settings.bids_dir, settings.output_dir, settings.work_dir)
    )
    if output_dir == bids_dir:
        raise _wrong(
            f'The output directory is the input dataset {bids_dir}: name another, such as '
            f'{bids_dir / "derivatives" / "bids_flair"}.'
        )
    if work_dir.is_relative_to(bids_dir):
        raise _wrong(
            f'The work directory {work_dir} lies in the input dataset {bids_dir}: name one '
            'elsewhere with --work-dir.'
        )
    for kept in (bids_dir, output_dir):
        if settings.clean_workdir and kept.is_relative_to(work_dir):
            raise _wrong(f'--clean-workdir would delete {kept}, which lies in {work_dir}.')


def _refuse_feed(settings: Settings) -> None:
    if 'participant' not in settings.levels:
        raise _wrong('--feed goes with the participant level.')
    for name in ('boilerplate_only', 'reports_only'):
        if getattr(settings, name):
            flag = '--' + name.replace('_', '-')
            raise _wrong(f'{flag} makes no FLAIR to feed: leave out --feed.')
    if settings.derivatives_only:
        raise _wrong('--feed shows the raw dataset: leave out --derivatives-only.')
    names = ('feed', 'bids_dir', 'output_dir', 'work_dir')
    feed, bids_dir, output_dir, work_dir = (getattr(settings, name).resolve() for name in names)
    if feed.is_relative_to(bids_dir) and not feed.is_relative_to(bids_dir / 'derivatives'):
        raise _wrong(
            f'The feed directory {feed} lies in the input dataset {bids_dir}: name one elsewhere, '
            f'or in {bids_dir / "derivatives"}.'
        )
    if feed.is_relative_to(output_dir):
        raise _wrong(
            f'The feed directory {feed} lies in the output directory {output_dir}, which holds '
            'derivatives, not raw data: name one elsewhere.'
        )
    if feed.is_relative_to(work_dir) or work_dir.is_relative_to(feed):
        raise _wrong(f'Neither of the feed directory {feed} and {work_dir} may hold the other.')


def _refuse_dicom(settings: Settings) -> None:
    if not settings.dicom:
        if settings.dicom_rules:
            raise _wrong('--dicom-rules says what DICOM is: give the folders, --dicom.')
        return
    if settings.reports_only:
        raise _wrong('--reports-only makes nothing but reports: leave out --dicom.')
    if 'participant' not in settings.levels:
        raise _wrong('--dicom goes with the participant level.')
    if len(settings.participants) != 1:
        raise _wrong('--dicom holds one participant: name it with --participant-label.')
    if len(settings.sessions) > 1:
        raise _wrong('--dicom holds one session: give at most one --session-label.')
    for label in (*settings.participants, *settings.sessions):
        if not LABEL.fullmatch(label):
            raise _wrong(f'A label in BIDS is letters and digits, not {label!r}.')
    try:
        check_rules(settings.dicom_rules or {'rules': []})
    except ValueError as error:
        raise _wrong(f'dicom_rules: {error}.') from error
    for path in settings.dicom:
        if not Path(path).exists():
            raise BidsFlairError(f'--dicom {path} does not exist.', ExitCode.INPUT_MISSING)


def _refuse_derivatives(settings: Settings) -> None:
    if settings.derivatives and 'participant' not in settings.levels:
        raise _wrong('--derivatives goes with the participant level.')
    if settings.derivatives_only and settings.dicom:
        raise _wrong('--derivatives-only takes no raw data: leave out --dicom.')
    for text in settings.derivatives:
        path = Path(text.rpartition('=')[2])
        if not path.is_dir():
            raise BidsFlairError(f'--derivatives {path} does not exist.', ExitCode.INPUT_MISSING)
        if path.resolve() == settings.output_dir.resolve():
            raise _wrong(f'--derivatives {path} is the output directory: name another.')


def _refuse_training(settings: Settings) -> None:
    if settings.recipe not in RECIPES:
        raise _wrong(f'The recipe is one of {", ".join(RECIPES)}, not {settings.recipe!r}.')
    if settings.target not in TARGETS:
        raise _wrong(f'The target is one of {", ".join(TARGETS)}, not {settings.target!r}.')
    for name in ('epochs', 'batch_size', 'learning_rate', 'patience'):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise _wrong(f'{name} must be above 0, not {value}.')
    if not 0 <= settings.dropout < 1:
        raise _wrong(
            f'The share of neurons dropped is at least 0 and below 1, not {settings.dropout}.'
        )
    if 'group' not in settings.levels:
        if 'FLAIR' in settings.inputs:
            raise _wrong('The participant level makes a FLAIR: it cannot be an input.')
        return
    if settings.reports_only:
        return
    if not settings.model_name:
        raise _wrong(
            'The group level trains a model: say how it is to be called, --model-name; or ask '
            'for the table of participants alone, --reports-only.'
        )
    if not MODEL_NAME.fullmatch(settings.model_name):
        raise _wrong(f'A model name is letters, digits, - and _, not {settings.model_name!r}.')
    if settings.target in settings.inputs:
        raise _wrong(f'{settings.target} cannot be both input and target.')
    if settings.fine_tune and (
        settings.recipe != 'default' or settings.inputs or settings.compare
    ):
        raise _wrong(
            '--fine-tune keeps the network and the inputs of the model it begins with: '
            'leave out --recipe, --inputs and --compare.'
        )
    if settings.compare and settings.inputs:
        raise _wrong('--compare says which inputs: leave out --inputs.')


def _wrong(message: str) -> BidsFlairError:
    return BidsFlairError(message, ExitCode.WRONG_ARGUMENTS)
