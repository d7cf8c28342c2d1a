"""Header walk: the attributes that index and selection need, from an encoded data set, without decoding it.

Walks the elements up to Pixel Data in the transfer syntax given, looks at the few that are wanted and steps
over the rest. What the walk does not know (deflated data sets, wrong value representations) is read by
pydicom instead. The walk also proves that the elements fit: a data set that ends inside an element is refused
as truncated.
"""

import contextlib
import mmap
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from node.errors import Permanent
from node.receive import walk
from node.receive.attributes import WANTED, all_attributes, date_time, encodings_of, read_text, read_uid
from node.receive.walk import Buffer, Encoding, Walked, WalkError

_EXPLICIT_LITTLE = Encoding("<", is_explicit=True)
# All transfer syntaxes but these three kinds encode the data set in Explicit VR Little Endian (PS3.5 section 10).
_ENCODINGS = {
    "1.2.840.10008.1.2": Encoding("<", is_explicit=False),
    "1.2.840.10008.1.2.2": Encoding(">", is_explicit=True),
}
NATIVE = {**_ENCODINGS, "1.2.840.10008.1.2.1": _EXPLICIT_LITTLE}
DEFLATED_UIDS = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
MAXIMUM_INFLATED_BYTES = 64 << 20


class HeaderError(Permanent):
    """An encoded data set cannot be understood; `code` says why in one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class InstanceHeader:
    """What the index keeps of one SOP instance.

    UIDs are empty when absent. `series_header` and `geometry` map keywords to JSON-safe values, absent ones
    left out; `geometry` is None for an object without Rows. `patient_id` and its issuer tell which studies are of one
    patient, and are kept as a keyed hash only; `study_date_time` is `YYYYMMDDHHMMSS`, empty without Study Date.
    `pixel_offset` and `pixel_length` are bytes in the buffer or file that was read; the length is None for
    encapsulated frames, both are None without Pixel Data or when the data set is deflated.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    series_header: dict[str, Any]
    geometry: dict[str, Any] | None
    pixel_offset: int | None
    pixel_length: int | None
    patient_id: str = field(default="", repr=False)
    issuer_of_patient_id: str = field(default="", repr=False)
    study_date_time: str = field(default="", repr=False)


def read_header(source: Path | Buffer) -> InstanceHeader:
    """Read the header of a Part 10 file (PS3.10 7.1), given by path or by its bytes.

    Raises
    ------
    HeaderError
        `not-dicom` without preamble and File Meta Information, `truncated` when an element does not fit,
        `not-understood` when it makes no sense in any encoding.
    """
    if not isinstance(source, Path):
        return _read_file(source)
    with source.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise HeaderError("not-dicom", "the file is empty") from None
        with mapped:
            return _read_file(mapped)


def read_data_set(buffer: Buffer, transfer_syntax_uid: str, start: int = 0) -> InstanceHeader:
    """Read the header of the encoded data set that begins at `start` and ends with `buffer`.

    Some senders announce another encoding than they use, or get the order of the elements wrong: where the announced
    encoding fails, the others are tried, and whatever makes sense from the first element to the last is taken.
    Raises `HeaderError`.
    """
    if transfer_syntax_uid in DEFLATED_UIDS:
        values = _walk(_inflate(buffer, start), 0, _EXPLICIT_LITTLE, whole=False).values
        return _header(values, None, transfer_syntax_uid, "<")
    announced = _ENCODINGS.get(transfer_syntax_uid, _EXPLICIT_LITTLE)
    try:
        return _read_as(buffer, start, announced, transfer_syntax_uid)
    except HeaderError as error:
        failure = error
    for encoding in (*_ENCODINGS.values(), _EXPLICIT_LITTLE, replace(announced, is_ordered=False)):
        with contextlib.suppress(HeaderError):
            found = _read_as(buffer, start, encoding, transfer_syntax_uid)
            if found.sop_instance_uid:
                return found
    raise failure


def read_identity(beginning: Buffer, transfer_syntax_uid: str) -> tuple[str, str]:
    """SOP Class and SOP Instance UID from the first bytes of a data set; empty where they cannot be found there."""
    encoding = _ENCODINGS.get(transfer_syntax_uid, _EXPLICIT_LITTLE)
    try:
        if transfer_syntax_uid in DEFLATED_UIDS:
            beginning = _inflate(beginning, 0)
        values = _walk(beginning, 0, encoding, whole=False).values
    except HeaderError:
        return "", ""
    return read_uid(values.get(0x00080016, b"")), read_uid(values.get(0x00080018, b""))


def _read_as(buffer: Buffer, start: int, encoding: Encoding, transfer_syntax_uid: str) -> InstanceHeader:
    found = _walk(buffer, start, encoding, whole=True)
    return _header(found.values, found.pixel, transfer_syntax_uid, encoding.order)


def _read_file(buffer: Buffer) -> InstanceHeader:
    if bytes(buffer[128:132]) != b"DICM":
        raise HeaderError("not-dicom", "no DICOM file: the prefix DICM is missing after the preamble")
    try:
        values, start = walk.read_file_meta(buffer, 132)
    except WalkError as error:
        raise HeaderError(error.code, f"File Meta Information: {error}") from None
    transfer_syntax_uid = read_uid(values.get(0x00020010, b""))
    if not transfer_syntax_uid:
        raise HeaderError("not-dicom", "File Meta Information has no Transfer Syntax UID")
    return read_data_set(buffer, transfer_syntax_uid, start)


def _walk(buffer: Buffer, start: int, encoding: Encoding, *, whole: bool) -> Walked:
    try:
        return walk.walk_elements(buffer, start, WANTED.keys(), encoding, whole=whole)
    except WalkError as error:
        raise HeaderError(error.code, str(error)) from None


def _inflate(buffer: Buffer, start: int) -> bytes:
    """The beginning of a deflated data set (PS3.5 A.5), at most `MAXIMUM_INFLATED_BYTES` of it."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(buffer[start:]), MAXIMUM_INFLATED_BYTES)
    except zlib.error as error:
        raise HeaderError("not-understood", f"the deflated data set cannot be inflated ({error})") from None


def _header(
    values: dict[int, bytes], pixel: tuple[int, int | None] | None, transfer_syntax_uid: str, order: str
) -> InstanceHeader:
    return compose_header(values, pixel, transfer_syntax_uid, order, *all_attributes(values, order))


def compose_header(
    values: dict[int, bytes],
    pixel: tuple[int, int | None] | None,
    transfer_syntax_uid: str,
    order: str,
    series_header: dict[str, Any],
    geometry: dict[str, Any],
) -> InstanceHeader:
    """The header of encoded values and what was made of them."""
    encodings = encodings_of(values)
    return InstanceHeader(
        sop_class_uid=read_uid(values.get(0x00080016, b"")),
        sop_instance_uid=read_uid(values.get(0x00080018, b"")),
        study_instance_uid=read_uid(values.get(0x0020000D, b"")),
        series_instance_uid=read_uid(values.get(0x0020000E, b"")),
        transfer_syntax_uid=transfer_syntax_uid,
        series_header=series_header,
        geometry=geometry if "Rows" in geometry else None,
        pixel_offset=pixel[0] if pixel else None,
        pixel_length=pixel[1] if pixel else None,
        patient_id=read_text(values.get(0x00100020, b""), order, encodings),
        issuer_of_patient_id=read_text(values.get(0x00100021, b""), order, encodings),
        study_date_time=date_time(values.get(0x00080020, b""), values.get(0x00080030, b"")),
    )
