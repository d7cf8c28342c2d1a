"""Every task on a tiny network whose answer is known on paper: files, tensor, Result, DICOM, the gate."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from dicom_sr.findings import PlanarShape, Presence, Result, SpatialShape
from dicom_sr.profile import CONSERVATIVE
from node.errors import NotAnalysed, Permanent
from node.infer import Registry, check_model
from node.pipeline import Analysis, AnalysisRequest, InputImages, run_analysis
from tests.models import graph, write_task_model
from tests.node.volume.images import write_image
from tests.phantoms import default_voxels, write_series

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


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Analysis]:
    """Write a model with these tables and run it on these files, by input."""

    def go(tables: str, files: Mapping, inputs: Mapping[str, list[Path]]) -> Analysis:
        write_task_model(tmp_path / "models" / "task", tables, files)
        registry = Registry([tmp_path / "models"])
        assert registry.problems == []
        request = AnalysisRequest(
            inputs={name: InputImages(tuple(paths)) for name, paths in inputs.items()},
            input_digest="0" * 64,
            revision=1,
            created_at=datetime(2024, 3, 5, tzinfo=UTC),
        )
        model = registry.get("task")
        out = tmp_path / "out"
        return run_analysis(request, model, out, device="cpu", threads=1, profile=CONSERVATIVE)

    return go


def radiograph(path: Path, pixels: np.ndarray, **attributes) -> list[Path]:
    return [write_image(path, pixels, **(DESCRIPTION | attributes))]


def square(rows: int = 40, columns: int = 60) -> np.ndarray:
    """A bright square, rows 10 to 19 and columns 20 to 29, on a dark ground."""
    pixels = np.full((rows, columns), 100, np.uint16)
    pixels[10:20, 20:30] = 1000
    return pixels


def constant(tensor: str, values: np.ndarray, axes: int = 4) -> object:
    """A network that always gives these values, whatever it sees."""
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        helper.make_node("Add", ["values", "zero"], [tensor]),
    ]
    constants = {"values": values.astype(np.float32), "nothing": np.float32(0).reshape(())}
    return graph(nodes, {"image": axes}, {tensor: values.ndim}, constants)


def identity(tensor: str, axes: int) -> object:
    return graph([helper.make_node("Identity", ["image"], [tensor])], {"image": axes}, {tensor: axes})


def test_segmentation_of_an_image(run, tmp_path: Path) -> None:
    """Found on a quarter of the pixels, mirrored, and brought back to the image's own."""
    tables = f"""{IMAGES}size = [20, 30]
mirror = "right"
[[outputs]]
task = "segmentation"
tensor = "mask"
channels = 1
decision = "threshold"
threshold = 500
minimum_component_voxels = 20
[[outputs.labels]]
name = "Square"
channels = [0]
type = {LUNG}
rgb = [255, 0, 0]
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
    tables = f"""{IMAGES}
[[outputs]]
task = "segmentation"
tensor = "mask"
channels = 1
decision = "threshold"
threshold = 500
smoothing_mm = 1.0
[[outputs.labels]]
name = "Square"
channels = [0]
type = {LUNG}
rgb = [255, 0, 0]
"""
    given = {"image": radiograph(tmp_path / "x.dcm", square(), **spacing)}
    if not spacing:
        with pytest.raises(NotAnalysed, match=r"found no size of its pixels .* smoothed by 1 mm") as refused:
            run(tables, {"model.onnx": identity("mask", 4)}, given)
        assert refused.value.code == "pixel-spacing-missing"
        return
    labels = run(tables, {"model.onnx": identity("mask", 4)}, given).result.labels
    assert labels is not None and 60 < np.count_nonzero(labels) < 100  # the corners are round


def test_images_have_no_volume(run, tmp_path: Path) -> None:
    tables = f"""{IMAGES}
[[outputs]]
task = "segmentation"
channels = 1
minimum_component_ml = 2.0
[[outputs.labels]]
name = "Square"
channels = [0]
type = {LUNG}
rgb = [255, 0, 0]
"""
    folder = write_task_model(tmp_path / "wrong", tables, {"model.onnx": identity("logits", 4)})
    (problem,) = check_model(folder)
    assert "minimum_component_ml: found 2, expected 0 for images" in problem


def test_labels_that_overlap_are_both_kept(run, tmp_path: Path) -> None:
    tables = f"""{VOLUMES}
[[outputs]]
task = "segmentation"
channels = 2
decision = "threshold"
overlap = true
[[outputs.labels]]
name = "Block"
channels = [0]
type = {LUNG}
rgb = [255, 0, 0]
threshold = 50
[[outputs.labels]]
name = "Ball"
channels = [1]
type = {LUNG}
rgb = [0, 255, 0]
threshold = 500
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


def classes(*rows: tuple[str, int, str]) -> str:
    return "\n".join(
        f'[[outputs.classes]]\nname = "{name}"\nchannel = {channel}\nfinding = {LUNG}\n{more}'
        for name, channel, more in rows
    )


def test_classes_are_present_indeterminate_or_absent(run, tmp_path: Path) -> None:
    band = "threshold = 0.7\nindeterminate_from = 0.4\n"
    tables = f"""{IMAGES}
[[outputs]]
task = "classification"
activation = "sigmoid"
{classes(("Here", 0, band + "critical = true"), ("Perhaps", 1, band), ("Not here", 2, band))}
"""
    logits = np.log(np.array([[0.9, 0.5, 0.1]]) / (1 - np.array([[0.9, 0.5, 0.1]])))
    network = constant("probability", logits)
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
        run(tables, {"model.onnx": constant("probability", np.array([[3.2]]))}, paths)


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


def detector(boxes: list[list[float]], scores: list[list[float]], axes: int = 4) -> object:
    """A network that always gives these boxes and scores (channel, box)."""
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        helper.make_node("Add", ["all_boxes", "zero"], ["boxes"]),
        helper.make_node("Add", ["all_scores", "zero"], ["scores"]),
    ]
    constants = {
        "all_boxes": np.array(boxes, np.float32),
        "all_scores": np.array([scores], np.float32),
        "nothing": np.float32(0).reshape(()),
    }
    return graph(nodes, {"image": axes}, {"boxes": 2, "scores": 3}, constants)


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
    network = detector(
        [[10, 10, 5, 5], [10, 11, 5, 5], [0, 5, 30, 20], [20, 5, 2, 2]], [[0.9, 0.8, 0.1, 0.6], [0.1, 0.2, 0.3, 0.4]]
    )
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
    network = detector([[10, 10, 20, 20], [12, 10, 22, 20], [40, 0, 50, 10]], [[3.0, 1.0, 2.0]])
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
    network = detector([[2, 3, 4, 5, 7, 9]], [[0.9]], axes=5)
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


def test_numbers_with_units(run, tmp_path: Path) -> None:
    year = '{ value = "a", scheme = "UCUM", meaning = "year" }'
    values = "\n".join(
        f'[[outputs.values]]\nname = "{name}"\nchannel = {channel}\nfinding = {LUNG}\nunit = {year}\n'
        f'concept = {{ value = "B", scheme = "99T", meaning = "Bone age" }}\n{more}'
        for name, channel, more in (("Age", 0, "scale = 0.1\noffset = 1"), ("Odd", 1, "maximum = 20"))
    )
    tables = f'{IMAGES}\n[[outputs]]\ntask = "regression"\n{values}\n'
    network = constant("value", np.array([[100.0, 400.0]]))
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
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        helper.make_node("Add", ["vector", "zero"], ["embedding"]),
        helper.make_node("Add", ["numbers", "zero"], ["words"]),
    ]
    constants = {
        "vector": np.array([[1, 2, 3]], np.float32),
        "numbers": np.array([[1, 0, 9, 1]], np.float32),
        "nothing": np.float32(0).reshape(()),
    }
    network = graph(nodes, {"image": 4}, {"embedding": 2, "words": 2}, constants)
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


TWO_CHANNELS = f"""
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
grid = {{ kind = "source" }}
[preprocessing.intensity_of]
flair = [{{ step = "affine", scale = 2 }}]
[[outputs]]
task = "segmentation"
channels = 2
decision = "threshold"
threshold = 1500
[[outputs.labels]]
name = "Ball"
channels = [1]
type = {LUNG}
rgb = [255, 0, 0]
"""


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
    folder = write_task_model(tmp_path / "task", tables, {"model.onnx": constant("probability", np.array([[0.9]]))})
    (folder / "example").mkdir()
    np.savez(folder / "example" / "input.npz", pixels=square())
    (folder / "example" / "expected.json").write_text(json.dumps(expected))
    problems = check_model(folder)
    assert len(problems) == bool(problem) and all(problem in each for each in problems)
