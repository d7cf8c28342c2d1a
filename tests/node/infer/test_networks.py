"""Networks of a stage: outputs checked, channels shared out to tensors, folds and flips averaged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from node.errors import Permanent
from node.infer.networks import StageNetwork
from node.infer.sections import Stage

IMAGE = np.random.default_rng(4).normal(size=(1, 1, 5, 6, 7)).astype(np.float32)
CODE = {"value": "1", "meaning": "Thing"}
LABEL = {"name": "one", "channels": [1], "type": CODE, "rgb": (0, 0, 0)}
LABELS = {"task": "segmentation", "channels": 2, "labels": [LABEL]}
CLASSES = {"task": "classification", "classes": [{"name": "it", "channel": 0, "finding": CODE}]}


@dataclass
class Double:
    """A session that answers by a function."""

    answer: Any
    seen: list[dict[str, np.ndarray]] = field(default_factory=list)

    def run(
        self, feeds: Mapping[str, np.ndarray], check: Any = None, last: bool = True, leave: bool = False
    ) -> dict[str, np.ndarray]:
        self.seen.append(dict(feeds))
        return self.answer(**feeds)


def stage(*outputs: dict[str, Any], **run: Any) -> Stage:
    preprocessing = {"orientation": "SPL", "alignment": "acquisition"}
    return Stage.model_validate({"name": "s", "preprocessing": preprocessing, "run": run, "outputs": outputs})


def call(wanted: Stage, *answers: Any, image: np.ndarray = IMAGE, planes: bool = False, **widths: int) -> StageNetwork:
    sessions = [Double(answer) for answer in answers]
    return StageNetwork(wanted, sessions, widths or {"image": 1}, planes, "m", lambda: None)  # type: ignore[arg-type]


def doubled(image: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": np.concatenate([image, 2 * image], axis=1)}


@pytest.mark.parametrize("planes", [False, True])
def test_wrong_number_of_channels(planes: bool) -> None:
    network = call(stage(LABELS), lambda image: {"logits": image}, planes=planes)
    with pytest.raises(Permanent, match=r"model m: output 'logits' has shape \(1, 1, .*expected \(1, 2, "):
        network(IMAGE[:, :, :1])


def test_wrong_size() -> None:
    with pytest.raises(Permanent, match="expected"):
        call(stage(LABELS), lambda image: {"logits": doubled(image)["logits"][..., ::2]})(IMAGE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    def broken(image: np.ndarray) -> dict[str, np.ndarray]:
        output = doubled(image)
        output["logits"][0, 1, 3, 3, 3] = value
        return output

    with pytest.raises(Permanent, match="not finite"):
        call(stage(LABELS), broken)(IMAGE)
    with pytest.raises(Permanent, match="'probability' holds values that are not finite"):
        call(stage(CLASSES), lambda image: {"probability": np.array([[value]], np.float32)})(IMAGE)


def test_one_channel_may_lack_its_axis() -> None:
    one = LABELS | {"channels": 1, "labels": [LABEL | {"channels": [0]}]}
    scores = call(stage(one), lambda image: {"logits": image[:, 0]})(IMAGE)
    np.testing.assert_array_equal(scores, IMAGE)


def test_channels_last_and_several_tensors() -> None:
    """Three channels, of which the last two go to the second tensor, with channels last on both ways."""

    def answer(one: np.ndarray, two: np.ndarray) -> dict[str, np.ndarray]:
        assert one.shape == (1, 5, 6, 7, 1) and two.shape == (1, 5, 6, 7, 2)
        return {"logits": two}

    image = np.concatenate([IMAGE, IMAGE + 1, IMAGE + 2], axis=1)
    network = call(stage(LABELS, layout="channels-last"), answer, one=1, two=2)
    np.testing.assert_array_equal(network(image), image[:, 1:])


def test_flips_are_undone_and_averaged() -> None:
    """A network that adds a ramp along the last axis: mirrored and averaged the ramp is level."""
    ramp = np.arange(7, dtype=np.float32)

    def answer(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": np.concatenate([image + ramp, image], axis=1)}

    network = call(stage(LABELS, flips=(0, 2)), answer)
    scores = network(IMAGE)
    assert len(network.sessions[0].seen) == 4  # type: ignore[attr-defined]
    np.testing.assert_allclose(scores[:, 0], IMAGE[:, 0] + 3, rtol=1e-5)
    np.testing.assert_allclose(scores[:, 1], IMAGE[:, 0], rtol=1e-5)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_folds_are_averaged_before_or_after_the_activation(average: str) -> None:
    def fold(value: float) -> Any:
        return lambda image: {"logits": np.stack([image[:, 0] * 0, image[:, 0] * 0 + value], axis=1)}

    wanted = stage(LABELS | {"activation": "softmax"}, file=("a.onnx", "b.onnx"), average=average)
    found = call(wanted, fold(0.0), fold(4.0))(IMAGE)[0, 1, 0, 0, 0]
    assert found == pytest.approx((0.5 + 1 / (1 + np.exp(-4))) / 2 if average == "probabilities" else 2.0)


@pytest.mark.parametrize("writeable", [True, False])
def test_what_is_added_up_is_nobody_elses(writeable: bool) -> None:
    """The same tensor with and without a place; what a server gave is read-only."""
    vector = {"task": "embedding", "tensor": "logits", "length": 2}
    answers = [np.full((1, 2, 5, 6, 7), value, np.float32) for value in (1, 3)]
    for each in answers:
        each.setflags(write=writeable)
    folds = [lambda image: {"logits": answers[0]}, lambda image: {"logits": answers[1]}]
    network = call(stage(LABELS, vector, file=("a.onnx", "b.onnx")), *folds)
    np.testing.assert_array_equal(network(IMAGE), np.full((1, 2, 5, 6, 7), 2, np.float32))
    np.testing.assert_array_equal(network.items[0]["logits"], np.full((1, 2, 5, 6, 7), 2, np.float32))


def test_answers_without_a_place_are_kept_for_each_item() -> None:
    def answer(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"probability": image.mean(axis=(1, 2, 3))[:, None], "shared": np.zeros((9, 4), np.float32)}

    detection = {
        "task": "detection",
        "boxes": "shared",
        "scores": "probability",
        "classes": [{"name": "box", "channel": 0, "finding": CODE}],
    }
    network = call(stage(CLASSES, detection), answer, planes=True)
    batch = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1, 1) * np.ones((1, 1, 1, 4, 4), np.float32)
    assert network(batch).shape == (3, 0, 1, 4, 4)
    assert [float(item["probability"].item()) for item in network.items] == [0, 1, 2]
    assert all(item["shared"].shape == (9, 4) for item in network.items)
