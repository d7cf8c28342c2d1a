"""Call a network on a grid: the whole at once, in patches that overlap, or slice by slice.

Patches lie and are weighted as in MONAI's sliding_window_inference, so that its networks give its results.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np

from node.errors import Permanent
from node.infer.sections import Run

Network = Callable[[np.ndarray], np.ndarray]
"""Input tensor to output tensor, float32."""
Progress = Callable[[float], None]
"""Told the share done, 0 to 1; may raise to stop."""

GAUSSIAN_SIGMA = 0.125
"""Standard deviation of the weights of a patch, as a share of its side."""
LEAST_WEIGHT = 1e-3


def run_network(network: Network, image: np.ndarray, run: Run, model: str, progress: Progress) -> np.ndarray:
    """Output of the network for every voxel.

    Parameters
    ----------
    network : callable
    image : ndarray of float32, shape (axis 0, axis 1, axis 2)
    run : Run
    model : str
        Identifier, for messages.

    Returns
    -------
    ndarray of float32, shape (channel, axis 0, axis 1, axis 2), C-contiguous

    Raises
    ------
    Permanent
        When the output has another shape than the manifest says, or holds values that are not finite.
    """
    if run.mode == "sliding-window":
        assert run.patch is not None
        minimum = run.patch
    else:
        minimum = (1, 1, 1)
    padded = pad_to(image, minimum, run.multiple, run.padding_value)
    checked = _Checked(network, run, model)
    progress(0)
    match run.mode:
        case "whole":
            scores = checked(padded[None, None], padded.shape)[0]
        case "slices":
            scores = _by_slices(checked, padded, run, progress)
        case "sliding-window":
            scores = _by_patches(checked, padded, run, progress)
    progress(1)
    if not (np.isfinite(scores.min()) and np.isfinite(scores.max())):
        raise Permanent(f"model {model}: output {run.output!r} holds values that are not finite")
    depth, height, width = image.shape
    return np.ascontiguousarray(scores[:, :depth, :height, :width])


class _Checked:
    """A network whose output is compared with the manifest at every call."""

    def __init__(self, network: Network, run: Run, model: str) -> None:
        self._network, self._run, self._model = network, run, model

    def __call__(self, batch: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
        output = self._network(batch)
        expected = (batch.shape[0], self._run.channels, *sides)
        if output.shape != expected:
            raise Permanent(
                f"model {self._model}: output {self._run.output!r} has shape {output.shape} for an input of shape "
                f"{batch.shape}, expected {expected}"
            )
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


def _by_slices(network: _Checked, image: np.ndarray, run: Run, progress: Progress) -> np.ndarray:
    depth, height, width = image.shape
    scores = np.empty((run.channels, depth, height, width), np.float32)
    for first in range(0, depth, run.batch):
        batch = image[first : first + run.batch, None]
        output = network(batch, (height, width))
        scores[:, first : first + len(batch)] = output.transpose(1, 0, 2, 3)
        progress((first + len(batch)) / depth)
    return scores


def _by_patches(network: _Checked, image: np.ndarray, run: Run, progress: Progress) -> np.ndarray:
    assert run.patch is not None
    patch = run.patch
    weights = patch_weights(patch, run.blending)
    scores = np.zeros((run.channels, *image.shape), np.float32)
    total = np.zeros(image.shape, np.float32)
    boxes = [
        tuple(slice(first, first + side) for first, side in zip(start, patch, strict=True))
        for start in patch_starts(image.shape, patch, run.overlap)
    ]
    for first in range(0, len(boxes), run.batch):
        chosen = boxes[first : first + run.batch]
        output = network(np.stack([image[box] for box in chosen])[:, None], patch)
        for box, part in zip(chosen, output, strict=True):
            scores[(slice(None), *box)] += part * weights
            total[box] += weights
        progress((first + len(chosen)) / len(boxes))
    scores /= total
    return scores


def patch_starts(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> list[tuple[int, ...]]:
    """First voxels of the patches: a step of (1 - overlap) of a side, the last flush with the far end."""
    per_axis = []
    for side, length in zip(shape, patch, strict=True):
        step = max(1, int(length * (1 - overlap))) if length < side else length
        count = math.ceil((side - length) / step) + 1
        per_axis.append([min(index * step, side - length) for index in range(count)])
    return list(itertools.product(*per_axis))


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
