"""Where the frames of an instance lie in its Pixel Data (PS3.5 8.2, A.4): found before anything is decoded."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataset import Dataset

from node.errors import NotAnalysed
from node.volume.instance import UNDEFINED_LENGTH, Instance
from node.volume.pixels import VALUE_ERRORS, PixelFormat
from node.volume.reason import Reason, refusal

END_OF_IMAGE = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000."""

MOST_FRAGMENTS = 1 << 20


@dataclass(frozen=True)
class Fragment:
    """An item of encapsulated pixel data: where its value begins in the stream, and its length."""

    offset: int
    length: int


Frames = tuple[tuple[Fragment, ...], ...]
"""For each frame the fragments that hold its code stream."""


def locate_frames(stream: BinaryIO, instance: Instance, form: PixelFormat) -> Frames:
    """The fragments of every frame of encapsulated pixel data.

    Raises
    ------
    NotAnalysed
        ``truncated-pixel-data``, ``no-pixel-data`` or ``undecodable-pixel-data`` when fragments are damaged, or cannot
        be told apart into as many frames as the header says.
    """
    if instance.pixel_length != UNDEFINED_LENGTH:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{instance.name}: found compressed Pixel Data of defined length, wanted fragments",
        )
    table, *fragments = _items(stream, instance)
    if not fragments or not any(fragment.length for fragment in fragments):
        raise refusal(Reason.NO_PIXEL_DATA, f"{instance.name} has encapsulated Pixel Data without a fragment")
    if form.frames == 1:
        return (tuple(fragments),)
    if len(fragments) == form.frames:
        return tuple((fragment,) for fragment in fragments)
    starts = _extended_starts(instance.header) or _basic_starts(stream, table)
    frames = _by_starts(fragments, starts) if starts else _by_end_of_image(stream, fragments)
    if len(frames) != form.frames:
        raise refusal(
            Reason.UNDECODABLE_PIXEL_DATA,
            f"{instance.name}: its {len(fragments)} fragments hold {len(frames)} frames, the header says {form.frames}",
        )
    return frames


def read_code_stream(stream: BinaryIO, frame: tuple[Fragment, ...]) -> bytes:
    """The code stream of one frame: its fragments, joined."""
    parts = []
    for fragment in frame:
        stream.seek(fragment.offset)
        parts.append(stream.read(fragment.length))
    return b"".join(parts)


def _items(stream: BinaryIO, instance: Instance) -> list[Fragment]:
    """The items of encapsulated pixel data, the Basic Offset Table first."""
    assert instance.pixel_offset is not None
    at = instance.pixel_offset
    items: list[Fragment] = []
    while len(items) < MOST_FRAGMENTS:
        stream.seek(at)
        start = stream.read(8)
        if len(start) < 8:
            break
        group, element, length = struct.unpack("<HHL", start)
        if (group, element) == (0xFFFE, 0xE0DD):
            return items or [Fragment(at, 0)]
        if (group, element) != (0xFFFE, 0xE000):
            raise refusal(
                Reason.UNDECODABLE_PIXEL_DATA,
                f"{instance.name}: found tag ({group:04X},{element:04X}) among fragments, wanted items",
            )
        items.append(Fragment(at + 8, length))
        at += 8 + length
    raise truncated_fragments(instance, len(items))


def truncated_fragments(instance: Instance, found: int) -> NotAnalysed:
    """The refusal of a file that ends among its fragments."""
    return refusal(
        Reason.TRUNCATED_PIXEL_DATA,
        f"{instance.name}: the file ends in its pixel data, after {found} items; wanted a sequence delimiter",
    )


def _extended_starts(header: Dataset) -> tuple[int, ...]:
    """Extended Offset Table (PS3.3 C.7.6.3.1.8), or nothing."""
    try:
        content = header.get("ExtendedOffsetTable") or b""
        return struct.unpack(f"<{len(content) // 8}Q", content)
    except (*VALUE_ERRORS, struct.error):
        return ()


def _basic_starts(stream: BinaryIO, table: Fragment) -> tuple[int, ...]:
    stream.seek(table.offset)
    content = stream.read(table.length // 4 * 4)
    return struct.unpack(f"<{len(content) // 4}L", content[: len(content) // 4 * 4])


def _by_starts(fragments: list[Fragment], starts: tuple[int, ...]) -> Frames:
    """Fragments parted at these offsets, which count from the first item's tag."""
    first = fragments[0].offset
    frames: list[list[Fragment]] = []
    wanted = set(starts)
    for fragment in fragments:
        if fragment.offset - first in wanted or not frames:
            frames.append([])
        frames[-1].append(fragment)
    return tuple(tuple(frame) for frame in frames)


def _by_end_of_image(stream: BinaryIO, fragments: list[Fragment]) -> Frames:
    """Fragments parted behind those that end a JPEG code stream: there is no offset table."""
    frames: list[list[Fragment]] = [[]]
    for fragment in fragments:
        frames[-1].append(fragment)
        stream.seek(fragment.offset + max(0, fragment.length - 10))
        if END_OF_IMAGE in stream.read(min(10, fragment.length)):
            frames.append([])
    return tuple(tuple(frame) for frame in frames if frame)
