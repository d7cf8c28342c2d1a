"""A model folder begun from an ONNX file: tensors, shapes and the likely task read from the network itself."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import Permanent
from node.infer import draft
from node.infer.draft import Draft, Identity
from node.infer.runtime import onnxruntime
from node.infer.session import ORT_ERRORS


@dataclass(frozen=True)
class Tensor:
    """Name and sides of a tensor; a side that is not fixed is None."""

    name: str
    sides: tuple[int | None, ...]


def read_tensors(path: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of an ONNX file.

    Raises
    ------
    Permanent
        When ONNX Runtime cannot load it.
    """
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise Permanent(f"{path.name}: ONNX Runtime cannot load it: {type(error).__name__} {reason}") from None
    inputs, outputs = (
        tuple(Tensor(each.name, tuple(side if isinstance(side, int) else None for side in each.shape)) for each in some)
        for some in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def new_folder(folder: Path, network: Path) -> Draft:
    """Make a model folder from an ONNX file.

    Raises
    ------
    Permanent
        When the folder exists, or the network cannot be read.
    """
    if folder.exists():
        raise Permanent(f"{folder} exists, expected the name of a folder to be made")
    inputs, outputs = read_tensors(network)
    identity = Identity(draft.slug(folder.name), folder.name)
    made = draft_of(identity, inputs, outputs, draft.sha256_of(network.read_bytes()))
    folder.mkdir(parents=True)
    shutil.copyfile(network, folder / "model.onnx")
    (folder / "model.toml").write_text(made.text, encoding="utf-8")
    (folder / "CARD.md").write_text(draft.card(identity, made.open_questions), encoding="utf-8")
    return made


def draft_of(identity: Identity, inputs: Sequence[Tensor], outputs: Sequence[Tensor], sha256: str) -> Draft:
    """The draft for a network with these tensors."""
    text, questions = draft.head(identity, {"model.onnx": sha256})
    image = inputs[0]
    in_images = len(image.sides) == 4
    count = image.sides[1] or 1
    colours = 3 if in_images and count == 3 else 1
    names = ["image"] if count in (1, colours) and len(inputs) == 1 else [f"image{n + 1}" for n in range(count)]
    if len(inputs) > 1:
        names = [draft.slug(each.name) for each in inputs]
    for name in names:
        text += "\n" + _input(name, in_images)
    questions.append("inputs: which series feed the model: modality, view, sequence, slice thickness")
    text += "\n" + _preprocessing(image, in_images, colours)
    questions.append("preprocessing: orientation, spacing and intensity as in training; nothing in the file says them")
    text += "\n" + _run(inputs, names)
    for output in _kept(outputs):
        text += "\n" + _output(output, image, outputs)
        questions.append(
            f"outputs, tensor {output.name}: task, names and codes of its channels, activation, thresholds"
        )
    return Draft(text, tuple(questions))


def _input(name: str, in_images: bool) -> str:
    head = draft.table("[[inputs]]", {"name": name})
    requires = {"modality": ["DX", "CR"] if in_images else ["CT"], "minimum_slices": 1 if in_images else 10}
    return head + draft.table("[inputs.requires]", requires, ["To be said: which series feed it."])


def _preprocessing(image: Tensor, in_images: bool, colours: int) -> str:
    sides = image.sides[2:]
    fixed = list(sides) if all(side is not None for side in sides) else None
    steps = [{"step": "min-max"}]
    comment = ["To be said: as in training. Steps: clip, clip-percentiles, window, min-max, z-score, affine."]
    if in_images:
        entries: dict[str, Any] = {
            "dimensions": 2,
            "size": fixed,
            "fit": "pad" if fixed else "stretch",
            "colours": colours,
            "intensity": steps,
        }
        return draft.table("[preprocessing]", entries, comment)
    entries = {"orientation": "SPL", "alignment": "patient", "spacing_mm": [1.0, 1.0, 1.0], "intensity": steps}
    grid = {"kind": "fixed", "shape": fixed} if fixed else {"kind": "cover"}
    return draft.table("[preprocessing]", entries, comment) + draft.table("[preprocessing.grid]", grid)


def _run(inputs: Sequence[Tensor], names: Sequence[str]) -> str:
    if len(inputs) == 1:
        return draft.table("[run]", {"input": inputs[0].name})
    tensors = {each.name: [name] for each, name in zip(inputs, names, strict=True)}
    return draft.table("[run]", {}) + draft.table("[run.input]", tensors)


def _kept(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Boxes and scores make one output; of everything else each tensor is one."""
    names = {output.name for output in outputs}
    if {"boxes", "scores"} <= names:
        return [output for output in outputs if output.name not in ("scores", "labels")]
    return list(outputs)


def _output(output: Tensor, image: Tensor, outputs: Sequence[Tensor]) -> str:
    channels = (output.sides[1] if len(output.sides) > 1 else None) or 1
    finding = draft.local_code("Finding")
    prefix = f"{output.name} " if len(_kept(outputs)) > 1 else ""
    if output.name == "boxes" and any(each.name == "scores" for each in outputs):
        entries: dict[str, Any] = {"task": "detection", "boxes": output.name, "scores": "scores", "layout": "xyxy"}
        named = any(each.name == "labels" for each in outputs)
        entries |= {"numbers": "labels"} if named else {}
        return draft.table("[[outputs]]", entries) + "\n" + _class("Finding", 0, finding)
    if len(output.sides) == len(image.sides):
        several = channels > 1
        entries = {
            "task": "segmentation",
            "tensor": output.name,
            "channels": channels,
            "activation": "softmax" if several else "sigmoid",
            "decision": "argmax" if several else "threshold",
        }
        labels = [(f"{prefix}Label {channel}", [channel]) for channel in range(1 if several else 0, channels)]
        text = draft.table("[[outputs]]", entries) + "\n" + draft.label_tables(labels)
        return text.replace('kind = "volume"', 'kind = "area"') if len(image.sides) == 4 else text
    entries = {"task": "classification", "tensor": output.name, "activation": "sigmoid"}
    text = draft.table("[[outputs]]", entries, ["Or: grading, regression, embedding, landmarks, text."])
    return text + "\n" + "\n".join(_class(f"{prefix}Class {channel}", channel, finding) for channel in range(channels))


def _class(name: str, channel: int, finding: dict[str, str]) -> str:
    return draft.table("[[outputs.classes]]", {"name": name, "channel": channel, "finding": finding, "threshold": 0.5})
