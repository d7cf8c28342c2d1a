"""Boxes with scores: read in the layout that the manifest names, overlapping ones joined or dropped, placed in the
image or in space. Pure.

A box is (low, high) corner on the tensor's axes, in pixels counted from the outer edge of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dicom_sr.findings import Finding, Presence
from node.errors import Permanent
from node.infer.classification import presence_of, scored
from node.infer.networks import activate_scores
from node.infer.output_sections import DetectedClass, Detection
from node.infer.parts import Call, Part
from node.infer.regions import IndexBox


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one class: corners (box, axis) and scores (box)."""

    low: np.ndarray
    high: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def chosen(self, which: np.ndarray) -> "Boxes":
        """Some of them, by mask or index."""
        return Boxes(self.low[which], self.high[which], self.scores[which])


def detect(
    section: Detection, calls: Sequence[Call], activation: str, model: str, keep: np.ndarray | None = None
) -> Part:
    """Boxes of each class from its operating point (or its lower band) on; for a class without one, that it is absent.

    Parameters
    ----------
    keep : ndarray of bool, optional
        On the subject's voxels; boxes whose middle lies outside are dropped.
    """
    findings: list[Finding] = []
    placed: dict[str, tuple[IndexBox, ...]] = {}
    everything = [_read(section, call, activation, model) for call in calls]
    for each in section.classes:
        found: list[tuple[Call, Boxes]] = []
        best = -np.inf
        for call, by_channel in zip(calls, everything, strict=True):
            if each.channel not in by_channel:
                continue
            boxes = by_channel[each.channel]
            best = max(best, _best(call, boxes, keep))
            joined = join(boxes.chosen(boxes.scores > section.candidates_above), section.suppression, section.iou)
            found += [(call, joined.chosen(np.array([place]))) for place in range(len(joined))]
        found = [(call, box) for call, box in found if presence_of(float(box.scores[0]), each) is not Presence.ABSENT]
        found = [(call, box) for call, box in found if keep is None or _is_inside(call, box, keep)]
        found.sort(key=lambda pair: -float(pair[1].scores[0]))
        found = found[: each.maximum]
        placed[each.name] = tuple(call.subject.source_box(_index_box(call, box), call.grid) for call, box in found)
        if found:
            single = each.maximum == 1 or len(found) == 1
            for number, (call, box) in enumerate(found, start=1):
                findings.append(_finding(section, each, call, box, each.name if single else f"{each.name} {number}"))
        else:
            findings.append(_absent(section, each, best))
    present = frozenset(name for name, boxes in placed.items() if boxes)
    return Part(findings=tuple(findings), boxes=placed, present=present)


def _finding(section: Detection, each: DetectedClass, call: Call, box: Boxes, name: str) -> Finding:
    score = float(box.scores[0])
    likelihood, measurements = scored(section, score, each.threshold)
    return Finding(
        finding=each.finding.code,
        tracking_identifier=name,
        finding_site=each.finding_site.code if each.finding_site else None,
        laterality=each.laterality.code if each.laterality else None,
        measurements=measurements,
        presence=presence_of(score, each),
        likelihood=likelihood,
        regions=(call.subject.box_region(_index_box(call, box), call.grid),),
        critical=each.critical,
    )


def _absent(section: Detection, each: DetectedClass, best: float) -> Finding:
    likelihood, measurements = scored(section, best, each.threshold) if np.isfinite(best) else (None, ())
    return Finding(
        finding=each.finding.code,
        tracking_identifier=each.name,
        finding_site=each.finding_site.code if each.finding_site else None,
        laterality=each.laterality.code if each.laterality else None,
        measurements=measurements,
        presence=Presence.ABSENT,
        likelihood=likelihood,
        critical=each.critical,
    )


def _best(call: Call, boxes: Boxes, keep: np.ndarray | None) -> float:
    """The highest score of all boxes whose middle counts."""
    if keep is None:
        return float(boxes.scores.max(initial=-np.inf))
    middles = (boxes.low + boxes.high) / 2 - 0.5
    if middles.shape[1] == 2:
        middles = np.insert(middles, 0, call.index or 0, axis=1)
    places = np.rint(call.subject.place(middles, call.grid)).astype(int)
    inside = keep[tuple(np.clip(places, 0, np.array(keep.shape) - 1).T)]
    return float(boxes.scores[inside].max(initial=-np.inf))


def _is_inside(call: Call, box: Boxes, keep: np.ndarray) -> bool:
    low, high = call.subject.source_box(_index_box(call, box), call.grid)
    middle = np.clip(np.rint((low + high) / 2).astype(int), 0, np.array(keep.shape) - 1)
    return bool(keep[tuple(middle)])


def _index_box(call: Call, box: Boxes) -> IndexBox:
    """Corners as indices of the tensor's grid; a box of a slice or frame is as thick as that."""
    low, high = box.low[0] - 0.5, box.high[0] - 0.5
    if len(low) == 3:
        return low, high
    index = call.index or 0
    return np.array([index - 0.5, *low]), np.array([index + 0.5, *high])


def _read(section: Detection, call: Call, activation: str, model: str) -> dict[int, Boxes]:
    """The boxes of one call by channel."""
    axes = 2 if call.index is not None else 3
    raw = call.tensors[section.boxes].astype(np.float64)
    sides = 2 * axes
    if raw.size == 0:
        return {}
    if raw.shape[-1] < sides and raw.ndim > 1 and raw.shape[-2] >= sides:
        raise _wrong(model, section.boxes, raw, f"(1, box, {sides})")
    table = raw.reshape(-1, raw.shape[-1])
    if section.scores == section.boxes:
        scores = table[:, sides:]
    else:
        scores = _scores(section, call, len(table), model)
    if table.shape[1] < sides or (section.scores != section.boxes and table.shape[1] != sides):
        raise _wrong(model, section.boxes, raw, f"(1, box, {sides})")
    low, high = _corners(table[:, :sides], section, call.grid.shape[3 - axes :])
    scores = activate_scores(scores, activation)
    numbers = None if section.numbers is None else call.tensors[section.numbers].reshape(-1)
    if numbers is not None:
        return {
            each.channel: Boxes(low, high, scores[:, 0]).chosen(numbers == each.channel) for each in section.classes
        }
    highest = max(each.channel for each in section.classes)
    if scores.shape[1] <= highest:
        raise _wrong(model, section.scores, scores, f"scores of {highest + 1} channels")
    return {each.channel: Boxes(low, high, scores[:, each.channel]) for each in section.classes}


def _scores(section: Detection, call: Call, count: int, model: str) -> np.ndarray:
    """(box, channel)."""
    raw = call.tensors[section.scores].astype(np.float64)
    if raw.size == count:
        return raw.reshape(count, 1)
    table = raw.reshape(raw.shape[-2:]) if raw.ndim >= 2 and raw.size == np.prod(raw.shape[-2:]) else raw
    if table.ndim == 2 and table.shape[0] == count:
        return table
    if table.ndim == 2 and table.shape[1] == count:
        return table.T
    raise _wrong(model, section.scores, raw, f"(1, channel, {count}), (1, {count}, channel) or ({count})")


def _wrong(model: str, tensor: str, found: np.ndarray, expected: str) -> Permanent:
    return Permanent(f"model {model}: output {tensor!r} has shape {found.shape}, expected {expected}")


def _corners(table: np.ndarray, section: Detection, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corners on the tensor's axes, first axis first."""
    axes = len(shape)
    one, two = table[:, :axes], table[:, axes:]
    if section.layout == "xywh":
        two = one + two
    elif section.layout == "cxcywh":
        one, two = one - two / 2, one + two / 2
    if section.first == "column":
        one, two = one[:, ::-1], two[:, ::-1]
    scale = np.array(shape, float) if section.coordinates == "relative" else 1.0
    return np.minimum(one, two) * scale, np.maximum(one, two) * scale


def join(boxes: Boxes, how: str, iou: float) -> Boxes:
    """Boxes that overlap a better one are dropped (nms), or joined with it, each counting by its score (weighted)."""
    order = np.argsort(-boxes.scores, kind="stable")
    boxes = boxes.chosen(order)
    if how == "none" or not len(boxes):
        return boxes
    left = np.arange(len(boxes))
    lows, highs, scores = [], [], []
    while left.size:
        near = left[overlap(boxes.chosen(left), boxes.low[left[0]], boxes.high[left[0]]) >= iou]
        near = near if near.size else left[:1]
        if how == "weighted":
            weights = np.maximum(boxes.scores[near], 1e-9)
            lows.append(np.average(boxes.low[near], axis=0, weights=weights))
            highs.append(np.average(boxes.high[near], axis=0, weights=weights))
        else:
            lows.append(boxes.low[left[0]])
            highs.append(boxes.high[left[0]])
        scores.append(boxes.scores[left[0]])
        left = left[~np.isin(left, np.append(near, left[0]))]
    return Boxes(np.array(lows), np.array(highs), np.array(scores))


def overlap(boxes: Boxes, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Intersection over union of each box with one."""
    shared = np.prod(np.clip(np.minimum(boxes.high, high) - np.maximum(boxes.low, low), 0, None), axis=1)
    sizes = np.prod(boxes.high - boxes.low, axis=1) + np.prod(high - low)
    return np.asarray(shared / np.maximum(sizes - shared, 1e-12))
