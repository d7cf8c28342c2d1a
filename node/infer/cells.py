"""Cells between neighbouring voxels, from blocks that come one by one. Pure.

Interpolation mixes the eight voxels at the corners of a cell. Cells inside a block are given out at once; those between
blocks when the last block that they touch has come. Of a block that has come only its outer planes are kept.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from node.infer.arrays import Array, copied, namespace_of
from node.infer.mosaic import Block, Index, Layout

Key = tuple[tuple[bool, int], tuple[bool, int], tuple[bool, int]]
"""Along each axis: whether the cells lie between a block and the next, and the place of the block."""


@dataclass(frozen=True, eq=False)
class Cells:
    """A box of cells with the scores at their corners.

    Parameters
    ----------
    start : tuple of int
        Index on the grid of the first corner; there is one corner more than cells along each axis.
    scores : array of float32, shape (channel, axis 0, axis 1, axis 2)
        At the corners; where those of the blocks are. An axis along which the grid has one voxel only has it twice.
    """

    start: Index
    scores: Array


class CellMaker:
    """Turns the blocks of a layout, in any order, into cells; every cell of the grid comes exactly once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._faces: dict[Index, dict[tuple[int, bool], Array]] = {}
        self._open: dict[Index, int] = {}

    def take(self, block: Block) -> Iterator[Cells]:
        """The cells that this block completes."""
        keys = list(self._keys_at(block.index))
        scores = block.scores
        for axis in range(3):
            if self._layout.shape[axis] == 1:
                scores = namespace_of(scores).concat([scores, scores], axis=axis + 1)
        if min(scores.shape[1:]) > 1:
            yield Cells(_starts(block), scores)
        if not keys:
            return
        self._open[block.index] = len(keys)
        self._faces[block.index] = {
            (axis, is_last): copied(scores[(slice(None),) * (axis + 1) + (_plane(is_last), ...)])
            for axis in range(3)
            if self._layout.counts[axis] > 1
            for is_last in (False, True)
        }
        for key in keys:
            touched = list(_touched(key))
            if all(index in self._faces for index in touched):
                cells = self._between(key)
                if cells is not None:
                    yield cells
                for index in touched:
                    self._done_with(index)

    def _keys_at(self, index: Index) -> Iterator[Key]:
        """All boxes of cells between this block and its neighbours."""
        per_axis = []
        for place, count in zip(index, self._layout.counts, strict=True):
            options = [(False, place)]
            options += [(True, lower) for lower in (place - 1, place) if 0 <= lower < count - 1]
            per_axis.append(options)
        for first, second, third in itertools.product(*per_axis):
            if first[0] or second[0] or third[0]:
                yield first, second, third

    def _between(self, key: Key) -> Cells | None:
        """Cells of a key all of whose blocks have come; None where a block is too thin to have any."""
        edges = self._layout.edges
        start, sides = [], []
        for axis, (is_between, place) in enumerate(key):
            start.append(edges[axis][place + 1] - 1 if is_between else edges[axis][place])
            length = edges[axis][place + 1] - edges[axis][place]
            sides.append(2 if is_between or self._layout.shape[axis] == 1 else length)
        if min(sides) < 2:
            return None
        joined = [axis for axis in range(3) if key[axis][0]]
        one = next(iter(self._faces[(key[0][1], key[1][1], key[2][1])].values()))
        xp = namespace_of(one)
        scores = xp.empty((one.shape[0], *sides), dtype=xp.float32)
        for index in _touched(key):
            upper = [index[axis] - key[axis][1] for axis in range(3)]
            face = self._faces[index][joined[0], not upper[joined[0]]]
            from_face, into = [slice(None)] * 4, [slice(None)] * 4
            for axis in joined:
                into[axis + 1] = slice(upper[axis], upper[axis] + 1)
                if axis != joined[0]:
                    from_face[axis + 1] = _plane(is_last=not upper[axis])
            scores[tuple(into)] = face[tuple(from_face)]
        return Cells((start[0], start[1], start[2]), scores)

    def _done_with(self, index: Index) -> None:
        self._open[index] -= 1
        if not self._open[index]:
            del self._open[index]
            self._faces[index] = {}


def _plane(is_last: bool) -> slice:
    return slice(-1, None) if is_last else slice(0, 1)


def _starts(block: Block) -> Index:
    first, second, third = (side.start for side in block.box)
    return first, second, third


def _touched(key: Key) -> Iterator[Index]:
    """The blocks that a box of cells between blocks lies in."""
    first, second, third = ((place, place + 1) if joins else (place,) for joins, place in key)
    yield from itertools.product(first, second, third)
