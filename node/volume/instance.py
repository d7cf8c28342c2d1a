"""One instance on disk: its header, and where its pixel data are. Nothing of the pixels is read here."""

import os
import struct
import zlib
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from node.errors import Transient
from node.volume.reason import Reason, refusal

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
UNDEFINED_LENGTH = 0xFFFFFFFF
INFLATED_LIMIT_BYTES = 1 << 27
"""Largest deflated data set that is unpacked (128 MB): a single CT or MR image stays far below."""

LONG_READ_BYTES = 1 << 16
"""Reads up to this length are made as they are asked for."""

READ_AS_THEY_ARE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ModalityLUTSequence",
)
"""Attributes that this room takes as pydicom gives them; numbers are read by `pixels`, which expects the worst."""

PARSE_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    NotImplementedError,
    EOFError,
    BytesLengthException,
    struct.error,
    zlib.error,
    RecursionError,
    OverflowError,
)
"""What pydicom raises on bytes that are not what they say."""


@dataclass(frozen=True, eq=False)
class Instance:
    """A single-frame instance whose header was read.

    Parameters
    ----------
    path : Path
    header : Dataset
        Everything before the pixel data.
    transfer_syntax_uid : UID
    is_implicit, is_little_endian : bool
        As found in the data set.
    pixel_offset : int, optional
        Of the value of Pixel Data in `open_instance(path)`; None when there is no pixel data element.
    pixel_length : int
        Declared length of the value; `UNDEFINED_LENGTH` for encapsulated pixel data.
    pixel_vr : str
        ``OB`` or ``OW``; empty in implicit VR.
    """

    path: Path
    header: Dataset = field(repr=False)
    transfer_syntax_uid: UID
    is_implicit: bool
    is_little_endian: bool
    pixel_offset: int | None
    pixel_length: int = 0
    pixel_vr: str = ""

    @property
    def name(self) -> str:
        """How messages call it: by SOP Instance UID, never by a path, which may hold a patient's name."""
        return f"instance {self.header.get('SOPInstanceUID', '(without UID)')}"


class InstanceFile(BufferedReader):
    """A file that is never asked for more than it holds: a damaged length would allocate gigabytes first."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """As `BufferedReader.read`."""
        if size is not None and size > LONG_READ_BYTES:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


def open_instance(path: Path) -> BinaryIO:
    """The bytes of an instance; a deflated data set is inflated (up to a limit) behind its file meta."""
    stream = InstanceFile(path)
    if not _says_deflated(stream):
        return stream
    with stream:
        return BytesIO(_inflate(stream.read()))


def read_instance(path: Path, position: int) -> Instance:
    """Read the header of one file.

    Parameters
    ----------
    path : Path
    position : int
        Which of the files given this is, from 1; named in messages.

    Raises
    ------
    NotAnalysed
        ``not-dicom`` when it is no DICOM file or cannot be parsed; ``unsupported-pixel-format`` for
        floating point.
    Transient
        When the file cannot be opened.
    """
    try:
        with open_instance(path) as stream:
            return _read(stream, path)
    except InvalidDicomError:
        raise refusal(
            Reason.NOT_DICOM,
            f"file {position} is not DICOM: found no 'DICM' at byte 128, wanted a Part 10 file",
        ) from None
    except PARSE_ERRORS as error:
        raise refusal(
            Reason.NOT_DICOM,
            f"file {position} cannot be read as DICOM: its data set is damaged ({type(error).__name__})",
        ) from None
    except OSError as error:
        if error.errno is None:  # raised by the parser, not by the machine
            raise refusal(
                Reason.NOT_DICOM, f"file {position} cannot be read as DICOM: its data set is damaged (OSError)"
            ) from None
        raise Transient(f"file {position} cannot be opened: {error.strerror or type(error).__name__}") from None


def _read(stream: BinaryIO, path: Path) -> Instance:
    header: Dataset
    is_implicit: bool | None
    is_little_endian: bool | None
    if isinstance(stream, BytesIO):
        header = read_dataset(stream, False, True, stop_when=_at_pixels)
        transfer_syntax_uid, is_implicit, is_little_endian = DeflatedExplicitVRLittleEndian, False, True
    else:
        header = dcmread(stream, stop_before_pixels=True)
        transfer_syntax_uid = UID(str(header.file_meta.TransferSyntaxUID))
        is_implicit, is_little_endian = header.original_encoding
        if is_implicit is None or is_little_endian is None:
            raise ValueError("the data set is empty")
    for keyword in READ_AS_THEY_ARE:
        header.get(keyword)  # damage in one of them is found here
    tag, vr, length = _element_start(stream, is_implicit, is_little_endian)
    if tag in FLOAT_PIXEL_DATA:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"instance {header.get('SOPInstanceUID')} holds floating point pixels; wanted integer Pixel Data",
        )
    return Instance(
        path=path,
        header=header,
        transfer_syntax_uid=transfer_syntax_uid,
        is_implicit=is_implicit,
        is_little_endian=is_little_endian,
        pixel_offset=stream.tell() if tag == PIXEL_DATA else None,
        pixel_length=length,
        pixel_vr=vr,
    )


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag == PIXEL_DATA or tag in FLOAT_PIXEL_DATA


def _element_start(stream: BinaryIO, is_implicit: bool, is_little_endian: bool) -> tuple[int, str, int]:
    """Tag, VR and length of the element at the stream's position, which moves to its value; (0, "", 0) at
    the end.
    """
    order = "<" if is_little_endian else ">"
    start = stream.read(8)
    if len(start) < 8:
        return 0, "", 0
    group, element = struct.unpack(order + "HH", start[:4])
    tag = group << 16 | element
    if is_implicit:
        return tag, "", struct.unpack(order + "L", start[4:])[0]
    vr = start[4:6].decode("ascii", "replace")
    if vr in ("OB", "OW", "UN", "OF", "OD"):
        rest = stream.read(4)
        return (tag, vr, struct.unpack(order + "L", rest)[0]) if len(rest) == 4 else (0, "", 0)
    return tag, vr, struct.unpack(order + "H", start[6:])[0]


def _says_deflated(stream: BinaryIO) -> bool:
    """Whether the file meta names the deflated transfer syntax; the stream is put back to its start."""
    beginning = stream.read(4096)
    stream.seek(0)
    at = beginning.find(b"\x02\x00\x10\x00UI")
    if beginning[128:132] != b"DICM" or at < 0:
        return False
    length = int.from_bytes(beginning[at + 6 : at + 8], "little")
    return beginning[at + 8 : at + 8 + length].rstrip(b"\0 ") == DeflatedExplicitVRLittleEndian.encode()


def _inflate(content: bytes) -> bytes:
    """The data set of a deflated file (PS3.5 A.5), without its file meta."""
    if content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("the file meta has no group length")
    start = 144 + int.from_bytes(content[140:144], "little")
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    data_set = unpack.decompress(content[start:], INFLATED_LIMIT_BYTES)
    if unpack.unconsumed_tail:
        raise ValueError("the deflated data set is larger than one image can be")
    return data_set
