"""Labels on the images' own voxels, painted while the network's scores come block by block. Pure.

Scores are interpolated to each voxel of the source and decided there. That is needed only at borders: where the eight
voxels of the model's grid around it decide alike, every mixture of them decides the same, so the answer is taken from
them and no class is interpolated. The result is the same as interpolating everything, at a fraction of time and memory.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from node.infer.arrays import Array, like, namespace_of, on_host
from node.infer.cells import CellMaker, Cells
from node.infer.mosaic import Block, Box, Layout
from node.infer.postprocess import Decision, activate
from node.infer.transforms import index_map, is_shared
from node.volume.volume import Grid

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Index of each slice, row and column of a grid, in the units of its affine."""

SLAB_VOXELS = 1 << 20
MIXED = -1


def paint_labels(
    blocks: Iterable[Block],
    layout: Layout,
    grid: Grid,
    target: Grid,
    decision: Decision,
    *,
    activation: str = "none",
    resample: str = "probabilities",
    nearest_axis: int | None = None,
) -> np.ndarray:
    """Labels on `target` from blocks of scores on `grid`.

    Parameters
    ----------
    blocks : iterable of Block
        All blocks of `layout`, each once; their scores are changed.
    resample : {'probabilities', 'labels'}
        Interpolate scores linearly and decide, or take the label of the nearest voxel.
    nearest_axis : int, optional
        Axis of `grid` along which scores are not interpolated: those of the nearest voxels are taken.

    Returns
    -------
    ndarray of uint8, shape target.shape
        0 more than half a voxel outside `grid`.
    """
    painting = Painting(
        layout, grid, target, decision, activation=activation, resample=resample, nearest_axis=nearest_axis
    )
    for block in blocks:
        painting.take(block)
    return painting.finish()


class Painting:
    """Labels that grow with every block that is taken; see `paint_labels`."""

    def __init__(
        self,
        layout: Layout,
        grid: Grid,
        target: Grid,
        decision: Decision,
        *,
        activation: str = "none",
        resample: str = "probabilities",
        nearest_axis: int | None = None,
    ) -> None:
        self._matrix, self._offset = index_map(grid, target)
        self._result = np.zeros(target.shape, np.uint8)
        self._axes = _axes_of(target)
        self._decision, self._activation = decision, activation
        self._nearest: np.ndarray | None = None
        is_copied = target.levels is None and is_shared(self._matrix, self._offset)
        if resample == "labels" or is_copied:
            same = grid.shape == target.shape and is_copied and np.array_equal(self._matrix, np.eye(3))
            same = same and not self._offset.any()
            self._nearest = self._result if same else np.zeros(grid.shape, np.uint8)
        else:
            places = self._axes, self._matrix, self._offset
            self._painter = _Painter(self._result, *places, grid.shape, decision, nearest_axis)
            self._maker = CellMaker(layout)

    def take(self, block: Block) -> None:
        """Add a block; its scores are changed."""
        activate(block.scores, self._activation)
        if self._nearest is not None:
            self._nearest[block.box] = self._decision.numbers[on_host(self._decision.states(block.scores))]
            return
        for cells in self._maker.take(block):
            self._painter.paint(cells)

    def finish(self) -> np.ndarray:
        """The labels, once all blocks were taken."""
        if self._nearest is not None and self._nearest is not self._result:
            _take_nearest(self._nearest, self._result, self._axes, self._matrix, self._offset)
        return self._result


class _Painter:
    """Paints the voxels of the target that lie in given cells of the model's grid."""

    def __init__(
        self,
        result: np.ndarray,
        axes: Axes,
        matrix: np.ndarray,
        offset: np.ndarray,
        sides: tuple[int, ...],
        decision: Decision,
        nearest_axis: int | None,
    ) -> None:
        self._result, self._axes, self._sides = result, axes, sides
        self._matrix, self._offset = matrix, offset
        self._decision, self._nearest_axis = decision, nearest_axis

    def paint(self, cells: Cells) -> None:
        """Decide the voxels whose place lies in these cells; background stays as it is."""
        states = _shared_states(self._decision, cells.scores)
        wanted = (states == MIXED) | (self._decision.numbers[states] > 0)
        if not wanted.any():
            return
        low, high = self._bounds(cells, _box_of(wanted))
        for box, places in self._near(low, high):
            inside: np.ndarray = np.ones((1, 1, 1), bool)
            for place, least, most in zip(places, low, high, strict=True):
                inside = inside & ((place >= least) & (place < most))
            if inside.any():
                at = [place - first for place, first in zip(places, cells.start, strict=True)]
                found = self._decide(cells.scores, states, at, inside)
                np.copyto(self._result[box], self._decision.numbers[found], where=inside)

    def _near(self, low: list[float], high: list[float]) -> Iterator[tuple[Box, list[np.ndarray]]]:
        """As `_places`; along the nearest axis places are those of the nearest voxels."""
        axis = self._nearest_axis
        if axis is None:
            yield from _places(self._axes, self._matrix, self._offset, low, high)
            return
        low, high = low.copy(), high.copy()
        low[axis], high[axis] = low[axis] - 0.5, high[axis] + 0.5
        for box, places in _places(self._axes, self._matrix, self._offset, low, high):
            places[axis] = np.floor(places[axis] + 0.5)
            yield box, places

    def _bounds(self, cells: Cells, wanted: tuple[slice, ...]) -> tuple[list[float], list[float]]:
        """From where to below where places are these cells'; half a voxel beyond the centres at the grid's sides."""
        low, high = [], []
        for first, part, side in zip(cells.start, wanted, self._sides, strict=True):
            least, most = first + part.start, first + part.stop
            low.append(-0.5 if least == 0 else float(least))
            high.append(side - 0.5 if most >= side - 1 else float(most))
        return low, high

    def _decide(self, scores: Array, states: np.ndarray, at: list[np.ndarray], inside: np.ndarray) -> np.ndarray:
        """States at places within the cells; places are counted from the first corner, and broadcast."""
        last = [side - 1 for side in scores.shape[1:]]
        at = [np.clip(place, 0, most) for place, most in zip(at, last, strict=True)]
        lower = [np.minimum(place.astype(np.intp), most - 1) for place, most in zip(at, last, strict=True)]
        found = states[lower[0], lower[1], lower[2]]
        mixed = np.nonzero((found == MIXED) & inside)
        if mixed[0].size:
            starts = [np.broadcast_to(each, found.shape)[mixed] for each in lower]
            places = [np.broadcast_to(each, found.shape)[mixed] for each in at]
            shares = [(place - start).astype(np.float32) for place, start in zip(places, starts, strict=True)]
            found[mixed] = _mix(scores, starts, shares, self._decision)
        return found


def _mix(scores: Array, starts: list[np.ndarray], shares: list[np.ndarray], decision: Decision) -> np.ndarray:
    """States of scores interpolated between the eight corners of cells."""
    xp = namespace_of(scores)
    sides = scores.shape[1:]
    flat = xp.reshape(scores, (scores.shape[0], -1))
    states = np.empty(len(starts[0]), np.int16)
    step = max(1, SLAB_VOXELS // flat.shape[0])
    for first in range(0, len(states), step):
        chosen = slice(first, first + step)
        one, two, three = (start[chosen] for start in starts)
        base = (one * sides[1] + two) * sides[2] + three
        mixture = xp.zeros((flat.shape[0], len(base)), dtype=xp.float32)
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.ones(len(base), np.float32)
            for far, share in zip(corner, shares, strict=True):
                weight *= share[chosen] if far else 1 - share[chosen]
            shift = (corner[0] * sides[1] + corner[1]) * sides[2] + corner[2]
            mixture += xp.take(flat, like(base + shift, flat), axis=1) * like(weight, flat)
        states[chosen] = on_host(decision.states(mixture))
    return states


def _shared_states(decision: Decision, scores: Array) -> np.ndarray:
    """State that the eight corners of each cell share, or MIXED; int16, one less than corners along each axis."""
    states = np.empty(scores.shape[1:], np.int16)
    for index in range(len(states)):  # plane by plane: argmax makes int64
        states[index] = on_host(decision.states(scores[:, index, ...]))
    lowest, highest = states, states
    for axis in range(3):
        near: list[slice] = [slice(None)] * 3
        far: list[slice] = [slice(None)] * 3
        near[axis], far[axis] = slice(0, -1), slice(1, None)
        lowest = np.minimum(lowest[tuple(near)], lowest[tuple(far)])
        highest = np.maximum(highest[tuple(near)], highest[tuple(far)])
    return np.where(lowest == highest, lowest, np.int16(MIXED))


def _box_of(wanted: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds every true element; there is at least one."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(wanted.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def _places(
    axes: Axes, matrix: np.ndarray, offset: np.ndarray, low: list[float], high: list[float]
) -> Iterator[tuple[Box, list[np.ndarray]]]:
    """Boxes of the target that can lie between `low` and `high`, with the places of their voxels on the model's grid
    (three arrays that broadcast), some million voxels at a time.
    """
    corners = np.array(list(itertools.product(*zip(low, high, strict=True)))) - offset
    reached = np.linalg.solve(matrix, corners.T).T
    first = [int(np.searchsorted(axis, place)) for axis, place in zip(axes, reached.min(axis=0) - 1e-6, strict=True)]
    last = [int(np.searchsorted(axis, place)) for axis, place in zip(axes, reached.max(axis=0) + 1e-6, strict=True)]
    slices, rows, columns = (axis[a:b] for axis, a, b in zip(axes, first, last, strict=True))
    if not (len(slices) and len(rows) and len(columns)):
        return
    thickness = max(1, SLAB_VOXELS // (len(rows) * len(columns)))
    for start in range(0, len(slices), thickness):
        chosen = slices[start : start + thickness]
        places = [
            _term(matrix[axis, 0], chosen[:, None, None])
            + _term(matrix[axis, 1], rows[None, :, None])
            + _term(matrix[axis, 2], columns[None, None, :])
            + offset[axis]
            for axis in range(3)
        ]
        begin = first[0] + start
        box = (
            slice(begin, begin + len(chosen)),
            slice(first[1], last[1]),
            slice(first[2], last[2]),
        )
        yield box, places


def _axes_of(grid: Grid) -> Axes:
    """Slices that are not evenly spaced have levels; everything else is counted."""
    slices, rows, columns = (np.arange(side, dtype=np.float64) for side in grid.shape)
    return slices if grid.levels is None else np.array(grid.levels), rows, columns


def _term(factor: float, values: np.ndarray) -> np.ndarray:
    """factor x values; a single zero where the factor is none, so that upright grids stay separable."""
    return np.zeros((1, 1, 1)) if factor == 0 else factor * values


def _take_nearest(labels: np.ndarray, result: np.ndarray, axes: Axes, matrix: np.ndarray, offset: np.ndarray) -> None:
    """Give each voxel of the target the label of the nearest voxel."""
    if not labels.any():
        return
    box = _box_of(labels > 0)
    low = [part.start - 0.5 for part in box]
    high = [part.stop - 0.5 for part in box]
    for part, places in _places(axes, matrix, offset, low, high):
        nearest = [np.floor(place + 0.5).astype(np.intp) for place in places]
        inside: np.ndarray = np.ones((1, 1, 1), bool)
        for index, side in zip(nearest, labels.shape, strict=True):
            inside = inside & (index >= 0) & (index < side)
            np.clip(index, 0, side - 1, out=index)
        result[part] = np.where(inside, labels[nearest[0], nearest[1], nearest[2]], 0)
