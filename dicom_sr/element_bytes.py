"""Data elements as bytes in Explicit VR Little Endian (PS3.5 7.1.2), where building data sets would cost too much.

A multi-frame object has thousands of functional group items that differ in a few values. As a data set each costs more
than its pixels; as bytes they are joined in no time, and pydicom reads them back when somebody asks.
"""

import struct
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

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
    head, length = _head(keyword, vr)
    return head + length.pack(len(value)) + value


@cache
def _head(keyword: str, vr: str) -> tuple[bytes, struct.Struct]:
    """Tag and value representation, and the form of the length behind them."""
    tag = tag_of(keyword)
    head = struct.pack("<HH2s", tag.group, tag.element, vr.encode())
    return (head + b"\0\0", struct.Struct("<I")) if vr in LONG_FORMS else (head, struct.Struct("<H"))


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


def words(keyword: str, vr: str, value: str) -> bytes:
    """An element of text in UTF-8, of which ASCII is a part."""
    return element(keyword, vr, value.encode())


def number(keyword: str, value: float) -> bytes:
    """An FD element."""
    return element(keyword, "FD", struct.pack("<d", value))


def coded(keyword: str, code: Code) -> bytes:
    """A code sequence (PS3.3 Table 8.8-1) of one item; its meaning in UTF-8."""
    return _coded(keyword, code.value, code.scheme_designator, code.scheme_version, code.meaning)


@lru_cache(4096)
def _coded(keyword: str, value: str, scheme_designator: str, scheme_version: str | None, meaning: str) -> bytes:
    version = text("CodingSchemeVersion", "SH", scheme_version) if scheme_version else b""
    return sequence(
        keyword,
        item(
            text("CodeValue", "SH", value),
            text("CodingSchemeDesignator", "SH", scheme_designator),
            version,
            words("CodeMeaning", "LO", meaning),
        ),
    )


def raw_sequence(keyword: str, items: bytes) -> RawDataElement:
    """A sequence for a data set that is written as it is, and parsed only when it is looked at."""
    return RawDataElement(tag_of(keyword), "SQ", len(items), items, 0, False, True)


def uids_in(content: bytes, keyword: str) -> Iterator[str]:
    """Values of a UI attribute anywhere in the bytes of items, of whatever depth.

    Its tag, value representation and a length are looked for without reading what is around them: a text that holds
    these eight bytes would be taken for one more, pixels must not be among the items.
    """
    head, _ = _head(keyword, "UI")
    at = content.find(head)
    while at >= 0:
        begin = at + len(head) + 2
        end = begin + int.from_bytes(content[begin - 2 : begin], "little")
        yield content[begin:end].decode("ascii", "replace").rstrip("\0 ")
        at = content.find(head, end)


def tag_of(keyword: str) -> BaseTag:
    """The tag of an attribute of the standard."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return Tag(tag)
