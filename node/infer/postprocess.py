"""How scores become labels. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
