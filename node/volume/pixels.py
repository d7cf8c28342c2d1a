"""The pixel format a header declares, and what may be read of it (PS3.3 C.7.6.3)."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag, Tag

from node.volume.reason import Reason, refusal

LARGEST_IMAGE_PIXELS = 1 << 26
"""Largest image read (8192 x 8192): a declared size above it is refused before anything is allocated."""

FORMAT_TAGS = tuple(
    Tag(keyword)
    for keyword in (
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SamplesPerPixel",
        "NumberOfFrames",
        "PhotometricInterpretation",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
    )
)
"""What `read_format` reads."""

VALUE_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    OverflowError,
    NotImplementedError,
    BytesLengthException,
    struct.error,
)
"""What pydicom raises when a value cannot be converted."""


@dataclass(frozen=True)
class PixelFormat:
    """Stored values of one monochrome image.

    Parameters
    ----------
    rows, columns : int
    bits_allocated, bits_stored : int
    is_signed : bool
    padding : tuple of int, optional
        Lowest and highest stored value that mean "no pixel here" (Pixel Padding Value, Pixel Padding Range
        Limit).
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    padding: tuple[int, int] | None = None

    @property
    def frame_bytes(self) -> int:
        """Length of the image when it is not compressed."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest value that the stored bits can hold."""
        if self.is_signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def read_format(header: Dataset, name: str) -> PixelFormat:
    """Pixel format of one image.

    Parameters
    ----------
    header : Dataset
    name : str
        How messages call the image.

    Raises
    ------
    NotAnalysed
        ``missing-geometry`` without Rows or Columns; ``unsupported-pixel-format`` for what is not 8 or 16
        bit monochrome of one frame.
    """
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    if not rows or not columns or rows < 1 or columns < 1:
        raise refusal(
            Reason.MISSING_GEOMETRY,
            f"{name} has no size: found Rows {rows}, Columns {columns}; wanted both above 0",
        )
    bits_allocated = integer(header, "BitsAllocated")
    bits_stored = integer(header, "BitsStored", bits_allocated)
    high_bit = integer(header, "HighBit", (bits_stored or 0) - 1)
    representation = integer(header, "PixelRepresentation", 0)
    found = (
        ("Samples per Pixel", integer(header, "SamplesPerPixel", 1), (1,)),
        ("Number of Frames", integer(header, "NumberOfFrames", 1), (1,)),
        (
            "Photometric Interpretation",
            _text(header, "PhotometricInterpretation"),
            ("MONOCHROME1", "MONOCHROME2"),
        ),
        ("Bits Allocated", bits_allocated, (8, 16)),
        ("Bits Stored", bits_stored, range(1, (bits_allocated or 0) + 1)),
        ("High Bit", high_bit, ((bits_stored or 0) - 1,)),
        ("Pixel Representation", representation, (0, 1)),
    )
    for what, value, wanted in found:
        if value not in wanted:
            shown = f"1 to {bits_allocated}" if isinstance(wanted, range) else " or ".join(str(w) for w in wanted)
            raise refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{name}: found {what} {value}, wanted {shown}")
    if rows * columns > LARGEST_IMAGE_PIXELS:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"{name} is too large: found {rows} x {columns} pixels, wanted at most {LARGEST_IMAGE_PIXELS}",
        )
    assert bits_allocated is not None and bits_stored is not None
    return PixelFormat(rows, columns, bits_allocated, bits_stored, representation == 1, _padding(header))


def integer(header: Dataset, keyword: str, absent: int | None = None) -> int | None:
    """Integer value of an attribute; `absent` when it is not there or empty, None when it is not one
    integer.
    """
    try:
        value = header.get(keyword)
        return absent if value is None or value == "" else int(value)
    except VALUE_ERRORS:
        return None


def numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers of an attribute, or None."""
    try:
        value = header.get(keyword)
        if value is None or value == "":
            return None
        values = tuple(
            float(v) for v in (value if hasattr(value, "__len__") and not isinstance(value, str) else [value])
        )
    except VALUE_ERRORS:
        return None
    return values if len(values) == count and all(math.isfinite(v) for v in values) else None


def raw_values(header: Dataset, tags: Sequence[BaseTag]) -> tuple[bytes | None, ...] | None:
    """Bytes of these attributes as they are in the file, None for one that is absent; None when any was converted."""
    values: list[bytes | None] = []
    for tag in tags:
        element = header.get_item(tag) if tag in header else None
        if element is None:
            values.append(None)
        elif isinstance(element, RawDataElement):
            values.append(element.value)
        else:
            return None
    return tuple(values)


def is_given(header: Dataset, keyword: str) -> bool:
    """Whether an attribute is there and not empty, usable or not."""
    return keyword in header and header.get_item(keyword).value not in (None, b"", "")


def _text(header: Dataset, keyword: str) -> str | None:
    """A code string, as far as it is one; what is longer than a code string is not repeated in messages."""
    try:
        value = header.get(keyword)
    except VALUE_ERRORS:
        return None
    return None if value is None else str(value).strip()[:16]


def _padding(header: Dataset) -> tuple[int, int] | None:
    value = integer(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = integer(header, "PixelPaddingRangeLimit", value)
    if limit is None:
        return None
    return min(value, limit), max(value, limit)
