"""Pixels of derived frames: bits of a segment, numbers of a label map, steps of a fraction. Made frame by frame,
without a copy of the volume for each segment.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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


class FrameStream(BufferedIOBase):
    """Pixels of frames as a stream of bytes, which are made when they are read: only what is being written is there.

    Many segments take more room in bits than the label map itself, and fractions eight times as much again.

    Parameters
    ----------
    make : callable of int to bytes
        The chunk of this index. The arrays it looks at are not to be changed as long as the stream is used.
    chunk : int
        Bytes of every chunk but the last.
    length : int
        Bytes of all of them, without padding; the stream is padded to an even length.
    """

    def __init__(self, make: Callable[[int], bytes], chunk: int, length: int) -> None:
        super().__init__()
        self._make = make
        self._chunk = chunk
        self._count = -(-length // chunk)
        self._padding = length % 2
        self._length = length + self._padding
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
            index = min(self._position // self._chunk, self._count - 1)  # the last chunk holds the padding too
            start = self._position - index * self._chunk
            part = self._chunk_bytes(index)[start : start + wanted]
            parts.append(part)
            wanted -= len(part)
            self._position += len(part)
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """Everything, chunk by chunk."""
        for index in range(self._count):
            yield self._chunk_bytes(index)

    def _chunk_bytes(self, index: int) -> bytes:
        if self._made[0] != index:
            padding = b"\0" * (self._padding if index == self._count - 1 else 0)
            self._made = (index, self._make(index) + padding)
        return self._made[1]


def native_frames(count: int, frame: Callable[[int], np.ndarray], size: int) -> FrameStream:
    """Frames of whole bytes, `frame` giving each of them and `size` being the bytes of one."""
    return FrameStream(lambda index: frame(index).tobytes(), size, count * size)


def packed_frames(labels: np.ndarray, masks: Sequence[Mask]) -> FrameStream:
    """Frames of one bit a pixel, one after the other without padding (PS3.5 8.1.1), the first pixel in the lowest bit.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape (slice, row, column)
    masks : sequence of Mask
        What each frame shows.
    """
    size = labels[0].size
    group = 1 if size % 8 == 0 else 8  # frames that end with a whole byte together
    chunk, length = group * size // 8, -(-len(masks) * size // 8)

    def make(index: int) -> bytes:
        octets = np.zeros(min(chunk, length - index * chunk), np.uint8)
        for place, mask in enumerate(masks[index * group : (index + 1) * group]):
            first, lead = divmod(place * size + mask.first, 8)
            bits = labels[mask.slice_index].ravel()[mask.first : mask.end] == mask.label
            packed = np.packbits(np.concatenate([np.zeros(lead, bool), bits]) if lead else bits, bitorder="little")
            octets[first : first + len(packed)] |= packed
        return octets.tobytes()

    return FrameStream(make, chunk, length)


def full_frames(labels: np.ndarray, masks: Sequence[Mask]) -> FrameStream:
    """Frames of one byte a pixel, 255 where the label is and 0 elsewhere; parameters as of `packed_frames`."""

    def frame(position: int) -> np.ndarray:
        mask = masks[position]
        return (labels[mask.slice_index] == mask.label).view(np.uint8) * np.uint8(255)

    return native_frames(len(masks), frame, labels[0].size)


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


def quantise(plane: np.ndarray) -> np.ndarray:
    """Fractions of 0 to 1 as uint8 of 0 to 255; what is beyond is clipped, and what is no number is 0."""
    return np.rint(np.nan_to_num(np.clip(plane, 0, 1)) * 255).astype(np.uint8)
