"""Model folders for tasks on tiny networks, images and series for them, and running one on the other."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dicom_sr.profile import CONSERVATIVE, DestinationProfile
from node.infer import Registry
from node.pipeline import Analysis, AnalysisRequest, InputImages, run_analysis
from tests.models import graph, write_task_model
from tests.node.volume.images import write_image

LUNG = '{ value = "39607008", meaning = "Lung" }'
SHAPE, SPACING = (12, 16, 20), (3.0, 1.5, 1.5)
STUDY = "1.2.826.0.1.3680043.8.498.7"
IMAGE_INPUT = '[[inputs]]\nname = "image"\n[inputs.requires]\nmodality = ["DX"]\nminimum_slices = 1\n'
IMAGES = f"{IMAGE_INPUT}\n[preprocessing]\ndimensions = 2\n"
VOLUMES = """
[[inputs]]
name = "image"
[inputs.requires]
modality = ["MR"]
[preprocessing]
orientation = "SPL"
alignment = "acquisition"
grid = { kind = "source" }
"""
DESCRIPTION = {
    "StudyDate": "20240305",
    "StudyTime": "101112",
    "StudyID": "1",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "",
    "PatientBirthDate": "19700102",
    "PatientSex": "O",
    "SeriesNumber": 1,
    "InstanceNumber": 1,
    "StudyInstanceUID": STUDY,
}


def run_task(
    folder: Path,
    tables: str,
    files: Mapping[str, onnx.ModelProto | bytes],
    inputs: Mapping[str, Sequence[Path]],
    profile: DestinationProfile = CONSERVATIVE,
) -> Analysis:
    """Write a model with these tables and run it on these files, by input; what it makes is in `out`."""
    write_task_model(folder / "models" / "task", tables, files)
    registry = Registry([folder / "models"])
    assert registry.problems == []
    request = AnalysisRequest(
        inputs={name: InputImages(tuple(paths)) for name, paths in inputs.items()},
        input_digest="0" * 64,
        revision=1,
        created_at=datetime(2024, 3, 5, tzinfo=UTC),
    )
    return run_analysis(request, registry.get("task"), folder / "out", device="cpu", threads=1, profile=profile)


def segmentation(*labels: tuple[str, int], more: str = "", first: str = "") -> str:
    """An output with these labels, by name and channel; `more` are keys of the output, `first` of its first label."""
    colours = ("[255, 0, 0]", "[0, 255, 0]")
    tables = "\n".join(
        f'[[outputs.labels]]\nname = "{name}"\nchannels = [{channel}]\ntype = {LUNG}\nrgb = {colours[place]}\n'
        f"{first if place == 0 else ''}"
        for place, (name, channel) in enumerate(labels)
    )
    return f'[[outputs]]\ntask = "segmentation"\ndecision = "threshold"\n{more}\n{tables}\n'


def classes(*rows: tuple[str, int, str]) -> str:
    """Classes of an output: name, channel and further keys."""
    return "\n".join(
        f'[[outputs.classes]]\nname = "{name}"\nchannel = {channel}\nfinding = {LUNG}\n{more}'
        for name, channel, more in rows
    )


def radiograph(path: Path, pixels: np.ndarray, **attributes: Any) -> list[Path]:
    """An image of one file."""
    return [write_image(path, pixels, **(DESCRIPTION | attributes))]


def square(rows: int = 40, columns: int = 60) -> np.ndarray:
    """A bright square, rows 10 to 19 and columns 20 to 29, on a dark ground."""
    pixels = np.full((rows, columns), 100, np.uint16)
    pixels[10:20, 20:30] = 1000
    return pixels


def constant(axes: int = 4, **tensors: Any) -> onnx.ModelProto:
    """A network that always gives these values, whatever it sees."""
    values = {f"values of {name}": np.array(each, np.float32) for name, each in tensors.items()}
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        *(helper.make_node("Add", [f"values of {name}", "zero"], [name]) for name in tensors),
    ]
    sides = {name: values[f"values of {name}"].ndim for name in tensors}
    return graph(nodes, {"image": axes}, sides, {**values, "nothing": np.float32(0).reshape(())})


def identity(tensor: str, axes: int) -> onnx.ModelProto:
    """A network that gives what it sees."""
    return graph([helper.make_node("Identity", ["image"], [tensor])], {"image": axes}, {tensor: axes})
