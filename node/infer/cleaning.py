"""How labels are cleaned on the images' own voxels: body, smoothing, components, holes. Pure.

The same code works on labels in the machine's memory with SciPy, and on those on a GPU with the functions that CuPy has
by the same names (`node.infer.arrays`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from node.infer.arrays import Array, ScoreDevice, like, namespace_of, on_host
from node.infer.output_sections import Postprocessing


def clean(
    labels: np.ndarray,
    voxels: np.ndarray,
    voxel_ml: float,
    wanted: Postprocessing,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    thicknesses: Sequence[float] | None = None,
    device: ScoreDevice | None = None,
) -> np.ndarray:
    """Body mask, smoothing, components and holes as the manifest asks, in place, on the images' own voxels.

    Parameters
    ----------
    labels : ndarray of uint8, shape (slice, row, column)
        Of an image, slice counts frames, and each is looked at on its own.
    voxels : ndarray, same shape
        Modality values, for the body mask.
    voxel_ml : float
        Infinite where it is not known: then no volume is too small.
    spacing_mm : tuple of float
        For smoothing.
    thicknesses : sequence of float, optional
        Of each slice, as a multiple of the mean (`Grid.thicknesses`); None where all are alike.
    device : ScoreDevice, optional
        Where to smooth and to look for components and holes; here, where its memory does not suffice.
    """
    if wanted.body is not None:
        for plane, values in zip(labels, voxels, strict=True):
            if plane.any():
                plane[~body_mask(values, wanted.body.above)] = 0
    cleaner = _Cleaner(wanted, voxel_ml, spacing_mm, thicknesses)
    if device is not None and cleaner.has_work:
        with suppress(MemoryError):
            labels[...] = on_host(cleaner.clean(device.put(labels), device.ndimage))
            return labels
    cleaner.clean(labels, ndimage)
    return labels


def body_mask(values: np.ndarray, above: float) -> np.ndarray:
    """Largest 4-connected component of a slice above a value, holes filled."""
    found, count = ndimage.label(values > above)
    if count == 0:
        return np.zeros(values.shape, bool)
    sizes = np.bincount(found.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(found == sizes.argmax()))


@dataclass(frozen=True)
class _Least:
    """Which components stay: only the largest; of at least so much volume, in mean voxels; of so many voxels."""

    largest: bool = False
    amount: float = 0.0
    voxels: int = 0


@dataclass(frozen=True)
class _Cleaner:
    """What is to be done, for labels wherever they are; `tools` are the functions of `scipy.ndimage` there."""

    wanted: Postprocessing
    voxel_ml: float
    spacing_mm: tuple[float, float, float]
    thicknesses: Sequence[float] | None

    @property
    def has_work(self) -> bool:
        """Whether anything is asked for."""
        wanted = self.wanted
        components = (
            wanted.largest_component != "none" or wanted.minimum_component_ml or wanted.minimum_component_voxels
        )
        return bool(wanted.smoothing_mm or components or wanted.fill_holes)

    def clean(self, labels: Array, tools: Any) -> Array:
        """The labels, changed in place."""
        wanted = self.wanted
        if wanted.smoothing_mm:
            smooth(labels, [wanted.smoothing_mm / spacing for spacing in self.spacing_mm], tools)
        if wanted.largest_component == "foreground":
            self._drop_components(labels, labels > 0, _Least(largest=True), tools)
        each = wanted.largest_component == "each-label"
        least = _Least(each, wanted.minimum_component_ml / self.voxel_ml, wanted.minimum_component_voxels)
        if each or least.amount > 0 or least.voxels > 0:
            for number in _numbers(labels):
                self._drop_components(labels, labels == number, least, tools)
        if wanted.fill_holes:
            for number in _numbers(labels):
                _fill_holes(labels, number, tools)
        return labels

    def _drop_components(self, labels: Array, present: Array, least: _Least, tools: Any) -> None:
        """Set components of `present` to background unless they are the largest and large enough."""
        box = _box(present)
        if box is None:
            return
        structure = ndimage.generate_binary_structure(3, 1 if self.wanted.connectivity == "faces" else 3)
        found, count = tools.label(present[box], structure)
        voxels, amounts = self._sizes(found, int(count), box[0])
        keep = (amounts >= least.amount) & (voxels >= least.voxels)
        if least.largest:
            amounts[0] = 0
            keep &= np.arange(len(keep)) == amounts.argmax()
        keep[0] = True
        xp, part = namespace_of(labels), labels[box]
        kept = xp.take(like(keep, labels), xp.reshape(found, (-1,)))
        part[~xp.reshape(kept, found.shape)] = 0
        labels[box] = part

    def _sizes(self, found: Array, count: int, slices: slice) -> tuple[np.ndarray, np.ndarray]:
        """Voxels of each component, and what they take up in mean voxels, by its number from 0."""
        if self.thicknesses is None and not isinstance(found, np.ndarray):
            voxels = _counts(found, count)
            return voxels, voxels.astype(np.float64)
        voxels, amounts = np.zeros(count + 1, np.int64), np.zeros(count + 1)
        for place in range(found.shape[0]):  # slice by slice there is no need for a copy in wider numbers
            in_plane = _counts(found[place, ...], count)
            voxels += in_plane
            amounts += in_plane * (1.0 if self.thicknesses is None else self.thicknesses[slices.start + place])
        return voxels, amounts


def smooth(labels: Array, sigma_voxels: Sequence[float], tools: Any = ndimage) -> None:
    """Replace each label by where its share of a Gaussian neighbourhood is more than that of any other and of the
    background, in place.
    """
    xp = namespace_of(labels)

    def share_of(number: int) -> Array:
        return tools.gaussian_filter(xp.astype(labels == number, xp.float32), sigma_voxels, mode="nearest")

    best, result = share_of(0), xp.zeros_like(labels)
    for number in _numbers(labels):
        share = share_of(number)
        result[share > best] = number
        best = xp.maximum(best, share)
    labels[...] = result


def _fill_holes(labels: Array, number: int, tools: Any) -> None:
    box = _box(labels == number)
    if box is not None:
        part = labels[box]
        part[tools.binary_fill_holes(part == number) & (part == 0)] = number
        labels[box] = part


def _numbers(labels: Array) -> list[int]:
    """The labels that there are, ascending, without the background."""
    found = on_host(namespace_of(labels).unique_values(labels))
    return sorted(int(number) for number in found if number)


def _box(present: Array) -> tuple[slice, ...] | None:
    """The box around what is true, or None where nothing is."""
    xp, box = namespace_of(present), []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(on_host(xp.any(present, axis=others)))
        if not places.size:
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _counts(found: Array, count: int) -> np.ndarray:
    """How often each number from 0 to `count` is there."""
    if isinstance(found, np.ndarray):
        return np.bincount(found.ravel(), minlength=count + 1)
    values, counts = namespace_of(found).unique_counts(found)
    result = np.zeros(count + 1, np.int64)
    result[on_host(values)] = on_host(counts)
    return result
