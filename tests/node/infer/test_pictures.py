"""Objects that show the images themselves: the node reads the pixels again, from the images' own files."""

from pathlib import Path

import numpy as np
from pydicom import dcmread

from dicom_sr.profile_files import named_profile
from tests.node.infer.tasks import SHAPE, SPACING, VOLUMES, identity, run_task, segmentation
from tests.phantoms import default_voxels, write_series


def test_a_profile_with_captures_gets_the_pixels_of_a_series(tmp_path: Path) -> None:
    tables = VOLUMES + segmentation(("Ball", 0), more='tensor = "mask"\nchannels = 1\nthreshold = 500')
    paths = write_series(tmp_path / "images", shape=SHAPE, spacing_mm=SPACING, voxels=default_voxels(SHAPE, SPACING))
    files = {"model.onnx": identity("mask", 5)}
    analysis = run_task(tmp_path, tables, files, {"image": paths[::-1]}, named_profile("legacy"))
    (capture,) = (each for each in analysis.objects if each.role == "secondary-capture")
    shown = dcmread(tmp_path / "out" / capture.file_name)
    largest = int((analysis.result.labels == 1).sum(axis=(1, 2)).argmax())
    assert shown.SourceImageSequence[0].ReferencedSOPInstanceUID == dcmread(paths[largest]).SOPInstanceUID
    pixels = shown.pixel_array
    assert len(np.unique(pixels)) > 50  # a picture, not a blank
    assert (pixels == (255, 0, 0)).all(axis=-1).any()  # with the outline on it
