"""Call a network on a grid: the whole at once, in patches that overlap, or slice by slice.

Patches lie and are weighted as in MONAI's sliding_window_inference, so that its networks give its results; with a halo
they are tiles of which each is seen with what lies around it, and give what the whole would. Scores come
block by block, as they are finished, so that a volume with many classes needs no array of classes x voxels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from node.infer.arrays import Array, on_host
from node.infer.mosaic import Block, Layout, Mosaic
from node.infer.sections import Run

Network = Callable[[np.ndarray, bool], Array]
"""Patches (batch, channel, *sides), and whether they are the last, to scores (batch, channel, *sides), float32, which
may lie on a GPU.
"""
Progress = Callable[[float], None]
"""Told the share done, 0 to 1; may raise to stop."""

GAUSSIAN_SIGMA = 0.125
"""Standard deviation of the weights of a patch, as a share of its side."""
LEAST_WEIGHT = 1e-3
HELD_BYTES = 64 << 20
"""Unfinished scores beyond this are held with less precision."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network says about a grid: the blocks it comes in, and the blocks as they are finished, each once."""

    layout: Layout
    blocks: Iterator[Block]

    def together(self, channels: int) -> np.ndarray:
        """All of it at once: float32, shape (channel, axis 0, axis 1, axis 2)."""
        whole = np.empty((channels, *self.layout.shape), np.float32)
        for block in self.blocks:
            whole[(slice(None), *block.box)] = on_host(block.scores)
        return whole


def run_network(network: Network, image: np.ndarray, run: Run, progress: Progress, *, slices: bool = False) -> Scores:
    """Output of the network for every voxel; the network runs while the blocks are taken.

    Parameters
    ----------
    network : callable
        Its scores have the sides of its input.
    image : ndarray of float32, shape (channel, axis 0, axis 1, axis 2)
    run : Run
    slices : bool
        Call it for planes of axis 0, as `run.mode` = slices says, too.
    """
    slices = slices or run.mode == "slices"
    least = run.patch if run.patch and not run.halo else (1, 1, 1)
    before = tuple(max(0, length - side) // 2 for length, side in zip(least, image.shape[1:], strict=True))
    padded = pad_to(image, least, before, run.multiple, run.padding_value)
    sides = padded.shape[1:]
    if run.patch is not None and run.halo:
        patch, starts = tiles(sides, run.patch, run.halo, run.multiple)
    elif run.patch is not None:
        patch, starts = least, patch_starts(sides, least, run.overlap)
    elif slices:
        patch, starts = (1, *sides[1:]), [list(range(sides[0])), [0], [0]]
    else:
        patch, starts = sides, [[0], [0], [0]]
    starts = [[first - low for first in firsts] for firsts, low in zip(starts, before, strict=True)]
    layout = Layout.of(image.shape[1:], patch, starts)
    return Scores(layout, _blocks(network, padded, before, layout, run, progress))


def _blocks(
    network: Network, image: np.ndarray, before: tuple[int, ...], layout: Layout, run: Run, progress: Progress
) -> Iterator[Block]:
    """`before` is how many voxels of `image` lie before the layout's first."""
    overlaps = run.patch is not None and not run.halo
    mosaic = Mosaic(layout, patch_weights(layout.patch, run.blending if overlaps else "constant"), HELD_BYTES)
    starts = layout.patches()
    progress(0)
    for first in range(0, len(starts), run.batch):
        chosen = starts[first : first + run.batch]
        views = [_view(tuple(np.add(start, before)), layout.patch, image.shape[1:], run) for start in chosen]
        parts = [_part(image, view.box, run.neighbours) for view in views]
        is_last = first + len(chosen) == len(starts)
        output = network(parts[0][None] if len(parts) == 1 else np.stack(parts), is_last)
        del parts
        for place, start in enumerate(chosen):
            scores = output[(place, slice(None), *views[place].inner)]
            yield from mosaic.add(start, scores)
        del output, scores  # while the network runs again there is no need for both answers
        progress((first + len(chosen)) / len(starts))


@dataclass(frozen=True)
class _View:
    """What the network sees of an image for a patch of the layout, and where in it the scores lie that are used."""

    box: tuple[slice, ...]
    inner: tuple[slice, ...]


def _view(start: tuple[int, ...], patch: tuple[int, ...], sides: tuple[int, ...], run: Run) -> _View:
    """The patch itself; with a halo around it as far as the image reaches, from multiple to multiple."""
    low, high = start, tuple(np.add(start, patch))
    if run.halo:
        low = tuple(max(0, at - run.halo) // step * step for at, step in zip(low, run.multiple, strict=True))
        high = tuple(
            min(side, math.ceil((at + run.halo) / step) * step)
            for at, side, step in zip(high, sides, run.multiple, strict=True)
        )
    box = tuple(slice(least, most) for least, most in zip(low, high, strict=True))
    inner = (slice(at - least, at - least + side) for at, least, side in zip(start, low, patch, strict=True))
    return _View(box, tuple(inner))


def _part(image: np.ndarray, box: tuple[slice, ...], neighbours: int) -> np.ndarray:
    """(channel, *sides); with neighbours the planes before and behind stand as channels beside each channel."""
    if not neighbours:
        return image[(slice(None), *box)]
    planes = np.clip(np.arange(box[0].start - neighbours, box[0].start + neighbours + 1), 0, image.shape[1] - 1)
    part = image[:, :, box[1], box[2]][:, planes]
    return part.reshape(-1, 1, *part.shape[2:])


def pad_to(
    image: np.ndarray,
    minimum: tuple[int, ...],
    before: tuple[int, ...],
    multiple: tuple[int, int, int],
    value: float,
) -> np.ndarray:
    """The image (channel first) with `value` added, `before` at its near ends and the rest at its far ends, so that
    each side is at least `minimum` and a multiple.
    """
    sides = [max(side, least) for side, least in zip(image.shape[1:], minimum, strict=True)]
    wanted = [math.ceil(side / step) * step for side, step in zip(sides, multiple, strict=True)]
    if tuple(wanted) == image.shape[1:]:
        return image
    padded = np.full((len(image), *wanted), value, np.float32)
    inside = (slice(low, low + side) for low, side in zip(before, image.shape[1:], strict=True))
    padded[(slice(None), *inside)] = image
    return padded


def patch_starts(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> list[list[int]]:
    """First voxels of the patches along each axis: a step of (1 - overlap) of a side, the last flush with the far
    end.
    """
    per_axis = []
    for side, length in zip(shape, patch, strict=True):
        step = max(1, int(length * (1 - overlap))) if length < side else length
        count = math.ceil((side - length) / step) + 1
        per_axis.append([min(index * step, side - length) for index in range(count)])
    return per_axis


def tiles(
    sides: tuple[int, ...], patch: tuple[int, ...], halo: int, multiple: tuple[int, ...]
) -> tuple[tuple[int, ...], list[list[int]]]:
    """Sides of tiles that do not overlap, as large as they can be for each to fit into a patch with its halo, and
    where they start along each axis; the last may reach beyond the far end.
    """
    lengths, starts = [], []
    for side, most, step in zip(sides, patch, multiple, strict=True):
        count, around = 1, halo + step - 1  # a halo that begins and ends at multiples
        while math.ceil(side / count) + min(2, count - 1) * around > most:
            count += 1
        length = math.ceil(side / count)
        lengths.append(length)
        starts.append(list(range(0, side, length)))
    return tuple(lengths), starts


def patch_weights(patch: tuple[int, ...], blending: str) -> np.ndarray:
    """Weight of each voxel of a patch, float32: 1 everywhere, or a Gaussian that nowhere falls to nothing."""
    weights = np.ones((), np.float32)
    if blending == "constant":
        return np.broadcast_to(weights, patch)
    for axis, side in enumerate(patch):
        distance = np.arange(side, dtype=np.float32) - (side - 1) / 2
        profile = np.exp(-(distance**2) / (2 * (side * GAUSSIAN_SIGMA) ** 2)).astype(np.float32)
        weights = weights * profile.reshape([-1 if other == axis else 1 for other in range(len(patch))])
    return np.maximum(weights, max(float(weights.min()), LEAST_WEIGHT))
