"""Scores of patches that overlap, added up block by block. Pure.

The starts and ends of all patches along an axis cut the grid into blocks; a patch covers whole blocks. A block is given
out as soon as no patch to come covers it, and forgotten: what is held at any time is what overlaps patches that are
still to come, and not channels x volume. Patches come in the order that keeps this least.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from node.infer.arrays import Array, copied, like

Box = tuple[slice, slice, slice]
Index = tuple[int, int, int]
Groups = Sequence[tuple[int, ...]]
"""First voxels of the patches along an axis, in groups that are swept together."""

_STEPS = 32767


@dataclass(frozen=True, eq=False)
class Block:
    """Finished scores of a part of the grid.

    Parameters
    ----------
    index : tuple of int
        Its place among the blocks along each axis.
    box : tuple of slice
        Its voxels on the grid.
    scores : array of float32, shape (channel, axis 0, axis 1, axis 2)
        The receiver's own to change; where the network left it (`node.infer.arrays`).
    """

    index: Index
    box: Box
    scores: Array


@dataclass(frozen=True, eq=False)
class Layout:
    """Where patches start along each axis, and the blocks that they cut a grid into.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the grid; patches may reach beyond it (padding), blocks do not.
    patch : tuple of int
        Voxels of a patch.
    starts : tuple of sequence of int
        First voxels of the patches along each axis, ascending; together they cover the grid.
    edges : tuple of tuple of int
        Along each axis the first voxel of every block, then the side of the grid.
    """

    shape: tuple[int, int, int]
    patch: tuple[int, int, int]
    starts: tuple[Sequence[int], Sequence[int], Sequence[int]]
    edges: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, shape: tuple[int, ...], patch: tuple[int, ...], starts: Sequence[Sequence[int]]) -> "Layout":
        """The layout of patches that start at every combination of `starts`."""
        edges = []
        for side, length, firsts in zip(shape, patch, starts, strict=True):
            cuts = {0, side, *firsts, *(first + length for first in firsts)}
            edges.append(tuple(sorted(cut for cut in cuts if 0 <= cut <= side)))
        return cls(
            (shape[0], shape[1], shape[2]),
            (patch[0], patch[1], patch[2]),
            (starts[0], starts[1], starts[2]),
            (edges[0], edges[1], edges[2]),
        )

    @property
    def counts(self) -> Index:
        """Blocks along each axis."""
        return len(self.edges[0]) - 1, len(self.edges[1]) - 1, len(self.edges[2]) - 1

    def box(self, index: Index) -> Box:
        """The voxels of a block."""
        first, second, third = (
            slice(edges[place], edges[place + 1]) for edges, place in zip(self.edges, index, strict=True)
        )
        return first, second, third

    def patches(self) -> list[Index]:
        """First voxels of all patches, in the order in which the fewest unfinished voxels are held.

        Axes are swept one within another. Where the last two patches of an axis share more than the others, since the
        last is flush with the far end, they are taken in turn, so that what they share is never held across a sweep.
        """
        options = (_groupings(firsts) for firsts in self.starts)
        candidates = itertools.product(itertools.permutations(range(3)), itertools.product(*options))
        order, groups = min(candidates, key=lambda candidate: self._held(*candidate))
        found = []
        for chosen in itertools.product(*(groups[axis] for axis in order)):
            for places in itertools.product(*chosen):
                start = dict(zip(order, places, strict=True))
                found.append((start[0], start[1], start[2]))
        return found

    def _held(self, axes: Sequence[int], groups: Sequence[Groups]) -> int:
        """About how many voxels are held at most when axes are swept in this order, the first outermost."""
        held = 0
        for place in reversed(range(3)):
            axis = axes[place]
            area = math.prod(self.shape[other] for other in axes[place + 1 :])
            shared = [0, *_shared(groups[axis], self.patch[axis]), 0]
            thickness = [group[-1] - group[0] + self.patch[axis] for group in groups[axis]]
            sides = zip(itertools.pairwise(shared), thickness, strict=True)
            held = max(max(near, far) * area + thick * held for (near, far), thick in sides)
        return held

    def covered(self, start: Index) -> list[Index]:
        """The blocks that a patch covers."""
        per_axis = []
        for edges, first, length in zip(self.edges, start, self.patch, strict=True):
            per_axis.append([at for at, edge in enumerate(edges[:-1]) if first <= edge < first + length])
        return [(a, b, c) for a, b, c in itertools.product(*per_axis)]

    def times_covered(self, index: Index) -> int:
        """How many patches cover a block."""
        return math.prod(
            sum(first <= edges[place] < first + length for first in firsts)
            for edges, place, firsts, length in zip(self.edges, index, self.starts, self.patch, strict=True)
        )


def _groupings(firsts: Sequence[int]) -> list[Groups]:
    """Patches of an axis one by one, or the last two together."""
    single = [(first,) for first in firsts]
    return [single] if len(firsts) < 2 else [single, [*single[:-2], (firsts[-2], firsts[-1])]]


def _shared(groups: Groups, length: int) -> list[int]:
    """Voxels along an axis that each group of patches and the next cover both."""
    return [max(0, group[-1] + length - later[0]) for group, later in itertools.pairwise(groups)]


class Mosaic:
    """Adds up weighted patches; every voxel of a block becomes the weighted mean of the patches that cover it.

    Parameters
    ----------
    layout : Layout
    weights : ndarray of float32, shape of a patch
    budget_bytes : int
        When unfinished blocks in the machine's memory would take more as float32, they are held as 16-bit integers:
        half the memory, for an error of up to 2e-5 of the largest score of a channel each time, where patches overlap.
    """

    def __init__(self, layout: Layout, weights: np.ndarray, budget_bytes: int) -> None:
        self._layout = layout
        self._weights = weights
        self._budget = budget_bytes
        self._sums: dict[Index, Array | _Packed] = {}
        self._totals: dict[Index, Array] = {}
        self._missing: dict[Index, int] = {}
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """What unfinished blocks take."""
        return self._held

    def add(self, start: Index, scores: Array) -> Iterator[Block]:
        """Add a patch; the blocks that it finishes.

        Parameters
        ----------
        start : tuple of int
            Its first voxel.
        scores : array of float32, shape (channel, *patch)
        """
        self._weights = like(self._weights, scores) if isinstance(self._weights, np.ndarray) else self._weights
        for index in self._layout.covered(start):
            box = self._layout.box(index)
            inner = tuple(slice(side.start - first, side.stop - first) for side, first in zip(box, start, strict=True))
            missing = self._missing.pop(index, None)
            is_first = missing is None
            if missing is None:
                missing = self._layout.times_covered(index)
                if missing == 1:
                    yield Block(index, box, scores[(slice(None), *inner)])
                    continue
            weights = self._weights[inner]
            part = scores[(slice(None), *inner)] * weights
            if is_first:
                total = copied(weights)
            else:
                held, total = self._sums.pop(index), self._totals.pop(index)
                self._held -= _bytes_of(held)
                part += held.unpacked(total) if isinstance(held, _Packed) else held
                total += weights
            if missing == 1:
                part /= total
                yield Block(index, box, part)
            else:
                self._hold(index, part, total, missing - 1)

    def _hold(self, index: Index, part: Array, total: Array, missing: int) -> None:
        is_much = isinstance(part, np.ndarray) and self._held + part.nbytes > self._budget
        held = _pack(part, total) if is_much else part
        self._sums[index], self._totals[index], self._missing[index] = held, total, missing
        self._held += _bytes_of(held)


def _bytes_of(held: "Array | _Packed") -> int:
    return held.multiples.nbytes if isinstance(held, _Packed) else 4 * math.prod(held.shape)


@dataclass(frozen=True, eq=False)
class _Packed:
    """Means of scores as multiples of a step for each channel, int16: sums would be small where weights are."""

    multiples: np.ndarray
    steps: np.ndarray

    def unpacked(self, total: np.ndarray) -> np.ndarray:
        """The sums."""
        sums = np.multiply(self.multiples, self.steps, dtype=np.float32)
        sums *= total
        return sums


def _pack(sums: np.ndarray, total: np.ndarray) -> _Packed:
    sums /= total
    each = sums.reshape(len(sums), -1)
    largest = np.maximum(each.max(axis=1), -each.min(axis=1))
    steps = (np.where(largest > 0, largest, 1) / _STEPS).astype(np.float32).reshape(-1, 1, 1, 1)
    sums /= steps
    return _Packed(np.rint(sums, out=sums).astype(np.int16), steps)
