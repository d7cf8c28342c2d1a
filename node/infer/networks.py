"""The networks of a stage called as its manifest says: tensors made of channels, folds and flips averaged, outputs
checked.

A `StageNetwork` is the network of `sliding_window.run_network`: what has a place goes back to it, what has none is kept
for each item of the batch.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from node.errors import Permanent
from node.infer.arrays import Array, copied, namespace_of
from node.infer.output_sections import (
    AnyOutput,
    Classification,
    Detection,
    Grading,
    HeatMap,
    Segmentation,
)
from node.infer.postprocess import activate
from node.infer.remote import RemoteSession
from node.infer.sections import Stage
from node.infer.session import Session

Item = dict[str, np.ndarray]
"""Tensors without a place of one item of a batch: a call on the whole, a slice or a frame; the batch axis is kept."""


def tensors_of(output: AnyOutput) -> tuple[str, ...]:
    """Names of the tensors that an output needs."""
    if isinstance(output, Detection):
        return tuple(dict.fromkeys(name for name in (output.boxes, output.scores, output.numbers) if name))
    return (output.tensor,)


def output_tensors(stage: Stage) -> tuple[str, ...]:
    """Names of all output tensors of a stage, each once."""
    return tuple(dict.fromkeys(name for output in stage.outputs for name in tensors_of(output)))


def input_tensors(stage: Stage, inputs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each input tensor with the inputs that are its channels."""
    given = stage.run.input
    return {given: tuple(inputs)} if isinstance(given, str) else dict(given)


def placed_outputs(stage: Stage) -> tuple[Segmentation | HeatMap, ...]:
    """Outputs with a score for every voxel, in the order in which their channels come from a `StageNetwork`."""
    return tuple(output for output in stage.outputs if isinstance(output, Segmentation | HeatMap))


def is_averaged(stage: Stage) -> bool:
    """Whether several answers are averaged after the activation, so that it is done already."""
    several = len(stage.run.files) > 1 or bool(stage.run.flips)
    return several and stage.run.average == "probabilities"


def activation_left(stage: Stage, output: AnyOutput) -> str:
    """The activation that is still to be applied to what a `StageNetwork` gives."""
    return "none" if is_averaged(stage) else _activation(output)


def _activation(output: AnyOutput) -> str:
    if isinstance(output, Segmentation | HeatMap | Classification | Grading | Detection):
        return output.activation
    return "none"


@dataclass(eq=False)
class StageNetwork:
    """The networks of a stage.

    Parameters
    ----------
    stage : Stage
    sessions : sequence of Session or RemoteSession
        One for each fold.
    widths : mapping of str to int
        Channels of each input tensor, in order; the last takes what is left.
    planes : bool
        Whether the network takes planes (batch, channel, row, column).
    model : str
        Identifier, for messages.
    check : callable
        Called several times a second while a network runs; may raise to stop.
    """

    stage: Stage
    sessions: Sequence[Session | RemoteSession]
    widths: Mapping[str, int]
    planes: bool
    model: str
    check: Callable[[], None]
    items: list[Item] = field(default_factory=list)

    def __call__(self, batch: np.ndarray, last: bool = True) -> Array:
        """Scores (batch, channel, *sides) of all outputs with a place, one after the other; the others into `items`.

        They stay on the GPU where the session can leave them there and all of them become labels.
        """
        axes = [2 + axis for axis in self.stage.run.flips]
        flips = [each for count in range(len(axes) + 1) for each in itertools.combinations(axes, count)]
        answers = len(flips) * len(self.sessions)
        placed: Array | None = None
        others: list[Item] = []
        for session, flip in itertools.product(self.sessions, flips):
            feeds = self._feeds(np.flip(batch, flip) if flip else batch)
            outputs = session.run(feeds, self.check, last=last, leave=self._leaves_scores)
            others.append(self._others(outputs))
            scores = self._placed(outputs, batch)
            scores = namespace_of(scores).flip(scores, axis=flip) if flip else scores
            if placed is None:
                placed = scores
            else:  # in place: with many classes an answer is large
                placed = self._own(placed, others[0])
                placed += scores
            del outputs, scores
        assert placed is not None
        self._keep(others, len(batch))
        if answers > 1:
            placed /= float(answers)
        return placed

    @staticmethod
    def _own(placed: Array, first: Item) -> Array:
        """Scores that can be changed: nobody else has them, and the engine gave them to be kept."""
        if not isinstance(placed, np.ndarray):
            return placed
        is_shared = any(np.shares_memory(placed, each) for each in first.values() if each.dtype.kind == "f")
        return placed if placed.flags.writeable and not is_shared else placed.copy()

    def _feeds(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        feeds, first = {}, 0
        for place, (tensor, width) in enumerate(self.widths.items()):
            last = batch.shape[1] if place == len(self.widths) - 1 else first + width
            part = batch[:, first:last, 0] if self.planes else batch[:, first:last]
            if self.stage.run.layout == "channels-last":
                part = np.moveaxis(part, 1, -1)
            feeds[tensor] = np.ascontiguousarray(part)
            first = last
        return feeds

    @property
    def _leaves_scores(self) -> bool:
        """Whether all that the network says becomes labels by channels in their usual place."""
        return self.stage.run.layout == "channels-first" and all(
            isinstance(output, Segmentation) for output in self.stage.outputs
        )

    def _placed(self, outputs: Mapping[str, Array], batch: np.ndarray) -> Array:
        outs = placed_outputs(self.stage)
        if not outs:
            return np.empty((len(batch), 0, *batch.shape[2:]), np.float32)
        parts = []
        for output in outs:
            found = outputs[output.tensor]
            xp = namespace_of(found)
            scores = self._on_sides(output, xp.astype(found, xp.float32, copy=False), batch)
            if is_averaged(self.stage) and output.activation != "none":
                scores = copied(scores)
                for place in range(len(batch)):
                    activate(scores[place, ...], output.activation)
            parts.append(scores)
        return parts[0] if len(parts) == 1 else namespace_of(parts[0]).concat(parts, axis=1)

    def _on_sides(self, output: Segmentation | HeatMap, found: Array, batch: np.ndarray) -> Array:
        """Scores of one output, checked: finite, and of the shape that the manifest says."""
        sides = batch.shape[3:] if self.planes else batch.shape[2:]
        count = len(batch)
        scores = found
        if output.channels == 1 and scores.ndim == len(sides) + 1:
            scores = scores[:, None, ...]
        elif self.stage.run.layout == "channels-last" and scores.ndim == len(sides) + 2:
            scores = np.moveaxis(scores, -1, 1)
        if isinstance(output, HeatMap) and scores.ndim == len(sides) + 2 and scores.shape[2:] != sides:
            factors = (1, 1, *(side / found_side for side, found_side in zip(sides, scores.shape[2:], strict=True)))
            scores = ndimage.zoom(scores, factors, order=1, mode="nearest", grid_mode=True)
        expected = (count, output.channels, *sides)
        if scores.shape != expected:
            given = (count, batch.shape[1], *sides)
            raise Permanent(
                f"model {self.model}: output {output.tensor!r} has shape {found.shape} for an input of shape "
                f"{given}, expected {expected}"
            )
        self._check_finite(output.tensor, scores)
        return scores[:, :, None, ...] if self.planes else scores

    def _check_finite(self, tensor: str, found: Array) -> None:
        if isinstance(found, np.ndarray) and found.dtype.kind != "f":
            return
        xp = namespace_of(found)
        if found.size and not bool(xp.isfinite(xp.min(found)) & xp.isfinite(xp.max(found))):
            raise Permanent(f"model {self.model}: output {tensor!r} holds values that are not finite")

    def _others(self, outputs: Mapping[str, np.ndarray]) -> Item:
        found: Item = {}
        for output in self.stage.outputs:
            if isinstance(output, Segmentation | HeatMap):
                continue
            for tensor in tensors_of(output):
                self._check_finite(tensor, outputs[tensor])
                found[tensor] = outputs[tensor]
            if is_averaged(self.stage) and isinstance(output, Classification | Grading):
                found[output.tensor] = activate_scores(outputs[output.tensor], output.activation)
        return found

    def _keep(self, answers: Sequence[Item], count: int) -> None:
        """Average the answers and share them out to the items of the batch."""
        item = dict(answers[0])
        if len(answers) > 1:
            item = {tensor: np.mean([each[tensor] for each in answers], axis=0) for tensor in item}
        for place in range(count):
            self.items.append(
                {
                    tensor: array[place : place + 1] if count > 1 and len(array) == count else array
                    for tensor, array in item.items()
                }
            )


def activate_scores(scores: np.ndarray, activation: str) -> np.ndarray:
    """Softmax or sigmoid over the last axis, of scores without a place."""
    scores = scores.astype(np.float64)
    if activation == "softmax":
        raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
    return np.asarray(1 / (1 + np.exp(-np.clip(scores, -80, 80)))) if activation == "sigmoid" else scores
