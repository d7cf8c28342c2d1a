"""All contours of a mask along pixel edges, holes too, exact to the pixel.

Coordinates are those of SCOORD (PS3.3 C.18.6): (column, row) in pixels, the outer corner of the first pixel is (0, 0),
its centre (0.5, 0.5). Parts are 4-connected.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dicom_sr.arithmetic import polygon_area

RIGHT, DOWN, LEFT, UP = range(4)
STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
"""(row, column) of a step in each direction."""
DISTANCES_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed polygon.

    Parameters
    ----------
    points : ndarray of float64, shape (n, 2)
        (column, row) of the corners; the last equals the first. The mask lies on the right hand of the way.
    is_hole : bool
    part : int
        Contours with the same number bound the same connected part of the mask.
    """

    points: np.ndarray
    is_hole: bool
    part: int


def mask_contours(mask: np.ndarray) -> list[Contour]:
    """The contours of a boolean (row, column) mask, each part's outer one before its holes."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    parts, _ = ndimage.label(box)
    keys, owners = _edges(parts)
    width = box.shape[1] + 1
    following = _follow(keys, width).tolist()
    directions, vertices = (keys % 4).tolist(), (keys // 4).tolist()
    done = bytearray(len(keys))
    contours = []
    for start in range(len(keys)):
        if done[start]:
            continue
        corners, edge = [], start
        while not done[edge]:
            done[edge] = 1
            after = following[edge]
            if directions[after] != directions[edge]:
                corners.append(vertices[after])
            edge = after
        row, column = np.divmod(np.array([*corners, corners[0]]), width)
        points = np.stack([column + columns[0], row + rows[0]], axis=1).astype(float)
        contours.append(Contour(points, bool(polygon_area(points) < 0), int(owners[start])))
    return sorted(contours, key=lambda contour: (contour.part, contour.is_hole))


def keyhole(contours: list[Contour]) -> np.ndarray:
    """One polygon of the outer contour of a part and its holes, joined by channels of no width (PS3.3 C.8.8.6.3).

    Parameters
    ----------
    contours : list of Contour
        Of one part, the outer one first.

    Returns
    -------
    ndarray of float64, shape (n, 2)
        The last point equals the first.
    """
    joined = contours[0].points
    for hole in contours[1:]:
        ring = hole.points[:-1]
        at, begin = _nearest(joined[:-1], ring)
        way = np.concatenate([ring[begin:], ring[: begin + 1]])
        joined = np.concatenate([joined[: at + 1], way, joined[at:]])
    return joined


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[int, int]:
    """Indices of the two points, one of each, that are nearest to each other; the first of several such pairs.

    So many at a time that their distances take some megabytes: contours of a ragged region have thousands of points.
    """
    step = max(1, DISTANCES_AT_ONCE // len(others))
    best = (np.inf, 0, 0)
    for start in range(0, len(points), step):
        distances = ((points[start : start + step, None] - others[None]) ** 2).sum(axis=2)
        at, beside = np.unravel_index(int(distances.argmin()), distances.shape)
        if distances[at, beside] < best[0]:
            best = (float(distances[at, beside]), start + int(at), int(beside))
    return best[1], best[2]


def _edges(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges between mask and outside as keys ``4 * vertex + direction``, ascending, with the part that each bounds."""
    inside = np.pad(parts, 1)
    width = parts.shape[1] + 1
    keys, owners = [], []
    for direction, (neighbour, start) in {
        RIGHT: ((-1, 0), (0, 0)),
        DOWN: ((0, 1), (0, 1)),
        LEFT: ((1, 0), (1, 1)),
        UP: ((0, -1), (1, 0)),
    }.items():
        beside = inside[1 + neighbour[0] : inside.shape[0] - 1 + neighbour[0], 1 + neighbour[1] :][:, : parts.shape[1]]
        row, column = np.nonzero((parts != 0) & (beside == 0))
        keys.append(4 * ((row + start[0]) * width + column + start[1]) + direction)
        owners.append(parts[row, column])
    joined = np.concatenate(keys)
    order = np.argsort(joined)
    return joined[order], np.concatenate(owners)[order]


def _follow(keys: np.ndarray, width: int) -> np.ndarray:
    """For each edge the index of the next: to the right if it can, so that parts that touch at a corner stay apart."""
    vertex, direction = keys // 4, keys % 4
    steps = STEPS[direction]
    end = vertex + steps[:, 0] * width + steps[:, 1]
    following = np.full(len(keys), -1)
    for turn in (3, 0, 1):  # the last that exists stands: left, straight on, right
        wanted = 4 * end + (direction + turn) % 4
        index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[index] == wanted
        following[found] = index[found]
    return following
