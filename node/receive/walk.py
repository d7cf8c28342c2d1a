"""Stepping through the elements of an encoded data set (PS3.5 section 7), without making values of them.
Pure.

All lengths are checked against the buffer, nesting and the number of steps are bounded: whatever the bytes
are, the walk ends, with a result or with `WalkError`.
"""

import struct
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from typing import Literal, NamedTuple

Buffer = bytes | bytearray | memoryview | mmap

UNDEFINED = 0xFFFFFFFF
_UNDEFINED_LENGTH = b"\xff\xff\xff\xff"
MAXIMUM_STEPS = 5_000_000
MAXIMUM_DEPTH = 64
MAXIMUM_VALUE_BYTES = 65536
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_FIRST_PIXEL_TAG = min(_PIXEL_TAGS)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
# Value representations with two reserved bytes and a 32-bit length (PS3.5 Table 7.1-1), and those with a
# 16-bit length.
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset(
    {
        b"AE",
        b"AS",
        b"AT",
        b"CS",
        b"DA",
        b"DS",
        b"DT",
        b"FL",
        b"FD",
        b"IS",
        b"LO",
        b"LT",
        b"PN",
        b"SH",
        b"SL",
        b"SS",
    }
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)


@dataclass(frozen=True)
class Encoding:
    """Byte order ("<" little, ">" big endian), Explicit or Implicit VR, and whether tags must ascend (PS3.5 7.1)."""

    order: Literal["<", ">"]
    is_explicit: bool
    is_ordered: bool = True


class WalkError(Exception):
    """The bytes are no data set of this encoding; `code` is `truncated` or `not-understood`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Walked(NamedTuple):
    """What a walk found.

    `values` are encoded, by tag, empty for one too long. `pixel` is offset and length (None: encapsulated) of Float,
    Double Float or plain Pixel Data, None without it. `spans` has tag, beginning and end of the value of each element
    that was stepped over and has a defined length: other bytes there would have been stepped over just so.
    """

    values: dict[int, bytes]
    pixel: tuple[int, int | None] | None
    spans: list[tuple[int, int, int]]


def walk_elements(buffer: Buffer, start: int, wanted: Container[int], encoding: Encoding, *, whole: bool) -> Walked:
    """Walk the top level of a data set up to Pixel Data.

    Parameters
    ----------
    buffer, start
        The data set begins at `start` and ends with the buffer.
    wanted
        Tags whose values are returned, as ``group << 16 | element``.
    encoding
        How to read it.
    whole : bool
        False when the buffer may end anywhere (an inflated beginning): then running out of bytes is no error.

    Raises `WalkError`.
    """
    walker = _Walker(buffer, encoding.order, encoding.is_explicit)
    found = Walked({}, None, [])
    try:
        return found._replace(pixel=_walk_top_level(walker, buffer, start, wanted, encoding, found, whole))
    except WalkError as error:
        if error.code == "truncated" and not whole:
            return found
        raise


def _walk_top_level(
    walker: "_Walker",
    buffer: Buffer,
    position: int,
    wanted: Container[int],
    encoding: Encoding,
    found: Walked,
    whole: bool,
) -> tuple[int, int | None] | None:
    """Fill `found`; offset and length of Pixel Data, or None without it.

    Nearly all elements of a header are of the short explicit form: they are stepped over without a call.
    """
    end, is_ordered, last_tag = len(buffer), encoding.is_ordered, -1
    while True:
        if encoding.is_explicit:
            position, last_tag = _walk_short_elements(walker, buffer, position, wanted, is_ordered, last_tag, found)
        if position >= end:
            return None
        tag, value, length = walker.element(position, end)
        if tag <= last_tag and is_ordered:
            raise WalkError("not-understood", f"element {_name(tag)} comes after {_name(last_tag)}")
        last_tag = tag
        if tag in _PIXEL_TAGS:
            return _pixel(walker, value, length, end, whole)
        position = walker.skip_value(value, length, end)
        if length != UNDEFINED and buffer[value - 4 : value] != _UNDEFINED_LENGTH:  # of a UN its items were walked
            found.spans.append((tag, value, position))
        if tag in wanted:
            found.values[tag] = bytes(buffer[value:position]) if length <= MAXIMUM_VALUE_BYTES else b""


def _walk_short_elements(
    walker: "_Walker",
    buffer: Buffer,
    position: int,
    wanted: Container[int],
    is_ordered: bool,
    last_tag: int,
    found: Walked,
) -> tuple[int, int]:
    """Step over elements with a 16-bit length; stops before whatever is anything else or not whole. The position and
    the last tag."""
    read, short, end = walker.read_explicit, _SHORT, len(buffer)
    values, step_over = found.values, found.spans.append
    last_header = end - 8
    for _ in walker.steps:
        if position > last_header:
            break
        group, number, vr, length = read(buffer, position)
        following = position + 8 + length
        tag = group << 16 | number
        if vr not in short or following > end or tag >= _FIRST_PIXEL_TAG:
            break
        if tag <= last_tag and is_ordered:
            raise WalkError("not-understood", f"element {_name(tag)} comes after {_name(last_tag)}")
        step_over((tag, position + 8, following))
        if tag in wanted:
            values[tag] = bytes(buffer[position + 8 : following])
        last_tag, position = tag, following
    return position, last_tag


def read_file_meta(buffer: Buffer, start: int) -> tuple[dict[int, bytes], int]:
    """File Meta Information (PS3.10 7.1): values by tag, and where the data set begins.

    The group length is not trusted: the group ends where another group begins.
    """
    walker = _Walker(buffer, "<", explicit=True)
    values: dict[int, bytes] = {}
    position, end = start, len(buffer)
    while position + 8 <= end and bytes(buffer[position : position + 2]) == b"\x02\x00":
        tag, value, length = walker.element(position, end)
        position = walker.skip_value(value, length, end)
        if length <= MAXIMUM_VALUE_BYTES:
            values[tag] = bytes(buffer[value : value + length])
    return values, position


def _pixel(walker: "_Walker", value: int, length: int, end: int, whole: bool) -> tuple[int, int | None]:
    """Offset and length of Pixel Data, whose fragments must be complete (PS3.5 A.4)."""
    if length == UNDEFINED:
        if whole:
            walker.skip_fragments(value, end)
        return value, None
    if whole and value + length > end:
        raise WalkError("truncated", f"Pixel Data announces {length} bytes and {end - value} are there")
    return value, length


@lru_cache(maxsize=8)
def _structs(order: str) -> tuple[struct.Struct, struct.Struct, struct.Struct]:
    """Explicit header (tag, VR, 16-bit length), implicit header or item (tag, 32-bit length), 32-bit
    length."""
    return struct.Struct(order + "HH2sH"), struct.Struct(order + "HHL"), struct.Struct(order + "L")


class _Walker:
    """Position arithmetic for one buffer and encoding; `steps` runs out, so that every walk ends."""

    def __init__(self, buffer: Buffer, order: str, explicit: bool) -> None:
        self._buffer = buffer
        self._explicit = explicit
        explicit_header, plain_header, length = _structs(order)
        self.read_explicit = explicit_header.unpack_from
        self._read_plain = plain_header.unpack_from
        self._read_length = length.unpack_from
        self.steps = iter(range(MAXIMUM_STEPS))

    def _step(self) -> None:
        if next(self.steps, None) is None:
            raise WalkError("not-understood", f"more than {MAXIMUM_STEPS} elements and items")

    def element(self, position: int, end: int) -> tuple[int, int, int]:
        """Tag, position of the value, and length of the element at `position`. The value may lie past
        `end`."""
        self._step()
        if position + 8 > end:
            raise WalkError("truncated", "the data set ends inside an element header")
        if not self._explicit:
            group, number, length = self._read_plain(self._buffer, position)
            return group << 16 | number, position + 8, length
        group, number, vr, length = self.read_explicit(self._buffer, position)
        if vr in _SHORT:
            return group << 16 | number, position + 8, length
        if group == 0xFFFE:
            group, number, length = self._read_plain(self._buffer, position)
            return group << 16 | number, position + 8, length
        if vr not in _LONG:
            raise WalkError("not-understood", f"element {_name(group << 16 | number)} has no value representation")
        if position + 12 > end:
            raise WalkError("truncated", "the data set ends inside an element header")
        (length,) = self._read_length(self._buffer, position + 8)
        if vr == b"UN" and length == UNDEFINED:
            length = self._unknown_sequence(position + 12, end) - (position + 12)
        return group << 16 | number, position + 12, length

    def _unknown_sequence(self, value: int, end: int) -> int:
        """Past a sequence that is called UN: its items are in Implicit VR Little Endian (PS3.5 6.2.2)."""
        inner = _Walker(self._buffer, "<", explicit=False)
        inner.steps = self.steps
        return inner._skip_sequence(value, end)

    def skip_value(self, value: int, length: int, end: int) -> int:
        """Where the next element begins."""
        if length == UNDEFINED:
            return self._skip_sequence(value, end)
        if value + length > end:
            raise WalkError("truncated", f"an element announces {length} bytes and {end - value} are there")
        return value + length

    def skip_fragments(self, position: int, end: int) -> int:
        """Past the fragments of encapsulated Pixel Data and their delimiter."""
        while True:
            tag, position, length = self._item(position, end)
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM or length == UNDEFINED:
                raise WalkError("not-understood", f"{_name(tag)} found among the fragments of Pixel Data")
            position += length
            if position > end:
                raise WalkError("truncated", "a fragment of Pixel Data is cut off")

    def _skip_sequence(self, position: int, end: int) -> int:
        """Past a sequence of undefined length (PS3.5 7.5), whatever is nested in it."""
        open_items: list[bool] = [False]  # one entry per open sequence: is an item of undefined length open in it?
        while open_items:
            if open_items[-1]:
                tag, value, length = self.element(position, end)
                if tag == _ITEM_END:
                    open_items[-1] = False
                    position = value
                elif length == UNDEFINED:
                    if len(open_items) >= MAXIMUM_DEPTH:
                        raise WalkError("not-understood", f"sequences are nested deeper than {MAXIMUM_DEPTH}")
                    open_items.append(False)
                    position = value
                else:
                    position = self.skip_value(value, length, end)
                continue
            tag, position, length = self._item(position, end)
            if tag == _SEQUENCE_END:
                open_items.pop()
            elif tag != _ITEM:
                raise WalkError("not-understood", f"{_name(tag)} found where an item was expected")
            elif length == UNDEFINED:
                open_items[-1] = True
            else:
                position = self.skip_value(position, length, end)
        return position

    def _item(self, position: int, end: int) -> tuple[int, int, int]:
        self._step()
        if position + 8 > end:
            raise WalkError("truncated", "the data set ends inside a sequence")
        group, number, length = self._read_plain(self._buffer, position)
        return group << 16 | number, position + 8, length


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
