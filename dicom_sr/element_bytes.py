"""Data elements as bytes in Explicit VR Little Endian (PS3.5 7.1.2), where building data sets would cost too much.

A multi-frame object has thousands of functional group items that differ in a few values. As a data set each costs more
than its pixels; as bytes they are joined in no time, and pydicom reads them back when somebody asks.
"""

import struct
from collections.abc import Iterable

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import format_number_as_ds

LONG_FORMS = ("OB", "OF", "OW", "SQ", "UN", "UT")
"""Value representations among those written here whose length has 32 bits (PS3.5 Table 7.1-1)."""


def element(keyword: str, vr: str, value: bytes) -> bytes:
    """One element; a value of odd length is padded."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    tag = tag_of(keyword)
    if vr in LONG_FORMS:
        return struct.pack("<HH2sHI", tag.group, tag.element, vr.encode(), 0, len(value)) + value
    return struct.pack("<HH2sH", tag.group, tag.element, vr.encode(), len(value)) + value


def item(*elements: bytes) -> bytes:
    """An item of defined length (PS3.5 7.5.1) of elements in the order of their tags."""
    content = b"".join(elements)
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def sequence(keyword: str, *items: bytes) -> bytes:
    """A sequence of such items."""
    return element(keyword, "SQ", b"".join(items))


def text(keyword: str, vr: str, value: str) -> bytes:
    """An element of ASCII text: UI, CS, SH, LO, IS, UT."""
    return element(keyword, vr, value.encode("ascii"))


def decimals(keyword: str, values: Iterable[float]) -> bytes:
    """A DS element, in as many digits as 16 characters hold."""
    return text(keyword, "DS", "\\".join(format_number_as_ds(float(value)) for value in values))


def unsigned(keyword: str, vr: str, *values: int) -> bytes:
    """A US or UL element."""
    return element(keyword, vr, struct.pack(f"<{len(values)}{'H' if vr == 'US' else 'I'}", *values))


def coded(keyword: str, code: Code) -> bytes:
    """A code sequence (PS3.3 Table 8.8-1) of one item with a code of ASCII."""
    return sequence(
        keyword,
        item(
            text("CodeValue", "SH", code.value),
            text("CodingSchemeDesignator", "SH", code.scheme_designator),
            text("CodeMeaning", "LO", code.meaning),
        ),
    )


def raw_sequence(keyword: str, items: bytes) -> RawDataElement:
    """A sequence for a data set that is written as it is, and parsed only when it is looked at."""
    return RawDataElement(tag_of(keyword), "SQ", len(items), items, 0, False, True)


def tag_of(keyword: str) -> BaseTag:
    """The tag of an attribute of the standard."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return Tag(tag)
