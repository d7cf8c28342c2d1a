"""Objects that show the images themselves: the node reads the pixels again, from the images' own files."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread

from dicom_sr.profile_files import named_profile
from node.infer import Registry
from node.pipeline import AnalysisRequest, InputImages, run_analysis
from tests.models import write_task_model
from tests.node.infer.test_tasks import LUNG, SHAPE, SPACING, VOLUMES, identity
from tests.phantoms import default_voxels, write_series

TABLES = f"""{VOLUMES}
[[outputs]]
task = "segmentation"
tensor = "mask"
channels = 1
decision = "threshold"
threshold = 500
[[outputs.labels]]
name = "Ball"
channels = [0]
type = {LUNG}
rgb = [255, 0, 0]
"""


def test_a_profile_with_captures_gets_the_pixels_of_a_series(tmp_path: Path) -> None:
    files: Mapping = {"model.onnx": identity("mask", 5)}
    write_task_model(tmp_path / "models" / "task", TABLES, files)
    registry = Registry([tmp_path / "models"])
    assert registry.problems == []
    paths = write_series(tmp_path / "images", shape=SHAPE, spacing_mm=SPACING, voxels=default_voxels(SHAPE, SPACING))
    request = AnalysisRequest(
        inputs={"image": InputImages(tuple(reversed(paths)))},
        input_digest="0" * 64,
        revision=1,
        created_at=datetime(2024, 3, 5, tzinfo=UTC),
    )
    analysis = run_analysis(
        request,
        registry.get("task"),
        tmp_path / "out",
        device="cpu",
        threads=1,
        profile=named_profile("legacy"),
    )
    (capture,) = (each for each in analysis.objects if each.role == "secondary-capture")
    shown = dcmread(tmp_path / "out" / capture.file_name)
    largest = int((analysis.result.labels == 1).sum(axis=(1, 2)).argmax())
    assert shown.SourceImageSequence[0].ReferencedSOPInstanceUID == dcmread(paths[largest]).SOPInstanceUID
    pixels = shown.pixel_array
    assert len(np.unique(pixels)) > 50  # a picture, not a blank
    assert (pixels == (255, 0, 0)).all(axis=-1).any()  # with the outline on it
