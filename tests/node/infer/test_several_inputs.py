"""Several inputs: views one by one and together, series on one grid, priors."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from dicom_sr.findings import Result
from node.errors import NotAnalysed
from node.pipeline import Analysis
from tests.models import graph
from tests.node.infer.tasks import (
    IMAGE_INPUT,
    LUNG,
    SHAPE,
    SPACING,
    STUDY,
    classes,
    identity,
    radiograph,
    run_task,
    segmentation,
)
from tests.phantoms import default_voxels, write_series


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Analysis]:
    """Write a model with these tables and run it on these files, by input."""
    return partial(run_task, tmp_path)


def two_views(name: str, mean: str = "") -> str:
    inputs = "".join(IMAGE_INPUT.replace('"image"', f'"{each}"') for each in ("left", "right"))
    return f'{inputs}\n[preprocessing]\ndimensions = 2\n{mean}\n[run]\neach = "{name}"\n'


def mean_network() -> object:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "thousandth"], ["probability"]),
    ]
    return graph(nodes, {"image": 4}, {"probability": 2}, {"thousandth": np.float32(0.001).reshape(())})


@pytest.mark.parametrize("level", ["study", "image"])
def test_views_one_by_one(run, tmp_path: Path, level: str) -> None:
    """The network sees each view on its own; the exam's answer is the larger, or there is one for each."""
    tables = f"""{two_views("view")}
[[outputs]]
task = "classification"
level = "{level}"
{classes(("Bright", 0, ""))}
"""
    paths = {
        "left": radiograph(tmp_path / "l.dcm", np.full((8, 8), 200, np.uint16)),
        "right": radiograph(tmp_path / "r.dcm", np.full((9, 7), 800, np.uint16)),
    }
    result = run(tables, {"model.onnx": mean_network()}, paths).result
    scores = [each.likelihood.value for each in result.findings if each.likelihood]
    assert len(result.source_images) == 2
    if level == "study":
        assert scores == [pytest.approx(0.8)] and result.findings[0].images == ()
    else:
        assert scores == [pytest.approx(0.2), pytest.approx(0.8)]
        assert [each.images for each in result.findings] == [(each.sop_instance_uid,) for each in result.source_images]


def test_views_together_are_channels_in_the_order_of_the_manifest(run, tmp_path: Path) -> None:
    tables = f"""{two_views("exam", "size = [8, 8]")}
[[outputs]]
task = "grading"
name = "Density"
finding = {LUNG}
concept = {{ value = "129715009", meaning = "Breast composition" }}
[[outputs.grades]]
name = "A"
channel = 0
value = {{ value = "129716005", meaning = "Almost entirely fat" }}
[[outputs.grades]]
name = "D"
channel = 1
value = {{ value = "129719003", meaning = "Extremely dense" }}
"""
    paths = {
        "right": radiograph(tmp_path / "r.dcm", np.full((9, 7), 800, np.uint16)),
        "left": radiograph(tmp_path / "l.dcm", np.full((8, 8), 200, np.uint16)),
    }
    (finding,) = run(tables, {"model.onnx": mean_network()}, paths).result.findings
    assert finding.qualifiers[0].value.value == "129719003"
    assert finding.likelihood is not None and finding.likelihood.value == pytest.approx(0.8)


def test_views_of_different_size_are_refused_as_channels(run, tmp_path: Path) -> None:
    tables = f'{two_views("exam")}\n[[outputs]]\ntask = "embedding"\ntensor = "probability"\nlength = 2\n'
    paths = {
        "left": radiograph(tmp_path / "l.dcm", np.full((8, 8), 200, np.uint16)),
        "right": radiograph(tmp_path / "r.dcm", np.full((9, 7), 800, np.uint16)),
    }
    with pytest.raises(NotAnalysed, match="left 1x8x8, right 1x9x7"):
        run(tables, {"model.onnx": mean_network()}, paths)


@pytest.mark.parametrize("brightest", [700, 300])
def test_landmarks_of_views_one_by_one(run, tmp_path: Path, brightest: int) -> None:
    """Each view has points of its own, on its own image, with its name behind."""
    tables = f"""{two_views("view")}
[[outputs]]
task = "landmarks"
tensor = "heatmaps"
least = 500
[[outputs.points]]
name = "Nipple"
channel = 0
finding = {LUNG}
[[outputs.points]]
name = "Muscle"
channel = 0
finding = {LUNG}
[[outputs.measurements]]
kind = "distance"
points = ["Nipple", "Muscle"]
name = "Depth"
concept = {{ value = "103339001", meaning = "Long Axis" }}
finding = {LUNG}
"""
    left, right = (np.zeros(sides, np.uint16) for sides in ((30, 20), (25, 35)))
    left[5, 10], right[20, 30] = 900, brightest
    paths = {"left": radiograph(tmp_path / "l.dcm", left, PixelSpacing=[1, 1])}
    paths["right"] = radiograph(tmp_path / "r.dcm", right, PixelSpacing=[1, 1])
    network = {"model.onnx": identity("heatmaps", 4)}
    result = run(tables, network, paths).result
    found = {each.tracking_identifier: each for each in result.findings}
    if brightest < 500:
        assert [name.rpartition(" ")[2] for name in found] == ["left"] * 3
        assert "Nipple, right: not found." in result.remarks
        return
    assert list(found) == [f"{what}, {side}" for side in ("left", "right") for what in ("Nipple", "Muscle", "Depth")]
    uids = [each.sop_instance_uid for each in result.source_images]
    for side, uid, place in (("left", uids[0], (10.5, 5.5)), ("right", uids[1], (30.5, 20.5))):
        (region,) = found[f"Nipple, {side}"].regions
        assert region.points == (place,) and uid in str(region)


TWO_CHANNELS = """
[[inputs]]
name = "t1"
[inputs.requires]
modality = ["MR"]
[[inputs]]
name = "flair"
[inputs.requires]
modality = ["MR"]
optional = true
[preprocessing]
orientation = "SPL"
alignment = "acquisition"
grid = { kind = "source" }
[preprocessing.intensity_of]
flair = [{ step = "affine", scale = 2 }]
""" + segmentation(("Ball", 1), more="channels = 2\nthreshold = 1500")


def two_series(folder: Path, **flair) -> dict[str, list[Path]]:
    frame = "1.2.826.0.1.3680043.8.498.9"
    common = {"study_instance_uid": STUDY, "FrameOfReferenceUID": frame, "origin_mm": (0.0, 0.0, 0.0)}
    return {
        "t1": write_series(folder / "t1", shape=SHAPE, spacing_mm=SPACING, **common),
        "flair": write_series(folder / "flair", **(common | {"shape": SHAPE, "spacing_mm": SPACING} | flair)),
    }


def test_two_series_are_channels_on_the_grid_of_the_first(run, tmp_path: Path) -> None:
    """FLAIR is turned and lies two voxels further; its channel decides, and the labels lie on T1."""
    paths = two_series(tmp_path, origin_mm=(3.0, 0.0, 0.0))
    result: Result = run(TWO_CHANNELS, {"model.onnx": identity("logits", 5)}, paths).result
    ball = default_voxels(SHAPE, SPACING) > 500
    expected = np.zeros_like(ball)
    expected[:, :, 2:] = ball[:, :, :-2]
    assert result.labels is not None
    np.testing.assert_array_equal(result.labels == 1, expected)
    assert len(result.source_images) == SHAPE[0] and len(result.further_images) == SHAPE[0]
    assert {each.series_instance_uid for each in result.source_images} == {""}
    assert len({each.series_instance_uid for each in result.further_images} - {""}) == 1


def test_an_optional_input_may_be_missing(run, tmp_path: Path) -> None:
    paths = two_series(tmp_path)
    result = run(TWO_CHANNELS, {"model.onnx": identity("logits", 5)}, {"t1": paths["t1"]}).result
    assert result.labels is not None and not result.labels.any()
    assert "Input flair is not there; the model ran without it." in result.remarks


def test_series_of_other_frames_of_reference_are_refused(run, tmp_path: Path) -> None:
    paths = two_series(tmp_path, FrameOfReferenceUID="1.2.3.4")
    with pytest.raises(NotAnalysed, match="found 2 frames of reference in inputs t1, flair"):
        run(TWO_CHANNELS, {"model.onnx": identity("logits", 5)}, paths)


GROWN = TWO_CHANNELS.replace('name = "flair"', 'name = "before"').replace("optional = true", 'timepoint = "prior"')
GROWN = GROWN.replace("flair = [{ step", "before = [{ step").replace("scale = 2", "scale = 1")
GROWN = GROWN.replace('grid = { kind = "source" }', 'grid = { kind = "source" }\nsame_frame_of_reference = false')


def test_a_prior_is_an_input_like_another(run, tmp_path: Path) -> None:
    """Of another study, day and frame of reference: what is bright now and was not then lies on the later images."""
    nodes = [
        helper.make_node("Split", ["image"], ["now", "then"], axis=1),
        helper.make_node("Sub", ["now", "then"], ["more"]),
        helper.make_node("Concat", ["then", "more"], ["logits"], axis=1),
    ]
    network = graph(nodes, {"image": 5}, {"logits": 5})
    now = default_voxels(SHAPE, SPACING)
    grown = now.copy()
    grown[2, 3, 4] = now.min() + 3000
    common = {"shape": SHAPE, "spacing_mm": SPACING, "origin_mm": (0.0, 0.0, 0.0)}
    paths = {
        "t1": write_series(tmp_path / "now", study_instance_uid=STUDY, voxels=grown, **common),
        "before": write_series(tmp_path / "then", study_instance_uid="1.2.3.99", voxels=now, **common),
    }
    result: Result = run(GROWN, {"model.onnx": network}, paths).result
    assert result.labels is not None and np.argwhere(result.labels).tolist() == [[2, 3, 4]]
    assert result.study_instance_uid == STUDY
    assert {each.study_instance_uid for each in result.further_images} == {"1.2.3.99"}
