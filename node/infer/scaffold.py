"""A model folder begun from an ONNX file: tensors, shapes and the likely task read from the network itself."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from node.errors import Permanent
from node.infer import draft
from node.infer.draft import Draft, Identity
from node.infer.label_files import NamedLabel
from node.infer.runtime import onnxruntime
from node.infer.session import ORT_ERRORS
from node.infer.shapes import Tensor


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
    return tensors_of(session)


def tensors_of(engine: onnxruntime.InferenceSession) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of a network that is loaded."""
    inputs, outputs = (
        tuple(Tensor(each.name, tuple(side if isinstance(side, int) else None for side in each.shape)) for each in some)
        for some in (engine.get_inputs(), engine.get_outputs())
    )
    return inputs, outputs


def new_folder(folder: Path, network: Path, labels: Sequence[NamedLabel] = ()) -> Draft:
    """Make a model folder from an ONNX file; `labels` say what the channels of its first output mean.

    Raises
    ------
    Permanent
        When the folder exists, the network cannot be read, or labels have channels that it does not give.
    """
    if folder.exists():
        raise Permanent(f"{folder} exists, expected the name of a folder to be made")
    inputs, outputs = read_tensors(network)
    identity = Identity(draft.slug(folder.name), folder.name)
    made = draft_of(identity, inputs, outputs, draft.sha256_of(network.read_bytes()), labels)
    folder.mkdir(parents=True)
    shutil.copyfile(network, folder / "model.onnx")
    (folder / "model.toml").write_text(made.text, encoding="utf-8")
    (folder / "CARD.md").write_text(draft.card(identity, made.open_questions), encoding="utf-8")
    return made


def draft_of(
    identity: Identity,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sha256: str,
    labels: Sequence[NamedLabel] = (),
) -> Draft:
    """The draft for a network with these tensors, whose first output has these labels."""
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
    for place, output in enumerate(_kept(outputs)):
        named = labels if place == 0 else ()
        text += "\n" + _output(output, image, outputs, named)
        unsaid = (
            "task, activation, thresholds" if named else "task, names and codes of its channels, activation, thresholds"
        )
        questions.append(f"outputs, tensor {output.name}: {unsaid}")
        questions += _asked_of_labels(output, image, outputs, named)
    return Draft(text, tuple(questions))


def _asked_of_labels(
    output: Tensor, image: Tensor, outputs: Sequence[Tensor], labels: Sequence[NamedLabel]
) -> list[str]:
    if not labels:
        return []
    if _is_boxes(output, outputs) or len(output.sides) != len(image.sides):
        local = sum(each.type is None for each in labels)
        return [f"outputs.classes: {local} local codes, to be replaced by SNOMED CT where it has one"] if local else []
    asked = [draft.code_question(labels)]
    count = _channels(output)
    named = {channel for label in labels for channel in label.channels}
    if unnamed := [str(channel) for channel in range(1, count) if channel not in named]:
        asked.append(f"outputs.labels: channels {', '.join(unnamed)} have no label: they are background")
    return [each for each in asked if each]


def _channels(output: Tensor) -> int:
    return (output.sides[1] if len(output.sides) > 1 else None) or 1


def _input(name: str, in_images: bool) -> str:
    head = draft.table("[[inputs]]", {"name": name})
    requires = {"modality": ["DX", "CR"] if in_images else ["CT"], "minimum_slices": 1 if in_images else 10}
    return head + draft.table("[inputs.requires]", requires, ["To be said: which series feed it."])


def _preprocessing(image: Tensor, in_images: bool, colours: int) -> str:
    sides = image.sides[2:]
    fixed = list(sides) if all(side is not None for side in sides) else None
    steps = [{"step": "min-max"}]
    steps_known = "clip, clip-percentiles, window, percentile-window, min-max, z-score, affine"
    comment = [f"To be said: as in training. Steps: {steps_known}."]
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


def _output(output: Tensor, image: Tensor, outputs: Sequence[Tensor], named: Sequence[NamedLabel]) -> str:
    finding = draft.local_code("Finding")
    prefix = f"{output.name} " if len(_kept(outputs)) > 1 else ""
    if _is_boxes(output, outputs):
        entries: dict[str, Any] = {"task": "detection", "boxes": output.name, "scores": "scores", "layout": "xyxy"}
        entries |= {"numbers": "labels"} if any(each.name == "labels" for each in outputs) else {}
        classes = named or [NamedLabel("Finding", (0,))]
        return "\n".join([draft.table("[[outputs]]", entries), *(_class(each, finding) for each in classes)])
    if len(output.sides) == len(image.sides):
        text = _segmentation(output, prefix, named)
        return text.replace('kind = "volume"', 'kind = "area"') if len(image.sides) == 4 else text
    _check_channels(named, _channels(output))
    classes = named or [NamedLabel(f"{prefix}Class {channel}", (channel,)) for channel in range(_channels(output))]
    entries = {"task": "classification", "tensor": output.name, "activation": _activation(output, "sigmoid")}
    text = draft.table("[[outputs]]", entries, ["Or: grading, regression, embedding, landmarks, text."])
    return "\n".join([text, *(_class(each, draft.local_code(each.name) if named else finding) for each in classes)])


def _is_boxes(output: Tensor, outputs: Sequence[Tensor]) -> bool:
    return output.name == "boxes" and any(each.name == "scores" for each in outputs)


def _activation(output: Tensor, usual: str) -> str:
    """None is left to do where the tensor is called a probability."""
    return "none" if "prob" in output.name.lower() else usual


def _segmentation(output: Tensor, prefix: str, named: Sequence[NamedLabel]) -> str:
    """One channel with several labels holds their numbers; several channels have one each."""
    channels = _channels(output)
    several, numbered = channels > 1, channels == 1 and len(named) > 1
    if not numbered:
        _check_channels(named, channels)
    entries = {
        "task": "segmentation",
        "tensor": output.name,
        "channels": channels,
        "activation": "none" if numbered else _activation(output, "softmax" if several else "sigmoid"),
        "decision": "argmax" if several else "values" if numbered else "threshold",
    }
    first = 1 if several else 0
    labels = named or [NamedLabel(f"{prefix}Label {channel}", (channel,)) for channel in range(first, channels)]
    return draft.table("[[outputs]]", entries) + "\n" + draft.label_tables(labels)


def _check_channels(labels: Sequence[NamedLabel], channels: int) -> None:
    for label in labels:
        if max(label.channels) >= channels:
            raise Permanent(
                f"labels: found number {max(label.channels)} for {label.name!r}, expected at most {channels - 1}: the "
                f"place of a channel in the output, which has {channels}"
            )


def _class(label: NamedLabel, finding: Mapping[str, str]) -> str:
    """A class with the code that came with its name, or else `finding`."""
    entries = {"name": label.name[:64], "channel": label.channels[0], "finding": label.type or finding}
    return draft.table("[[outputs.classes]]", entries | {"laterality": label.laterality, "threshold": 0.5})
