"""Model folders made of MONAI bundles with their network as ONNX, and what importers share.

Only data files are read. A bundle's configs can contain code, and are never opened. What a data file does not say is
listed, and stands as a comment in the draft.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import Permanent
from node.infer import draft
from node.infer.draft import Draft, Identity
from node.infer.label_files import NamedLabel
from node.infer.scaffold import Tensor, read_tensors

MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT", "PT": "PT", "T1": "MR", "T2": "MR", "FLAIR": "MR"}


Tensors = tuple[str, str]
"""Names of the input and of the first output of a network."""


@dataclass(frozen=True)
class Files:
    """SHA-256 of the networks by name in the new folder, and the tensors of the first."""

    hashes: Mapping[str, str]
    tensors: Tensors


def import_monai(bundle: Path, folder: Path) -> Draft:
    """A model folder of a MONAI bundle: `configs/metadata.json` and an ONNX file anywhere in it.

    Raises
    ------
    Permanent
        When one of them is missing or cannot be used.
    """
    metadata = read_json(bundle / "configs" / "metadata.json")
    networks = networks_in(bundle)
    if len(networks) > 1:
        raise Permanent(f"{bundle.name}: found {len(networks)} ONNX files, expected one")
    (network,) = networks.values()
    made = draft_of_monai(metadata, folder.name, Files(hashes(networks), tensors(network)), read_tensors(network)[1])
    return write(folder, networks, made, _monai_identity(metadata, folder.name))


def _monai_identity(metadata: Mapping[str, Any], name: str) -> Identity:
    return Identity(
        identifier=draft.slug(name),
        name=str(metadata.get("name") or name),
        version=str(metadata.get("version") or "0.1.0"),
        maker=str(metadata.get("authors") or ""),
        licence=str(metadata.get("license") or ""),
        intended_use=" ".join(str(metadata.get("intended_use") or metadata.get("description") or "").split()),
    )


def draft_of_monai(metadata: Mapping[str, Any], name: str, files: Files, tensors: Sequence[Tensor]) -> Draft:
    """The draft for a bundle's metadata; `tensors` are the outputs of its network."""
    text, questions = draft.head(_monai_identity(metadata, name), files.hashes)
    form = metadata.get("network_data_format") or {}
    inputs, outputs = form.get("inputs") or {}, form.get("outputs") or {}
    if not inputs or not outputs:
        raise Permanent("metadata.json: found no network_data_format with inputs and outputs, expected both")
    given, answer = next(iter(inputs.values())), next(iter(outputs.values()))
    shape = list(given.get("spatial_shape") or ("*", "*", "*"))
    if len(shape) not in (2, 3):
        raise Permanent(f"metadata.json: found spatial_shape with {len(shape)} axes, expected 2 or 3")
    in_images = len(shape) == 2
    channels = int(given.get("num_channels") or 1)
    colours = 3 if in_images and channels == 3 else 1
    names = [draft.slug(str((given.get("channel_def") or {}).get(str(n), f"image{n + 1}"))) for n in range(channels)]
    names = ["image"] if channels in (1, colours) else names
    modality = MODALITIES.get(str(given.get("modality", "")).upper().split(" ")[0])
    if modality is None:
        questions.append(f"inputs.requires.modality: found {given.get('modality')!r} in the metadata")
    for each in names:
        text += "\n" + draft.table("[[inputs]]", {"name": each})
        text += draft.table("[inputs.requires]", {"modality": [modality or ("DX" if in_images else "CT")]})
    text += "\n" + _monai_preprocessing(given, shape, colours, questions)
    text += "\n" + _monai_run(given, shape, files, questions)
    tensor = tensors[0]
    has_place = len(tensor.sides) == 2 + len(shape)
    make_output = _monai_segmentation if has_place else _monai_classification
    text += "\n" + make_output(tensor, answer, questions)
    return Draft(text.replace('kind = "volume"', 'kind = "area"') if in_images else text, tuple(questions))


def _monai_preprocessing(given: Mapping[str, Any], shape: Sequence[Any], colours: int, questions: list[str]) -> str:
    low, high = (given.get("value_range") or (0, 1))[:2]
    entries: dict[str, Any] = {"intensity": [{"step": "min-max", "low": float(low), "high": float(high)}]}
    asked = [
        f"preprocessing.intensity: the metadata says only the range {given.get('value_range')}; min-max is assumed"
    ]
    if len(shape) == 2:
        fixed = all(isinstance(side, int) for side in shape)
        entries |= {"dimensions": 2, "size": list(shape) if fixed else None, "colours": colours}
        asked.insert(
            0,
            "preprocessing.fit, interpolation: in the bundle's configs, which are never read; stretched is assumed. "
            "The network takes planes: single images are assumed; for the slices of a series write dimensions = 3 "
            'and run.mode = "slices"',
        )
    else:
        entries |= {"orientation": "RAS", "alignment": "acquisition"}
        asked.insert(
            0,
            "preprocessing.orientation, spacing_mm: in the bundle's configs, which are never read; RAS and the images' "
            "own spacing are assumed",
        )
    questions += asked
    return draft.table("[preprocessing]", entries, asked)


def _monai_run(given: Mapping[str, Any], shape: Sequence[Any], files: Files, questions: list[str]) -> str:
    run: dict[str, Any] = {"file": next(iter(files.hashes)), "input": files.tensors[0]}
    if given.get("is_patch_data") and len(shape) == 3 and all(isinstance(side, int) for side in shape):
        run |= {"mode": "sliding-window", "patch": list(shape), "overlap": 0.5}
        questions.append("run.overlap: in the bundle's configs; 0.5 is assumed")
    factors = [re.fullmatch(r"(\d+) *\* *n", str(side)) for side in shape]
    if any(factors):
        multiples = [int(factor[1]) if factor else 1 for factor in factors]
        run["multiple"] = [1, *multiples] if len(shape) == 2 else multiples
    return draft.table("[run]", run)


def _meanings(answer: Mapping[str, Any], count: int, word: str) -> list[str]:
    meanings = answer.get("channel_def") or {}
    return [str(meanings.get(str(n)) or meanings.get(n) or f"{word} {n}") for n in range(count)]


def _monai_segmentation(tensor: Tensor, answer: Mapping[str, Any], questions: list[str]) -> str:
    count = int(answer.get("num_channels") or tensor.sides[1] or 1)
    named = [NamedLabel(name, (channel,)) for channel, name in enumerate(_meanings(answer, count, "Label"))]
    foreground = [each for each in named if each.name.lower() != "background"]
    several = len(foreground) < count
    entries = {
        "task": "segmentation",
        "tensor": tensor.name,
        "channels": count,
        "activation": "softmax" if several else "sigmoid",
        "decision": "argmax" if several else "threshold",
        "overlap": None if several or count == 1 else True,
    }
    questions += filter(None, [draft.code_question(foreground)])
    return draft.table("[[outputs]]", entries) + "\n" + draft.label_tables(foreground)


def _monai_classification(tensor: Tensor, answer: Mapping[str, Any], questions: list[str]) -> str:
    """Scores without a place: one for each class."""
    count = int(tensor.sides[1] or answer.get("num_channels") or 1) if len(tensor.sides) == 2 else 0
    if not count:
        raise Permanent(
            f"metadata.json: found output {tensor.name!r} with {len(tensor.sides)} axes, expected scores of voxels "
            "or of classes: begin with `overread models new`"
        )
    questions.append(
        "outputs.activation: the metadata does not say whether classes exclude each other; softmax is assumed"
    )
    questions.append("outputs.classes: codes (SNOMED CT) and thresholds; those in the draft are local, and 0.5")
    entries = {
        "task": "classification",
        "tensor": tensor.name,
        "activation": "softmax" if count > 1 else "sigmoid",
    }
    classes = [
        draft.table(
            "[[outputs.classes]]",
            {"name": name[:64], "channel": channel, "finding": draft.local_code(name), "threshold": 0.5},
        )
        for channel, name in enumerate(_meanings(answer, count, "Class"))
    ]
    return "\n".join([draft.table("[[outputs]]", entries), *classes])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises
    ------
    Permanent
        When it does not, or cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Permanent(
            f"{path.name} cannot be read ({error.strerror}), expected it in {path.parent.resolve().name}"
        ) from None
    except ValueError as error:
        raise Permanent(f"{path.name}: is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Permanent(f"{path.name}: found {type(found).__name__}, expected an object")
    return found


def networks_in(folder: Path) -> dict[str, Path]:
    """The ONNX files anywhere in a folder, by their names in the new one: one network, or one for each fold.

    Raises
    ------
    Permanent
        When there is none.
    """
    found = sorted(folder.rglob("*.onnx"))
    if not found:
        raise Permanent(f"{folder.name}: found no ONNX file, expected the network exported to one")
    if len(found) == 1:
        return {"model.onnx": found[0]}
    return {f"fold{place}.onnx": path for place, path in enumerate(found)}


def hashes(networks: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each."""
    return {name: draft.sha256_of(path.read_bytes()) for name, path in networks.items()}


def tensors(network: Path) -> Tensors:
    """Names of the one input and the first output.

    Raises
    ------
    Permanent
        When there are several inputs, or the network cannot be loaded.
    """
    inputs, outputs = read_tensors(network)
    if len(inputs) != 1:
        raise Permanent(f"{network.name}: found {len(inputs)} input tensors, expected one")
    return inputs[0].name, outputs[0].name


def write(folder: Path, networks: Mapping[str, Path], made: Draft, identity: Identity) -> Draft:
    """Make the folder: the networks, the draft, a card to be filled in.

    Raises
    ------
    Permanent
        When it exists.
    """
    if folder.exists():
        raise Permanent(f"{folder} exists, expected the name of a folder to be made")
    folder.mkdir(parents=True)
    for name, path in networks.items():
        shutil.copyfile(path, folder / name)
    (folder / "model.toml").write_text(made.text, encoding="utf-8")
    (folder / "CARD.md").write_text(draft.card(identity, made.open_questions), encoding="utf-8")
    return made


def modality_question(name: str, found: object) -> str:
    """What is asked where a modality is not known."""
    return f"inputs.requires.modality of {name}: found channel {found!r}; MR is assumed"
