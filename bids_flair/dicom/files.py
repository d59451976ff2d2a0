"""DICOM files on disk: found at any depth, gzipped or not, and held to be whole."""

import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, config, dcmread
from pydicom.errors import InvalidDicomError

from bids_flair.errors import BidsFlairError, ExitCode

DICOM_NAMES = ('.dcm', '.ima', '.dcm.gz', '.ima.gz')
UNREADABLE = (InvalidDicomError, EOFError, ValueError, KeyError, struct.error, zlib.error, OSError)
PIXELS = (b'\xe0\x7f\x10\x00', b'\x7f\xe0\x00\x10')
END_OF_SEQUENCE = b'\xfe\xff\xdd\xe0'
LONG_VRS = (b'OB', b'OW', b'OF', b'OD', b'UN')

# Warnings about odd values would print the values, a birth date or a name among them.
config.settings.reading_validation_mode = config.IGNORE


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file given or found below a folder given; hidden ones are not looked at."""
    for path in paths:
        found = sorted(path.rglob('*')) if path.is_dir() else [path]
        for file in found:
            hidden = any(part.startswith('.') for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                yield file


def read_header(path: Path, elements: Sequence[str | tuple[int, int]]) -> Dataset | None:
    """Header of one file, after a look at whether its pixels are all there.

    Parameters
    ----------
    path : path
    elements : sequence
        Keywords and tags to keep: everything else is passed over, which is much faster.

    Returns
    -------
    Dataset or None
        None for what is not DICOM, and for DICOM that is not an instance of a series.

    Raises
    ------
    BidsFlairError
        With ExitCode.DATA_UNUSABLE if the file is cut short, or no DICOM despite its name.
    """
    try:
        with open_dicom(path) as stream:
            if stream.read(132)[128:] != b'DICM':
                return _not_dicom(path)
            stream.seek(0)
            header = dcmread(stream, stop_before_pixels=True, specific_tags=list(elements))
            if 'SOPInstanceUID' not in header or 'SeriesInstanceUID' not in header:
                return _not_an_instance(path, header)
            if not has_all_pixels(stream, header):
                raise _damaged(path, 'is cut short: it holds fewer pixels than its header says')
    except UNREADABLE as error:
        raise _damaged(path, f'cannot be read ({type(error).__name__})') from error
    return header


def open_dicom(path: Path) -> BinaryIO:
    """The file's bytes, decompressed if it is gzipped, whatever its name."""
    with path.open('rb') as file:
        gzipped = file.read(2) == b'\x1f\x8b'
    return BytesIO(gzip.decompress(path.read_bytes())) if gzipped else path.open('rb')


def has_all_pixels(stream: BinaryIO, header: Dataset) -> bool:
    """Whether the pixels that the header announces follow in the stream.

    Parameters
    ----------
    stream : file
        Where reading stopped: at the pixel data.
    header : Dataset
        What was read before.
    """
    if 'Rows' not in header and not _is_image(header):
        return True
    if header.file_meta.TransferSyntaxUID.is_deflated:
        return True
    start = stream.tell()
    length = stream.seek(0, 2) - start
    stream.seek(start)
    if stream.read(4) not in PIXELS:
        return False
    if header.file_meta.TransferSyntaxUID.is_compressed:
        return _ends(stream)
    bits = header.Rows * header.Columns * header.get('SamplesPerPixel', 1) * header.BitsAllocated
    head = 8 if header.file_meta.TransferSyntaxUID.is_implicit_VR else 12
    return length - head >= bits * int(header.get('NumberOfFrames') or 1) // 8


def _ends(stream: BinaryIO) -> bool:
    """Whether compressed pixels, fragment after fragment, come to their end mark."""
    stream.seek(8, 1)
    while len(head := stream.read(8)) == 8:
        tag, length = head[:4], int.from_bytes(head[4:], 'little')
        if tag == END_OF_SEQUENCE:
            return True
        stream.seek(length, 1)
    return False


def _is_image(header: Dataset) -> bool:
    return 'Image Storage' in header.SOPClassUID.name if 'SOPClassUID' in header else False


def _not_dicom(path: Path) -> None:
    if path.name.lower().endswith(DICOM_NAMES):
        raise _damaged(path, 'is named as DICOM and is none, or its beginning is lost')


def _not_an_instance(path: Path, header: Dataset) -> None:
    """A DICOMDIR has neither identifier; an image whose header is cut short lacks the second."""
    if 'SOPInstanceUID' in header or path.name.lower().endswith(DICOM_NAMES):
        raise _damaged(path, 'is cut short: its header names no series')


def _damaged(path: Path, what: str) -> BidsFlairError:
    return BidsFlairError(
        f'{path} {what}. Copy it again from the scanner or the archive, or take it out of the '
        'folder if it is not needed',
        ExitCode.DATA_UNUSABLE,
    )
