"""The attributes that index and selection need, and how their encoded values become JSON-safe ones. Pure."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes

from node.receive.views import modifiers_of, view_of

_CHARACTER_SET, _VIEW_POSITION, _VIEW_CODES = 0x00080005, 0x00185101, 0x00540220
READ_WITH_OTHERS = frozenset({_CHARACTER_SET, _VIEW_POSITION, _VIEW_CODES})
"""Other values depend on these, or they on others: where one differs, all are read anew."""


@dataclass(frozen=True)
class Wanted:
    """One attribute: its keyword, how its value is read, and where it belongs."""

    keyword: str
    read: Callable[[bytes, str, Any], Any]
    in_series_header: bool = False
    in_geometry: bool = False


def all_attributes(values: dict[int, bytes], order: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Series header and geometry by keyword, of encoded values by tag."""
    series_header: dict[str, Any] = {}
    geometry: dict[str, Any] = {}
    read_attributes(values, values, order, series_header, geometry)
    for each in (series_header, geometry):
        _add_view(each, values.get(_VIEW_CODES, b""))
    return series_header, geometry


def read_attributes(
    changed: dict[int, bytes],
    values: dict[int, bytes],
    order: str,
    series_header: dict[str, Any],
    geometry: dict[str, Any],
) -> None:
    """Bring both up to date with the values that changed, of all `values`; what has none is not in them."""
    encodings = encodings_of(values)
    for tag, encoded in changed.items():
        if tag in NO_ATTRIBUTES:
            continue
        wanted = WANTED[tag]
        value = wanted.read(encoded, order, encodings)
        is_there = not (value is None or value == "" or value == [])
        for attributes, is_wanted in ((series_header, wanted.in_series_header), (geometry, wanted.in_geometry)):
            if is_wanted and is_there:
                attributes[wanted.keyword] = value
            elif is_wanted:
                attributes.pop(wanted.keyword, None)


def _add_view(attributes: dict[str, Any], view_code_sequence: bytes) -> None:
    """The view of a mammogram, of which View Code Sequence is the attribute that must be there."""
    if view := view_of(view_code_sequence):
        attributes["ViewPosition"] = view
    if modifiers := modifiers_of(view_code_sequence):
        attributes["ViewModifiers"] = modifiers


@lru_cache(maxsize=64)
def date_time(date: bytes, time: bytes) -> str:
    """Study Date and Time to the second; empty without a date, midnight without a time."""
    day = "".join(each for each in _read_code(date, "<", None) if each.isdigit())
    moment = "".join(each for each in _read_code(time, "<", None).split(".")[0] if each.isdigit())
    return f"{day}{moment[:6]:0<6}" if len(day) == 8 else ""


def encodings_of(values: dict[int, bytes]) -> Any:
    """Python encodings for Specific Character Set (0008,0005); Latin-1 for terms that are not defined."""
    return _encodings(values.get(_CHARACTER_SET, b""))


@lru_cache(maxsize=64)
def _encodings(character_set: bytes) -> Any:
    terms = character_set.decode("ascii", "replace").strip("\0 ").split("\\")
    try:
        return convert_encodings([term.strip() for term in terms])
    except (LookupError, ValueError, UserWarning):
        return ["iso8859"]


def read_uid(value: bytes, order: str = "<", encodings: Any = None) -> str:
    """UI."""
    return value.decode("ascii", "replace").strip("\0 ")


def _read_code(value: bytes, order: str, encodings: Any) -> str:
    """CS: the default repertoire only."""
    return value.decode("ascii", "replace").strip("\0 ")


def _read_codes(value: bytes, order: str, encodings: Any) -> list[str]:
    return (
        [part.strip("\0 ") for part in _read_code(value, order, encodings).split("\\")] if value.strip(b"\0 ") else []
    )


def read_text(value: bytes, order: str, encodings: Any) -> str:
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


WANTED: dict[int, Wanted] = {
    _CHARACTER_SET: Wanted("SpecificCharacterSet", _read_codes),
    0x00080008: Wanted("ImageType", _read_codes, True, True),
    0x00080016: Wanted("SOPClassUID", read_uid, True, True),
    0x00080018: Wanted("SOPInstanceUID", read_uid),
    0x00080020: Wanted("StudyDate", _read_code),
    0x00080030: Wanted("StudyTime", _read_code),
    0x00080060: Wanted("Modality", _read_code, True),
    0x00080068: Wanted("PresentationIntentType", _read_code, True, True),
    0x00080070: Wanted("Manufacturer", read_text, True),
    0x00081030: Wanted("StudyDescription", read_text, True),
    0x0008103E: Wanted("SeriesDescription", read_text, True),
    0x00081090: Wanted("ManufacturerModelName", read_text, True),
    0x00100020: Wanted("PatientID", read_text),
    0x00100021: Wanted("IssuerOfPatientID", read_text),
    0x00100040: Wanted("PatientSex", _read_code, True),
    0x00101010: Wanted("PatientAge", _read_code, True),
    0x00180010: Wanted("ContrastBolusAgent", read_text, True),
    0x00180015: Wanted("BodyPartExamined", _read_code, True),
    0x00180020: Wanted("ScanningSequence", _read_codes, True),
    0x00180021: Wanted("SequenceVariant", _read_codes, True),
    0x00180023: Wanted("MRAcquisitionType", _read_code, True),
    0x00180050: Wanted("SliceThickness", _read_decimal, True, True),
    0x00180060: Wanted("KVP", _read_decimal, True, True),
    0x00180080: Wanted("RepetitionTime", _read_decimal, True),
    0x00180081: Wanted("EchoTime", _read_decimal, True, True),
    0x00180082: Wanted("InversionTime", _read_decimal, True),
    0x00180088: Wanted("SpacingBetweenSlices", _read_decimal, True),
    0x00181030: Wanted("ProtocolName", read_text, True),
    0x00181120: Wanted("GantryDetectorTilt", _read_decimal, False, True),
    0x00181210: Wanted("ConvolutionKernel", _read_codes, True),
    0x00185100: Wanted("PatientPosition", _read_code, True),
    _VIEW_POSITION: Wanted("ViewPosition", _read_code, True, True),
    0x00189087: Wanted("DiffusionBValue", _read_double, False, True),
    0x0020000D: Wanted("StudyInstanceUID", read_uid),
    0x0020000E: Wanted("SeriesInstanceUID", read_uid),
    0x00200011: Wanted("SeriesNumber", _read_integer, True),
    0x00200012: Wanted("AcquisitionNumber", _read_integer, False, True),
    0x00200013: Wanted("InstanceNumber", _read_integer, False, True),
    0x00200032: Wanted("ImagePositionPatient", _read_decimals, False, True),
    0x00200037: Wanted("ImageOrientationPatient", _read_decimals, False, True),
    0x00200052: Wanted("FrameOfReferenceUID", read_uid, False, True),
    0x00200060: Wanted("Laterality", _read_code, True),
    0x00200062: Wanted("ImageLaterality", _read_code, True, True),
    0x00200100: Wanted("TemporalPositionIdentifier", _read_integer, False, True),
    0x00280002: Wanted("SamplesPerPixel", _read_short, False, True),
    0x00280004: Wanted("PhotometricInterpretation", _read_code, False, True),
    0x00280008: Wanted("NumberOfFrames", _read_integer, False, True),
    0x00280010: Wanted("Rows", _read_short, True, True),
    0x00280011: Wanted("Columns", _read_short, True, True),
    0x00280030: Wanted("PixelSpacing", _read_decimals, True, True),
    0x00401003: Wanted("RequestedProcedurePriority", _read_code, True),
    0x00280100: Wanted("BitsAllocated", _read_short, False, True),
    0x00280101: Wanted("BitsStored", _read_short, False, True),
    0x00280102: Wanted("HighBit", _read_short, False, True),
    0x00280103: Wanted("PixelRepresentation", _read_short, False, True),
    0x00280120: Wanted("PixelPaddingValue", _read_short, False, True),
    0x00280121: Wanted("PixelPaddingRangeLimit", _read_short, False, True),
    0x00281052: Wanted("RescaleIntercept", _read_code, False, True),
    0x00281053: Wanted("RescaleSlope", _read_code, False, True),
    0x00282110: Wanted("LossyImageCompression", _read_code, False, True),
    0x00283000: Wanted("ModalityLUTSequence", _is_there, False, True),
    _VIEW_CODES: Wanted("ViewCodeSequence", _is_there),
}
NO_ATTRIBUTES = frozenset(tag for tag, each in WANTED.items() if not (each.in_series_header or each.in_geometry))
"""Identifiers and the like, which are in neither the series header nor the geometry."""
