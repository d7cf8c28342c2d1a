"""The pixel format a header declares, and what may be read of it (PS3.3 C.7.6.3)."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag, Tag

from node.errors import NotAnalysed
from node.volume.reason import Reason, refusal

LARGEST_IMAGE_PIXELS = 1 << 26
"""Largest image read (8192 x 8192): a declared size above it is refused before anything is allocated."""

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
PALETTE = "PALETTE COLOR"
LARGEST_NUMBER_OF_FRAMES = 1 << 16

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
        "PlanarConfiguration",
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
    """Stored values of one image.

    Parameters
    ----------
    rows, columns : int
    bits_allocated, bits_stored : int
    is_signed : bool
    padding : tuple of int, optional
        Lowest and highest stored value that mean "no pixel here" (Pixel Padding Value, Pixel Padding Range
        Limit).
    frames, samples : int
        Number of Frames; Samples per Pixel, 1 or 3.
    photometric_interpretation : str
        PS3.3 C.7.6.3.1.2.
    is_planar : bool
        Whether the samples of a native colour image lie in planes (Planar Configuration 1).
    high_bit : int, optional
        Where it is not Bits Stored - 1: the value then lies below it, and overlays may lie around (native and RLE).
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    padding: tuple[int, int] | None = None
    frames: int = 1
    samples: int = 1
    photometric_interpretation: str = "MONOCHROME2"
    is_planar: bool = False
    high_bit: int | None = None

    @property
    def frame_bytes(self) -> int:
        """Length of one frame when it is not compressed; native YBR_FULL_422 holds colour once for two pixels."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(row, column), or (row, column, 3)."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def dtype(self) -> np.dtype:
        """Of the stored values, in this machine's byte order."""
        return np.dtype(f"{'i' if self.is_signed else 'u'}{self.bits_allocated // 8}")

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest value that the stored bits can hold."""
        if self.is_signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def read_format(header: Dataset, name: str) -> PixelFormat:
    """Pixel format of one single-frame monochrome image.

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
    form = read_image_format(header, name)
    if form.frames != 1:
        raise _unsupported(name, "Number of Frames", form.frames, "1")
    return require_monochrome(form, name)


def require_monochrome(form: PixelFormat, name: str) -> PixelFormat:
    """The same, or ``unsupported-pixel-format`` where it is colour: a voxel of a volume is one number."""
    if form.samples != 1:
        raise _unsupported(name, "Samples per Pixel", form.samples, "1")
    if form.photometric_interpretation not in MONOCHROME:
        raise _unsupported(name, "Photometric Interpretation", form.photometric_interpretation, " or ".join(MONOCHROME))
    return form


def read_image_format(header: Dataset, name: str) -> PixelFormat:
    """Pixel format of an image of one or more frames, monochrome or colour.

    Raises
    ------
    NotAnalysed
        As `read_format`, but for what is neither monochrome nor one of the colour formats read.
    """
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    if not rows or not columns or rows < 1 or columns < 1:
        raise refusal(
            Reason.MISSING_GEOMETRY,
            f"{name} has no size: found Rows {rows}, Columns {columns}; wanted both above 0",
        )
    samples, frames = integer(header, "SamplesPerPixel", 1), integer(header, "NumberOfFrames", 1)
    photometric = _text(header, "PhotometricInterpretation")
    bits_allocated = integer(header, "BitsAllocated")
    bits_stored = integer(header, "BitsStored", bits_allocated)
    high_bit = integer(header, "HighBit", (bits_stored or 0) - 1)
    representation, planar = integer(header, "PixelRepresentation", 0), integer(header, "PlanarConfiguration", 0)
    interpretations = COLOUR if samples == 3 else (*MONOCHROME, PALETTE)
    found: tuple[tuple[str, int | str | None, tuple[int | str, ...] | range], ...] = (
        ("Samples per Pixel", samples, (1, 3)),
        ("Number of Frames", frames, range(1, LARGEST_NUMBER_OF_FRAMES + 1)),
        ("Photometric Interpretation", photometric, interpretations),
        ("Bits Allocated", bits_allocated, (8, 16)),
        ("Bits Stored", bits_stored, range(1, (bits_allocated or 0) + 1)),
        ("High Bit", high_bit, range((bits_stored or 0) - 1, bits_allocated or 0)),
        ("Pixel Representation", representation, (0, 1) if samples == 1 else (0,)),
        ("Planar Configuration", planar, (0, 1)),
    )
    for what, value, wanted in found:
        if value not in wanted:
            is_range = isinstance(wanted, range)
            shown = f"{wanted[0]} to {wanted[-1]}" if is_range and wanted else " or ".join(str(w) for w in wanted)
            raise _unsupported(name, what, value, shown)
    if rows * columns > LARGEST_IMAGE_PIXELS:
        raise refusal(
            Reason.UNSUPPORTED_PIXEL_FORMAT,
            f"{name} is too large: found {rows} x {columns} pixels, wanted at most {LARGEST_IMAGE_PIXELS}",
        )
    assert bits_allocated is not None and bits_stored is not None and frames is not None and samples is not None
    return PixelFormat(
        rows,
        columns,
        bits_allocated,
        bits_stored,
        representation == 1,
        _padding(header, representation == 1) if samples == 1 else None,
        frames,
        samples,
        str(photometric),
        planar == 1 and samples == 3,
        None if high_bit == bits_stored - 1 else high_bit,
    )


def _unsupported(name: str, what: str, value: object, wanted: str) -> NotAnalysed:
    return refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{name}: found {what} {value}, wanted {wanted}")


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


def _padding(header: Dataset, is_signed: bool) -> tuple[int, int] | None:
    """The range of stored values that are padding (PS3.3 C.7.5.1.1.2), whichever of US and SS they were written as."""
    value = integer(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = integer(header, "PixelPaddingRangeLimit", value)
    if limit is None:
        return None
    ends = [(end + 0x8000) % 0x10000 - 0x8000 if is_signed else end % 0x10000 for end in (value, limit)]
    return min(ends), max(ends)
