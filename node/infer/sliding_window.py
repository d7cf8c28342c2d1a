"""Call a network on a grid: the whole at once, in patches that overlap, or slice by slice.

Patches lie and are weighted as in MONAI's sliding_window_inference, so that its networks give its results. Scores come
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
    least = run.patch or (1, 1, 1)
    before = tuple(max(0, length - side) // 2 for length, side in zip(least, image.shape[1:], strict=True))
    padded = pad_to(image, least, before, run.multiple, run.padding_value)
    sides = padded.shape[1:]
    if run.patch is not None:
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
    mosaic = Mosaic(layout, patch_weights(layout.patch, run.blending if run.patch else "constant"), HELD_BYTES)
    starts = layout.patches()
    progress(0)
    for first in range(0, len(starts), run.batch):
        chosen = starts[first : first + run.batch]
        places = [tuple(np.add(start, before)) for start in chosen]
        parts = [_patch(image, place, layout.patch, run.neighbours) for place in places]
        is_last = first + len(chosen) == len(starts)
        output = network(parts[0][None] if len(parts) == 1 else np.stack(parts), is_last)
        del parts
        for place, start in enumerate(chosen):
            scores = output[place, ...]
            yield from mosaic.add(start, scores)
        del output, scores  # while the network runs again there is no need for both answers
        progress((first + len(chosen)) / len(starts))


def _patch(image: np.ndarray, start: tuple[int, ...], patch: tuple[int, ...], neighbours: int) -> np.ndarray:
    """(channel, *patch); with neighbours the planes before and behind stand as channels beside each channel."""
    box = tuple(slice(first, first + side) for first, side in zip(start, patch, strict=True))
    if not neighbours:
        return image[(slice(None), *box)]
    planes = np.clip(np.arange(start[0] - neighbours, start[0] + neighbours + 1), 0, image.shape[1] - 1)
    return image[:, :, box[1], box[2]][:, planes].reshape(-1, 1, *patch[1:])


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
