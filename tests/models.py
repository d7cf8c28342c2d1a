"""Model folders made for tests: a network of two operators, with a manifest as a data scientist would write it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MANIFEST = """\
version = 1

[model]
identifier = "{identifier}"
name = "Bright ball"
version = "1.0"
maker = "Phantom Works"
licence = "MIT"
intended_use = "Tests. Not for clinical use."
regulatory_status = "none"

[files]
"model.onnx" = "{sha256}"

[[inputs]]
[inputs.requires]
modality = ["MR", "CT"]
minimum_slices = 2

[preprocessing]
orientation = "SPL"
alignment = "acquisition"
grid = {{ kind = "source" }}

[[outputs]]
task = "segmentation"
channels = 2

[[outputs.labels]]
name = "Ball"
channels = [1]
type = {{ value = "12738006", meaning = "Brain" }}
rgb = [255, 0, 0]

[[outputs.measurements]]
kind = "volume"
labels = ["Ball"]
"""


def write_model(folder: Path, identifier: str, network: onnx.ModelProto) -> Path:
    """A model folder with this network and a manifest bound to it."""
    folder.mkdir(parents=True)
    content = network.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "model.toml").write_text(MANIFEST.format(identifier=identifier, sha256=sha256))
    (folder / "CARD.md").write_text("# Bright ball\n\nA model for tests. Not for clinical use.\n")
    return folder


def threshold_network(threshold: float = 500.0, repeats: int = 0) -> onnx.ModelProto:
    """Two channels: background wins up to `threshold`, the ball above. `repeats` useless convolutions make it slow."""
    nodes, previous = [], "image"
    initializers = [
        helper.make_tensor("threshold", TensorProto.FLOAT, [1], [threshold]),
        helper.make_tensor("twice", TensorProto.FLOAT, [1], [2 * threshold]),
    ]
    if repeats:
        kernel = [0.0] * 343
        kernel[171] = 1.0  # the middle of 7 x 7 x 7: the convolution changes nothing
        initializers.append(helper.make_tensor("same", TensorProto.FLOAT, [1, 1, 7, 7, 7], kernel))
    for number in range(repeats):
        nodes.append(helper.make_node("Conv", [previous, "same"], [f"same{number}"], pads=[3] * 6))
        previous = f"same{number}"
    nodes.append(helper.make_node("Sub", ["twice", previous], ["dark"]))
    nodes.append(helper.make_node("Concat", ["dark", previous], ["logits"], axis=1))
    return network(nodes, ["N", 2, "D", "H", "W"], initializers)


def network(nodes: list[onnx.NodeProto], output_shape: list[int | str], initializers: list) -> onnx.ModelProto:
    """A network from `image` (N, 1, D, H, W) to `logits`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, "D", "H", "W"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_shape)],
        initializers,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


def failing_network() -> onnx.ModelProto:
    """Raises when it runs: reshapes to a size that does not fit."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [5], [1, 2, 7, 11, 13])
    return network([helper.make_node("Reshape", ["image", "shape"], ["logits"])], ["N", 2, "D", "H", "W"], [shape])


def wrong_shape_network() -> onnx.ModelProto:
    """Answers with another shape than its manifest promises: the number of channels is that of the input."""
    return network([helper.make_node("Identity", ["image"], ["logits"])], ["N", "C", "D", "H", "W"], [])


HEAD = """\
version = 1

[model]
identifier = "{identifier}"
name = "Phantom model"
version = "1.0"
maker = "Phantom Works"
licence = "MIT"
intended_use = "Tests. Not for clinical use."
regulatory_status = "none"

[files]
{files}
"""


def write_task_model(folder: Path, tables: str, files: Mapping[str, onnx.ModelProto | bytes]) -> Path:
    """A model folder with these tables of a manifest behind its head; the folder's name is the identifier."""
    folder.mkdir(parents=True)
    hashes = []
    for name, network in files.items():
        content = network if isinstance(network, bytes) else network.SerializeToString()
        (folder / name).write_bytes(content)
        hashes.append(f'"{name}" = "{hashlib.sha256(content).hexdigest()}"')
    head = HEAD.format(identifier=folder.name, files="\n".join(hashes))
    (folder / "model.toml").write_text(f"{head}\n{tables}")
    (folder / "CARD.md").write_text("# Phantom model\n\nA model for tests. Not for clinical use.\n")
    return folder


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    constants: Mapping[str, np.ndarray] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A network between named tensors of these numbers of axes, all sides dynamic; outputs are of `kind`."""

    def value(name: str, axes: int, of: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, of, [f"{name}{axis}" for axis in range(axes)])

    made = helper.make_graph(
        list(nodes),
        "test",
        [value(name, axes, TensorProto.FLOAT) for name, axes in inputs.items()],
        [value(name, axes, kind) for name, axes in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def any_network(path: Path, sides: list[Any], outputs: dict[str, list[Any]], name: str = "x") -> Path:
    """An ONNX file with these tensors; what it computes does not matter here."""
    nodes = [
        helper.make_node("RandomNormal", [], [each], shape=[side if isinstance(side, int) else 2 for side in shape])
        for each, shape in outputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in outputs],
    )
    for each, shape in zip(graph.output, outputs.values(), strict=True):
        each.CopyFrom(helper.make_tensor_value_info(each.name, TensorProto.FLOAT, shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
