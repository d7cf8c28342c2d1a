"""Grids, resampling and intensities: exact where voxels are shared, bounded elsewhere."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom import Dataset
from scipy import ndimage
from scipy.spatial.transform import Rotation

from node.infer.intensity import scale_intensities
from node.infer.output_sections import Label, Postprocessing
from node.infer.postprocess import make_decision
from node.infer.preparation import Prepared, prepare_volumes
from node.infer.preprocessing_sections import Crop, Preprocessing
from node.infer.regions import box_on, part_of_grid, widened
from node.infer.transforms import (
    DIRECTIONS,
    body_box,
    centred_grid,
    index_map,
    is_shared,
    model_grid,
    resample,
    slice_counts,
    slice_levels,
    turn,
)
from node.volume import Grid, Volume
from tests.painting import painted

ORIENTATIONS = [
    "".join(letters) for pairs in itertools.permutations(("LR", "PA", "SI")) for letters in itertools.product(*pairs)
]
TYPE = {"value": "1", "meaning": "Thing"}


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turned = np.eye(3)
        one, other = [i for i in range(3) if i != axis]
        turned[one, one] = turned[other, other] = np.cos(angle)
        turned[one, other], turned[other, one] = -np.sin(angle), np.sin(angle)
        matrix = turned @ matrix
    return matrix


def labels(*channels: list[int]) -> tuple[Label, ...]:
    return tuple(
        Label.model_validate({"name": f"label {n}", "channels": each, "type": TYPE, "rgb": (0, 0, 0)})
        for n, each in enumerate(channels)
    )


grids = st.builds(
    lambda shape, spacing, angles, origin: centred_grid(rotation(angles) * np.array(spacing), shape, np.array(origin)),
    st.tuples(*[st.integers(2, 9)] * 3),
    st.tuples(*[st.floats(0.4, 5)] * 3),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.floats(-200, 200)] * 3),
)


def preprocessing(**fields) -> Preprocessing:
    return Preprocessing.model_validate({"orientation": "LPS"} | fields)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turned_axes_increase_towards_their_letters(orientation: str) -> None:
    grid = centred_grid(rotation((0.2, -0.1, 0.3)) * np.array([3.0, 0.7, 0.5]), (4, 5, 6), np.array([10.0, 20, 30]))
    turned = turn(grid, orientation)
    for axis, letter in enumerate(orientation):
        cosines = turned.affine_lps[:3, :3].T @ np.array(DIRECTIONS[letter]) / turned.spacing_mm
        assert int(np.argmax(cosines)) == axis and cosines[axis] > 0.9
    np.testing.assert_allclose(turned.centre_lps, grid.centre_lps)


@given(grids, st.sampled_from(ORIENTATIONS))
def test_turning_and_back_is_the_identity(grid: Grid, orientation: str) -> None:
    values = np.random.default_rng(1).integers(-1000, 1000, grid.shape).astype(np.int16)
    turned = turn(grid, orientation)
    assert is_shared(*index_map(grid, turned))
    there = resample(values, grid, turned)
    assert sorted(there.shape) == sorted(values.shape)
    np.testing.assert_array_equal(resample(there, turned, grid), values)


@given(grids, st.tuples(*[st.integers(-3, 3)] * 3), st.tuples(*[st.integers(1, 12)] * 3))
def test_cropping_and_padding_copy_voxels(grid: Grid, start, shape) -> None:
    values = np.random.default_rng(2).normal(size=grid.shape).astype(np.float32)
    part = resample(values, grid, grid.part(start, shape), outside=-7)
    for index in np.ndindex(shape):
        place = tuple(np.add(index, start))
        inside = all(0 <= p < side for p, side in zip(place, grid.shape, strict=True))
        assert part[index] == (values[place] if inside else -7)


@given(grids)
def test_cover_of_the_same_spacing_is_the_source_itself(grid: Grid) -> None:
    same = model_grid(grid, preprocessing(alignment="acquisition"))
    assert is_shared(*index_map(grid, same)) and sorted(same.shape) == sorted(grid.shape)


@given(grids, st.tuples(*[st.floats(0.5, 4)] * 3), st.sampled_from(ORIENTATIONS))
def test_cover_holds_every_voxel_of_the_source(grid: Grid, spacing, orientation) -> None:
    cover = model_grid(grid, preprocessing(orientation=orientation, spacing_mm=spacing))
    matrix, offset = index_map(cover, grid)
    corners = np.array(list(itertools.product(*((0, side - 1) for side in grid.shape)))) @ matrix.T + offset
    assert (corners > -0.51).all() and (corners < np.array(cover.shape) - 0.49).all()
    for axis, letter in enumerate(orientation):
        np.testing.assert_allclose(cover.affine_lps[:3, axis], np.array(DIRECTIONS[letter]) * spacing[axis])


def test_fixed_grid_is_centred_on_the_volume() -> None:
    grid = centred_grid(rotation((0.4, 0.1, 0)) * 2.0, (5, 6, 7), np.array([1.0, 2, 3]))
    fixed = model_grid(grid, preprocessing(spacing_mm=(1, 1, 1), grid={"kind": "fixed", "shape": (8, 9, 10)}))
    assert fixed.shape == (8, 9, 10)
    np.testing.assert_allclose(fixed.centre_lps, [1, 2, 3])


@given(grids, grids)
@settings(max_examples=50)
def test_linear_resampling_reproduces_a_linear_field(source: Grid, target: Grid) -> None:
    target = Grid(target.shape, target.affine_lps.copy())
    target.affine_lps[:3, 3] += source.centre_lps - target.centre_lps
    slope = np.array([0.3, -0.2, 0.5])

    def field(grid: Grid) -> np.ndarray:
        indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
        return (indices @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3] - source.centre_lps) @ slope

    found = resample(field(source), source, target, outside=np.nan, threads=2)
    inside = np.isfinite(found)
    np.testing.assert_allclose(found[inside], field(target)[inside], atol=1e-4)


def test_values_lie_where_slices_are_that_are_not_evenly_spaced() -> None:
    levels = (0.0, 0.5, 2.0, 3.0)
    uneven = Grid((4, 5, 6), np.diag([2.0, 1, 1, 1]), levels)
    even = Grid((7, 5, 6), np.diag([1.0, 1, 1, 1]))
    ramp = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None, None], even.shape)
    found = resample(ramp, even, uneven)
    np.testing.assert_allclose(found[:, 2, 3], [0, 1, 4, 6], atol=1e-5)
    box = (np.array([0.5, 0.5, 0.5]), np.array([1.5, 3.5, 4.5]))
    assert part_of_grid(box, uneven, even)[0].start == 1
    np.testing.assert_allclose(slice_counts(uneven, slice_levels(uneven, np.array([0, 1.5, 3]))), [0, 1.5, 3])


def oblique_ball(radius_mm: float) -> tuple[np.ndarray, Grid, Grid]:
    """A ball in the middle of slices that lie 30 degrees off the axes of the other grid, both of 1 mm."""
    turn = Rotation.from_euler("xz", [30, 30], degrees=True).as_matrix()
    source, target = centred_grid(turn, (60, 60, 60), np.zeros(3)), centred_grid(np.eye(3), (80, 70, 60), np.zeros(3))
    places = np.stack(np.meshgrid(*map(np.arange, source.shape), indexing="ij"), -1) - 29.5
    return np.linalg.norm(places, axis=-1) < radius_mm, source, target


def test_a_box_lies_along_the_axes_of_the_grid_that_is_cut() -> None:
    mask, source, target = oblique_ball(12.0)
    box = box_on(mask, source, target, 1)
    assert box is not None
    np.testing.assert_allclose(box[1] - box[0], 24, atol=1)
    np.testing.assert_allclose((box[0] + box[1]) / 2, (np.array(target.shape) - 1) / 2, atol=0.6)
    start, shape = widened(box, target, 3.0)
    np.testing.assert_array_equal(shape, box[1] - box[0] + 6)
    np.testing.assert_array_equal(start, box[0] + 0.5 - 3)


def test_a_box_around_nothing_and_around_less_than_a_voxel() -> None:
    mask, source, target = oblique_ball(0.9)
    assert mask.sum() == 8 and box_on(np.zeros_like(mask), source, target, 1) is None
    coarse = centred_grid(np.eye(3) * 16, (5, 5, 5), np.full(3, 3.0))
    box = box_on(mask, source, coarse, 1)
    assert box is not None
    np.testing.assert_array_equal(box, [[1.5] * 3, [2.5] * 3])


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
def test_every_interpolation_keeps_a_constant_and_the_place_of_a_peak(interpolation: str) -> None:
    source = centred_grid(np.eye(3), (13, 13, 13), np.zeros(3))
    target = centred_grid(rotation((0.2, 0.1, 0.3)) * 0.8, (9, 9, 9), np.zeros(3))
    flat = resample(np.full(source.shape, 7, np.int16), source, target, interpolation, outside=7)
    np.testing.assert_allclose(flat, 7, rtol=1e-5)
    indices = np.stack(np.meshgrid(*map(np.arange, source.shape), indexing="ij"), -1) - 6.0
    peak = resample(np.exp(-(indices**2).sum(-1) / 8), source, target, interpolation)
    assert np.unravel_index(peak.argmax(), peak.shape) == (4, 4, 4)


def test_outside_is_filled() -> None:
    grid = centred_grid(np.eye(3), (4, 4, 4), np.zeros(3))
    far = centred_grid(np.eye(3) * 0.9, (4, 4, 4), np.array([50.0, 0, 0]))
    assert (resample(np.ones(grid.shape), grid, far, outside=-1024) == -1024).all()


@given(grids, st.sampled_from(ORIENTATIONS), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_labels_come_back_unchanged_where_voxels_are_shared(grid: Grid, orientation: str, chance) -> None:
    """Round trip over turning, padding and cropping: the identity, also at the edges."""
    expected = np.array([chance.randrange(3) for _ in range(int(np.prod(grid.shape)))], np.uint8).reshape(grid.shape)
    turned = turn(grid, orientation)
    padded = turned.part((-1, -2, 0), tuple(side + 3 for side in turned.shape))
    there = resample(expected, grid, padded)
    scores = np.stack([there == number for number in range(3)]).astype(np.float32)
    decision = make_decision(Postprocessing(), labels([1], [2]), 3)
    for how in ("probabilities", "labels"):
        np.testing.assert_array_equal(painted(scores, padded, grid, decision, how=how), expected)


@given(
    st.tuples(*[st.floats(0.6, 1.6)] * 3), st.tuples(*[st.floats(-0.5, 0.5)] * 3), st.tuples(*[st.floats(-2, 2)] * 3)
)
@settings(max_examples=30)
def test_a_half_space_moves_by_less_than_half_a_voxel(spacing, angles, shift) -> None:
    """Resampled there and back, the border of a label is nowhere off by more than half a voxel of the coarser grid."""
    source = centred_grid(np.eye(3), (16, 14, 12), np.zeros(3))
    model = centred_grid(rotation(angles) * np.array(spacing), (52, 52, 52), np.array(shift))  # reaches around
    normal = np.array([0.6, 0.48, 0.64])

    def depth(grid: Grid) -> np.ndarray:
        indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
        return (indices @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]) @ normal

    inside = (depth(model) > 0).astype(np.float32)
    scores = np.stack([1 - inside, inside])
    decision = make_decision(Postprocessing(), labels([1]), 2)
    for how in ("probabilities", "labels"):
        found = painted(scores, model, source, decision, how=how) == 1
        wrong = found != (depth(source) > 0)
        half_diagonal = np.linalg.norm(spacing) / 2
        assert not wrong.any() or np.abs(depth(source)[wrong]).max() <= half_diagonal


images = arrays.arrays(np.float32, (3, 4, 5), elements=st.floats(-1000, 1000, width=32))


@given(images, st.floats(-500, 500, width=32), st.floats(1, 2000, width=32))
def test_window_and_its_inverse(image: np.ndarray, centre: float, width: float) -> None:
    steps = preprocessing(
        spacing_mm=(1, 1, 1), intensity=[{"step": "window", "centre": centre, "width": width}]
    ).intensity
    scaled = image.copy()
    (used,) = scale_intensities(scaled, image, steps)
    rounding = 4e-7 * (1 + (abs(centre) + width) / width)  # float32 of the limits, against the width
    assert scaled.min() >= -rounding and scaled.max() <= 1 + rounding
    clipped = np.clip(image, centre - width / 2, centre + width / 2)
    np.testing.assert_allclose(used.invert(scaled), clipped, atol=1e-3 * max(1.0, width, abs(centre)) / 10)


@given(images)
def test_min_max_fills_its_range(image: np.ndarray) -> None:
    steps = preprocessing(spacing_mm=(1, 1, 1), intensity=[{"step": "min-max", "low": -1, "high": 1}]).intensity
    scaled = image.copy()
    scale_intensities(scaled, image, steps)
    if np.ptp(image) > 1e-3:
        assert scaled.min() == pytest.approx(-1, abs=1e-2) and scaled.max() == pytest.approx(1, abs=1e-2)
    assert np.isfinite(scaled).all()


def test_z_score_over_positive_voxels_and_fixed() -> None:
    image = np.array([0, 0, 2, 4, 6], np.float32).reshape(1, 1, 5)
    for step, expected in (
        ({"step": "z-score", "over": "positive"}, (image - 4) / np.std([2, 4, 6])),
        ({"step": "z-score", "mean": 1, "deviation": 2}, (image - 1) / 2),
    ):
        scaled = image.copy()
        scale_intensities(scaled, image, preprocessing(spacing_mm=(1, 1, 1), intensity=[step]).intensity)
        np.testing.assert_allclose(scaled, expected, rtol=1e-6)


def test_percentiles_over_grid_source_and_positive_voxels() -> None:
    image = np.arange(100, dtype=np.float32).reshape(4, 5, 5) - 50
    source = np.arange(1000, dtype=np.int16)
    for over, expected in (("grid", 39.1), ("source", 899.1 + 3), ("positive", np.percentile(np.arange(1, 50), 90))):
        steps = [{"step": "clip-percentiles", "high": 90, "over": over}]
        if over == "source":
            steps.insert(0, {"step": "affine", "offset": 3})
        maps = scale_intensities(image.copy(), source, preprocessing(spacing_mm=(1, 1, 1), intensity=steps).intensity)
        assert maps[-1].high == pytest.approx(expected) and maps[-1].low == -np.inf


def test_body_box_ignores_specks_and_keeps_its_margin_inside() -> None:
    image = np.zeros((20, 20, 20), np.float32)
    image[5:10, 6:12, 1:9] = 1
    image[18, 3, 17] = 1
    assert body_box(image, Crop(margin_voxels=2)) == ((3, 1, 0), (17, 13, 20))
    assert body_box(image, Crop(margin_voxels=2, minimum_voxels_per_plane=4)) == ((3, 4, 0), (9, 10, 11))
    assert body_box(image * 0, Crop()) == ((0, 0, 0), (20, 20, 20))


def resized(values: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """As scikit-image and nnU-Net resize: the field of view is kept, beyond the outermost centres it goes on."""
    places = [(np.arange(n) + 0.5) * (side / n) - 0.5 for n, side in zip(shape, values.shape, strict=True)]
    return ndimage.map_coordinates(values, np.meshgrid(*places, indexing="ij"), order=order, mode="nearest")


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_a_resized_grid_is_that_of_nnunet(interpolation: str) -> None:
    """The far planes, too, which a covering grid with a value outside loses."""
    values = np.random.default_rng(2).normal(0, 100, (9, 14, 17)).astype(np.int16)
    source = Grid(values.shape, np.diag([2.5, 0.9, 0.7, 1.0]))
    wanted = preprocessing(spacing_mm=(1.5, 1.5, 1.0), grid={"kind": "resized"})
    grid = model_grid(source, wanted)
    assert grid.shape == (15, 8, 12)
    np.testing.assert_allclose(np.array(grid.shape) * grid.spacing_mm, np.array(source.shape) * source.spacing_mm)
    found = resample(values, source, grid, interpolation, None)
    expected = resized(values.astype(np.float64), grid.shape, {"linear": 1, "cubic": 3}[interpolation])
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_beyond_the_edge_of_shared_voxels_stands_the_nearest() -> None:
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    source = Grid(values.shape, np.diag([2.0, 1.0, 1.0, 1.0]))
    larger = centred_grid(np.diag([2.0, 1.0, 1.0]), (4, 5, 6), source.centre_lps)
    np.testing.assert_array_equal(resample(values, source, larger, "cubic", None), np.pad(values, 1, mode="edge"))


def seen_of(wanted: dict, **inputs: tuple[np.ndarray, tuple[float, ...] | None]) -> Prepared:
    """What a network sees of inputs given by voxels and the places of slices."""
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], np.float64)
    volumes = {
        name: Volume(voxels, affine, [Dataset()] * len(voxels), "MR", "1.2.3", levels=levels)
        for name, (voxels, levels) in inputs.items()
    }
    tables = {"orientation": "SPL", "alignment": "acquisition"} | wanted
    return prepare_volumes(volumes, list(inputs), Preprocessing.model_validate(tables), {})


AROUND = {"grid": {"kind": "cover", "around": "nonzero"}}


def test_a_grid_around_what_is_not_zero_in_any_input() -> None:
    one, two, three = (np.zeros((8, 9, 10), np.float32) for _ in range(3))
    one[2, 3, 4] = two[5, 6, 7] = 1
    found = seen_of(AROUND, a=(one, None), b=(two, None))
    assert found.image.shape == (2, 4, 4, 4) and found.image[0, 0, 0, 0] == found.image[1, 3, 3, 3] == 1
    np.testing.assert_array_equal(found.grid.affine_lps[:3, 3], [4.0, 3.0, 4.0])
    assert seen_of(AROUND, a=(three, None)).image.shape == (1, 8, 9, 10)  # nothing is anywhere: all of it


def test_an_input_on_other_voxels_is_not_asked_where_it_is_zero() -> None:
    one, other = np.zeros((8, 9, 10), np.float32), np.ones((6, 9, 10), np.float32)
    one[2:4, 3, 4] = 1
    found = seen_of(AROUND, a=(one, None), b=(other, None))
    assert found.image.shape == (2, 2, 1, 1) and (found.image == 1).all()


def test_slices_that_are_not_evenly_spaced_stay_together() -> None:
    voxels = np.zeros((4, 9, 10), np.float32)
    voxels[1, 3:5, 4] = 7
    levels = (0.0, 0.5, 2.0, 3.0)
    found = seen_of({"spacing_mm": [1.0, 1.0, 1.0], "outside": "edge"} | AROUND, a=(voxels, levels))
    assert found.image.shape == (1, 8, 2, 1) and found.image.max() > 3


def test_steps_on_the_images_come_before_resampling() -> None:
    voxels = np.random.default_rng(2).integers(0, 900, (8, 9, 10)).astype(np.int16)
    wanted = {
        "spacing_mm": [1.5, 1.5, 1.5],
        "outside": "minimum",
        "intensity": [{"step": "clip-percentiles", "low": 10, "over": "source"}, {"step": "z-score"}],
        "intensity_on": "images",
    }
    found = seen_of(wanted, a=(voxels, None)).image
    values = voxels.astype(np.float32)
    scaled = np.maximum(values, np.percentile(values, 10))
    scaled = (scaled - scaled.mean()) / scaled.std()
    plain = {key: value for key, value in wanted.items() if not key.startswith("intensity")}
    np.testing.assert_allclose(found, seen_of(plain, a=(scaled, None)).image, atol=1e-5)
    assert found.min() == pytest.approx(scaled.min(), abs=1e-5)


def test_a_crop_before_steps_that_come_first_is_refused() -> None:
    region = {"stage": "first", "use": "crop"}
    tables = {"orientation": "SPL", "alignment": "acquisition", "intensity_on": "images"}
    with pytest.raises(ValueError, match='order = "after" for crop and mask'):
        Preprocessing.model_validate(tables | {"regions": [region]})
    assert Preprocessing.model_validate(tables | {"regions": [region | {"order": "after"}]}).regions
