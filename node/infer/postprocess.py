"""How scores become labels, and how labels are cleaned on the images' own voxels. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from node.infer.arrays import Array, like, namespace_of
from node.infer.output_sections import Label, Postprocessing


@dataclass(frozen=True, eq=False)
class Decision:
    """How scores become labels.

    A *state* is which channel won: the index in `order` (argmax), or 1 + index of the first channel in
    `order` above its threshold, else 0; or what the one channel holds itself (values). `numbers[state]` is the label, 0
    for background.
    """

    kind: str
    thresholds: np.ndarray
    order: np.ndarray
    numbers: np.ndarray

    def states(self, scores: Array) -> Array:
        """State of each voxel, int16; `scores` has the channel first, and states are where they are."""
        xp = namespace_of(scores)
        if self.kind == "argmax":
            is_here = isinstance(scores, np.ndarray)
            return _largest(scores) if is_here else xp.astype(xp.argmax(scores, axis=0), xp.int16)
        if self.kind == "values":
            return xp.astype(xp.clip(xp.round(scores[0, ...]), 0, len(self.numbers) - 1), xp.int16)
        states = xp.zeros(scores.shape[1:], dtype=xp.int16)
        for place in range(len(self.order) - 1, -1, -1):
            states[scores[int(self.order[place]), ...] > like(self.thresholds[place : place + 1], scores)] = place + 1
        return states


def _largest(scores: np.ndarray) -> np.ndarray:
    """Index of the first channel with the largest score, int16. `argmax` over the first axis takes longer."""
    best = scores[0].copy()
    states = np.zeros(best.shape, np.int16)
    for channel in range(1, len(scores)):
        better = scores[channel] > best
        np.maximum(best, scores[channel], out=best)
        np.copyto(states, channel, where=better)
    return states


def make_decision(postprocessing: Postprocessing, labels: Sequence[Label], channels: int) -> Decision:
    """The decision that the manifest asks for; label numbers are places in `labels`, from 1."""
    number_of = {channel: number for number, label in enumerate(labels, start=1) for channel in label.channels}
    order = np.arange(channels)
    if postprocessing.decision == "argmax":
        numbers = [number_of.get(channel, 0) for channel in range(channels)]
    elif postprocessing.decision == "values":
        numbers = [number_of.get(value, 0) for value in range(max(number_of) + 2)]  # what is higher is background
    else:
        order = np.array(sorted(number_of, key=lambda channel: -number_of[channel]))
        numbers = [0, *(number_of[int(channel)] for channel in order)]
    own = [labels[number_of[int(channel)] - 1].threshold if int(channel) in number_of else None for channel in order]
    thresholds = np.array([postprocessing.threshold if each is None else each for each in own])
    return Decision(postprocessing.decision, thresholds, order, np.array(numbers, np.uint8))


def activate(scores: Array, activation: str) -> Array:
    """Softmax over channels or sigmoid, in place, slab by slab; on a GPU all at once."""
    if activation == "none":
        return scores
    if not isinstance(scores, np.ndarray):
        xp = namespace_of(scores)
        if activation == "softmax":
            scores -= xp.max(scores, axis=0, keepdims=True)
            scores[...] = xp.exp(scores)
            scores /= xp.sum(scores, axis=0, keepdims=True)
        else:
            scores[...] = 1 / (1 + xp.exp(-xp.clip(scores, -80, 80)))
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


def clean(
    labels: np.ndarray,
    voxels: np.ndarray,
    voxel_ml: float,
    wanted: Postprocessing,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    thicknesses: Sequence[float] | None = None,
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
    """
    shares = np.ones(len(labels)) if thicknesses is None else np.array(thicknesses)
    structure = ndimage.generate_binary_structure(3, 1 if wanted.connectivity == "faces" else 3)
    if wanted.body is not None:
        for plane, values in zip(labels, voxels, strict=True):
            if plane.any():
                plane[~body_mask(values, wanted.body.above)] = 0
    if wanted.smoothing_mm:
        smooth(labels, [wanted.smoothing_mm / spacing for spacing in spacing_mm])
    if wanted.largest_component == "foreground":
        _drop_components(labels, labels > 0, structure, shares, _Least(largest=True))
    each = wanted.largest_component == "each-label"
    least = _Least(each, wanted.minimum_component_ml / voxel_ml, wanted.minimum_component_voxels)
    for number in np.unique(labels):
        if number and (each or least.amount > 0 or least.voxels > 0):
            _drop_components(labels, labels == number, structure, shares, least)
    if wanted.fill_holes:
        for number in np.unique(labels):
            if number:
                box = ndimage.find_objects((labels == number).view(np.uint8))[0]
                part = labels[box]
                part[ndimage.binary_fill_holes(part == number) & (part == 0)] = number
    return labels


def smooth(labels: np.ndarray, sigma_voxels: Sequence[float]) -> None:
    """Replace each label by where its share of a Gaussian neighbourhood is more than that of any other and of the
    background, in place.
    """

    def share_of(number: int) -> np.ndarray:
        return ndimage.gaussian_filter((labels == number).astype(np.float32), sigma_voxels, mode="nearest")

    best, result = share_of(0), np.zeros_like(labels)
    for number in np.unique(labels):
        if number:
            share = share_of(number)
            np.copyto(result, number, where=share > best)
            np.maximum(best, share, out=best)
    labels[...] = result


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


def _drop_components(
    labels: np.ndarray, present: np.ndarray, structure: np.ndarray, shares: np.ndarray, least: _Least
) -> None:
    """Set components of `present` to background unless they are the largest and large enough; `shares` of a mean voxel
    are what a voxel of each slice takes up.
    """
    if not present.any():
        return
    box = ndimage.find_objects(present.view(np.uint8))[0]
    found, count = ndimage.label(present[box], structure)
    voxels, amounts = np.zeros(count + 1, np.int64), np.zeros(count + 1)
    for plane, share in zip(found, shares[box[0]], strict=True):
        in_plane = np.bincount(plane.ravel(), minlength=count + 1)
        voxels += in_plane
        amounts += in_plane * share
    keep = (amounts >= least.amount) & (voxels >= least.voxels)
    if least.largest:
        amounts[0] = 0
        keep &= np.arange(count + 1) == amounts.argmax()
    keep[0] = True
    labels[box][~keep[found]] = 0
