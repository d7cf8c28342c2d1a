"""Grids of what a network sees, and values on them. Pure.

Orient, resample, crop and pad all change a `Grid`; their common inverse is the way from one grid to another
(`paint.paint_labels`), exact to rounding. Where two grids share their voxels (turned, cropped,
padded), values are copied and never interpolated.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from scipy import ndimage

from node.infer.arrays import Array, ScoreDevice, namespace_of
from node.infer.preprocessing_sections import Crop, Preprocessing
from node.volume.volume import Grid, evenly_spaced

DIRECTIONS = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
}
"""Unit steps in LPS of an axis that increases towards the letter."""

ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}
EDGE_VOXELS = 12
"""As SciPy pads before it fits a curve with edges that go on."""
COARSE_RATIO = 3.0
"""Of the longest to the shortest side of a voxel, above which nnU-Net does not interpolate along the longest."""
SNAP = 1e-9
"""Entries of an index map this close to a whole number are taken to be it: rounding, not geometry."""


def model_grid(source: Grid, preprocessing: Preprocessing, centre_lps: np.ndarray | None = None) -> Grid:
    """The grid that the manifest asks for over the field of view of `source`, before cropping; upright also where the
    slices of the source are not. `centre_lps` is the middle of a fixed grid, if it is not that of the source.
    """
    source = source.upright()
    if preprocessing.grid.kind == "source":
        return turn(source, preprocessing.orientation)
    if preprocessing.alignment == "patient":
        axes = np.array([DIRECTIONS[letter] for letter in preprocessing.orientation]).T
        spacing = np.array(preprocessing.spacing_mm, dtype=np.float64)
    else:
        turned = turn(source, preprocessing.orientation)
        axes = turned.affine_lps[:3, :3] / np.array(turned.spacing_mm)
        wanted = preprocessing.spacing_mm or turned.spacing_mm
        kept = [own if each == "images" else each for each, own in zip(wanted, turned.spacing_mm, strict=True)]
        spacing = np.array(kept, dtype=np.float64)
    if preprocessing.grid.shape is not None:
        return centred_grid(
            axes * spacing, preprocessing.grid.shape, source.centre_lps if centre_lps is None else centre_lps
        )
    corners = np.array(list(itertools.product(*((-0.5, size - 0.5) for size in source.shape))))
    corners = corners @ source.affine_lps[:3, :3].T + source.affine_lps[:3, 3]
    along = corners @ np.linalg.inv(axes).T
    counts = np.ptp(along, axis=0) / spacing
    if preprocessing.grid.kind == "resized":
        sizes = np.maximum(1, np.round(counts)).astype(int)
        spacing = np.ptp(along, axis=0) / sizes
    else:
        sizes = np.maximum(1, np.ceil(counts - 1e-6)).astype(int)
    middle = axes @ ((along.min(axis=0) + along.max(axis=0)) / 2)
    return centred_grid(axes * spacing, (int(sizes[0]), int(sizes[1]), int(sizes[2])), middle)


def coarse_axis(images_mm: Sequence[float], grid_mm: Sequence[float]) -> int | None:
    """The axis along which voxels of the images, or else those of the grid, are more than 3 times as long as along
    another, as nnU-Net has it; None where there is none, or several are the longest.
    """
    sides = images_mm if max(images_mm) > COARSE_RATIO * min(images_mm) else grid_mm
    axes = [axis for axis, each in enumerate(sides) if each == max(sides)]
    return axes[0] if len(axes) == 1 and max(sides) > COARSE_RATIO * min(sides) else None


def resample_planes(
    values: np.ndarray,
    source: Grid,
    target: Grid,
    axis: int,
    interpolation: Literal["linear", "nearest", "cubic"],
    outside: float | None,
    threads: int,
    clipped: bool,
) -> np.ndarray:
    """Values on another grid, float32: interpolated within each plane across `axis` of the target, along which the
    nearest plane is taken.

    Parameters
    ----------
    clipped : bool
        What is interpolated in a plane stays between its lowest and its highest value.
    """
    turned = turn(source.upright(), _letters_of(target))
    planes = resample(values, source, turned, interpolation, None, threads)
    affine = target.affine_lps.copy()
    along = np.linalg.solve(target.affine_lps, turned.affine_lps)[:3, 3]
    affine[:3, axis] = turned.affine_lps[:3, axis]
    affine[:3, 3] += target.affine_lps[:3, axis] * along[axis]
    shape = list(target.shape)
    shape[axis] = turned.shape[axis]
    middle = Grid((shape[0], shape[1], shape[2]), affine)
    found = resample(planes, turned, middle, interpolation, outside, threads)
    if clipped:
        others = tuple(other for other in range(3) if other != axis)
        low, high = planes.min(axis=others, keepdims=True), planes.max(axis=others, keepdims=True)
        np.clip(found, low, high, out=found)
    return np.asarray(resample(found, middle, target, "nearest", None, threads))


def _letters_of(grid: Grid) -> str:
    """Where the axes of a grid increase to, each the letter that is nearest."""
    cosines = grid.affine_lps[:3, :3] / np.array(grid.spacing_mm)
    letters = list(DIRECTIONS)
    return "".join(
        letters[int(np.argmax([np.dot(DIRECTIONS[each], column) for each in letters]))] for column in cosines.T
    )


def centred_grid(steps: np.ndarray, shape: tuple[int, int, int], centre_lps: np.ndarray) -> Grid:
    """The grid with these steps (columns, LPS mm) whose middle, index (n - 1) / 2, lies at `centre_lps`."""
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = centre_lps - steps @ ((np.array(shape, dtype=np.float64) - 1) / 2)
    return Grid(shape, affine)


def turn(grid: Grid, orientation: str) -> Grid:
    """The same voxels with axes permuted and reversed so that each increases as closely as can be to its
    letter.
    """
    directions = grid.affine_lps[:3, :3] / np.array(grid.spacing_mm)
    cosines = np.array([DIRECTIONS[letter] for letter in orientation]) @ directions
    order = max(itertools.permutations(range(3)), key=lambda p: sum(abs(cosines[i, p[i]]) for i in range(3)))
    affine = grid.affine_lps.copy()
    for axis, source_axis in enumerate(order):
        step = grid.affine_lps[:3, source_axis]
        if cosines[axis, source_axis] < 0:
            affine[:3, 3] += step * (grid.shape[source_axis] - 1)
            step = -step
        affine[:3, axis] = step
    return Grid((grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]), affine)


def index_map(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset that turn an index of `target` into the (fractional) index of `source` at the same
    place.
    """
    matrix = np.linalg.solve(source.affine_lps, target.affine_lps)
    whole = np.round(matrix)
    matrix = np.where(np.abs(matrix - whole) < SNAP * np.maximum(1, np.abs(whole)), whole, matrix)
    return matrix[:3, :3], matrix[:3, 3]


def resample(
    values: np.ndarray,
    source: Grid,
    target: Grid,
    interpolation: Literal["linear", "nearest", "cubic"] = "linear",
    outside: float | None = 0.0,
    threads: int = 1,
    device: ScoreDevice | None = None,
) -> Array:
    """Values on another grid, float32; `outside` where no centres of source voxels surround the place, with None the
    value of the nearest.

    Parameters
    ----------
    values : ndarray
        On `source`; not copied (cubic and slices that are not evenly spaced excepted).
    device : ScoreDevice, optional
        Where to interpolate, and to leave the result; voxels that are only copied stay here.
    """
    if source.levels is not None:
        values = evenly_spaced(values, source.levels)
    if target.levels is not None:
        even = resample(
            values,
            Grid(source.shape, source.affine_lps),
            Grid(target.shape, target.affine_lps),
            interpolation,
            outside,
            threads,
        )
        return _at_levels(even, target.levels)
    matrix, offset = index_map(source, target)
    if is_shared(matrix, offset):
        return _copy(values, matrix, offset, target.shape, outside)
    result = np.empty(target.shape, np.float32)
    order = ORDERS[interpolation]
    if order > 1 and outside is None:  # the curve goes on as the images do, not as their mirror
        values, offset = np.pad(values, EDGE_VOXELS, mode="edge"), offset + EDGE_VOXELS
    if device is not None:
        return _on_device(device, values, matrix, offset, target.shape, order, outside)
    if order > 1:
        values = ndimage.spline_filter(values, order, output=np.float32)

    def slab(first: int, last: int) -> None:
        ndimage.affine_transform(
            values,
            matrix,
            offset + matrix[:, 0] * first,
            output=result[first:last],
            output_shape=result[first:last].shape,
            order=order,
            mode="nearest" if outside is None else "constant",
            cval=outside or 0.0,
            prefilter=False,
        )

    edges = np.linspace(0, target.shape[0], max(1, min(threads, target.shape[0])) + 1).astype(int)
    with ThreadPoolExecutor(len(edges) - 1) as pool:  # scipy lets go of the interpreter while it interpolates
        for done in [pool.submit(slab, int(a), int(b)) for a, b in itertools.pairwise(edges)]:
            done.result()
    return result


def _on_device(
    device: ScoreDevice,
    values: np.ndarray,
    matrix: np.ndarray,
    offset: np.ndarray,
    shape: tuple[int, int, int],
    order: int,
    outside: float | None,
) -> Array:
    given = device.put(values)
    xp = namespace_of(given)
    given = xp.astype(given, xp.float32)
    if order > 1:
        given = device.ndimage.spline_filter(given, order, output=np.float32)
    return device.ndimage.affine_transform(
        given,
        device.put(matrix),
        offset,
        output_shape=shape,
        output=np.float32,
        order=order,
        mode="nearest" if outside is None else "constant",
        cval=outside or 0.0,
        prefilter=False,
    )


def _at_levels(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Slices of an evenly spaced grid, interpolated linearly where slices really lie."""
    places = np.array(levels)
    lower = np.clip(np.floor(places).astype(int), 0, max(0, len(values) - 2))
    share = (places - lower).astype(np.float32)[:, None, None]
    upper = np.minimum(lower + 1, len(values) - 1)
    return np.asarray(values[lower] * (1 - share) + values[upper] * share)


def slice_levels(grid: Grid, slices: np.ndarray) -> np.ndarray:
    """Where slices, counted, lie on the first axis of the grid's affine."""
    return slices if grid.levels is None else np.interp(slices, np.arange(len(grid.levels)), grid.levels)


def slice_counts(grid: Grid, places: np.ndarray) -> np.ndarray:
    """The inverse of `slice_levels`."""
    return places if grid.levels is None else np.interp(places, grid.levels, np.arange(len(grid.levels)))


def is_shared(matrix: np.ndarray, offset: np.ndarray) -> bool:
    """Whether an index map only permutes, reverses and shifts by whole voxels."""
    permutes = np.array_equal(np.sort(np.abs(matrix), axis=0), [[0, 0, 0], [0, 0, 0], [1, 1, 1]])
    return permutes and bool((np.abs(matrix).sum(axis=1) == 1).all()) and bool((offset == np.round(offset)).all())


def _copy(
    values: np.ndarray, matrix: np.ndarray, offset: np.ndarray, shape: tuple[int, int, int], outside: float | None
) -> np.ndarray:
    """Values on a grid that shares its voxels with the source."""
    axes = [int(np.flatnonzero(matrix[:, axis])[0]) for axis in range(3)]
    result = np.full(shape, outside or 0.0, np.float32)
    into, out_of = [], []
    for axis, source_axis in enumerate(axes):
        sign, shift = int(matrix[source_axis, axis]), int(offset[source_axis])
        size = values.shape[source_axis]
        indices = np.arange(shape[axis]) * sign + shift
        indices = np.clip(indices, 0, size - 1) if outside is None else indices
        inside = np.flatnonzero((indices >= 0) & (indices < size))
        into.append(inside)
        out_of.append(indices[inside])
    result[np.ix_(*into)] = values.transpose(axes)[np.ix_(*out_of)]
    return result


def body_box(image: np.ndarray, crop: Crop) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and shape of the box around what is brighter than the threshold, with its margin; the whole
    when dark.
    """
    lowest, highest = float(image.min()), float(image.max())
    bright = image > lowest + crop.threshold_fraction * (highest - lowest)
    start, shape = [0, 0, 0], list(image.shape)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(np.count_nonzero(bright, axis=others) >= crop.minimum_voxels_per_plane)
        if found.size:
            start[axis] = max(0, int(found[0]) - crop.margin_voxels)
            shape[axis] = min(image.shape[axis], int(found[-1]) + 1 + crop.margin_voxels) - start[axis]
    return (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])
