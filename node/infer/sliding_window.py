"""Call a network on a grid: the whole at once, in patches that overlap, or slice by slice.

Patches lie and are weighted as in MONAI's sliding_window_inference, so that its networks give its results. Scores come
block by block, as they are finished, so that a volume with many classes needs no array of classes x voxels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from node.errors import Permanent
from node.infer.mosaic import Block, Layout, Mosaic
from node.infer.sections import Run

Network = Callable[[np.ndarray], np.ndarray]
"""Input tensor to output tensor, float32."""
Progress = Callable[[float], None]
"""Told the share done, 0 to 1; may raise to stop."""

GAUSSIAN_SIGMA = 0.125
"""Standard deviation of the weights of a patch, as a share of its side."""
LEAST_WEIGHT = 1e-3


HELD_BYTES = 512 << 20
"""Unfinished scores beyond this are held at half precision."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network says about a grid: the blocks it comes in, and the blocks as they are finished, each once."""

    layout: Layout
    blocks: Iterator[Block]

    def together(self, channels: int) -> np.ndarray:
        """All of it at once: float32, shape (channel, axis 0, axis 1, axis 2)."""
        whole = np.empty((channels, *self.layout.shape), np.float32)
        for block in self.blocks:
            whole[(slice(None), *block.box)] = block.scores
        return whole


def run_network(network: Network, image: np.ndarray, run: Run, model: str, progress: Progress) -> Scores:
    """Output of the network for every voxel; the network runs while the blocks are taken.

    Parameters
    ----------
    network : callable
    image : ndarray of float32, shape (axis 0, axis 1, axis 2)
    run : Run
    model : str
        Identifier, for messages.

    Raises
    ------
    Permanent
        While blocks are taken: when the output has another shape than the manifest says, or holds values that are not
        finite.
    """
    least = run.patch or (1, 1, 1)
    padded = pad_to(image, least, run.multiple, run.padding_value)
    match run.mode:
        case "whole":
            patch, starts = padded.shape, [[0], [0], [0]]
        case "slices":
            patch, starts = (1, *padded.shape[1:]), [list(range(len(padded))), [0], [0]]
        case "sliding-window":
            patch, starts = least, patch_starts(padded.shape, least, run.overlap)
    layout = Layout.of(image.shape, patch, starts)
    return Scores(layout, _blocks(_Checked(network, run, model), padded, layout, run, progress))


def _blocks(network: "_Checked", image: np.ndarray, layout: Layout, run: Run, progress: Progress) -> Iterator[Block]:
    mosaic = Mosaic(layout, patch_weights(layout.patch, run.blending if run.patch else "constant"), HELD_BYTES)
    starts = layout.patches()
    batch = 1 if run.mode == "whole" else run.batch
    progress(0)
    for first in range(0, len(starts), batch):
        chosen = starts[first : first + batch]
        parts = [_patch(image, start, layout.patch) for start in chosen]
        output = network(parts[0][None, None] if len(parts) == 1 else np.stack(parts)[:, None], run.mode)
        del parts
        for start, scores in zip(chosen, output, strict=True):
            yield from mosaic.add(start, scores)
        progress((first + len(chosen)) / len(starts))


def _patch(image: np.ndarray, start: tuple[int, ...], patch: tuple[int, ...]) -> np.ndarray:
    return image[tuple(slice(first, first + length) for first, length in zip(start, patch, strict=True))]


class _Checked:
    """A network whose output is compared with the manifest at every call."""

    def __init__(self, network: Network, run: Run, model: str) -> None:
        self._network, self._run, self._model = network, run, model

    def __call__(self, batch: np.ndarray, mode: str) -> np.ndarray:
        """Scores of patches, shape (batch, channel, axis 0, axis 1, axis 2); `batch` has one channel."""
        if mode == "slices":  # the network is one of images
            return self._scores(batch[:, :, 0])[:, :, None]
        return self._scores(batch)

    def _scores(self, batch: np.ndarray) -> np.ndarray:
        output = self._network(batch)
        expected = (batch.shape[0], self._run.channels, *batch.shape[2:])
        if output.shape != expected:
            raise Permanent(
                f"model {self._model}: output {self._run.output!r} has shape {output.shape} for an input of shape "
                f"{batch.shape}, expected {expected}"
            )
        if output.size and not (np.isfinite(output.min()) and np.isfinite(output.max())):
            raise Permanent(f"model {self._model}: output {self._run.output!r} holds values that are not finite")
        return output


def pad_to(image: np.ndarray, minimum: tuple[int, ...], multiple: tuple[int, int, int], value: float) -> np.ndarray:
    """The image with `value` added at its far ends, so that each side is at least `minimum` and a
    multiple.
    """
    sides = [max(side, least) for side, least in zip(image.shape, minimum, strict=True)]
    wanted = [math.ceil(side / step) * step for side, step in zip(sides, multiple, strict=True)]
    if tuple(wanted) == image.shape:
        return image
    padded = np.full(wanted, value, np.float32)
    padded[tuple(slice(0, side) for side in image.shape)] = image
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
