"""DICOM headers as this program needs them: which files form a series, and what it says of itself.

Holds what recognition, the checks and the conversion ask for, and nothing that names a person
but :attr:`Series.identifying`, which exists so that it can be kept out of everything else.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from bids_flair.dicom.files import files_below, read_header
from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.processing.gradients import B0_THRESHOLD

IDENTIFYING = (
    'PatientName', 'PatientID', 'PatientBirthDate', 'OtherPatientIDs', 'OtherPatientNames',
    'PatientAddress', 'PatientBirthName', 'PatientMotherBirthName', 'PatientTelephoneNumbers',
    'MilitaryRank', 'IssuerOfPatientID', 'AccessionNumber', 'StudyID', 'InstitutionName',
    'InstitutionAddress', 'InstitutionalDepartmentName', 'ReferringPhysicianName',
    'PerformingPhysicianName', 'OperatorsName', 'RequestingPhysician',
    'NameOfPhysiciansReadingStudy', 'PhysiciansOfRecord', 'StationName', 'DeviceSerialNumber',
)  # fmt: skip
STRUCTURE = (
    'BitsAllocated', 'Columns', 'FrameOfReferenceUID', 'ImageType', 'InstanceNumber',
    'Modality', 'NumberOfFrames', 'PatientSex', 'PerFrameFunctionalGroupsSequence',
    'ProtocolName', 'Rows', 'SOPClassUID', 'SOPInstanceUID', 'SamplesPerPixel',
    'SeriesDescription', 'SeriesInstanceUID', 'SeriesNumber', 'SharedFunctionalGroupsSequence',
    'SpecificCharacterSet', 'StudyInstanceUID',
)  # fmt: skip
SHORTEST_IDENTIFYING = 4
B_VALUE = {'SIEMENS': (0x0019, 0x100C), 'UIH': (0x0065, 0x1009), 'PHILIPS': (0x2001, 0x1003)}
DIRECTION = {'SIEMENS': (0x0019, 0x100E), 'UIH': (0x0065, 0x1037)}
GE_B_VALUE, GE_DIRECTION = (0x0043, 0x1039), tuple((0x0019, 0x10BB + i) for i in range(3))
MOSAIC_TILES = (0x0019, 0x100A)
UIH_TILES = (0x0065, 0x1051)
PHILIPS_SLICES, PHILIPS_TECHNIQUE = (0x2001, 0x1018), (0x2001, 0x1020)
PHILIPS_PREPULSE, PHILIPS_DELAY = (0x2001, 0x101C), (0x2001, 0x101B)
PHILIPS_EPI_FACTOR = (0x2001, 0x1013)
ASKED = (
    'AcquisitionContrast', 'BodyPartExamined', 'ComplexImageComponent', 'ContrastBolusAgent',
    'DiffusionBValue', 'DiffusionDirectionality', 'DiffusionGradientOrientation',
    'EchoPlanarPulseSequence', 'EchoPulseSequence', 'EchoTime', 'EffectiveEchoTime',
    'FlipAngle', 'FrameType', 'ImageOrientationPatient', 'ImagePositionPatient',
    'InversionRecovery', 'InversionTime', 'InversionTimes', 'MRAcquisitionType',
    'Manufacturer', 'PixelSpacing', 'PulseSequenceName', 'RepetitionTime', 'ScanningSequence',
    'SequenceName',
)  # fmt: skip
B_OF_SIEMENS_NAME = re.compile(r'ep_b(\d+)(#\d+)?')
PRIVATE = (
    *B_VALUE.values(), *DIRECTION.values(), GE_B_VALUE, *GE_DIRECTION, MOSAIC_TILES, UIH_TILES,
    PHILIPS_SLICES, PHILIPS_TECHNIQUE, PHILIPS_PREPULSE, PHILIPS_DELAY, PHILIPS_EPI_FACTOR,
)  # fmt: skip
NATIVE = re.compile(r'\b(pre|precontrast|prekm|nativ|native|without|wo|non|noncontrast|nokm)\b')
ENHANCED = re.compile(
    r'\b(post|postcontrast|postgad|postgd|gad|gado|gadolinium|gd|gdtpa|km|ce|contrast)\b'
    r'|\+ ?c\b|\bc\+'
)
NO_AGENT = re.compile(r'(no|none|n/a|0|)', re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One slice as it was acquired, or one Siemens mosaic, whose slices have no positions.

    Attributes
    ----------
    position : tuple of 3 floats or None
        Centre of the first pixel, in mm, in the patient's coordinates (LPS+).
    orientation : tuple of 6 floats or None
        Unit vectors of a row and of a column.
    number : int
        InstanceNumber of the file that holds it.
    bvalue : float or None
        s/mm2; None where the header does not say.
    direction : tuple of 3 floats or None
    isotropic : bool
        Computed by the scanner from several directions.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    number: int
    bvalue: float | None = None
    direction: tuple[float, ...] | None = None
    isotropic: bool = False


@dataclass(frozen=True)
class Series:
    """Instances that make one image: of one series, one kind (magnitude, phase) and one echo.

    Attributes
    ----------
    title : str
        For messages: number and description, without anything that names the patient.
    source : str
        Digest of the series' identifier, which is itself made of dates and serial numbers.
    fields : mapping
        What the rules of recognition may ask for.
    expected : int or None
        Slices of a volume as the scanner counts them.
    spacing : tuple of 2 floats or None
        Distance between rows and between columns, in mm.
    matrix : tuple of 2 ints
        Columns and rows of a slice; 0 for mosaics, whose headers give those of the whole.
    announced : int
        Frames that the headers announce.
    tiles : int
        Slices in one mosaic; 1 for anything else.
    identifying : frozenset of str
        What must not appear in any output.
    """

    title: str
    source: str
    number: int
    files: tuple[Path, ...]
    fields: Mapping[str, Any]
    frames: tuple[Frame, ...] = field(repr=False)
    spacing: tuple[float, ...] | None = None
    matrix: tuple[int, int] = (0, 0)
    announced: int = 0
    expected: int | None = None
    tiles: int = 1
    identifying: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class _Instance:
    path: Path
    header: Dataset
    values: Mapping[str, Any]

    @property
    def key(self) -> tuple:
        """Scanners put magnitude and phase, or several echoes, into one series."""
        echo = _number(self.values.get('EchoTime') or self.values.get('EffectiveEchoTime'))
        kind = _joined(self.header.get('ImageType'))
        return self.header.SeriesInstanceUID, kind, None if echo is None else round(echo, 1)


def find_series(paths: Iterable[Path]) -> list[Series]:
    """Read every DICOM header below the paths and sort them into series, by series number.

    Raises
    ------
    BidsFlairError
        If there is no DICOM (ExitCode.INPUT_MISSING), a file is damaged, or what is found belongs
        to several patients or studies (ExitCode.DATA_UNUSABLE).
    """
    paths = tuple(paths)
    instances = _instances(paths)
    if not instances:
        raise BidsFlairError(
            f'No DICOM file in {", ".join(map(str, paths))}; look at --dicom',
            ExitCode.INPUT_MISSING,
        )
    _refuse_mixture(instances)
    groups: dict[tuple, list[_Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.key, []).append(instance)
    echoes: dict[str, set] = {}
    for uid, _, echo in groups:
        echoes.setdefault(uid, set()).add(echo)
    series = [_series(members, len(echoes[key[0]])) for key, members in groups.items()]
    return sorted(series, key=lambda one: (one.number, one.source))


def _instances(paths: Sequence[Path]) -> list[_Instance]:
    """Each instance once, however many copies of it there are."""
    found: dict[str, _Instance] = {}
    for path in files_below(paths):
        header = read_header(path, (*ASKED, *STRUCTURE, *IDENTIFYING, *PRIVATE))
        if header is not None and header.SOPInstanceUID not in found:
            found[header.SOPInstanceUID] = _Instance(path, header, _values(header))
    return list(found.values())


def _refuse_mixture(instances: Sequence[_Instance]) -> None:
    """Several patients, or visits: a series of one would be taken for the other's."""
    folders = {'patients': {}, 'studies': {}, 'frames': {}}
    for instance in instances:
        header = instance.header
        patient = header.get('PatientID') or (header.get('PatientName'), header.get('PatientSex'))
        folders['patients'].setdefault(str(patient), instance.path.parent)
        folders['studies'].setdefault(header.get('StudyInstanceUID'), instance.path.parent)
        if header.get('FrameOfReferenceUID'):
            folders['frames'].setdefault(header.FrameOfReferenceUID, instance.path.parent)
    # Siemens XA gives every volume of a series that is exported as classic DICOM a study of its
    # own; such studies still share the scanner's coordinates.
    if len(folders['frames']) == 1:
        folders['studies'] = {}
    for kind in ('patients', 'studies'):
        if len(folders[kind]) > 1:
            where = ', '.join(sorted({str(folder) for folder in folders[kind].values()}))
            raise BidsFlairError(
                f'--dicom holds {len(folders[kind])} {kind} (in {where}). Give the folders of '
                'one; convert each visit of a person by itself, with its --session-label',
                ExitCode.DATA_UNUSABLE,
            )


def _series(members: Sequence[_Instance], echoes: int) -> Series:
    members = sorted(members, key=lambda one: _number(one.header.get('InstanceNumber')) or 0)
    first = members[0]
    header, values = first.header, first.values
    identifying = frozenset().union(*(_identifying(one.header) for one in members))
    frames = tuple(frame for one in members for frame in _frames(one))
    number = int(_number(header.get('SeriesNumber')) or 0)
    description = header.get('SeriesDescription') or header.get('ProtocolName') or ''
    name = without(str(description), identifying) or 'no description'
    spacing = values.get('PixelSpacing')
    uid, kind, echo = first.key
    return Series(
        title=f'series {number} ({name})',
        source=hashlib.sha256(f'{uid} {kind} {echo}'.encode()).hexdigest()[:16],
        number=number,
        files=tuple(one.path for one in members),
        fields=_fields(first, frames, identifying) | {'echoes': echoes},
        frames=frames,
        spacing=tuple(float(edge) for edge in spacing) if spacing else None,
        matrix=_matrix(header),
        announced=sum(int(one.header.get('NumberOfFrames') or 1) for one in members)
        if 'PerFrameFunctionalGroupsSequence' in header
        else len(frames),
        expected=_integer(header, PHILIPS_SLICES),
        tiles=_tiles(header),
        identifying=identifying,
    )


def _matrix(header: Dataset) -> tuple[int, int]:
    if UIH_TILES in header or _tiles(header) > 1:
        return 0, 0
    return int(header.get('Columns') or 0), int(header.get('Rows') or 0)


def _values(header: Dataset) -> dict[str, Any]:
    """Elements by keyword, those that enhanced DICOM keeps in groups of the first frame too."""
    values = {name: header[name].value for name in ASKED if name in header}
    for name in ('SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence'):
        if header.get(name):
            values |= _flat(header[name].value[0])
    return values


def _flat(groups: Dataset) -> dict[str, Any]:
    """Elements of nested standard sequences by keyword; private ones repeat them differently."""
    values: dict[str, Any] = {}
    for element in groups:
        if element.tag.is_private or not element.keyword:
            continue
        if element.VR != 'SQ':
            values[element.keyword] = element.value
        elif element.value:
            values |= _flat(element.value[0])
    return values


def _frames(instance: _Instance) -> list[Frame]:
    header = instance.header
    number = int(_number(header.get('InstanceNumber')) or 0)
    if header.get('PerFrameFunctionalGroupsSequence'):
        shared = instance.values
        groups = (_flat(item) for item in header.PerFrameFunctionalGroupsSequence)
        return [_frame({**shared, **own}, header, number) for own in groups]
    if UIH_TILES in header:
        tiles = header[UIH_TILES].value
        return [_frame({**instance.values, **_flat(tile)}, header, number) for tile in tiles]
    return [_frame(instance.values, header, number)]


def _frame(values: Mapping[str, Any], header: Dataset, number: int) -> Frame:
    mosaic = _tiles(header) > 1
    position, orientation = (
        values.get('ImagePositionPatient'),
        values.get('ImageOrientationPatient'),
    )
    bvalue, direction = _diffusion(values, header)
    return Frame(
        position=_floats(position) if position and not mosaic else None,
        orientation=_floats(orientation) if orientation else None,
        number=number,
        bvalue=bvalue,
        direction=direction,
        isotropic=str(values.get('DiffusionDirectionality', '')).upper() == 'ISOTROPIC',
    )


def _diffusion(values, header: Dataset) -> tuple[float | None, tuple[float, ...] | None]:
    """b-value and direction, from standard elements or those of the vendor."""
    vendor = str(values.get('Manufacturer', '')).upper()
    bvalue = _number(values.get('DiffusionBValue'))
    direction = values.get('DiffusionGradientOrientation')
    for name, tag in B_VALUE.items():
        if bvalue is None and name in vendor:
            bvalue = _number(_private(header, tag))
    for name, tag in DIRECTION.items():
        if direction is None and name in vendor:
            direction = _private(header, tag)
    if vendor.startswith('GE') and bvalue is None and GE_B_VALUE in header:
        # GE adds 1e9 to mark that the direction is another than the first.
        bvalue = (_number(_private(header, GE_B_VALUE)) or 0.0) % 100000
        direction = [_number(_private(header, tag)) or 0.0 for tag in GE_DIRECTION]
    if bvalue is None and (named := B_OF_SIEMENS_NAME.search(str(values.get('SequenceName', '')))):
        bvalue = float(named[1])
        direction = (float(named[2].lstrip('#')), 0.0, 0.0) if named[2] else None
    return bvalue, _floats(direction) if direction is not None and len(direction) == 3 else None


def _private(header: Dataset, tag: tuple[int, int]) -> Any:
    """A private element's value; as bytes where the file does not say of which kind they are."""
    if tag not in header:
        return None
    value = header[tag].value
    if not isinstance(value, bytes):
        return value
    if len(value) in (8, 24):
        floats = np.frombuffer(value, '<f8')
        if np.isfinite(floats).all() and (np.abs(floats) < 1e5).all():
            return floats.tolist()
    return value.decode('latin-1').strip(' \0').split('\\')


def _tiles(header: Dataset) -> int:
    mosaic = 'MOSAIC' in _joined(header.get('ImageType'))
    return max(1, _integer(header, MOSAIC_TILES) or 1) if mosaic else 1


def _integer(header: Dataset, tag: tuple[int, int]) -> int | None:
    if tag not in header:
        return None
    value = header[tag].value
    if isinstance(value, bytes):
        return int.from_bytes(value[:2], 'little') or None
    return int(_number(value) or 0) or None


def _fields(first: _Instance, frames: Sequence[Frame], identifying) -> dict[str, Any]:
    """What rules may ask for; times in ms, None where the header does not say."""
    values, header = first.values, first.header
    words = ' '.join(str(header.get(name) or '') for name in ('SeriesDescription', 'ProtocolName'))
    words = re.sub(r'[^a-z0-9+*]+', ' ', without(words, identifying).lower())
    sequence = _joined(values.get('ScanningSequence'))
    names = (values.get('SequenceName'), values.get('PulseSequenceName'))
    technique = _private(header, PHILIPS_TECHNIQUE)
    sequence_name = ' '.join(str(name) for name in (*names, technique) if name)
    inversion = _inversion_time(values, header)
    weighted = [f for f in frames if (f.bvalue or 0) >= B0_THRESHOLD and not f.isotropic]
    return {
        'modality': header.get('Modality'),
        'storage': header.SOPClassUID.name if 'SOPClassUID' in header else None,
        'manufacturer': values.get('Manufacturer'),
        'body_part': values.get('BodyPartExamined') or None,
        'image_type': '\\'.join(
            filter(None, (_joined(header.get('ImageType')), _joined(values.get('FrameType')),
                          _joined(values.get('ComplexImageComponent')))),
        ),
        'description': words.strip(),
        'sequence_name': sequence_name.lower(),
        'contrast': values.get('AcquisitionContrast') or None,
        'acquisition': values.get('MRAcquisitionType') or None,
        'echo': _echo(sequence, values),
        'epi': 'EP' in sequence.split('\\')
        or values.get('EchoPlanarPulseSequence') == 'YES'
        or (_integer(header, PHILIPS_EPI_FACTOR) or 1) > 1
        or bool(re.match(r'\*?ep', sequence_name.lower())),
        'inversion': 'IR' in sequence.split('\\')
        or values.get('InversionRecovery') == 'YES'
        or bool(inversion),
        'echo_time': _number(values.get('EchoTime') or values.get('EffectiveEchoTime')),
        'repetition_time': _number(values.get('RepetitionTime')),
        'inversion_time': inversion,
        'flip_angle': _number(values.get('FlipAngle')),
        'largest_bvalue': max((f.bvalue for f in frames if f.bvalue is not None), default=None),
        'directions': len({f.direction for f in weighted if f.direction and any(f.direction)}),
        'contrast_agent': _contrast_agent(values, words),
        'orientations': _orientations(frames),
        'slices': _slices(frames, _tiles(header)),
        'volumes': _volumes(frames),
    }  # fmt: skip


def _echo(sequence: str, values: Mapping[str, Any]) -> str | None:
    """What refocuses: 'gradient', 'spin', or None where neither or both are said."""
    pulse = str(values.get('EchoPulseSequence', '')).upper()
    gradient = 'GR' in sequence.split('\\') or pulse == 'GRADIENT'
    spin = 'SE' in sequence.split('\\') or pulse == 'SPIN'
    if gradient == spin:
        return None
    return 'gradient' if gradient else 'spin'


def _inversion_time(values: Mapping[str, Any], header: Dataset) -> float | None:
    time = values.get('InversionTime') or values.get('InversionTimes')
    if not time and _joined(_private(header, PHILIPS_PREPULSE)).startswith('INV'):
        time = _private(header, PHILIPS_DELAY)
    return _number(time) or None


def _contrast_agent(values: Mapping[str, Any], words: str) -> bool:
    """Whether a contrast agent was given, by the description where that is explicit."""
    if NATIVE.search(words):
        return False
    agent = str(values.get('ContrastBolusAgent') or '').strip()
    return not NO_AGENT.fullmatch(agent) or bool(ENHANCED.search(words))


def _orientations(frames: Sequence[Frame]) -> int:
    return len({tuple(np.round(f.orientation, 1) + 0.0) for f in frames if f.orientation})


def _slices(frames: Sequence[Frame], tiles: int) -> int:
    positions = {tuple(np.round(f.position, 1)) for f in frames if f.position}
    return len(positions) or tiles


def _volumes(frames: Sequence[Frame]) -> int:
    return max(1, round(len(frames) / _slices(frames, 1)))


def without(text: str, identifying: Iterable[str]) -> str:
    """The text with everything that identifies the patient struck out."""
    for secret in sorted(identifying, key=len, reverse=True):
        text = re.sub(re.escape(secret), '***', text, flags=re.IGNORECASE)
    return text.strip()


def _identifying(header: Dataset) -> set[str]:
    """Values that identify the patient, whole and by the parts of a name.

    Short ones are left out: they are letters that occur in any text.
    """
    values = {str(header.get(name) or '') for name in IDENTIFYING}
    parts = {part for value in values for part in re.split(r'[\^=\s,]+', value)}
    return {text.strip() for text in values | parts if len(text.strip()) >= SHORTEST_IDENTIFYING}


def _joined(value: Any) -> str:
    if value is None:
        return ''
    many = value if isinstance(value, MultiValue | list | tuple) else [value]
    return '\\'.join(str(one) for one in many if str(one)).upper()


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _number(value: Any) -> float | None:
    """The first of the numbers, or None."""
    if isinstance(value, MultiValue | list | tuple):
        value = value[0] if len(value) else None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
