"""RLE Lossless (PS3.5 Annex G) of unsigned frames, by whole-frame array operations.

Label maps are long runs, for which this is several times as fast as encoders that go pixel by pixel.
"""

import struct

import numpy as np

LONGEST = 128
"""Most bytes that one header byte can stand for (PS3.5 G.3.1)."""
MINIMUM_RUN = 3
"""A run of two costs as much as the two bytes within a literal, and would break the literal up."""


def encode_rle_frame(frame: np.ndarray) -> bytes:
    """One frame as an RLE code stream: header, and one segment for each byte of a sample, the most significant first.

    Parameters
    ----------
    frame : ndarray of uint8 or uint16, shape (row, column), or of uint8, shape (row, column, sample)
    """
    if frame.ndim == 3:
        planes = [frame[:, :, sample] for sample in range(frame.shape[2])]
    elif frame.dtype == np.uint16:
        planes = [(frame >> 8).astype(np.uint8), (frame & 0xFF).astype(np.uint8)]
    elif frame.dtype == np.uint8:
        planes = [frame]
    else:
        raise ValueError(f"RLE of {frame.dtype}, expected uint8 or uint16")
    segments = [_encode_plane(np.ascontiguousarray(plane)) for plane in planes]
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    header = struct.pack("<16I", len(segments), *offsets, *([0] * (15 - len(segments))))
    return header + b"".join(segments)


def _encode_plane(plane: np.ndarray) -> bytes:
    """PackBits of uint8 (row, column); no run and no literal crosses the end of a row (PS3.5 G.3.1)."""
    columns = plane.shape[1]
    pixels = plane.ravel()
    changes = np.empty(pixels.size, bool)
    changes[0] = True
    np.not_equal(pixels[1:], pixels[:-1], out=changes[1:])
    changes[::columns] = True
    starts, lengths = _split(*_merge_literals(np.flatnonzero(changes), pixels.size, columns))
    literal = lengths < 0
    sizes = np.where(literal, -lengths, lengths)
    written = np.where(literal, 1 + sizes, 2)
    ends = np.cumsum(written)
    at = ends - written
    stream = np.empty(int(ends[-1]) + int(ends[-1]) % 2, np.uint8)
    stream[-1] = 0
    stream[at] = np.where(literal, sizes - 1, 257 - sizes) & 0xFF
    runs = ~literal
    stream[at[runs] + 1] = pixels[starts[runs]]
    _copy_literals(stream, at[literal] + 1, pixels, starts[literal], sizes[literal])
    return stream.tobytes()


def _merge_literals(starts: np.ndarray, size: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs as (start, length); neighbouring short runs of one row become one literal, whose length is negative."""
    lengths = np.diff(starts, append=size)
    short = lengths < MINIMUM_RUN
    begins = np.ones(len(starts), bool)  # of a token: every long run, and a short one that continues no literal
    begins[1:] = ~(short[1:] & short[:-1]) | (starts[1:] % columns == 0)
    first = np.flatnonzero(begins)
    totals = np.add.reduceat(lengths, first)
    single = np.diff(first, append=len(starts)) == 1
    keep_run = ~short[first] | (single & (totals == 2))
    return starts[first], np.where(keep_run, totals, -totals)


def _split(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens cut into pieces of at most `LONGEST` bytes."""
    sizes = np.abs(lengths)
    pieces = -(-sizes // LONGEST)
    if pieces.max() == 1:
        return starts, lengths
    token = np.repeat(np.arange(len(starts)), pieces)
    order = np.arange(len(token)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    piece = np.minimum(sizes[token] - order * LONGEST, LONGEST)
    # a run piece of one byte is written as a literal of one: 257 - 1 is no legal header byte
    negative = (lengths[token] < 0) | (piece == 1)
    return starts[token] + order * LONGEST, np.where(negative, -piece, piece)


def _copy_literals(
    stream: np.ndarray, to: np.ndarray, pixels: np.ndarray, starts: np.ndarray, sizes: np.ndarray
) -> None:
    """Bytes of all literals at once."""
    if not len(to):
        return
    offset = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    stream[np.repeat(to, sizes) + offset] = pixels[np.repeat(starts, sizes) + offset]
