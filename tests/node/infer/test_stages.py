"""Cascades: what one stage finds crops, masks, feeds, filters or gates the next. And manifests that say it wrongly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from node.infer import Inference, ManifestError, Registry, analyse, load_manifest
from node.volume import Volume, load_volume
from tests.models import graph, write_task_model
from tests.phantoms import write_series

SHAPE, SPACING = (20, 24, 28), (2.0, 1.5, 1.0)
THING = '{ value = "39607008", meaning = "Lung" }'
BOX = (slice(8, 14), slice(6, 15), slice(10, 22))
"""What the first stage finds: where the image is above 500."""

INPUT = """
[[inputs]]
name = "image"
[inputs.requires]
modality = ["MR"]
"""
FINDER = f"""
[[stages]]
name = "finder"
[stages.preprocessing]
orientation = "SPL"
alignment = "acquisition"
grid = {{ kind = "source" }}
[stages.run]
file = "finder.onnx"
[[stages.outputs]]
task = "segmentation"
report = false
channels = 1
decision = "threshold"
threshold = 500
[[stages.outputs.labels]]
name = "Body"
channels = [0]
type = {THING}
rgb = [0, 0, 255]
"""
LABELS = f"""
[[outputs]]
task = "segmentation"
channels = 1
decision = "threshold"
threshold = %s
[[outputs.labels]]
name = "Inside"
channels = [0]
type = {THING}
rgb = [255, 0, 0]
[[outputs.measurements]]
kind = "volume"
labels = ["Inside"]
"""
ORIENTED = '[preprocessing]\norientation = "SPL"\nalignment = "acquisition"\n'
SOURCE = f'{ORIENTED}grid = {{ kind = "source" }}\n'


def region(use: str, more: str = "") -> str:
    return f'[[preprocessing.regions]]\nstage = "finder"\nuse = "{use}"\n{more}\n'


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """A ramp along rows (0 to 230) with 1000 added in the box."""
    voxels = np.broadcast_to(np.arange(SHAPE[1])[None, :, None] * 10, SHAPE).astype(np.int16).copy()
    voxels[BOX] += 1000
    folder = tmp_path_factory.mktemp("series")
    return load_volume(write_series(folder / "s", shape=SHAPE, spacing_mm=SPACING, voxels=voxels))


def identity() -> onnx.ModelProto:
    return graph([helper.make_node("Identity", ["image"], ["logits"])], {"image": 5}, {"logits": 5})


def channel_of_input(place: int) -> onnx.ModelProto:
    """A network that gives back one channel of what it sees."""
    nodes = [helper.make_node("Gather", ["image", "place"], ["logits"], axis=1)]
    return graph(nodes, {"image": 5}, {"logits": 5}, {"place": np.array([place], np.int64)})


@pytest.fixture
def run(tmp_path: Path, volume: Volume) -> Callable[..., Inference]:
    def go(tables: str, last: onnx.ModelProto | None = None, first: onnx.ModelProto | None = None) -> Inference:
        files = {"finder.onnx": first or identity(), "model.onnx": last or identity()}
        write_task_model(tmp_path / "models" / "cascade", INPUT + tables, files)
        registry = Registry([tmp_path / "models"])
        assert registry.problems == []
        return analyse(registry.get("cascade"), {"image": volume}, device="cpu", threads=1)

    return go


def sides(found: Inference) -> tuple[int, ...]:
    """Sides of the box that is labelled."""
    assert found.labels is not None
    return tuple(int(np.ptp(axis)) + 1 for axis in np.nonzero(found.labels))


def test_crop_looks_only_at_the_box_and_its_margin(run) -> None:
    """The last network marks everything that it sees."""
    found = run(FINDER + SOURCE + region("crop", "margin_mm = 3.0") + LABELS % -1)
    assert found.segments[0].label == "Inside" and len(found.segments) == 1
    assert found.labels is not None
    expected = np.zeros(SHAPE, bool)
    expected[6:16, 4:17, 7:25] = True  # 3 mm: two slices, two rows, three columns
    np.testing.assert_array_equal(found.labels == 1, expected)


def test_intensities_are_those_of_the_crop(run) -> None:
    found = run(FINDER + SOURCE + 'intensity = [{ step = "min-max" }]\n' + region("crop") + LABELS % 0.5)
    assert sides(found)[1] == 4  # the brighter half of the ramp in the box


def test_intensities_of_the_whole_where_the_crop_comes_after_them(run) -> None:
    steps = 'intensity = [{ step = "min-max" }]\n'
    found = run(FINDER + SOURCE + steps + region("crop", 'order = "after"') + LABELS % 0.5)
    assert found.labels is not None
    expected = np.zeros(SHAPE, bool)
    expected[BOX] = True  # all of the box is in the brighter half of the whole
    np.testing.assert_array_equal(found.labels == 1, expected)


def test_a_fixed_grid_is_centred_on_the_box(run) -> None:
    grid = 'grid = { kind = "fixed", shape = [4, 5, 6] }\n'
    found = run(FINDER + ORIENTED + grid + region("crop") + LABELS % -1)
    assert found.labels is not None
    place = [axis.mean() for axis in np.nonzero(found.labels)]
    np.testing.assert_allclose(place, [10.5, 10, 15.5], atol=0.51)
    assert sides(found) == (4, 5, 6)


@pytest.mark.parametrize("how", ["nearest", "as-others"])
def test_nothing_is_interpolated_along_a_coarse_axis(run, how: str) -> None:
    """Planes 8 mm apart of slices 2 mm apart are slices 4 n + 2, of which each stands for four; 10 is in the box."""
    grid = f'spacing_mm = [8.0, 1.5, 1.0]\ncoarse_axis = "{how}"\noutside = "edge"\ngrid = {{ kind = "resized" }}\n'
    found = run(ORIENTED + grid + LABELS % 800)
    assert found.labels is not None
    slices = [index for index in range(SHAPE[0]) if found.labels[index].any()]
    assert slices == ([8, 9, 10, 11] if how == "nearest" else [9, 10, 11, 12])


def test_mask_replaces_what_lies_outside(run) -> None:
    found = run(FINDER + SOURCE + region("mask", "value = -5") + LABELS % -1)
    assert found.labels is not None
    expected = np.zeros(SHAPE, bool)
    expected[BOX] = True
    np.testing.assert_array_equal(found.labels == 1, expected)


def test_keep_removes_labels_outside(run) -> None:
    found = run(FINDER + SOURCE + region("keep") + LABELS % 100)
    assert found.labels is not None
    expected = np.zeros(SHAPE, bool)
    expected[BOX] = True
    np.testing.assert_array_equal(found.labels == 1, expected)


def test_channel_is_given_to_the_network(run) -> None:
    """The last network gives back the second channel, which is 1 in the box."""
    found = run(FINDER + SOURCE + region("channel") + LABELS % 0.5, channel_of_input(1))
    expected = np.zeros(SHAPE, bool)
    expected[BOX] = True
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels == 1, expected)


def test_labels_that_cover_each_other_are_one_map_for_the_next(run) -> None:
    """As of regions of nnU-Net: each voxel is in the channel of the later label only."""
    core = f'[[stages.outputs.labels]]\nname = "Core"\nchannels = [1]\ntype = {THING}\nrgb = [0, 255, 0]\n'
    finder = FINDER.replace("channels = 1", "channels = 2").replace("[0, 0, 255]", "[0, 0, 255]\nthreshold = 100")
    twice = graph([helper.make_node("Concat", ["image", "image"], ["logits"], axis=1)], {"image": 5}, {"logits": 5})
    tables = finder + core + SOURCE + region("channel", 'names = ["Core", "Body"]') + LABELS % 0.5
    found = run(tables, channel_of_input(2), twice)
    expected = np.broadcast_to((np.arange(SHAPE[1]) > 10)[None, :, None], SHAPE).copy()
    expected[BOX] = False
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels == 1, expected)


@pytest.mark.parametrize(("minimum_ml", "runs"), [(1.9, True), (2.0, False)])
def test_gate_opens_for_more_than_its_minimum(run, minimum_ml: float, runs: bool) -> None:
    """The box has 6 x 9 x 12 voxels of 3 mm3: 1.944 mL."""
    found = run(FINDER + SOURCE + region("gate", f"minimum_ml = {minimum_ml}") + LABELS % -1)
    assert found.labels is not None and bool(found.labels.any()) == runs
    assert ("Stage main did not run: stage finder found nothing." in found.remarks) != runs
    assert found.findings[0].measurements[0].value == pytest.approx(np.prod(SHAPE) * 0.003 if runs else 0)


def test_both_stages_may_be_reported(run) -> None:
    found = run(FINDER.replace("report = false\n", "") + SOURCE + region("crop") + LABELS % -1)
    assert [(segment.number, segment.label) for segment in found.segments] == [(1, "Body"), (2, "Inside")]
    assert found.labels is not None and len(found.overlapping_labels) == 1
    np.testing.assert_array_equal(found.labels == 1, found.overlapping_labels[0] == 2)


@pytest.mark.parametrize("order", ["before", "after"])
def test_nothing_to_crop_to_is_said(run, order: str) -> None:
    crop = region("crop", f'order = "{order}"')
    found = run(FINDER.replace("threshold = 500", "threshold = 5000") + SOURCE + crop + LABELS % -1)
    assert found.labels is not None and found.labels.all()
    assert "Stage finder found nothing to crop to; the whole is used." in found.remarks


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('stage = "finder"', 'stage = "other"', "regions[0].stage: found 'other', expected an earlier stage: finder"),
        ('use = "crop"', 'use = "crop"\nnames = ["Head"]', "names: found 'Head', expected one of: Body"),
        ('use = "crop"', 'use = "cut"', "preprocessing.regions[0].use: found \"cut\", expected 'crop',"),
        ('file = "finder.onnx"', 'file = "x.onnx"', "stages[0].run.file: found 'x.onnx', expected one of files:"),
        (
            'orientation = "SPL"\nalignment = "acquisition"\ngrid = { kind = "source" }\n[stages.run]',
            "dimensions = 2\n[stages.run]",
            "stages[0].preprocessing.dimensions: found 2, expected 3 as in the last stage",
        ),
    ],
)
def test_problems_of_stages(tmp_path: Path, old: str, new: str, problem: str) -> None:
    tables = INPUT + FINDER + SOURCE + region("crop") + LABELS % 0
    assert old in tables
    files = {"finder.onnx": identity(), "model.onnx": identity()}
    folder = write_task_model(tmp_path / "wrong", tables.replace(old, new, 1), files)
    with pytest.raises(ManifestError) as caught:
        load_manifest(folder)
    assert problem in str(caught.value) and ":" in str(caught.value).split(" ", maxsplit=1)[0]
