"""Model folders made of what nnU-Net (version 2) leaves behind: `plans.json`, `dataset.json`, networks as ONNX.

Only data files are read; checkpoints can contain code, and are never opened.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import Permanent
from node.infer import draft
from node.infer.draft import Draft, Identity
from node.infer.importers import MODALITIES, Files, hashes, modality_question, networks_in, read_json, tensors, write
from node.infer.label_files import NamedLabel

Tables = Mapping[str, Any]
FIRST = "previous"
"""Name of the first stage of a cascade."""
ASSUMED_AXES = (
    "preprocessing.orientation: nnU-Net takes voxels as they are stored; slices to Superior, rows to Posterior, "
    "columns to Left are assumed, as of DICOM and of NIfTI made of it"
)
MASKED = (
    "preprocessing.intensity of {}: nnU-Net takes mean and deviation where any channel is not 0, holes included; here "
    "where this one is not 0"
)
FLIPS = (
    "run.flips: the checkpoint says which axes were mirrored in training, and so does the debug.json of each fold; "
    "none are assumed"
)
MIRRORED = "flips: as nnU-Net mirrors; {} calls of each network instead of one"
_AXES = re.compile(r"None|[(\[][0-2, ]*[)\]]")


@dataclass(frozen=True)
class Trained:
    """One configuration as it was trained: what nnU-Net's files say, and its networks."""

    plans: Tables
    dataset: Tables
    configuration: str
    files: Files
    mirrored: tuple[int, ...] | None = None
    """Axes of the tensor that were mirrored in training; None where no file says it."""

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration with what it inherits."""
        known = self.plans.get("configurations") or {}
        if self.configuration not in known:
            raise Permanent(
                f"plans.json: found configurations {', '.join(known) or 'none'}, expected {self.configuration}"
            )
        chosen = dict(known[self.configuration])
        while parent := chosen.pop("inherits_from", None):
            if parent not in known:
                raise Permanent(f"plans.json: {self.configuration} inherits from {parent!r}, which is not there")
            chosen = {**known[parent], **chosen}
        for key in ("patch_size", "spacing", "normalization_schemes"):
            if key not in chosen:
                raise Permanent(f"plans.json: configuration {self.configuration}: found no {key}, expected it")
        return chosen

    @property
    def in_planes(self) -> bool:
        """Whether the network takes slices (configuration ``2d``)."""
        return len(self.settings["patch_size"]) == 2

    @property
    def labels(self) -> list[tuple[str, list[int]]]:
        """Names with the network's channels. Of regions each has a channel, in the order in which they are listed."""
        if self.in_regions:
            return [(name, [place]) for place, name in enumerate(self._values)]
        return [(name, values) for name, values in self._values.items()]

    @property
    def in_regions(self) -> bool:
        """Whether labels are regions of several values, which overlap."""
        return any(len(values) > 1 for values in self._values.values())

    @property
    def names_by_value(self) -> list[str]:
        """Names in the order of the values of the label map; regions are painted into it one over the other.

        Raises
        ------
        Permanent
            Where not each value is that of one region.
        """
        values = [min(each) for each in self._values.values()]
        if self.in_regions:
            values = list(self.dataset.get("regions_class_order") or ())
            if sorted(values) != sorted({one for each in self._values.values() for one in each}):
                raise Permanent(
                    f"dataset.json: found regions_class_order {values}, expected each value of the labels once: the "
                    "last network of a cascade has a channel for each value"
                )
        return [name for _, name in sorted(zip(values, self._values, strict=True))]

    @property
    def _values(self) -> dict[str, list[int]]:
        """The values of each label that is looked for."""
        return {
            name: [int(each) for each in (given if isinstance(given, list) else [given])]
            for name, given in self.dataset["labels"].items()
            if name not in ("background", "ignore")
        }


def import_nnunet(
    results: Path, folder: Path, configuration: str = "3d_fullres", previous: Path | None = None
) -> Draft:
    """A model folder of a trainer's folder: `plans.json`, `dataset.json`, and an ONNX file for each fold.

    Parameters
    ----------
    previous : Path, optional
        For a cascade: the folder of the configuration that it goes on from; else looked for beside `results`.

    Raises
    ------
    Permanent
        When one of them is missing or cannot be used.
    """
    if folder.exists():
        raise Permanent(f"{folder} exists, expected the name of a folder to be made")
    last, networks = _read(results, configuration, "")
    first = None
    if (stage := last.settings.get("previous_stage")) is not None:
        beside = previous or results.with_name(f"{results.name.rpartition('__')[0]}__{stage}")
        if not beside.is_dir():
            raise Permanent(
                f"plans.json: configuration {configuration} goes on from {stage}: found no {beside.name} beside "
                f"{results.name}, expected its folder there or by --previous"
            )
        first, earlier = _read(beside, str(stage), f"{stage}-")
        networks = {**earlier, **networks}
    made = draft_of_nnunet(last, folder.name, first)
    name = str(last.plans.get("dataset_name") or folder.name)
    return write(folder, networks, made, Identity(draft.slug(folder.name), name))


def _read(results: Path, configuration: str, prefix: str) -> tuple[Trained, dict[str, Path]]:
    """What is in a folder, and its networks by their names in the new one."""
    plans, dataset = read_json(results / "plans.json"), read_json(results / "dataset.json")
    found = {f"{prefix}{name}": path for name, path in networks_in(results).items()}
    files = Files(hashes(found), tensors(next(iter(found.values()))))
    trained = Trained(plans, dataset, configuration, files, _mirrored(results))
    for key in ("channel_names", "labels"):
        if not isinstance(dataset.get(key), dict) or not dataset[key]:
            raise Permanent(f"dataset.json: found no {key}, expected it")
    return trained, found


def _mirrored(results: Path) -> tuple[int, ...] | None:
    """The axes that were mirrored in training, as the folds say, in Python's words; None where they do not."""
    said = {str(read_json(path).get("inference_allowed_mirroring_axes", "")) for path in results.rglob("debug.json")}
    if len(said) != 1 or not _AXES.fullmatch(one := said.pop().strip()):
        return None
    return tuple(int(axis) for axis in re.findall(r"\d", one))


def draft_of_nnunet(last: Trained, name: str, first: Trained | None = None) -> Draft:
    """The draft for a configuration, and for the one that it goes on from."""
    identity = Identity(draft.slug(name), str(last.plans.get("dataset_name") or name))
    every = {**(first.files.hashes if first else {}), **last.files.hashes}
    text, questions = draft.head(identity, every)
    channels = [str(each) for _, each in sorted(last.dataset["channel_names"].items(), key=lambda pair: int(pair[0]))]
    names = ["image"] if len(channels) == 1 else _own_names(channels)
    for each, channel in zip(names, channels, strict=True):
        modality = MODALITIES.get(channel.upper().split(" ")[0].split("_")[0])
        if modality is None:
            questions.append(modality_question(each, channel))
        text += "\n" + draft.table("[[inputs]]", {"name": each})
        text += draft.table("[inputs.requires]", {"modality": [modality or "MR"]})
    if first is not None:
        text += "\n" + _stage(first, names, questions)
    text += "\n" + _tables(last, names, questions, first)
    return Draft(text, tuple(dict.fromkeys(questions)))


def _stage(first: Trained, names: Sequence[str], questions: list[str]) -> str:
    """The tables of the first of a cascade: its labels are not reported, they are channels of the last."""
    text = _tables(first, names, questions, None, report=False)
    for table in ("[preprocessing", "[run", "[[outputs"):
        brackets = len(table) - len(table.lstrip("["))
        text = text.replace(f"\n{table}", f"\n{table[:brackets]}stages.{table[brackets:]}")
    return draft.table("[[stages]]", {"name": FIRST}) + text


def _tables(
    trained: Trained, names: Sequence[str], questions: list[str], first: Trained | None, report: bool = True
) -> str:
    parts = [_preprocessing(trained, names, questions, first), _run(trained, questions)]
    return "\n".join(["", *parts, _output(trained, questions, report)])


def _own_names(channels: Sequence[str]) -> list[str]:
    names = [draft.slug(channel) for channel in channels]
    return [name if names.count(name) == 1 else f"{name}{place + 1}" for place, name in enumerate(names)]


def _preprocessing(trained: Trained, names: Sequence[str], questions: list[str], first: Trained | None) -> str:
    order = trained.plans.get("transpose_forward") or [0, 1, 2]
    chosen = trained.settings
    asked = [ASSUMED_AXES]
    steps = [_normalisation(trained.plans, chosen, place, asked) for place in range(len(names))]
    spacing = [float(each) for each in chosen["spacing"]]
    entries = {
        "orientation": "".join("SPL"[axis] for axis in order),
        "alignment": "acquisition",
        "spacing_mm": ["images", *spacing] if trained.in_planes else spacing,
        "interpolation": "cubic-clipped",
        "coarse_axis": "nearest",
        "outside": "edge",
        "grid": {"kind": "resized", "around": "nonzero"},
        "intensity": steps[0],
        "intensity_on": "images",
    }
    questions += asked
    text = draft.table("[preprocessing]", entries, asked)
    others = {name: each for name, each in zip(names, steps, strict=True) if each != steps[0]}
    text += draft.table("[preprocessing.intensity_of]", others) if others else ""
    if first is not None:
        region = {"stage": FIRST, "use": "channel", "names": [name[:64] for name in first.names_by_value]}
        text += "\n" + draft.table("[[preprocessing.regions]]", region)
    return text


def _normalisation(plans: Tables, chosen: Tables, place: int, asked: list[str]) -> list[dict[str, Any]]:
    schemes = chosen["normalization_schemes"]
    scheme = schemes[place] if place < len(schemes) else None
    facts = (plans.get("foreground_intensity_properties_per_channel") or {}).get(str(place)) or {}
    masked = bool((chosen.get("use_mask_for_norm") or [False] * (place + 1))[place])
    match scheme:
        case "CTNormalization":
            missing = [key for key in ("percentile_00_5", "percentile_99_5", "mean", "std") if key not in facts]
            if missing:
                raise Permanent(
                    f"plans.json: foreground_intensity_properties_per_channel.{place}: found no {', '.join(missing)}, "
                    "expected them for CTNormalization"
                )
            return [
                {"step": "clip", "low": float(facts["percentile_00_5"]), "high": float(facts["percentile_99_5"])},
                {"step": "z-score", "mean": float(facts["mean"]), "deviation": max(float(facts["std"]), 1e-8)},
            ]
        case "ZScoreNormalization":
            if masked:
                asked.append(MASKED.format(f"channel {place}"))
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


def _run(trained: Trained, questions: list[str]) -> str:
    names = list(trained.files.hashes)
    comments = [MIRRORED.format(2 ** len(trained.mirrored))] if trained.mirrored else []
    if trained.mirrored is None:
        comments = [FLIPS]
        questions.append(FLIPS)
    sides = [int(side) for side in trained.settings["patch_size"]]
    entries = {
        "file": names[0] if len(names) == 1 else names,
        "input": trained.files.tensors[0],
        "mode": "slices" if trained.in_planes else "sliding-window",
        "patch": [1, *sides] if trained.in_planes else sides,
        "overlap": 0.5,
        "blending": "gaussian",
        "average": "logits",
        "flips": [axis + trained.in_planes for axis in trained.mirrored] if trained.mirrored else None,
    }
    return draft.table("[run]", entries, comments)


def _output(trained: Trained, questions: list[str], report: bool) -> str:
    """Without activation: nnU-Net resamples what the network gives, and decides then; above 0 is above a half. Regions
    overlap, but for a later stage, to which nnU-Net gives one label map: there later ones lie over earlier ones."""
    labels = trained.labels
    named = [NamedLabel(name, tuple(channels)) for name, channels in labels]
    entries: dict[str, Any] = {"task": "segmentation", "tensor": trained.files.tensors[1]}
    if trained.in_regions:
        entries |= {"channels": len(labels), "decision": "threshold", "threshold": 0.0, "overlap": report}
    else:
        entries |= {"channels": max(channels[0] for _, channels in labels) + 1, "decision": "argmax"}
    if not report:
        entries["report"] = False
    else:
        questions += filter(None, [draft.code_question(named)])
    return draft.table("[[outputs]]", entries) + "\n" + draft.label_tables(named)
