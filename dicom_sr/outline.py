"""Outline of a mask as one closed polygon along pixel edges.

Coordinates are those of SCOORD (PS3.3 C.18.6): (column, row) in pixels, the outer corner of the first pixel
is (0, 0), its centre (0.5, 0.5).
"""

import numpy as np
from scipy import ndimage

MAXIMUM_POINTS = 8000
"""Graphic Data is FL with a 16-bit length in Explicit VR: at most 8191 points of 8 bytes."""


def outline_points(mask: np.ndarray) -> np.ndarray:
    """Closed polygon around the largest 4-connected part of a mask that is not empty; holes are not outlined.

    A mask so ragged that the polygon would not fit into an SCOORD is first made coarser by joining 2 x 2
    pixels. The polygon never leaves the image.
    """
    size, scale = mask.shape, 1
    while True:
        points = _trace_largest_part(mask)
        if len(points) <= MAXIMUM_POINTS:
            break
        mask, scale = _halved(mask), scale * 2
    if len(points) <= 5:
        middle = (points[:-1] + points[1:]) / 2
        points = np.vstack([np.stack([points[:-1], middle], axis=1).reshape(-1, 2), points[:1]])
    return np.minimum(points * scale, size[::-1])


def _trace_largest_part(mask: np.ndarray) -> np.ndarray:
    """The way around it; only the box around the mask is looked at."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("outline of an empty mask")
    part = _largest_part(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return np.asarray(_trace(part) + np.array([columns[0], rows[0]]))


def _largest_part(mask: np.ndarray) -> np.ndarray:
    parts, _ = ndimage.label(mask)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(parts == largest))


def _halved(mask: np.ndarray) -> np.ndarray:
    """True where any pixel of a 2 x 2 block is."""
    rows, columns = (size + size % 2 for size in mask.shape)
    padded = np.zeros((rows, columns), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(rows // 2, 2, columns // 2, 2).any(axis=(1, 3)))


def _trace(mask: np.ndarray) -> np.ndarray:
    """Walk around a 4-connected mask without holes, the mask on the right hand; only corners are kept."""
    inside = np.pad(mask, 1)
    row, column = (int(index) - 1 for index in np.argwhere(inside)[0])
    start = (
        row,
        column,
    )  # upper left corner of the first pixel in reading order; the first step goes to the right
    direction = (0, 1)
    points = [(column, row)]
    while True:
        row, column = row + direction[0], column + direction[1]
        if (row, column) == start:
            break
        turned = _next_direction(inside, row, column, direction)
        if turned != direction:
            points.append((column, row))
            direction = turned
    return np.array([*points, points[0]], float)


def _next_direction(inside: np.ndarray, row: int, column: int, direction: tuple[int, int]) -> tuple[int, int]:
    """Where the edge goes on: right if the pixel ahead on the right is outside, left if both are inside."""
    down, across = direction
    # the two pixels beyond the corner, seen along the direction; corner (r, c) touches inside[r:r+2, c:c+2]
    right = inside[row + (down + across + 1) // 2, column + (across - down + 1) // 2]
    left = inside[row + (down - across + 1) // 2, column + (across + down + 1) // 2]
    if not right:
        return (across, -down)
    return (-across, down) if left else direction
