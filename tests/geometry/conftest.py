"""The node's way from files to a segmentation on disk, with a threshold model, for phantoms."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dicom_sr import conformance
from dicom_sr.findings import Result
from dicom_sr.profile import CONSERVATIVE
from dicom_sr.render import render
from node.infer import Model, Registry, analyse
from node.pipeline import AnalysisRequest, InputImages, build_result
from node.volume import load_volume
from tests.models import network, threshold_network, write_model

Segment = Callable[[Sequence[Path], Path], Result]
SHIFT = (1, 2, 3)
"""Voxels by which the model `shifted` moves what it marks: towards the head, towards the back, to the left."""


def shifting_network() -> onnx.ModelProto:
    """The threshold network behind a convolution that moves the image by `SHIFT` along its axes."""
    kernel = np.zeros((1, 1, 7, 7, 7), np.float32)
    kernel[(0, 0, *(3 - step for step in SHIFT))] = 1
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["moved"], pads=[3] * 6),
        helper.make_node("Sub", ["twice", "moved"], ["dark"]),
        helper.make_node("Concat", ["dark", "moved"], ["logits"], axis=1),
    ]
    constants = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.float32([1100]), "twice")]
    return network(nodes, ["N", 2, "D", "H", "W"], constants)


def make_segment(model: Model) -> Segment:
    """The way from files to a segmentation on disk with this model.

    The steps are those of `node.pipeline.run_analysis`, without the preview and without waiting for the disk.
    """

    def run(paths: Sequence[Path], target: Path) -> Result:
        request = AnalysisRequest(
            {"image": InputImages(tuple(paths))}, "0" * 64, 1, datetime(2024, 3, 5, 10, 11, tzinfo=UTC)
        )
        volume = load_volume(paths)
        result = build_result(
            request, model, {"image": volume}, analyse(model, {"image": volume}, device="cpu", threads=1)
        )
        objects = render(result, volume.headers, CONSERVATIVE)
        assert conformance.check([each.dataset for each in objects], volume.headers) == []
        target.write_bytes(objects[0].to_bytes())
        return result

    return run


@pytest.fixture(scope="session")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Segment:
    """Marks what is brighter than 550."""
    models = tmp_path_factory.mktemp("models")
    write_model(models / "bright", "bright", threshold_network(550.0))
    return make_segment(Registry([models]).get("bright"))


@pytest.fixture(scope="session")
def segment_shifted(tmp_path_factory: pytest.TempPathFactory) -> Segment:
    """Marks a place `SHIFT` voxels to the head, back and left of what is brighter than 550: right only where the model
    sees the patient in the orientation that its manifest asks for.
    """
    models = tmp_path_factory.mktemp("models")
    write_model(models / "shifted", "shifted", shifting_network())
    return make_segment(Registry([models]).get("shifted"))
