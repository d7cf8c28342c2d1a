"""Model folders made of what other tools leave behind: MONAI bundles and nnU-Net results, with their network as ONNX.

Only data files are read. A bundle's configs can contain code, and are never opened. What a data file does not say is
listed, and stands as a comment in the draft.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import Permanent
from node.infer import draft
from node.infer.draft import Draft, Identity
from node.infer.scaffold import read_tensors

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
    metadata = _read_json(bundle / "configs" / "metadata.json")
    networks = _networks(bundle)
    if len(networks) > 1:
        raise Permanent(f"{bundle.name}: found {len(networks)} ONNX files, expected one")
    made = draft_of_monai(metadata, folder.name, Files(_hashes(networks), _tensors(networks[0])))
    return _write(folder, networks, made, _monai_identity(metadata, folder.name))


def _monai_identity(metadata: Mapping[str, Any], name: str) -> Identity:
    return Identity(
        identifier=draft.slug(name),
        name=str(metadata.get("name") or name),
        version=str(metadata.get("version") or "0.1.0"),
        maker=str(metadata.get("authors") or ""),
        licence=str(metadata.get("license") or ""),
        intended_use=" ".join(str(metadata.get("intended_use") or metadata.get("description") or "").split()),
    )


def draft_of_monai(metadata: Mapping[str, Any], name: str, files: Files) -> Draft:
    """The draft for a bundle's metadata."""
    text, questions = draft.head(_monai_identity(metadata, name), files.hashes)
    form = metadata.get("network_data_format") or {}
    inputs, outputs = form.get("inputs") or {}, form.get("outputs") or {}
    if not inputs or not outputs:
        raise Permanent("metadata.json: found no network_data_format with inputs and outputs, expected both")
    given, answer = next(iter(inputs.values())), next(iter(outputs.values()))
    channels = int(given.get("num_channels") or 1)
    names = [draft.slug(str((given.get("channel_def") or {}).get(str(n), f"image{n + 1}"))) for n in range(channels)]
    names = ["image"] if channels == 1 else names
    modality = MODALITIES.get(str(given.get("modality", "")).upper().split(" ")[0])
    if modality is None:
        questions.append(f"inputs.requires.modality: found {given.get('modality')!r} in the metadata")
    for each in names:
        text += (
            "\n"
            + draft.table("[[inputs]]", {"name": each})
            + draft.table("[inputs.requires]", {"modality": [modality or "CT"]})
        )
    sides = [side for side in given.get("spatial_shape") or () if isinstance(side, int)]
    in_volumes = len(given.get("spatial_shape") or (0, 0, 0)) == 3
    if not in_volumes:
        raise Permanent(f"metadata.json: found {len(given['spatial_shape'])} axes, expected 3: images are not imported")
    asked = [
        "preprocessing.orientation, spacing_mm: in the bundle's configs, which are never read; RAS and the images' own "
        "spacing are assumed",
        f"preprocessing.intensity: the metadata says only the range {given.get('value_range')}; min-max is assumed",
    ]
    low, high = (given.get("value_range") or (0, 1))[:2]
    entries = {
        "orientation": "RAS",
        "alignment": "acquisition",
        "intensity": [{"step": "min-max", "low": float(low), "high": float(high)}],
    }
    text += "\n" + draft.table("[preprocessing]", entries, asked)
    questions += asked
    run: dict[str, Any] = {"file": next(iter(files.hashes)), "input": files.tensors[0]}
    if given.get("is_patch_data") and len(sides) == 3:
        run |= {"mode": "sliding-window", "patch": sides, "overlap": 0.5}
        questions.append("run.overlap: in the bundle's configs; 0.5 is assumed")
    text += "\n" + draft.table("[run]", run)
    text += "\n" + _monai_output(files.tensors[1], answer, questions)
    return Draft(text, tuple(questions))


def _monai_output(tensor: str, answer: Mapping[str, Any], questions: list[str]) -> str:
    count = int(answer.get("num_channels") or 1)
    meanings = answer.get("channel_def") or {}
    named = [(str(meanings.get(str(n)) or meanings.get(n) or f"Label {n}"), [n]) for n in range(count)]
    foreground = [(name, channels) for name, channels in named if name.lower() != "background"]
    several = len(foreground) < count
    entries = {
        "task": "segmentation",
        "tensor": tensor,
        "channels": count,
        "activation": "softmax" if several else "sigmoid",
        "decision": "argmax" if several else "threshold",
        "overlap": None if several or count == 1 else True,
    }
    questions.append("outputs.labels: codes of the labels (SNOMED CT); those in the draft are local")
    kind = str(answer.get("type") or "image")
    if kind not in ("image", "segmentation"):
        questions.append(f"outputs.task: found type {kind!r} in the metadata; segmentation is assumed")
    return draft.table("[[outputs]]", entries) + "\n" + draft.label_tables(foreground)


def import_nnunet(results: Path, folder: Path, configuration: str = "3d_fullres") -> Draft:
    """A model folder of nnU-Net (version 2): `plans.json`, `dataset.json`, and an ONNX file for each fold.

    Raises
    ------
    Permanent
        When one of them is missing or cannot be used.
    """
    plans, dataset = _read_json(results / "plans.json"), _read_json(results / "dataset.json")
    networks = _networks(results)
    name = str(plans.get("dataset_name") or folder.name)
    files = Files(_hashes(networks), _tensors(networks[0]))
    made = draft_of_nnunet(plans, dataset, folder.name, files, configuration)
    return _write(folder, networks, made, Identity(draft.slug(folder.name), name))


def draft_of_nnunet(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str, files: Files, configuration: str
) -> Draft:
    """The draft for nnU-Net's plans and dataset."""
    chosen = _configuration(plans, configuration)
    if len(chosen["patch_size"]) != 3:
        raise Permanent(f"plans.json: configuration {configuration} is of images, expected one of volumes")
    identity = Identity(draft.slug(name), str(plans.get("dataset_name") or name))
    text, questions = draft.head(identity, files.hashes)
    channels = [str(each) for _, each in sorted(dataset["channel_names"].items(), key=lambda pair: int(pair[0]))]
    names = ["image"] if len(channels) == 1 else _own_names(channels)
    for each, channel in zip(names, channels, strict=True):
        modality = MODALITIES.get(channel.upper().split(" ")[0].split("_")[0])
        if modality is None:
            questions.append(f"inputs.requires.modality of {each}: found channel {channel!r}; MR is assumed")
        text += (
            "\n"
            + draft.table("[[inputs]]", {"name": each})
            + draft.table("[inputs.requires]", {"modality": [modality or "MR"]})
        )
    text += "\n" + _nnunet_preprocessing(plans, chosen, names, questions)
    text += "\n" + _nnunet_run(chosen, files, questions)
    text += "\n" + _nnunet_output(dataset, files.tensors[1], questions)
    return Draft(text, tuple(questions))


def _own_names(channels: Sequence[str]) -> list[str]:
    names = [draft.slug(channel) for channel in channels]
    return [name if names.count(name) == 1 else f"{name}{place + 1}" for place, name in enumerate(names)]


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits."""
    known = plans.get("configurations") or {}
    if name not in known:
        raise Permanent(f"plans.json: found configurations {', '.join(known) or 'none'}, expected {name}")
    chosen = dict(known[name])
    while parent := chosen.pop("inherits_from", None):
        chosen = {**known[parent], **chosen}
    if chosen.get("previous_stage"):
        raise Permanent(
            f"plans.json: configuration {name} goes on from {chosen['previous_stage']}: import both and join them as "
            '[[stages]] with use = "channel"'
        )
    return chosen


def _nnunet_preprocessing(
    plans: Mapping[str, Any], chosen: Mapping[str, Any], names: Sequence[str], questions: list[str]
) -> str:
    order = plans.get("transpose_forward") or [0, 1, 2]
    asked = [
        "preprocessing.orientation: nnU-Net takes voxels as they are stored; slices to Superior, rows to Posterior, "
        "columns to Left are assumed, as of DICOM and of NIfTI made of it"
    ]
    steps = [_normalisation(plans, chosen, place, asked) for place in range(len(names))]
    spacing = [float(each) for each in chosen["spacing"]]
    entries = {
        "orientation": "".join("SPL"[axis] for axis in order),
        "alignment": "acquisition",
        "spacing_mm": spacing,
        "interpolation": "cubic",
        "outside": "minimum",
        "intensity": steps[0],
    }
    if max(spacing) / min(spacing) > 3:
        asked.append(
            "preprocessing.interpolation: nnU-Net takes the nearest slice along the coarse axis; here all are cubic"
        )
    asked.append("preprocessing.crop: nnU-Net cuts to what is not 0 before it resamples; here the whole series is used")
    questions += asked
    text = draft.table("[preprocessing]", entries, asked)
    others = {name: each for name, each in zip(names, steps, strict=True) if each != steps[0]}
    return text + (draft.table("[preprocessing.intensity_of]", others) if others else "")


def _normalisation(
    plans: Mapping[str, Any], chosen: Mapping[str, Any], place: int, asked: list[str]
) -> list[dict[str, Any]]:
    scheme = chosen["normalization_schemes"][place]
    facts = (plans.get("foreground_intensity_properties_per_channel") or {}).get(str(place)) or {}
    masked = bool((chosen.get("use_mask_for_norm") or [False] * (place + 1))[place])
    match scheme:
        case "CTNormalization":
            return [
                {"step": "clip", "low": float(facts["percentile_00_5"]), "high": float(facts["percentile_99_5"])},
                {"step": "z-score", "mean": float(facts["mean"]), "deviation": max(float(facts["std"]), 1e-8)},
            ]
        case "ZScoreNormalization":
            return [{"step": "z-score", "over": "nonzero", "only_there": True} if masked else {"step": "z-score"}]
        case "RescaleTo01Normalization":
            return [{"step": "min-max"}]
        case "NoNormalization":
            return []
        case "RGBTo01Normalization":
            return [{"step": "affine", "scale": 1 / 255}]
        case _:
            asked.append(f"preprocessing.intensity: found {scheme!r}, which is not known here; z-score is assumed")
            return [{"step": "z-score"}]


def _nnunet_run(chosen: Mapping[str, Any], files: Files, questions: list[str]) -> str:
    names = list(files.hashes)
    asked = ["run.flips: the checkpoint says which axes were mirrored in training; none are assumed"]
    questions += asked
    entries = {
        "file": names[0] if len(names) == 1 else names,
        "input": files.tensors[0],
        "mode": "sliding-window",
        "patch": [int(side) for side in chosen["patch_size"]],
        "overlap": 0.5,
        "blending": "gaussian",
        "average": "logits",
    }
    return draft.table("[run]", entries, asked)


def _nnunet_output(dataset: Mapping[str, Any], tensor: str, questions: list[str]) -> str:
    labels = {name: number for name, number in dataset["labels"].items() if name not in ("background", "ignore")}
    in_regions = any(isinstance(number, list) for number in dataset["labels"].values())
    entries: dict[str, Any] = {"task": "segmentation", "tensor": tensor}
    if in_regions:
        entries |= {"channels": len(labels), "activation": "sigmoid", "decision": "threshold", "overlap": True}
        named = [(name, [place]) for place, name in enumerate(labels)]
    else:
        entries |= {"channels": max(labels.values()) + 1, "activation": "softmax", "decision": "argmax"}
        named = [(name, [int(number)]) for name, number in labels.items()]
    questions.append("outputs.labels: codes of the labels (SNOMED CT); those in the draft are local")
    return draft.table("[[outputs]]", entries) + "\n" + draft.label_tables(named)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Permanent(f"{path.name} cannot be read ({error.strerror}), expected it in {path.parent.name}") from None
    except ValueError as error:
        raise Permanent(f"{path.name}: is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Permanent(f"{path.name}: found {type(found).__name__}, expected an object")
    return found


def _networks(folder: Path) -> list[Path]:
    networks = sorted(folder.rglob("*.onnx"))
    if not networks:
        raise Permanent(f"{folder.name}: found no ONNX file, expected the network exported to one")
    return networks


def _hashes(networks: Sequence[Path]) -> dict[str, str]:
    return {name: draft.sha256_of(path.read_bytes()) for name, path in _own_files(networks).items()}


def _tensors(network: Path) -> Tensors:
    inputs, outputs = read_tensors(network)
    if len(inputs) != 1:
        raise Permanent(f"{network.name}: found {len(inputs)} input tensors, expected one")
    return inputs[0].name, outputs[0].name


def _own_files(networks: Sequence[Path]) -> dict[str, Path]:
    """Names within the new folder."""
    if len(networks) == 1:
        return {"model.onnx": networks[0]}
    return {f"fold{place}.onnx": path for place, path in enumerate(networks)}


def _write(folder: Path, networks: Sequence[Path], made: Draft, identity: Identity) -> Draft:
    if folder.exists():
        raise Permanent(f"{folder} exists, expected the name of a folder to be made")
    folder.mkdir(parents=True)
    for name, path in _own_files(networks).items():
        shutil.copyfile(path, folder / name)
    (folder / "model.toml").write_text(made.text, encoding="utf-8")
    (folder / "CARD.md").write_text(draft.card(identity, made.open_questions), encoding="utf-8")
    return made
