"""Pixels of derived frames: bits of a segment, numbers of a label map, steps of a fraction. Made frame by frame,
without a copy of the volume for each segment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase

import numpy as np


@dataclass(frozen=True)
class Mask:
    """The pixels of one label in one slice.

    Parameters
    ----------
    slice_index, label : int
    first, end : int
        No pixel of the label comes before the first or after the end, the slice taken as one row of pixels.
    """

    slice_index: int
    label: int
    first: int
    end: int


class PackedFrames(BufferedIOBase):
    """Frames of one bit a pixel as a stream of bytes, which are made when they are read.

    One frame follows the other without padding (PS3.5 8.1.1), the first pixel in the lowest bit; the end is padded to
    an even length. Many segments take more room in bits than the label map itself: only what is being written is in
    memory.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape (slice, row, column)
        Not to be changed as long as the stream is used.
    masks : sequence of Mask
        What each frame shows.
    """

    def __init__(self, labels: np.ndarray, masks: Sequence[Mask]) -> None:
        super().__init__()
        self._labels = labels
        self._masks = masks
        self._size = labels[0].size
        self._group = 1 if self._size % 8 == 0 else 8  # frames that end with a whole byte together
        self._chunk = self._group * self._size // 8
        length = -(-len(masks) * self._size // 8)
        self._length = length + length % 2
        self._position = 0
        self._made: tuple[int, bytes] = (-1, b"")

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte counted from the start (0), from here (1) or from the end (2)."""
        self._position = max(0, offset + (0, self._position, self._length)[whence])
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, as many as there are when `size` is negative."""
        left = max(0, self._length - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted:
            index, start = divmod(self._position, self._chunk)
            part = self._chunk_bytes(index)[start : start + wanted]
            parts.append(part)
            wanted -= len(part)
            self._position += len(part)
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """Everything, in parts of a few frames."""
        for index in range(-(-self._length // self._chunk)):
            yield self._chunk_bytes(index)

    def voxels(self) -> list[int]:
        """Bits set in each frame."""
        return [int(np.count_nonzero(self._bits(mask))) for mask in self._masks]

    def _bits(self, mask: Mask) -> np.ndarray:
        pixels = self._labels[mask.slice_index].ravel()
        return np.asarray(pixels[mask.first : mask.end] == mask.label)

    def _chunk_bytes(self, index: int) -> bytes:
        if self._made[0] != index:
            self._made = (index, self._make(index))
        return self._made[1]

    def _make(self, index: int) -> bytes:
        octets = np.zeros(min(self._chunk, self._length - index * self._chunk), np.uint8)
        for place, mask in enumerate(self._masks[index * self._group : (index + 1) * self._group]):
            first, lead = divmod(place * self._size + mask.first, 8)
            bits = self._bits(mask)
            packed = np.packbits(np.concatenate([np.zeros(lead, bool), bits]) if lead else bits, bitorder="little")
            octets[first : first + len(packed)] |= packed
        return octets.tobytes()


def label_frame(plane: np.ndarray, segment_numbers: Mapping[int, int]) -> np.ndarray:
    """A slice of a label map in segment numbers, as uint8 where they fit, else uint16.

    Parameters
    ----------
    plane : ndarray of uint8 or uint16, shape (row, column)
    segment_numbers : mapping of int to int
        Label -> Segment Number; every label of the plane but 0 is in it.
    """
    kind = np.dtype(np.uint8 if len(segment_numbers) < 256 else np.uint16)
    if plane.dtype == kind and all(label == number for label, number in segment_numbers.items()):
        return plane
    lookup = np.zeros(max(segment_numbers) + 1, kind)
    for label, number in segment_numbers.items():
        lookup[label] = number
    return np.asarray(lookup[plane])


def join_frames(frames: Iterator[np.ndarray]) -> bytearray:
    """Native frames one after the other, padded to an even length; one of them at a time beside the result."""
    pixels = bytearray()
    for frame in frames:
        pixels += np.ascontiguousarray(frame).data.cast("B")
    if len(pixels) % 2:
        pixels += b"\0"
    return pixels


def quantise(plane: np.ndarray) -> np.ndarray:
    """Fractions of 0 to 1 as uint8 of 0 to 255; what is beyond is clipped, and what is no number is 0."""
    return np.rint(np.nan_to_num(np.clip(plane, 0, 1)) * 255).astype(np.uint8)
