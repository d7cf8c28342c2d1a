"""Answers of a network in memory of ours, whatever it says of their shape."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from node.infer.session import Session, open_session


def opened(step: int, answer: list[str | int]) -> Session:
    """A network that takes the largest of `step` voxels along each axis, and says that its answer has these sides."""
    pool = helper.make_node("MaxPool", ["image"], ["logits"], kernel_shape=[step] * 3, strides=[step] * 3)
    graph = helper.make_graph(
        [pool],
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, "D", "H", "W"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, answer)],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    network.ir_version = 8
    content = network.SerializeToString()
    return open_session("test", content, input_names=["image"], output_names=["logits"], device="cpu", threads=1)


IMAGE = np.random.default_rng(3).normal(size=(1, 1, 4, 6, 8)).astype(np.float32)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("answer", [["N", 1, "D", "H", "W"], ["N", 1, "a", "b", "c"]], ids=["same names", "others"])
def test_the_answer_is_right_whatever_the_network_says_of_its_shape(step: int, answer: list[str | int]) -> None:
    session = opened(step, answer)
    sides = [each // step for each in (4, 6, 8)]
    blocks = IMAGE.reshape(1, 1, sides[0], step, sides[1], step, sides[2], step)
    for _ in range(2):
        np.testing.assert_array_equal(session.run({"image": IMAGE})["logits"], blocks.max(axis=(3, 5, 7)))


def test_the_first_answer_is_not_kept_by_the_engine_too() -> None:
    session = opened(1, ["N", 1, "D", "H", "W"])
    assert session.run({"image": IMAGE})["logits"].flags.owndata
