"""The beginning of a DICOM file: preamble, prefix and File Meta Information (PS3.10 section 7.1). Pure."""

import struct
from functools import lru_cache

from dicom_sr.identity import IMPLEMENTATION_CLASS_UID
from node.receive.pdu import IMPLEMENTATION_VERSION_NAME

_PREAMBLE = bytes(128) + b"DICM"


def write_file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str = ""
) -> bytes:
    """Everything that goes before the data set; the sender's AE title goes into (0002,0016)."""
    before, after = _around_instance(sop_class_uid, transfer_syntax_uid, calling_ae_title)
    group = before + _element(0x0003, b"UI", sop_instance_uid, b"\0") + after
    return _PREAMBLE + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(group)) + group


@lru_cache(maxsize=64)
def _around_instance(sop_class_uid: str, transfer_syntax_uid: str, calling_ae_title: str) -> tuple[bytes, bytes]:
    """The elements before and after the SOP Instance UID, which are those of many files."""
    before = struct.pack("<HH2sHL2s", 2, 0x0001, b"OB", 0, 2, b"\0\1") + _element(0x0002, b"UI", sop_class_uid, b"\0")
    after = [
        _element(0x0010, b"UI", transfer_syntax_uid, b"\0"),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
    ]
    if calling_ae_title:
        after.append(_element(0x0016, b"AE", calling_ae_title, b" "))
    return before, b"".join(after)


def _element(number: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += padding
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value
