"""Every task on a tiny network whose answer is known on paper: files, tensor, Result, DICOM, the gate."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from dicom_sr.findings import PlanarShape, Presence, SpatialShape
from node.errors import NotAnalysed, Permanent
from node.infer import check_model
from node.pipeline import Analysis
from tests.models import graph, write_task_model
from tests.node.infer.tasks import (
    IMAGES,
    LUNG,
    SHAPE,
    SPACING,
    VOLUMES,
    classes,
    constant,
    identity,
    radiograph,
    run_task,
    segmentation,
    square,
)
from tests.phantoms import default_voxels, write_series

MASK = 'tensor = "mask"\nchannels = 1\nthreshold = 500\n'
OVERLAP = "channels = 2\noverlap = true\nthreshold = 500\n"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Analysis]:
    """Write a model with these tables and run it on these files, by input."""
    return partial(run_task, tmp_path)


def test_segmentation_of_an_image(run, tmp_path: Path) -> None:
    """Found on a quarter of the pixels, mirrored, and brought back to the image's own."""
    tables = f"""{IMAGES}size = [20, 30]
mirror = "right"
{segmentation(("Square", 0), more=MASK + "minimum_component_voxels = 20")}
[[outputs.measurements]]
kind = "area"
labels = ["Square"]
present_above = 10
"""
    pixels = square()
    pixels[32:34, 50:52] = 1000  # a speck
    paths = radiograph(tmp_path / "x.dcm", pixels, ImageLaterality="R", PixelSpacing=[0.5, 0.2])
    result = run(tables, {"model.onnx": identity("mask", 4)}, {"image": paths}).result
    assert result.labels is not None
    np.testing.assert_array_equal(result.labels[0] == 1, square() > 500)
    (finding,) = result.findings
    assert finding.measurements[0].value == pytest.approx(100 * 0.1) and finding.measurements[0].unit.value == "mm2"
    assert finding.presence is Presence.ABSENT  # 10 mm2 is not above 10


@pytest.mark.parametrize("spacing", [{}, {"PixelSpacing": [0.5, 0.5]}], ids=["unknown", "known"])
def test_smoothing_needs_the_size_of_pixels(run, tmp_path: Path, spacing: dict) -> None:
    tables = IMAGES + segmentation(("Square", 0), more=MASK + "smoothing_mm = 1.0")
    given = {"image": radiograph(tmp_path / "x.dcm", square(), **spacing)}
    if not spacing:
        with pytest.raises(NotAnalysed, match=r"found no size of its pixels .* smoothed by 1 mm") as refused:
            run(tables, {"model.onnx": identity("mask", 4)}, given)
        assert refused.value.code == "pixel-spacing-missing"
        return
    labels = run(tables, {"model.onnx": identity("mask", 4)}, given).result.labels
    assert labels is not None and 60 < np.count_nonzero(labels) < 100  # the corners are round


def test_images_have_no_volume(run, tmp_path: Path) -> None:
    tables = IMAGES + segmentation(("Square", 0), more="channels = 1\nminimum_component_ml = 2.0")
    folder = write_task_model(tmp_path / "wrong", tables, {"model.onnx": identity("logits", 4)})
    (problem,) = check_model(folder)
    assert "minimum_component_ml: found 2, expected 0 for images" in problem


def test_labels_that_overlap_are_both_kept(run, tmp_path: Path) -> None:
    tables = f"""{VOLUMES}
{segmentation(("Block", 0), ("Ball", 1), more=OVERLAP, first="threshold = 50")}
[[outputs.measurements]]
kind = "ratio"
labels = ["Ball"]
of = ["Block"]
unit = "1"
concept = {{ value = "R", scheme = "99T", meaning = "Share" }}
"""
    network = graph([helper.make_node("Concat", ["image", "image"], ["logits"], axis=1)], {"image": 5}, {"logits": 5})
    paths = write_series(tmp_path / "s", shape=SHAPE, spacing_mm=SPACING)
    result = run(tables, {"model.onnx": network}, {"image": paths}).result
    voxels = default_voxels(SHAPE, SPACING)
    block, ball = result.label_maps
    np.testing.assert_array_equal(block == 1, voxels > 50)
    np.testing.assert_array_equal(ball == 2, voxels > 500)
    assert result.findings[0].measurements[0].value == pytest.approx((voxels > 500).mean())


def test_classes_are_present_indeterminate_or_absent(run, tmp_path: Path) -> None:
    band = "threshold = 0.7\nindeterminate_from = 0.4\n"
    tables = f"""{IMAGES}
[[outputs]]
task = "classification"
activation = "sigmoid"
{classes(("Here", 0, band + "critical = true"), ("Perhaps", 1, band), ("Not here", 2, band))}
"""
    logits = np.log(np.array([[0.9, 0.5, 0.1]]) / (1 - np.array([[0.9, 0.5, 0.1]])))
    network = constant(probability=logits)
    result = run(tables, {"model.onnx": network}, {"image": radiograph(tmp_path / "x.dcm", square())}).result
    found = {each.tracking_identifier: each for each in result.findings}
    assert {name: each.presence for name, each in found.items()} == {
        "Here": Presence.PRESENT,
        "Perhaps": Presence.INDETERMINATE,
        "Not here": Presence.ABSENT,
    }
    likelihood = found["Here"].likelihood
    assert likelihood is not None and likelihood.value == pytest.approx(0.9)
    assert likelihood.operating_point == 0.7 and found["Here"].critical and not found["Perhaps"].critical


def test_scores_that_are_no_probabilities_are_not_taken_for_some(run, tmp_path: Path) -> None:
    tables = f'{IMAGES}\n[[outputs]]\ntask = "classification"\n{classes(("Here", 0, ""))}\n'
    paths = {"image": radiograph(tmp_path / "x.dcm", square())}
    with pytest.raises(Permanent, match=r"found a score of 3\.2, expected 0 to 1: set activation"):
        run(tables, {"model.onnx": constant(probability=[[3.2]])}, paths)


def test_boxes_come_back_to_the_pixels_of_the_image(run, tmp_path: Path) -> None:
    """40 x 60 becomes 20 x 30 in the middle of 30 x 30; a box there is five times as large in PS3.3's pixels."""
    tables = f"""{IMAGES}size = [30, 30]
fit = "pad"
anchor = "middle"
[[outputs]]
task = "detection"
layout = "xywh"
iou = 0.4
{classes(("One", 0, "maximum = 1"), ("Other", 1, ""))}
"""
    boxes = [[10, 10, 5, 5], [10, 11, 5, 5], [0, 5, 30, 20], [20, 5, 2, 2]]
    network = constant(boxes=boxes, scores=[[[0.9, 0.8, 0.1, 0.6], [0.1, 0.2, 0.3, 0.4]]])
    result = run(tables, {"model.onnx": network}, {"image": radiograph(tmp_path / "x.dcm", square())}).result
    one, other = result.findings
    (region,) = one.regions
    assert region.shape is PlanarShape.POLYLINE and region.sop_instance_uid == result.source_images[0].sop_instance_uid
    np.testing.assert_allclose(region.points, [(20, 10), (30, 10), (30, 20), (20, 20), (20, 10)])
    assert other.presence is Presence.ABSENT and other.regions == ()
    assert other.likelihood is not None and other.likelihood.value == pytest.approx(0.4)


def test_boxes_that_overlap_are_averaged_by_score(run, tmp_path: Path) -> None:
    tables = f"""{IMAGES}
[[outputs]]
task = "detection"
suppression = "weighted"
iou = 0.4
probability = false
{classes(("One", 0, ""))}
"""
    network = constant(boxes=[[10, 10, 20, 20], [12, 10, 22, 20], [40, 0, 50, 10]], scores=[[[3.0, 1.0, 2.0]]])
    result = run(tables, {"model.onnx": network}, {"image": radiograph(tmp_path / "x.dcm", square())}).result
    first, second = result.findings
    assert [each.tracking_identifier for each in result.findings] == ["One 1", "One 2"]
    np.testing.assert_allclose(first.regions[0].points[0], (10.5, 10))
    assert first.measurements[0].value == 3 and second.measurements[0].value == 2 and first.likelihood is None


def test_boxes_in_space(run, tmp_path: Path) -> None:
    tables = f"""{VOLUMES}
[[outputs]]
task = "detection"
first = "axis-0"
{classes(("Nodule", 0, ""))}
"""
    network = constant(axes=5, boxes=[[2, 3, 4, 5, 7, 9]], scores=[[[0.9]]])
    paths = write_series(tmp_path / "s", shape=SHAPE, spacing_mm=SPACING, origin_mm=(0.0, 0.0, 0.0))
    (finding,) = run(tables, {"model.onnx": network}, {"image": paths}).result.findings
    (region,) = finding.regions
    assert region.shape is SpatialShape.BOX
    low = np.array([4 - 0.5, 3 - 0.5, 2 - 0.5]) * (1.5, 1.5, 3)
    high = np.array([9 - 0.5, 7 - 0.5, 5 - 0.5]) * (1.5, 1.5, 3)
    corner, *others = np.array(region.points)
    np.testing.assert_allclose(corner, low)
    np.testing.assert_allclose(sum(others) - 2 * corner, high)


def test_landmarks_from_heat_maps_and_what_is_measured_between_them(run, tmp_path: Path) -> None:
    """Channels are thresholds of a ramp: the peaks are the corners that the image marks."""
    pixels = np.zeros((40, 60), np.uint16)
    pixels[5, 10], pixels[5, 40], pixels[35, 10] = 900, 600, 300
    nodes = []
    for channel in range(3):
        nodes += [
            helper.make_node("Sub", ["image", f"value{channel}"], [f"away{channel}"]),
            helper.make_node("Abs", [f"away{channel}"], [f"distance{channel}"]),
            helper.make_node("Neg", [f"distance{channel}"], [f"near{channel}"]),
        ]
    nodes.append(helper.make_node("Concat", ["near0", "near1", "near2"], ["heatmaps"], axis=1))
    values = {f"value{channel}": np.float32(value).reshape(()) for channel, value in enumerate((900, 600, 300))}
    network = graph(nodes, {"image": 4}, {"heatmaps": 4}, values)
    points = "\n".join(
        f'[[outputs.points]]\nname = "P{channel}"\nchannel = {channel}\nfinding = {LUNG}' for channel in range(3)
    )
    tables = f"""{IMAGES}
[[outputs]]
task = "landmarks"
{points}
[[outputs.measurements]]
kind = "distance"
points = ["P0", "P1"]
name = "Width"
concept = {{ value = "103339001", meaning = "Long Axis" }}
finding = {LUNG}
[[outputs.measurements]]
kind = "angle"
points = ["P1", "P0", "P2"]
name = "Angle"
concept = {{ value = "A", scheme = "99T", meaning = "Angle" }}
finding = {LUNG}
"""
    paths = radiograph(tmp_path / "x.dcm", pixels, PixelSpacing=[0.5, 0.2])
    found = {
        each.tracking_identifier: each
        for each in run(tables, {"model.onnx": network}, {"image": paths}).result.findings
    }
    assert found["P0"].regions[0].points == ((10.5, 5.5),)
    assert found["Width"].measurements[0].value == pytest.approx(30 * 0.2)
    assert found["Angle"].measurements[0].value == pytest.approx(90)


def test_numbers_with_units(run, tmp_path: Path) -> None:
    year = '{ value = "a", scheme = "UCUM", meaning = "year" }'
    values = "\n".join(
        f'[[outputs.values]]\nname = "{name}"\nchannel = {channel}\nfinding = {LUNG}\nunit = {year}\n'
        f'concept = {{ value = "B", scheme = "99T", meaning = "Bone age" }}\n{more}'
        for name, channel, more in (("Age", 0, "scale = 0.1\noffset = 1"), ("Odd", 1, "maximum = 20"))
    )
    tables = f'{IMAGES}\n[[outputs]]\ntask = "regression"\n{values}\n'
    network = constant(value=[[100.0, 400.0]])
    result = run(tables, {"model.onnx": network}, {"image": radiograph(tmp_path / "x.dcm", square())}).result
    (finding,) = result.findings
    assert finding.measurements[0].value == pytest.approx(11) and finding.measurements[0].unit.value == "a"
    assert "Odd: 400 a is outside what can be believed; left out." in result.remarks


def test_heat_map_on_the_images_own_voxels(run, tmp_path: Path) -> None:
    """A map of half the sides, as class activation maps are, brought to the tensor's sides and then to the image's."""
    nodes = [helper.make_node("AveragePool", ["image"], ["heatmap"], kernel_shape=[2, 2], strides=[2, 2])]
    tables = f"""{IMAGES}
[[outputs]]
task = "map"
name = "Heat"
quantity = {{ value = "H", scheme = "99T", meaning = "Heat" }}
"""
    network = graph(nodes, {"image": 4}, {"heatmap": 4})
    result = run(tables, {"model.onnx": network}, {"image": radiograph(tmp_path / "x.dcm", square())}).result
    (heat,) = result.maps
    assert heat.values.shape == (1, 40, 60) and heat.values[0, 14, 24] == 1000 and heat.values[0, 0, 0] == 100


def test_embedding_and_text(run, tmp_path: Path) -> None:
    tables = f"""{IMAGES}
[[outputs]]
task = "embedding"
length = 3
[[outputs]]
task = "text"
tensor = "words"
vocabulary = "words.txt"
joiner = " "
end = 9
"""
    network = constant(embedding=[[1, 2, 3]], words=[[1, 0, 9, 1]])
    words = b"lungs\nClear"
    paths = {"image": radiograph(tmp_path / "x.dcm", square())}
    analysis = run(tables, {"model.onnx": network, "words.txt": words}, paths)
    np.testing.assert_array_equal(analysis.embeddings["embedding"], [1, 2, 3])
    assert analysis.result.text == "Clear lungs"


def test_text_as_strings(run, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["number"], to=TensorProto.INT64),
        helper.make_node("Mul", ["number", "nothing"], ["place"]),
        helper.make_node("Gather", ["answers", "place"], ["text"]),
    ]
    constants = {"nothing": np.int64(0).reshape(()), "answers": np.array(["No finding."], object)}
    network = graph(nodes, {"image": 4}, {"text": 0}, constants, kind=TensorProto.STRING)
    tables = f'{IMAGES}\n[[outputs]]\ntask = "text"\n'
    paths = {"image": radiograph(tmp_path / "x.dcm", square())}
    assert run(tables, {"model.onnx": network}, paths).result.text == "No finding."


EXAMPLE = """
[example]
expected = "example/expected.json"
"""


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({"Here": {"presence": "present", "score": 0.9}}, ""),
        ({"Here": {"presence": "absent"}}, "example: Here: presence: found present, expected absent"),
        ({"Here": {"score": 0.8}}, "example: Here: score: found 0.89"),
        ({"There": {}}, "example: There: found no such finding, expected one of: Here"),
        ({"Here": {"colour": 1}}, "example: Here: found the key 'colour', expected presence, score, grade or"),
    ],
)
def test_the_example_of_a_classification_is_checked(tmp_path: Path, expected: dict, problem: str) -> None:
    tables = f'{IMAGES}\n[[outputs]]\ntask = "classification"\n{classes(("Here", 0, ""))}\n{EXAMPLE}'
    folder = write_task_model(tmp_path / "task", tables, {"model.onnx": constant(probability=[[0.9]])})
    (folder / "example").mkdir()
    np.savez(folder / "example" / "input.npz", pixels=square())
    (folder / "example" / "expected.json").write_text(json.dumps(expected))
    problems = check_model(folder)
    assert len(problems) == bool(problem) and all(problem in each for each in problems)
