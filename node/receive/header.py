"""Header walk: the attributes that index and selection need, from an encoded data set, without decoding it.

Walks the elements up to Pixel Data in the transfer syntax given, looks at the few that are wanted and steps
over the rest. What the walk does not know (deflated data sets, wrong value representations) is read by
pydicom instead. The walk also proves that the elements fit: a data set that ends inside an element is refused
as truncated.
"""

import contextlib
import math
import mmap
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes

from node.errors import Permanent
from node.receive import walk
from node.receive.views import modifiers_of, view_of
from node.receive.walk import Buffer, Encoding, WalkError

_EXPLICIT_LITTLE = Encoding("<", is_explicit=True)
# All transfer syntaxes but these three kinds encode the data set in Explicit VR Little Endian (PS3.5 section 10).
_ENCODINGS = {
    "1.2.840.10008.1.2": Encoding("<", is_explicit=False),
    "1.2.840.10008.1.2.2": Encoding(">", is_explicit=True),
}
_NATIVE = {**_ENCODINGS, "1.2.840.10008.1.2.1": _EXPLICIT_LITTLE}
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


@dataclass(frozen=True)
class _Wanted:
    """One attribute: its keyword, how its value is read, and where it belongs."""

    keyword: str
    read: Callable[[bytes, str, Any], Any]
    in_series_header: bool = False
    in_geometry: bool = False


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
        values, _ = _walk(_inflate(buffer, start), 0, _EXPLICIT_LITTLE, whole=False)
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


def read_beginning(beginning: Buffer, transfer_syntax_uid: str) -> InstanceHeader | None:
    """Read the header from the first bytes of a data set, where they hold all of it up to native Pixel Data.

    None where the whole data set must be read: it has no such Pixel Data, or something is odd. Whether the whole is
    as long as Pixel Data announces is for the caller to check.
    """
    encoding = _NATIVE.get(transfer_syntax_uid)
    if encoding is None:
        return None
    try:
        values, pixel = walk.walk_elements(beginning, 0, _WANTED.keys(), encoding, whole=False)
    except WalkError:
        return None
    if pixel is None or pixel[1] is None:
        return None
    return _header(values, pixel, transfer_syntax_uid, encoding.order)


def read_identity(beginning: Buffer, transfer_syntax_uid: str) -> tuple[str, str]:
    """SOP Class and SOP Instance UID from the first bytes of a data set; empty where they cannot be found there."""
    encoding = _ENCODINGS.get(transfer_syntax_uid, _EXPLICIT_LITTLE)
    try:
        if transfer_syntax_uid in DEFLATED_UIDS:
            beginning = _inflate(beginning, 0)
        values, _ = _walk(beginning, 0, encoding, whole=False)
    except HeaderError:
        return "", ""
    return _read_uid(values.get(0x00080016, b""), "<", None), _read_uid(values.get(0x00080018, b""), "<", None)


def _read_as(buffer: Buffer, start: int, encoding: Encoding, transfer_syntax_uid: str) -> InstanceHeader:
    values, pixel = _walk(buffer, start, encoding, whole=True)
    return _header(values, pixel, transfer_syntax_uid, encoding.order)


def _read_file(buffer: Buffer) -> InstanceHeader:
    if bytes(buffer[128:132]) != b"DICM":
        raise HeaderError("not-dicom", "no DICOM file: the prefix DICM is missing after the preamble")
    try:
        values, start = walk.read_file_meta(buffer, 132)
    except WalkError as error:
        raise HeaderError(error.code, f"File Meta Information: {error}") from None
    transfer_syntax_uid = _read_uid(values.get(0x00020010, b""), "<", None)
    if not transfer_syntax_uid:
        raise HeaderError("not-dicom", "File Meta Information has no Transfer Syntax UID")
    return read_data_set(buffer, transfer_syntax_uid, start)


def _walk(
    buffer: Buffer, start: int, encoding: Encoding, *, whole: bool
) -> tuple[dict[int, bytes], tuple[int, int | None] | None]:
    try:
        return walk.walk_elements(buffer, start, _WANTED.keys(), encoding, whole=whole)
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
    encodings = _encodings(values.get(0x00080005, b""))
    series_header: dict[str, Any] = {}
    geometry: dict[str, Any] = {}
    for tag, encoded in values.items():
        wanted = _WANTED[tag]
        if not (wanted.in_series_header or wanted.in_geometry):
            continue
        value = wanted.read(encoded, order, encodings)
        if value is None or value == "" or value == []:
            continue
        if wanted.in_series_header:
            series_header[wanted.keyword] = value
        if wanted.in_geometry:
            geometry[wanted.keyword] = value
    for each in (series_header, geometry):
        _add_view(each, values.get(0x00540220, b""))
    return InstanceHeader(
        sop_class_uid=_read_uid(values.get(0x00080016, b""), order, None),
        sop_instance_uid=_read_uid(values.get(0x00080018, b""), order, None),
        study_instance_uid=_read_uid(values.get(0x0020000D, b""), order, None),
        series_instance_uid=_read_uid(values.get(0x0020000E, b""), order, None),
        transfer_syntax_uid=transfer_syntax_uid,
        series_header=series_header,
        geometry=geometry if "Rows" in geometry else None,
        pixel_offset=pixel[0] if pixel else None,
        pixel_length=pixel[1] if pixel else None,
        patient_id=_read_text(values.get(0x00100020, b""), order, encodings),
        issuer_of_patient_id=_read_text(values.get(0x00100021, b""), order, encodings),
        study_date_time=_date_time(values.get(0x00080020, b""), values.get(0x00080030, b"")),
    )


def _add_view(attributes: dict[str, Any], view_code_sequence: bytes) -> None:
    """The view of a mammogram, of which View Code Sequence is the attribute that must be there."""
    if view := view_of(view_code_sequence):
        attributes["ViewPosition"] = view
    if modifiers := modifiers_of(view_code_sequence):
        attributes["ViewModifiers"] = modifiers


def _date_time(date: bytes, time: bytes) -> str:
    """Study Date and Time to the second; empty without a date, midnight without a time."""
    day = "".join(each for each in _read_code(date, "<", None) if each.isdigit())
    moment = "".join(each for each in _read_code(time, "<", None).split(".")[0] if each.isdigit())
    return f"{day}{moment[:6]:0<6}" if len(day) == 8 else ""


def _encodings(specific_character_set: bytes) -> Any:
    """Python encodings for Specific Character Set (0008,0005); Latin-1 for terms that are not defined."""
    terms = specific_character_set.decode("ascii", "replace").strip("\0 ").split("\\")
    try:
        return convert_encodings([term.strip() for term in terms])
    except (LookupError, ValueError, UserWarning):
        return ["iso8859"]


def _read_uid(value: bytes, order: str, encodings: Any) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


def _read_code(value: bytes, order: str, encodings: Any) -> str:
    """CS: the default repertoire only."""
    return value.decode("ascii", "replace").strip("\0 ")


def _read_codes(value: bytes, order: str, encodings: Any) -> list[str]:
    return (
        [part.strip("\0 ") for part in _read_code(value, order, encodings).split("\\")] if value.strip(b"\0 ") else []
    )


def _read_text(value: bytes, order: str, encodings: Any) -> str:
    """LO and SH in the data set's character set; ISO 2022 escapes included."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").replace("\0", "").strip()
    try:
        text = decode_bytes(value, encodings, set())
    except (LookupError, ValueError, UserWarning):
        text = value.decode("latin-1")
    return text.replace("\0", "").strip()


def _read_decimals(value: bytes, order: str, encodings: Any) -> list[float] | None:
    try:
        numbers = [float(part) for part in value.decode("ascii").strip("\0 ").split("\\")]
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _read_decimal(value: bytes, order: str, encodings: Any) -> float | None:
    numbers = _read_decimals(value, order, encodings)
    return numbers[0] if numbers else None


def _read_integer(value: bytes, order: str, encodings: Any) -> int | None:
    try:
        return int(value.decode("ascii").strip("\0 ").split("\\")[0])
    except ValueError:
        return None


def _read_short(value: bytes, order: str, encodings: Any) -> int | None:
    return int(struct.unpack_from(order + "H", value)[0]) if len(value) >= 2 else None


def _read_double(value: bytes, order: str, encodings: Any) -> float | None:
    number = struct.unpack_from(order + "d", value)[0] if len(value) >= 8 else math.nan
    return float(number) if math.isfinite(number) else None


def _is_there(value: bytes, order: str, encodings: Any) -> bool:
    return True


_WANTED: dict[int, _Wanted] = {
    0x00080005: _Wanted("SpecificCharacterSet", _read_codes),
    0x00080008: _Wanted("ImageType", _read_codes, True, True),
    0x00080016: _Wanted("SOPClassUID", _read_uid, True, True),
    0x00080018: _Wanted("SOPInstanceUID", _read_uid),
    0x00080020: _Wanted("StudyDate", _read_code),
    0x00080030: _Wanted("StudyTime", _read_code),
    0x00080060: _Wanted("Modality", _read_code, True),
    0x00080068: _Wanted("PresentationIntentType", _read_code, True, True),
    0x00080070: _Wanted("Manufacturer", _read_text, True),
    0x00081030: _Wanted("StudyDescription", _read_text, True),
    0x0008103E: _Wanted("SeriesDescription", _read_text, True),
    0x00081090: _Wanted("ManufacturerModelName", _read_text, True),
    0x00100020: _Wanted("PatientID", _read_text),
    0x00100021: _Wanted("IssuerOfPatientID", _read_text),
    0x00100040: _Wanted("PatientSex", _read_code, True),
    0x00101010: _Wanted("PatientAge", _read_code, True),
    0x00180010: _Wanted("ContrastBolusAgent", _read_text, True),
    0x00180015: _Wanted("BodyPartExamined", _read_code, True),
    0x00180020: _Wanted("ScanningSequence", _read_codes, True),
    0x00180021: _Wanted("SequenceVariant", _read_codes, True),
    0x00180023: _Wanted("MRAcquisitionType", _read_code, True),
    0x00180050: _Wanted("SliceThickness", _read_decimal, True, True),
    0x00180060: _Wanted("KVP", _read_decimal, True, True),
    0x00180080: _Wanted("RepetitionTime", _read_decimal, True),
    0x00180081: _Wanted("EchoTime", _read_decimal, True, True),
    0x00180082: _Wanted("InversionTime", _read_decimal, True),
    0x00180088: _Wanted("SpacingBetweenSlices", _read_decimal, True),
    0x00181030: _Wanted("ProtocolName", _read_text, True),
    0x00181120: _Wanted("GantryDetectorTilt", _read_decimal, False, True),
    0x00181210: _Wanted("ConvolutionKernel", _read_codes, True),
    0x00185100: _Wanted("PatientPosition", _read_code, True),
    0x00185101: _Wanted("ViewPosition", _read_code, True, True),
    0x00189087: _Wanted("DiffusionBValue", _read_double, False, True),
    0x0020000D: _Wanted("StudyInstanceUID", _read_uid),
    0x0020000E: _Wanted("SeriesInstanceUID", _read_uid),
    0x00200011: _Wanted("SeriesNumber", _read_integer, True),
    0x00200012: _Wanted("AcquisitionNumber", _read_integer, False, True),
    0x00200013: _Wanted("InstanceNumber", _read_integer, False, True),
    0x00200032: _Wanted("ImagePositionPatient", _read_decimals, False, True),
    0x00200037: _Wanted("ImageOrientationPatient", _read_decimals, False, True),
    0x00200052: _Wanted("FrameOfReferenceUID", _read_uid, False, True),
    0x00200060: _Wanted("Laterality", _read_code, True),
    0x00200062: _Wanted("ImageLaterality", _read_code, True, True),
    0x00200100: _Wanted("TemporalPositionIdentifier", _read_integer, False, True),
    0x00280002: _Wanted("SamplesPerPixel", _read_short, False, True),
    0x00280004: _Wanted("PhotometricInterpretation", _read_code, False, True),
    0x00280008: _Wanted("NumberOfFrames", _read_integer, False, True),
    0x00280010: _Wanted("Rows", _read_short, True, True),
    0x00280011: _Wanted("Columns", _read_short, True, True),
    0x00280030: _Wanted("PixelSpacing", _read_decimals, True, True),
    0x00401003: _Wanted("RequestedProcedurePriority", _read_code, True),
    0x00280100: _Wanted("BitsAllocated", _read_short, False, True),
    0x00280101: _Wanted("BitsStored", _read_short, False, True),
    0x00280102: _Wanted("HighBit", _read_short, False, True),
    0x00280103: _Wanted("PixelRepresentation", _read_short, False, True),
    0x00280120: _Wanted("PixelPaddingValue", _read_short, False, True),
    0x00280121: _Wanted("PixelPaddingRangeLimit", _read_short, False, True),
    0x00281052: _Wanted("RescaleIntercept", _read_code, False, True),
    0x00281053: _Wanted("RescaleSlope", _read_code, False, True),
    0x00282110: _Wanted("LossyImageCompression", _read_code, False, True),
    0x00283000: _Wanted("ModalityLUTSequence", _is_there, False, True),
    0x00540220: _Wanted("ViewCodeSequence", _is_there),
}
