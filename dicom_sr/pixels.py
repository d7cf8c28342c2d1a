"""Pixels of derived frames: bits of a segment, numbers of a label map, steps of a fraction. Frame by frame, without a
copy of the volume for each segment.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def pack_frames(labels: np.ndarray, frames: Sequence[tuple[int, int]]) -> bytearray:
    """Frames of one bit a pixel, one after the other without padding between them (PS3.5 8.1.1), the first pixel in the
    lowest bit; padded to an even length.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape (slice, row, column)
    frames : sequence of (int, int)
        Index of the slice, and the label that its bits show.
    """
    size = labels[0].size
    length = -(-len(frames) * size // 8)
    packed = bytearray(length + length % 2)
    octets = np.frombuffer(packed, np.uint8)
    for position, (slice_index, label) in enumerate(frames):
        mask = (labels[slice_index] == label).ravel()
        first, lead = divmod(position * size, 8)
        if lead:
            mask = np.concatenate([np.zeros(lead, bool), mask])
        bits = np.packbits(mask, bitorder="little")
        if lead:
            octets[first : first + len(bits)] |= bits
        else:
            octets[first : first + len(bits)] = bits
    return packed


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
