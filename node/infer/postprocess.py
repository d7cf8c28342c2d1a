"""From a network's output on its grid to labels on the images' own voxels. Pure.

Scores are interpolated to each voxel of the source and decided there. That is needed only at borders: where
the eight surrounding voxels of the model's grid decide alike, every mixture of them decides the same, so
the answer is taken from them and no class is interpolated. The result is the same as interpolating
everything, at a fraction of time and memory.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from node.infer.sections import Label, Postprocessing
from node.infer.transforms import index_map
from node.volume.volume import Grid

SLAB_VOXELS = 1 << 20
MIXED = -1


@dataclass(frozen=True, eq=False)
class Decision:
    """How scores become labels.

    A *state* is which channel won: the index in `order` (argmax), or 1 + index of the first channel in
    `order` above the threshold, else 0. `numbers[state]` is the label, 0 for background.
    """

    kind: str
    threshold: float
    order: np.ndarray
    numbers: np.ndarray

    def states(self, scores: np.ndarray) -> np.ndarray:
        """State of each voxel, int16; `scores` has the channel first."""
        if self.kind == "argmax":
            return scores.argmax(axis=0).astype(np.int16)
        states = np.zeros(scores.shape[1:], np.int16)
        for place in range(len(self.order) - 1, -1, -1):
            states[scores[self.order[place]] > self.threshold] = place + 1
        return states


def make_decision(postprocessing: Postprocessing, labels: Sequence[Label], channels: int) -> Decision:
    """The decision that the manifest asks for; label numbers are places in `labels`, from 1."""
    number_of = {channel: number for number, label in enumerate(labels, start=1) for channel in label.channels}
    if postprocessing.decision == "argmax":
        order = np.arange(channels)
        numbers = [number_of.get(channel, 0) for channel in range(channels)]
    else:
        order = np.array(sorted(number_of, key=lambda channel: -number_of[channel]))
        numbers = [0, *(number_of[int(channel)] for channel in order)]
    return Decision(postprocessing.decision, postprocessing.threshold, order, np.array(numbers, np.uint8))


def activate(scores: np.ndarray, activation: str) -> np.ndarray:
    """Softmax over channels or sigmoid, in place, slab by slab."""
    if activation == "none":
        return scores
    for index in range(scores.shape[1]):
        plane = scores[:, index]
        if activation == "softmax":
            plane -= plane.max(axis=0)
            np.exp(plane, out=plane)
            plane /= plane.sum(axis=0)
        else:
            np.negative(np.clip(plane, -80, 80, out=plane), out=plane)
            np.exp(plane, out=plane)
            plane += 1
            np.reciprocal(plane, out=plane)
    return scores


def decide(scores: np.ndarray, decision: Decision) -> np.ndarray:
    """States on the model's own grid, int16, plane by plane."""
    states = np.empty(scores.shape[1:], np.int16)
    for index in range(scores.shape[1]):
        states[index] = decision.states(scores[:, index])
    return states


def labels_on_grid(
    scores: np.ndarray, grid: Grid, target: Grid, decision: Decision, resample: str = "probabilities"
) -> np.ndarray:
    """Labels on `target` from scores on `grid`.

    Parameters
    ----------
    scores : ndarray of float32, shape (channel, *grid.shape)
    resample : {'probabilities', 'labels'}
        Interpolate scores linearly and decide, or take the label of the nearest voxel.

    Returns
    -------
    ndarray of uint8, shape target.shape
        0 more than half a voxel outside `grid`.
    """
    states = decide(scores, decision)
    result = np.zeros(target.shape, np.uint8)
    matrix, offset = index_map(grid, target)
    box = _target_box(decision.numbers[states] > 0, matrix, offset, target.shape)
    if box is None:
        return result
    lookup: _Nearest | _Interpolated
    if resample == "labels":
        lookup = _Nearest(decision.numbers[states])
        scores = scores[:0]
    else:
        scores, states = _at_least_two(scores, 1), _at_least_two(states, 0)
        lookup = _Interpolated(scores, _cells(states), decision)
    slices, rows, columns = (np.arange(side.start, side.stop, dtype=np.float64) for side in box)
    thickness = max(1, SLAB_VOXELS // (len(rows) * len(columns)))
    for first in range(0, len(slices), thickness):
        chosen = slices[first : first + thickness]
        places = [
            matrix[axis, 0] * chosen[:, None, None]
            + matrix[axis, 1] * rows[None, :, None]
            + (matrix[axis, 2] * columns[None, None, :] + offset[axis])
            for axis in range(3)
        ]
        inside = np.ones(places[0].shape, bool)
        for place, side in zip(places, grid.shape, strict=True):
            inside &= (place >= -0.5) & (place < side - 0.5)
            np.clip(place, 0, side - 1, out=place)
        start = box[0].start + first
        part = lookup(places)
        part[~inside] = 0
        result[start : start + len(chosen), box[1], box[2]] = part
    return result


class _Nearest:
    """Label of the nearest voxel."""

    def __init__(self, labels: np.ndarray) -> None:
        self._labels = labels

    def __call__(self, places: list[np.ndarray]) -> np.ndarray:
        one, two, three = (np.floor(place + 0.5).astype(np.intp) for place in places)
        return self._labels[one, two, three]


class _Interpolated:
    """Label of the scores interpolated between eight voxels; from the cell alone where all eight agree."""

    def __init__(self, scores: np.ndarray, cells: np.ndarray, decision: Decision) -> None:
        self._flat = scores.reshape(len(scores), -1)
        self._sides = scores.shape[1:]
        self._cells = cells
        self._decision = decision

    def __call__(self, places: list[np.ndarray]) -> np.ndarray:
        lower = [np.minimum(place.astype(np.intp), side - 2) for place, side in zip(places, self._sides, strict=True)]
        states = self._cells[lower[0], lower[1], lower[2]]
        mixed = np.nonzero(states == MIXED)
        if mixed[0].size:
            starts = [each[mixed] for each in lower]
            shares = [(place[mixed] - start).astype(np.float32) for place, start in zip(places, starts, strict=True)]
            states[mixed] = self._mix(starts, shares)
        return self._decision.numbers[states]

    def _mix(self, starts: list[np.ndarray], shares: list[np.ndarray]) -> np.ndarray:
        states = np.empty(len(starts[0]), np.int16)
        step = max(1, SLAB_VOXELS // len(self._flat))
        for first in range(0, len(states), step):
            chosen = slice(first, first + step)
            one, two, three = (start[chosen] for start in starts)
            base = (one * self._sides[1] + two) * self._sides[2] + three
            scores = np.zeros((len(self._flat), len(base)), np.float32)
            for corner in itertools.product((0, 1), repeat=3):
                weight = np.ones(len(base), np.float32)
                for far, share in zip(corner, shares, strict=True):
                    weight *= share[chosen] if far else 1 - share[chosen]
                shift = (corner[0] * self._sides[1] + corner[1]) * self._sides[2] + corner[2]
                scores += self._flat[:, base + shift] * weight
            states[chosen] = self._decision.states(scores)
        return states


def _cells(states: np.ndarray) -> np.ndarray:
    """State that the eight corners of each cell share, or MIXED."""
    lowest, highest = states, states
    for axis in range(3):
        near = [slice(None)] * 3
        far = [slice(None)] * 3
        near[axis], far[axis] = slice(0, -1), slice(1, None)
        lowest = np.minimum(lowest[tuple(near)], lowest[tuple(far)])
        highest = np.maximum(highest[tuple(near)], highest[tuple(far)])
    return np.where(lowest == highest, lowest, np.int16(MIXED))


def _at_least_two(values: np.ndarray, first_axis: int) -> np.ndarray:
    """The array with axes of one voxel doubled, so that every voxel has a cell."""
    for axis in range(first_axis, first_axis + 3):
        if values.shape[axis] == 1:
            values = np.repeat(values, 2, axis=axis)
    return values


def _target_box(
    present: np.ndarray, matrix: np.ndarray, offset: np.ndarray, shape: tuple[int, int, int]
) -> tuple[slice, slice, slice] | None:
    """The part of the target that labels can reach: the box of `present`, one voxel wider; None when there
    is none.
    """
    bounds = []
    for axis in range(3):
        found = np.flatnonzero(present.any(axis=tuple(other for other in range(3) if other != axis)))
        if not found.size:
            return None
        bounds.append((float(found[0]) - 1, float(found[-1]) + 1))
    corners = np.array(list(itertools.product(*bounds))) - offset
    reached = np.linalg.solve(matrix, corners.T).T
    low = np.maximum(0, np.floor(reached.min(axis=0) - 1e-6)).astype(int)
    high = np.minimum(shape, np.ceil(reached.max(axis=0) + 1e-6) + 1).astype(int)
    if (high <= low).any():
        return None
    first, second, third = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return first, second, third


def clean(labels: np.ndarray, voxels: np.ndarray, voxel_ml: float, wanted: Postprocessing) -> np.ndarray:
    """Body mask, components and holes as the manifest asks, in place, on the images' own voxels.

    Parameters
    ----------
    labels : ndarray of uint8, shape (slice, row, column)
    voxels : ndarray, same shape
        Modality values, for the body mask.
    voxel_ml : float
    """
    structure = ndimage.generate_binary_structure(3, 1 if wanted.connectivity == "faces" else 3)
    if wanted.body is not None:
        for plane, values in zip(labels, voxels, strict=True):
            if plane.any():
                plane[~body_mask(values, wanted.body.above)] = 0
    if wanted.largest_component == "foreground":
        _drop_components(labels, labels > 0, structure, keep_largest=True, minimum_voxels=0)
    each = wanted.largest_component == "each-label"
    minimum = wanted.minimum_component_ml / voxel_ml
    for number in np.unique(labels):
        if number and (each or minimum > 0):
            _drop_components(labels, labels == number, structure, each, minimum)
    if wanted.fill_holes:
        for number in np.unique(labels):
            if number:
                box = ndimage.find_objects((labels == number).view(np.uint8))[0]
                part = labels[box]
                part[ndimage.binary_fill_holes(part == number) & (part == 0)] = number
    return labels


def body_mask(values: np.ndarray, above: float) -> np.ndarray:
    """Largest 4-connected component of a slice above a value, holes filled."""
    found, count = ndimage.label(values > above)
    if count == 0:
        return np.zeros(values.shape, bool)
    sizes = np.bincount(found.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(found == sizes.argmax()))


def _drop_components(
    labels: np.ndarray, present: np.ndarray, structure: np.ndarray, keep_largest: bool, minimum_voxels: float
) -> None:
    """Set components of `present` to background unless they are the largest and large enough."""
    if not present.any():
        return
    box = ndimage.find_objects(present.view(np.uint8))[0]
    found, count = ndimage.label(present[box], structure)
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes >= minimum_voxels
    if keep_largest:
        keep &= np.arange(count + 1) == sizes.argmax()
    keep[0] = True
    labels[box][~keep[found]] = 0
