"""Images and scores on a device of their own: the same labels from another array library as from NumPy.

The library is array_api_strict, which has nothing beyond the array API standard, on outputs bound to the CPU; with a
GPU it is CuPy.
"""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
from pydicom import Dataset
from scipy import ndimage

from node.infer import Registry, analyse
from node.infer.arrays import ScoreDevice, namespace_of, on_host
from node.infer.cleaning import clean
from node.infer.output_sections import Postprocessing
from node.infer.pool import Key
from node.infer.preparation import prepare_volumes
from node.infer.preprocessing_sections import Preprocessing
from node.volume import Volume
from tests.models import threshold_network, write_task_model


@dataclass(frozen=True)
class Strict(ScoreDevice):
    """The memory of this machine, as a place of its own."""

    name: str = "cpu"

    def take(self, value: Any) -> Any:
        return array_api_strict.asarray(value.numpy())

    def put(self, array: np.ndarray) -> Any:
        return array_api_strict.asarray(array, copy=True)

    @property
    def ndimage(self) -> Any:
        return OfScipy()

    def finish(self) -> None:
        return None


class OfScipy:
    """The functions of scipy.ndimage, which take no array but of this library, and give none else."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(ndimage, name)

        def there(array: Any, *arguments: Any, **options: Any) -> Any:
            assert not isinstance(array, np.ndarray)
            plain = [on_host(each) if hasattr(each, "shape") else each for each in arguments]
            answer = function(on_host(array), *plain, **options)
            if isinstance(answer, tuple):  # components and their number
                return array_api_strict.asarray(answer[0]), answer[1]
            return array_api_strict.asarray(answer)

        return there


@pytest.fixture
def ball() -> Volume:
    voxels = (np.random.default_rng(5).normal(400, 40, (12, 14, 16))).astype(np.int16)
    voxels[3:8, 4:10, 5:12] += 300
    headers = []
    for number in range(len(voxels)):
        header = Dataset()
        header.SOPInstanceUID = f"1.2.{number + 1}"
        headers.append(header)
    return Volume(voxels, np.diag([2.0, 1.0, 1.0, 1.0]), headers, "MR", "1.2.3")


TABLES = """
[[inputs]]
[inputs.requires]
modality = ["MR"]
[preprocessing]
orientation = "LIA"
alignment = "acquisition"
{preprocessing}
[run]
{run}
[[outputs]]
task = "segmentation"
channels = 2
{output}
[[outputs.labels]]
name = "Ball"
channels = [1]
type = {{ value = "12738006", meaning = "Brain" }}
rgb = [255, 0, 0]
{more}
"""
SECOND = """[[outputs.labels]]
name = "Dark"
channels = [0]
type = { value = "1", meaning = "x" }
rgb = [255, 0, 0]
"""
PATCHES = 'mode = "sliding-window"\npatch = [6, 7, 8]\noverlap = 0.5'


@pytest.mark.parametrize(
    ("preprocessing", "run", "output", "more"),
    [
        ("", PATCHES, 'activation = "softmax"', ""),
        ("spacing_mm = [2.0, 2.5, 3.0]", PATCHES, 'activation = "softmax"', ""),
        ("spacing_mm = [2.0, 2.5, 3.0]", "", "", ""),
        ("spacing_mm = [2.0, 2.5, 3.0]", 'mode = "sliding-window"\npatch = [6, 7, 8]\nhalo = 2', "", ""),
        ("spacing_mm = [2.0, 2.5, 3.0]", PATCHES + "\nflips = [0, 2]\nbatch = 2", 'activation = "softmax"', ""),
        ("spacing_mm = [4.0, 4.0, 50.0]", "", "", ""),
        (
            "spacing_mm = [2.0, 2.5, 3.0]",
            'mode = "slices"\nbatch = 3',
            'activation = "sigmoid"\ndecision = "threshold"\nthreshold = 0.5\noverlap = true',
            SECOND,
        ),
        ("spacing_mm = [2.0, 2.5, 3.0]", PATCHES, 'resample = "labels"', ""),
        ("", "", 'smoothing_mm = 1.5\nlargest_component = "each-label"\nfill_holes = true', SECOND),
    ],
)
def test_labels_are_the_same(
    tmp_path: Path, ball: Volume, preprocessing: str, run: str, output: str, more: str
) -> None:
    tables = TABLES.format(preprocessing=preprocessing, run=run, output=output, more=more)
    planes = "slices" in run
    folder = write_task_model(tmp_path / "ball", tables, {"model.onnx": planar() if planes else threshold_network()})
    expected = analyse(Registry([folder]).get("ball"), {"image": ball}, device="cpu", threads=1)
    model = Registry([folder]).get("ball")
    (session,) = model.sessions("prefer-gpu", 1).values()
    kinds = []

    class Watched(Strict):
        """Says what it gave."""

        def take(self, value: Any) -> Any:
            kinds.append(namespace_of(super().take(value)).__name__)
            return super().take(value)

    key = Key("ball", "cpu", 1)
    model.pool.sessions(key, lambda: {"model.onnx": replace(session, scores=Watched("cpu"))})
    found = analyse(model, {"image": ball}, device="cpu", threads=1)
    assert set(kinds) == {"array_api_strict"}
    assert expected.labels is not None and expected.labels.any()
    np.testing.assert_array_equal(found.labels, expected.labels)
    for one, other in zip(found.overlapping_labels, expected.overlapping_labels, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.findings == expected.findings


@pytest.mark.parametrize("thicknesses", [None, tuple(np.linspace(0.5, 1.5, 12))], ids=["even", "uneven"])
@pytest.mark.parametrize(
    "fields",
    [
        {"smoothing_mm": 1.2},
        {"largest_component": "foreground"},
        {"largest_component": "each-label", "connectivity": "corners"},
        {"minimum_component_ml": 0.008},
        {"minimum_component_voxels": 5, "fill_holes": True},
        {"smoothing_mm": 0.8, "largest_component": "each-label", "fill_holes": True},
    ],
)
def test_labels_cleaned_elsewhere_are_the_same(fields: dict[str, Any], thicknesses: tuple[float, ...] | None) -> None:
    chance = np.random.default_rng(8)
    labels = chance.choice(np.array([0, 1, 2, 7], np.uint8), (12, 14, 16), p=(0.6, 0.25, 0.1, 0.05))
    labels[2:9, 3:10, 4:12] = 2
    labels[4:6, 5:7, 6:9] = 0
    wanted = Postprocessing.model_validate(fields)
    given = (labels, 0.002, wanted, (2.0, 1.0, 1.0), thicknesses)
    expected, found = (clean(given[0].copy(), labels, *given[1:], device=device) for device in (None, Strict("cpu")))
    assert (expected != labels).any() and expected.any()
    np.testing.assert_array_equal(found, expected)


def test_labels_are_cleaned_here_where_memory_does_not_suffice_there() -> None:
    class Small(Strict):
        """Too small."""

        def put(self, array: np.ndarray) -> Any:
            raise MemoryError

    labels = np.zeros((3, 4, 5), np.uint8)
    labels[0, 0, 0] = labels[1:, 2:, 2:] = 1
    wanted = Postprocessing.model_validate({"largest_component": "foreground"})
    assert clean(labels, labels, 1.0, wanted, device=Small("cpu"))[0, 0, 0] == 0


STEPS = """
intensity = [
    {step = "clip", low = 350, high = 700}, {step = "clip-percentiles", low = 1, high = 99, over = "source"},
    {step = "clip-percentiles", low = 2, high = 98, over = "positive"},
    {step = "percentile-window", lower = 1, upper = 97}, {step = "min-max"},
    {step = "z-score", over = "positive", only_there = true}, {step = "z-score"},
    {step = "affine", scale = 300, offset = 500},
    {step = "window", centre = 500, width = 900, low = 0, high = 1000},
]
"""


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("outside", ['"edge"', '"minimum"'])
def test_images_made_ready_elsewhere_are_the_same(ball: Volume, interpolation: str, outside: str) -> None:
    """Within a few units of the last place of float32: sums are taken in another order."""
    text = f'orientation = "LIA"\nalignment = "acquisition"\nspacing_mm = [1.5, 2.5, 3.0]\noutside = {outside}'
    wanted = Preprocessing.model_validate(tomllib.loads(f'{text}\ninterpolation = "{interpolation}"\n{STEPS}'))
    here = prepare_volumes({"image": ball}, ["image"], wanted, {}, 1)
    there = prepare_volumes({"image": ball}, ["image"], wanted, {}, 1, Strict())
    assert here.image.std() > 100
    np.testing.assert_allclose(there.image, here.image, rtol=1e-4, atol=0.02)


def test_images_that_do_not_fit_elsewhere_are_made_ready_here(ball: Volume) -> None:
    class Full(Strict):
        """Memory in which nothing has room; CuPy raises a MemoryError, too."""

        def put(self, array: np.ndarray) -> Any:
            raise MemoryError

    wanted = Preprocessing.model_validate({"orientation": "LPS", "spacing_mm": (2.0, 2.0, 2.0)})
    here = prepare_volumes({"image": ball}, ["image"], wanted, {}, 1)
    np.testing.assert_array_equal(prepare_volumes({"image": ball}, ["image"], wanted, {}, 1, Full()).image, here.image)


def planar() -> Any:
    """The ball, by a network that takes planes."""
    model = threshold_network()
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[2]
    return model


def test_what_is_not_only_labels_comes_back_as_before(tmp_path: Path, ball: Volume) -> None:
    more = """[[outputs]]
task = "map"
name = "Heat"
channels = 2
channel = 1
tensor = "logits"
quantity = { value = "H", scheme = "99T", meaning = "Heat" }
"""
    tables = TABLES.format(preprocessing="", run="", output="", more=more)
    model = Registry([write_task_model(tmp_path / "ball", tables, {"model.onnx": threshold_network()})]).get("ball")
    (session,) = model.sessions("prefer-gpu", 1).values()

    @dataclass(frozen=True)
    class Refusing(Strict):
        """Nothing is to be left here."""

        def take(self, value: Any) -> Any:
            raise AssertionError("scores of which a map is made were left on the device")

    model.pool.sessions(Key("ball", "cpu", 1), lambda: {"model.onnx": replace(session, scores=Refusing())})
    assert analyse(model, {"image": ball}, device="cpu", threads=1).maps


def test_arrays_here_are_not_copied() -> None:
    array = np.zeros(3)
    assert namespace_of(array) is np and on_host(array) is array
