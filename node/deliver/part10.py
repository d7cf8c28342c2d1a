"""What a Storage SCU must know of a DICOM file: its file meta information, and where the data set is."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node.errors import Permanent

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

_LONG_LENGTH_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_WANTED = {
    0x0002: "Media Storage SOP Class UID",
    0x0003: "Media Storage SOP Instance UID",
    0x0010: "Transfer Syntax UID",
}
_LONGEST_VALUE_BYTES = 1 << 20


class NotPart10(Permanent):
    """The file is not a DICOM file (PS3.10 7.1), or its file meta information lacks what sending needs."""


@dataclass(frozen=True)
class Part10File:
    """A DICOM file; its data set is the `data_set_bytes` from `data_set_offset` on."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    data_set_bytes: int


def read_file_meta(path: Path) -> Part10File:
    """Read group 0002 (PS3.10 7.1) and nothing after it.

    Raises
    ------
    NotPart10
        The message says what is wrong, without the path.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            raise NotPart10("is not a DICOM file: no DICM prefix at byte 128")
        found: dict[int, str] = {}
        while (element := _next_element(stream)) is not None:
            number, value = element
            if number in _WANTED:
                found[number] = value.rstrip(b"\0 ").decode("ascii", errors="replace")
        offset, size = stream.tell(), stream.seek(0, 2)
    missing = [name for number, name in _WANTED.items() if not _is_uid(found.get(number, ""))]
    if missing:
        raise NotPart10(f"has no valid {' and no '.join(missing)} in its file meta information")
    if size - offset < 2:
        raise NotPart10("has no data set after its file meta information")
    return Part10File(path, found[0x0002], found[0x0003], found[0x0010], offset, size - offset)


def _next_element(stream: BinaryIO) -> tuple[int, bytes] | None:
    """Number and value of the next element of group 0002; None, and nothing read, when there is none."""
    start = stream.tell()
    header = stream.read(8)
    if len(header) < 8 or header[:2] != b"\x02\x00":
        stream.seek(start)
        return None
    element, vr, length = struct.unpack_from("<2xH2sH", header)
    if not vr.isalpha():
        raise NotPart10("has file meta information that is not in Explicit VR Little Endian")
    if vr in _LONG_LENGTH_VRS:
        length = int.from_bytes(stream.read(4), "little")
    if length > _LONGEST_VALUE_BYTES:
        raise NotPart10(f"has a file meta element of {length} bytes")
    value = stream.read(length)
    if len(value) < length:
        raise NotPart10("ends within its file meta information")
    return element, value


def _is_uid(value: str) -> bool:
    """True for digits and dots, at most 64 (PS3.5 9.1, but leading zeros are let pass)."""
    return 0 < len(value) <= 64 and value.replace(".", "").isdigit() and value.isascii()
