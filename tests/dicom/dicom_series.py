"""Writes series of DICOM of a phantom as scanners do: classic or enhanced, gzipped or not."""

import gzip
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
SHAPE = (24, 20, 12)
# None of them may be found in anything that the program writes.
PATIENT = {
    'PatientName': 'Mustermann^Friederike',
    'PatientID': 'PID7654321',
    'PatientBirthDate': '19610213',
    'AccessionNumber': 'ACC998877',
    'ReferringPhysicianName': 'Quacksalber^Theodor',
    'OperatorsName': 'Knipser^Annegret',
    'InstitutionName': 'Sankt Nimmerlein Klinik',
    'InstitutionAddress': 'Hinterhofgasse 17, Schilda',
    'StationName': 'MRNIMMER3',
    'DeviceSerialNumber': '4711081',
    'StudyDate': '20191123',
    'SeriesDate': '20191123',
    'AcquisitionDate': '20191123',
    'ContentDate': '20191123',
    'PatientComments': 'Tante Friederike',
    'ImageComments': 'of Mustermann',
    'StudyDescription': 'Mustermann head',
}
T1W = {
    'ScanningSequence': ['GR', 'IR'], 'SequenceVariant': ['SP', 'MP'], 'MRAcquisitionType': '3D',
    'EchoTime': 2.98, 'RepetitionTime': 2300.0, 'InversionTime': 900.0, 'FlipAngle': 9.0,
    'ImageType': ['ORIGINAL', 'PRIMARY', 'M', 'ND', 'NORM'], 'Manufacturer': 'SIEMENS',
    'SequenceName': '*tfl3d1_16ns', 'SeriesDescription': 't1_mprage_sag', 'SeriesNumber': 2,
}  # fmt: skip
T2W = {
    'ScanningSequence': 'SE', 'SequenceVariant': 'SK', 'MRAcquisitionType': '2D',
    'EchoTime': 96.0, 'RepetitionTime': 5200.0, 'FlipAngle': 150.0, 'Manufacturer': 'SIEMENS',
    'ImageType': ['ORIGINAL', 'PRIMARY', 'M', 'ND'], 'SequenceName': '*tse2d1_15',
    'SeriesDescription': 't2_tse_tra', 'SeriesNumber': 3,
}  # fmt: skip
FLAIR = {
    **T2W, 'ScanningSequence': ['SE', 'IR'], 'EchoTime': 388.0, 'RepetitionTime': 5000.0,
    'InversionTime': 1800.0, 'SequenceName': '*spcir_278ns', 'MRAcquisitionType': '3D',
    'SeriesDescription': 't2_space_dark-fluid_sag', 'SeriesNumber': 4,
}  # fmt: skip
DWI = {
    'ScanningSequence': ['SE', 'EP'], 'SequenceVariant': 'SK', 'MRAcquisitionType': '2D',
    'EchoTime': 80.0, 'RepetitionTime': 6000.0, 'Manufacturer': 'Philips Medical Systems',
    'ImageType': ['ORIGINAL', 'PRIMARY', 'M_SE', 'M', 'SE'], 'SeriesDescription': 'DTI 8 dir',
    'SeriesNumber': 5, 'InPlanePhaseEncodingDirection': 'COL',
}  # fmt: skip
BVALS = (0.0, *[1000.0] * 8)


def directions() -> np.ndarray:
    """One direction for each b-value, in the patient's coordinates (LPS+)."""
    vectors = np.random.default_rng(1).normal(size=(len(BVALS), 3))
    vectors[0] = 0
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def affine(kind: str) -> np.ndarray:
    """Voxels (columns, rows, slices) to world (RAS+, mm) for a way of placing slices."""
    axes = {
        'axial': np.array([[-1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]]),
        'sagittal': np.array([[0, 0, -1.0], [-1.0, 0, 0], [0, -1.0, 0]]),
        'coronal': np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]]),
    }
    if kind == 'oblique':
        a, b = np.radians([17.0, -11.0])
        about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
        about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
        linear = np.array(about_x) @ np.array(about_z) @ axes['axial']
    else:
        linear = axes[kind]
    matrix = np.eye(4)
    matrix[:3, :3] = linear * (1.5, 1.25, 2.5)
    matrix[:3, 3] = (31.0, 22.0, -14.0)
    return matrix


def phantom(volumes: int = 1, seed: int = 0) -> np.ndarray:
    """Voxels that are all different, shape (columns, rows, slices, volumes)."""
    size = (*SHAPE, volumes)
    return np.random.default_rng(seed).permutation(np.prod(size)).reshape(size).astype(np.uint16)


def write_classic(
    folder: Path, voxels: np.ndarray, matrix: np.ndarray, header: dict, *, zipped: bool = False
) -> list[Path]:
    """Write one file per slice and volume, as `series-instance.dcm`, volume after volume."""
    folder.mkdir(parents=True, exist_ok=True)
    series, paths = generate_uid(), []
    vectors = directions()
    for number, (v, k) in enumerate(np.ndindex(voxels.shape[3], voxels.shape[2]), 1):
        instance = _instance(MRImageStorage, {'SeriesInstanceUID': series, **header})
        instance.InstanceNumber = number
        plane = _plane(matrix, k)
        instance.ImagePositionPatient, instance.ImageOrientationPatient = plane
        instance.PixelSpacing, instance.SliceThickness = _edges(matrix)
        instance.SpacingBetweenSlices = instance.SliceThickness
        if voxels.shape[3] > 1:
            instance.DiffusionBValue = BVALS[v]
            instance.DiffusionGradientOrientation = vectors[v].tolist()
        _add_pixels(instance, voxels[:, :, k, v].T)
        paths.append(
            _save(instance, folder / f'{header["SeriesNumber"]}-{number:04d}.dcm', zipped)
        )
    return paths


def write_enhanced(
    folder: Path, voxels: np.ndarray, matrix: np.ndarray, header: dict, *, apart: bool = False
) -> list[Path]:
    """Write one file that holds every slice of every volume, or a file for each volume."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {'EchoTime', 'RepetitionTime', 'FlipAngle', 'InversionTime', 'ScanningSequence'}
    top = {key: value for key, value in header.items() if key not in own | {'SequenceVariant'}}
    series, paths = generate_uid(), []
    volumes = range(voxels.shape[3])
    for number, part in enumerate([[v] for v in volumes] if apart else [volumes], 1):
        instance = _instance(EnhancedMRImageStorage, {'SeriesInstanceUID': series, **top})
        instance.InstanceNumber = number
        instance.NumberOfFrames = voxels.shape[2] * len(part)
        instance.EchoPulseSequence = 'SPIN' if 'SE' in header['ScanningSequence'] else 'GRADIENT'
        instance.EchoPlanarPulseSequence = 'YES' if 'EP' in header['ScanningSequence'] else 'NO'
        instance.PulseSequenceName = header.get('SequenceName', '')
        instance.SharedFunctionalGroupsSequence = [_shared(matrix, header)]
        instance.PerFrameFunctionalGroupsSequence = [
            _frame(matrix, k, v, len(volumes) > 1) for v in part for k in range(voxels.shape[2])
        ]
        pixels = voxels[..., list(part)].transpose(3, 2, 1, 0)
        _add_pixels(instance, pixels.reshape(-1, *voxels.shape[1::-1]))
        path = folder / f'{header["SeriesNumber"]}-{number:04d}.dcm'
        paths.append(_save(instance, path, False))
    return paths


def _shared(matrix: np.ndarray, header: dict) -> Dataset:
    spacing, thickness = _edges(matrix)
    inversion = header.get('InversionTime')
    return _groups(
        PixelMeasuresSequence={
            'PixelSpacing': spacing, 'SliceThickness': thickness, 'SpacingBetweenSlices': thickness
        },
        PlaneOrientationSequence={'ImageOrientationPatient': _plane(matrix, 0)[1]},
        MREchoSequence={'EffectiveEchoTime': header['EchoTime']},
        MRTimingAndRelatedParametersSequence={
            'RepetitionTime': header['RepetitionTime'], 'FlipAngle': header.get('FlipAngle', 90.0)
        },
        MRModifierSequence={
            'InversionRecovery': 'YES' if inversion else 'NO',
            **({'InversionTimes': [inversion]} if inversion else {}),
        },
        MRImageFrameTypeSequence={'FrameType': header['ImageType']},
    )  # fmt: skip


def _frame(matrix: np.ndarray, k: int, v: int, weighted: bool) -> Dataset:
    groups = _groups(
        PlanePositionSequence={'ImagePositionPatient': _plane(matrix, k)[0]},
        FrameContentSequence={
            'StackID': '1', 'InStackPositionNumber': k + 1,
            'DimensionIndexValues': [1, k + 1, v + 1],
            'TemporalPositionIndex': v + 1,
        },
    )  # fmt: skip
    if weighted:
        diffusion = Dataset()
        diffusion.DiffusionBValue = BVALS[v]
        diffusion.DiffusionDirectionality = 'DIRECTIONAL' if BVALS[v] else 'NONE'
        if BVALS[v]:
            direction = {'DiffusionGradientOrientation': directions()[v].tolist()}
            diffusion.DiffusionGradientDirectionSequence = [_dataset(direction)]
        groups.MRDiffusionSequence = [diffusion]
    return groups


def _groups(**sequences: dict) -> Dataset:
    groups = Dataset()
    for name, values in sequences.items():
        setattr(groups, name, [_dataset(values)])
    return groups


def _dataset(values: dict) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def _instance(storage: str, header: dict) -> Dataset:
    instance = _dataset(
        {
            'SOPClassUID': storage,
            'SOPInstanceUID': generate_uid(),
            'StudyInstanceUID': '1.2.3.4',
            'FrameOfReferenceUID': '1.2.3.5',
            'Modality': 'MR',
            'StudyTime': '101112',
            'AcquisitionTime': '101500',
            'PatientPosition': 'HFS',
            'MagneticFieldStrength': 3.0,
            **PATIENT,
            **header,
        }
    )
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.file_meta.MediaStorageSOPClassUID = storage
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    return instance


def _plane(matrix: np.ndarray, k: int) -> tuple[list[float], list[float]]:
    """Position and orientation of a slice, LPS+."""
    position = RAS_TO_LPS @ (matrix @ (0, 0, k, 1))[:3]
    axes = matrix[:3, :2] / np.linalg.norm(matrix[:3, :2], axis=0)
    return _texts(position), _texts((RAS_TO_LPS @ axes).T.ravel())


def _texts(values) -> list[float]:
    return [float(f'{value + 0.0:.9f}') for value in values]


def _edges(matrix: np.ndarray) -> tuple[list[float], float]:
    """Distance between rows, between columns, and between slices, in mm."""
    columns, rows, slices = np.linalg.norm(matrix[:3, :3], axis=0)
    return [float(rows), float(columns)], float(slices)


def _add_pixels(instance: Dataset, pixels: np.ndarray) -> None:
    instance.Rows, instance.Columns = pixels.shape[-2:]
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, 'MONOCHROME2'
    instance.BitsAllocated, instance.BitsStored, instance.HighBit = 16, 16, 15
    instance.PixelRepresentation = 0
    instance.PixelData = np.ascontiguousarray(pixels, '<u2').tobytes()


def _save(instance: Dataset, path: Path, zipped: bool) -> Path:
    instance.save_as(path, enforce_file_format=True)
    if not zipped:
        return path
    packed = path.with_name(path.name + '.gz')
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed
