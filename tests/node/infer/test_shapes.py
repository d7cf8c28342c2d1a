"""What `models check` says of a manifest that does not fit its network's tensors."""

from typing import Any

import pytest

from node.infer.sections import Stage
from node.infer.shapes import Tensor, shape_problems

LABEL = {"name": "a", "channels": [1], "type": {"value": "1", "meaning": "a"}, "rgb": [0, 0, 0]}
SEGMENTATION = {"task": "segmentation", "channels": 2, "labels": [LABEL]}
CLASS = {"name": "a", "channel": 2, "finding": {"value": "1", "meaning": "a"}}
VOLUME = {"orientation": "LIA", "spacing_mm": [1, 1, 1]}
IMAGE = {"dimensions": 2}


def stage(prepared: dict[str, Any], run: dict[str, Any] | None = None, output: dict[str, Any] | None = None) -> Stage:
    tables = {"name": "last", "preprocessing": prepared, "run": run or {}, "outputs": [output or SEGMENTATION]}
    return Stage.model_validate(tables)


def problems(wanted: Stage, image: tuple[int | None, ...], answer: tuple[int | None, ...]) -> list[str]:
    earlier = {"brain": stage(VOLUME)}
    name = wanted.outputs[0].tensor
    tensors = [Tensor("image", image)], [Tensor(name, answer)]
    return list(shape_problems(wanted, *tensors, ["t1", "flair"], earlier))


FREE = (None, 2, None, None, None)
FIXED = (1, 2, 64, 64, 32)
GRID = {"grid": {"kind": "fixed", "shape": [64, 64, 32]}}
PATCH = {"mode": "sliding-window", "patch": [64, 64, 32]}
CHANNEL = [{"stage": "brain", "use": "channel"}]


@pytest.mark.parametrize(
    ("wanted", "image", "answer"),
    [
        (stage(VOLUME), FREE, FREE),
        (stage(VOLUME | {"regions": CHANNEL}), (None, 3, None, None, None), FREE),
        (stage(VOLUME | GRID), FIXED, FIXED),
        (stage(VOLUME, PATCH), FIXED, FIXED),
        (stage(VOLUME, {"multiple": [32, 32, 32]} | PATCH), FREE, FREE),
        (stage(VOLUME, {"mode": "slices", "neighbours": 1}), (None, 6, None, None), (None, 2, None, None)),
        (stage(IMAGE | {"size": [64, 48], "colours": 3}), (1, 6, 64, 48), (1, 2, 64, 48)),
        (stage(IMAGE, {"each": "view"}, {"task": "classification", "classes": [CLASS]}), (1, 1, None, None), (1, 3)),
        (stage(IMAGE, {"layout": "channels-last"}), (None, None, None, 2), (None, None, None, 2)),
    ],
)
def test_what_fits_is_not_spoken_of(wanted: Stage, image, answer) -> None:
    assert problems(wanted, image, answer) == []


@pytest.mark.parametrize(
    ("wanted", "image", "answer", "expected"),
    [
        (stage(VOLUME), FREE, (None, 104, None, None, None), "outputs[0].channels: found 2, expected 104"),
        (stage(VOLUME), (None, 1, None, None, None), FREE, "run.input: found 2 channels of inputs (and of regions)"),
        (stage(VOLUME | {"regions": CHANNEL}), FREE, FREE, "run.input: found 3 channels"),
        (stage(VOLUME), (None, 2, None, None), FREE, "run.input: found 4 axes in the tensor 'image', expected 5 for"),
        (stage(IMAGE), FREE, FREE, "run.input: found 5 axes in the tensor 'image', expected 4 for images and slices"),
        (stage(VOLUME), FIXED, FREE, "preprocessing.grid.shape: found none, expected 64 x 64 x 32, the fixed sides"),
        (
            stage(VOLUME | GRID | {"crop": {}}),
            FIXED,
            FREE,
            "preprocessing.grid.shape: found none, expected 64 x 64 x 32, the fixed sides of the tensor 'image': "
            "nothing may be cut off",
        ),
        (
            stage(VOLUME, PATCH | {"patch": [32, 64, 32]}),
            FIXED,
            FREE,
            "run.patch: found 32 x 64 x 32, expected 64 x 64 x 32 as the tensor 'image' has",
        ),
        (stage(VOLUME, PATCH | {"halo": 8}), FIXED, FREE, "run.halo: found 8, expected 0"),
        (stage(VOLUME, PATCH | {"batch": 4}), FIXED, FREE, "run.batch: found 4, expected 1"),
        (stage(IMAGE | {"size": [32, 64]}), (1, 2, 64, 64), (1, 2, 64, 64), "preprocessing.size: found 32 x 64"),
        (
            stage(IMAGE, None, {"task": "classification", "classes": [CLASS]}),
            (1, 2, None, None),
            (1, 2),
            "outputs[0].classes[0].channel: found 2, expected at most 1: the tensor 'probability' has 2 channels",
        ),
    ],
)
def test_what_does_not_fit_is_said(wanted: Stage, image, answer, expected: str) -> None:
    (problem,) = problems(wanted, image, answer)
    assert problem.startswith(expected)
