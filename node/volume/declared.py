"""The size that a code stream declares of itself, read before any decoder sees it. Pure."""

import struct
from dataclasses import dataclass
from itertools import pairwise

JPEG_2000_START = b"\xff\x4f\xff\x51"
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Second byte of the JPEG (ITU-T T.81 B.1.1.3) and JPEG-LS (T.87 C.1.1) start of frame markers."""

RLE_HEADER_BYTES = 64

JPEG_XL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height by the `ratio` field, from 1 (ISO/IEC 18181-1 SizeHeader)."""


@dataclass(frozen=True)
class StreamSize:
    """Size that a code stream declares of itself; `samples` and `bits` of a sample are None where they are not read."""

    rows: int
    columns: int
    samples: int | None
    bits: int | None = None


def jpeg_size(frame: bytes) -> StreamSize | None:
    """Size in the start of frame of a JPEG or JPEG-LS stream, or None."""
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 9 < len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in START_OF_FRAME:
            bits, rows, columns, samples = struct.unpack(">BHHB", frame[at + 4 : at + 10])
            return StreamSize(rows, columns, samples, bits)
        at += 1 if marker == 0xFF else 2 + length
    return None


def jpeg_2000_size(frame: bytes) -> StreamSize | None:
    """Size in the SIZ marker of a JPEG 2000 stream (T.800 A.5.1), which may lie in a JP2 file, or None; also where its
    tiles have none, by which OpenJPH divides.
    """
    at = frame.find(JPEG_2000_START, 0, 4096)
    if at < 0 or len(frame) < at + 42:
        return None
    width, height, left, top, tile_width, tile_height = struct.unpack(">6L", frame[at + 8 : at + 32])
    if not tile_width or not tile_height:
        return None
    return StreamSize(height - top, width - left, int.from_bytes(frame[at + 40 : at + 42], "big"))


def rle_segments_fit(frame: bytes, segments: int) -> bool:
    """Whether the header of an RLE frame names as many segments, one after the other and inside of it (PS3.5 G.5):
    imagecodecs reads them wherever they are said to lie.
    """
    if len(frame) < RLE_HEADER_BYTES:
        return False
    count, *starts = struct.unpack("<16L", frame[:RLE_HEADER_BYTES])
    places = [*starts[:segments], len(frame)]
    return count == segments and places[0] == RLE_HEADER_BYTES and all(a < b for a, b in pairwise(places))


def jpeg_2000_is_reversible(frame: bytes) -> bool:
    """Whether the main header of a JPEG 2000 stream says the reversible wavelet for all components (T.800 A.6.1)."""
    start, end = frame.find(b"\xff\x52", 0, 4096), frame.find(b"\xff\x90", 0, 4096)
    if start < 0 or len(frame) < start + 14 or frame.find(b"\xff\x53", 0, max(end, 0)) >= 0:
        return False
    return frame[start + 13] == 1


def jpeg_xl_size(frame: bytes) -> StreamSize | None:
    """Size in the SizeHeader of a JPEG XL stream (ISO/IEC 18181-1), which may lie in boxes (18181-2), or None."""
    start = _jpeg_xl_start(frame)
    if start is None or frame[start : start + 2] != b"\xff\x0a" or len(frame) < start + 12:
        return None
    bits = int.from_bytes(frame[start + 2 : start + 12], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(is_small: bool) -> int:
        return (take(5) + 1) * 8 if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    is_small = bool(take(1))
    rows = side(is_small)
    ratio = take(3)
    if not ratio:
        return StreamSize(rows, side(is_small), None)
    width, height = JPEG_XL_RATIOS[ratio - 1]
    return StreamSize(rows, rows * width // height, None)


def _jpeg_xl_start(frame: bytes) -> int | None:
    """Where the code stream begins: at once, or in its first box."""
    if frame[:2] == b"\xff\x0a":
        return 0
    at = 0
    while at + 16 <= len(frame):
        length = int.from_bytes(frame[at : at + 4], "big")
        kind = frame[at + 4 : at + 8]
        if kind in (b"jxlc", b"jxlp"):
            return at + (12 if kind == b"jxlp" else 8) + (8 if length == 1 else 0)
        if length < 8:
            return None
        at += length
    return None
