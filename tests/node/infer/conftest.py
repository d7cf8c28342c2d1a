"""Model folders made on the spot: a tiny network, and the manifest that fits it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from node.infer import Model, Registry

MANIFEST = """version = 1

[model]
identifier = "{identifier}"
name = "Bright ball"
version = "1.2.3"
maker = "Phantom Works"
licence = "MIT"
intended_use = "Tests. Not for clinical use."
regulatory_status = "none: research use only"

[files]
"model.onnx" = "{sha256}"

[[inputs]]
[inputs.requires]
modality = ["MR", "CT"]

[preprocessing]
{preprocessing}

[run]
{run}

[[outputs]]
task = "segmentation"
{output}
{postprocessing}

{labels}
"""

PREPROCESSING = 'orientation = "SPL"\nalignment = "acquisition"\ngrid = { kind = "source" }'
RUN = ""
OUTPUT = "channels = 1"
POSTPROCESSING = 'decision = "threshold"\nthreshold = 500'
LABELS = """[[outputs.labels]]
name = "Ball"
channels = [0]
type = { value = "52988006", meaning = "Lesion" }
rgb = [255, 0, 0]

[[outputs.measurements]]
kind = "volume"
labels = ["Ball"]
"""


def network(nodes: list[onnx.NodeProto], *, rank: int = 5, constants: dict[str, np.ndarray] | None = None) -> bytes:
    """An ONNX file from tensor `image` to tensor `logits`, all sides dynamic."""
    sides = [f"side{axis}" for axis in range(rank)]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def identity(rank: int = 5) -> bytes:
    """A network whose output is its input."""
    return network([helper.make_node("Identity", ["image"], ["logits"])], rank=rank)


def two_channels() -> bytes:
    """A network with channels (500, value): argmax is 1 where the value is above 500."""
    nodes = [
        helper.make_node("Mul", ["image", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "limit"], ["background"]),
        helper.make_node("Concat", ["background", "image"], ["logits"], axis=1),
    ]
    constants = {"zero": np.array(0, np.float32), "limit": np.array(500, np.float32)}
    return network(nodes, constants=constants)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Model]:
    """Write a model folder and return its model; keywords replace parts of the manifest."""

    def make(content: bytes | None = None, *, identifier: str = "bright-ball", **parts: Any) -> Model:
        folder = tmp_path / "models" / identifier
        folder.mkdir(parents=True)
        content = identity() if content is None else content
        (folder / "model.onnx").write_bytes(content)
        (folder / "CARD.md").write_text("# Bright ball\n")
        texts = {
            "preprocessing": PREPROCESSING,
            "run": RUN,
            "output": OUTPUT,
            "postprocessing": POSTPROCESSING,
            "labels": LABELS,
        } | parts
        text = MANIFEST.format(identifier=identifier, sha256=hashlib.sha256(content).hexdigest(), **texts)
        (folder / "model.toml").write_text(text)
        registry = Registry([folder.parent])
        assert registry.problems == []
        return registry.get(identifier)

    return make
