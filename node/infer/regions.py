"""What a stage found, as the stages after it use it: masks and boxes on the images' own voxels. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from node.infer.preprocessing_sections import Region
from node.infer.transforms import index_map, resample, slice_levels
from node.volume.volume import Grid

Index = tuple[int, int, int]
IndexBox = tuple[np.ndarray, np.ndarray]
"""Low and high corner, as fractional indices of the source grid; voxel n reaches from n - 0.5 to n + 0.5."""


@dataclass(frozen=True, eq=False)
class Found:
    """What one stage found.

    Parameters
    ----------
    grid : Grid
        The images' own; of a single image the grid of its pixels.
    label_maps : tuple of ndarray, shape grid.shape
    numbers : mapping of str to int
        The number of each label; it is in one map only.
    boxes : mapping of str to tuple of IndexBox
        What was detected of each class.
    present : frozenset of str
        Classes and answers that were found present.
    """

    grid: Grid
    label_maps: tuple[np.ndarray, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    boxes: Mapping[str, tuple[IndexBox, ...]] = field(default_factory=dict)
    present: frozenset[str] = frozenset()

    def mask(self, names: Sequence[str] = ()) -> np.ndarray:
        """Where any of these is, or anything at all; bool on `grid`."""
        result = np.zeros(self.grid.shape, bool)
        wanted = [number for name, number in self.numbers.items() if not names or name in names]
        for labels in self.label_maps:
            result |= labels > 0 if not names else np.isin(labels, wanted)
        for name, boxes in self.boxes.items():
            if not names or name in names:
                for low, high in boxes:
                    result[box_slices(low, high, self.grid.shape)] = True
        return result

    def is_found(self, region: Region) -> bool:
        """Whether what a gate asks for is there."""
        if any(not region.names or name in region.names for name in self.present):
            return True
        if any(boxes for name, boxes in self.boxes.items() if not region.names or name in region.names):
            return True
        voxels = np.count_nonzero(self.mask(region.names), axis=(1, 2))
        shares = np.ones(len(voxels)) if self.grid.thicknesses is None else np.array(self.grid.thicknesses)
        return bool(voxels @ shares * self.grid.voxel_ml > region.minimum_ml)


def box_slices(low: np.ndarray, high: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...]:
    """The voxels whose middle lies in a box, at least one along each axis."""
    slices = []
    for least, most, side in zip(low, high, shape, strict=True):
        first = int(np.clip(np.ceil(least), 0, side - 1))
        slices.append(slice(first, int(np.clip(np.floor(most) + 1, first + 1, side))))
    return tuple(slices)


def mask_box(mask: np.ndarray) -> IndexBox | None:
    """The box around a mask, or None where it is empty."""
    low, high = [], []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not found.size:
            return None
        low.append(found[0] - 0.5)
        high.append(found[-1] + 0.5)
    return np.array(low), np.array(high)


def centre_lps(box: IndexBox, grid: Grid) -> np.ndarray:
    """The middle of a box in patient space."""
    low, high = _in_grid_units(box, grid)
    middle = (low + high) / 2
    return np.asarray(grid.affine_lps[:3, :3] @ middle + grid.affine_lps[:3, 3])


def _in_grid_units(box: IndexBox, grid: Grid) -> IndexBox:
    """A box counted in slices as places on the axes of the grid's affine."""
    low, high = box[0].copy(), box[1].copy()
    low[0], high[0] = slice_levels(grid, low[0]), slice_levels(grid, high[0])
    return low, high


def part_of_grid(box: IndexBox, source: Grid, target: Grid) -> tuple[slice, ...]:
    """The voxels of `target` that cover a box of `source`, as far as `target` reaches; at least one along each axis."""
    matrix, offset = index_map(target, source)
    corners = np.array(list(itertools.product(*zip(*_in_grid_units(box, source), strict=True)))) @ matrix.T + offset
    first = np.clip(np.floor(corners.min(axis=0) + 0.5), 0, np.array(target.shape) - 1).astype(int)
    last = np.clip(np.ceil(corners.max(axis=0) - 0.5) + 1, first + 1, target.shape).astype(int)
    return tuple(slice(int(start), int(stop)) for start, stop in zip(first, last, strict=True))


def box_on(mask: np.ndarray, source: Grid, target: Grid, threads: int) -> IndexBox | None:
    """The box around a mask on another grid, as far as that reaches; None where the mask is empty.

    It lies along the axes of the other grid: one along those of an oblique series would be larger once it is turned.
    """
    box = mask_box(mask)
    if box is None:
        return None
    part = part_of_grid(box, source, target)
    start = tuple(side.start for side in part)
    shape = tuple(side.stop - side.start for side in part)
    within = mask_box(
        mask_on(mask, source, target.part((start[0], start[1], start[2]), (shape[0], shape[1], shape[2])), threads)
    )
    low, high = within or (np.full(3, -0.5), np.array(shape) - 0.5)  # what is smaller than a voxel there
    return low + start, high + start


def widened(box: IndexBox, grid: Grid, margin_mm: float) -> tuple[Index, Index]:
    """Start and shape of the voxels of a box with a margin, as far as the grid reaches."""
    margin = margin_mm / np.array(grid.spacing_mm)
    first = np.clip(np.floor(box[0] + 0.5 - margin), 0, np.array(grid.shape) - 1).astype(int)
    last = np.clip(np.ceil(box[1] - 0.5 + margin) + 1, first + 1, grid.shape).astype(int)
    one, two, three = (int(side) for side in last - first)
    return (int(first[0]), int(first[1]), int(first[2])), (one, two, three)


def mask_on(mask: np.ndarray, source: Grid, target: Grid, threads: int) -> np.ndarray:
    """A mask on another grid: true where more than half of the neighbourhood is."""
    return resample(mask.astype(np.uint8), source, target, "linear", 0.0, threads) > 0.5
