"""Decisions, the short cut at uniform cells against plain interpolation, components."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from node.infer.cleaning import body_mask, clean
from node.infer.output_sections import Label, Postprocessing
from node.infer.postprocess import activate, make_decision
from node.infer.preprocessing_sections import Region
from node.infer.regions import Found
from node.infer.transforms import centred_grid, index_map
from node.volume import Grid
from tests.painting import painted

TYPE = {"value": "1", "meaning": "Thing"}


def label(name: str, *channels: int) -> Label:
    return Label.model_validate({"name": name, "channels": channels, "type": TYPE, "rgb": (0, 0, 0)})


LABELS = (label("one", 1, 4), label("two", 2), label("three", 3))


def plainly(scores: np.ndarray, grid: Grid, target: Grid, decision, nearest_axis: int | None = None) -> np.ndarray:
    """Every channel interpolated at every voxel, then decided."""
    matrix, offset = index_map(grid, target)
    indices = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), -1) @ matrix.T + offset
    sides = np.array(grid.shape)
    outside = ((indices < -0.5) | (indices >= sides - 0.5)).any(-1)
    if nearest_axis is not None:
        indices[..., nearest_axis] = np.floor(indices[..., nearest_axis] + 0.5)
    places = np.moveaxis(np.clip(indices, 0, sides - 1), -1, 0)
    mixed = np.stack([ndimage.map_coordinates(each, places, order=1, mode="nearest") for each in scores])
    found = decision.numbers[decision.states(mixed)]
    found[outside] = 0
    return found


@given(st.integers(0, 10**6), st.sampled_from(["argmax", "threshold"]), st.integers(1, 4), st.sampled_from([0, 3, 6]))
@settings(max_examples=80, deadline=None)
def test_short_cut_gives_what_plain_interpolation_gives(seed: int, kind: str, smoothness: int, side: int) -> None:
    chance = np.random.default_rng(seed)
    shape = tuple(int(side) for side in chance.integers(1, 12, 3))
    scores = ndimage.uniform_filter(chance.random((5, *shape)), (0, *[smoothness] * 3)).astype(np.float32)
    grid = centred_grid(np.eye(3) * chance.uniform(0.5, 2, 3), shape, np.zeros(3))
    angle = chance.uniform(-1, 1)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    target = centred_grid(turned * chance.uniform(0.4, 2, 3), (11, 9, 10), chance.uniform(-2, 2, 3))
    wanted = Postprocessing.model_validate({"decision": kind, "threshold": 0.5})
    decision = make_decision(wanted, LABELS, 5)
    patch = tuple(min(side, length) for length in shape) if side else None
    found = painted(scores, grid, target, decision, patch)
    expected = plainly(scores, grid, target, decision)
    # Both round at ties of two scores; such voxels are counted, not hidden.
    assert np.count_nonzero(found != expected) <= 0.002 * found.size


@given(st.integers(0, 10**6), st.integers(0, 2), st.sampled_from([0, 4]))
@settings(max_examples=40, deadline=None)
def test_nothing_is_interpolated_along_a_coarse_axis(seed: int, axis: int, side: int) -> None:
    chance = np.random.default_rng(seed)
    shape = tuple(int(side) for side in chance.integers(1, 12, 3))
    scores = ndimage.uniform_filter(chance.random((5, *shape)), (0, 3, 3, 3)).astype(np.float32)
    grid = centred_grid(np.eye(3) * chance.uniform(0.5, 4, 3), shape, np.zeros(3))
    target = centred_grid(np.eye(3)[[2, 0, 1]] * chance.uniform(0.4, 2, 3), (11, 9, 10), chance.uniform(-2, 2, 3))
    decision = make_decision(Postprocessing(), LABELS, 5)
    patch = tuple(min(side, length) for length in shape) if side else None
    found = painted(scores, grid, target, decision, patch, nearest_axis=axis)
    expected = plainly(scores, grid, target, decision, axis)
    assert np.count_nonzero(found != expected) <= 0.002 * found.size


def test_later_labels_win_where_thresholds_overlap() -> None:
    scores = np.array([[0.0], [0.9], [0.6], [0.2], [0.0]], np.float32).reshape(5, 1, 1, 1)
    decision = make_decision(Postprocessing(decision="threshold"), LABELS, 5)
    assert decision.numbers[decision.states(scores)].item() == 2


def test_channels_of_one_label_are_merged_and_others_are_background() -> None:
    scores = np.eye(5, dtype=np.float32).reshape(5, 1, 1, 5)
    decision = make_decision(Postprocessing(), LABELS, 5)
    assert decision.numbers[decision.states(scores)].ravel().tolist() == [0, 1, 2, 3, 1]


def test_nothing_found_is_all_background() -> None:
    grid = centred_grid(np.eye(3), (3, 3, 3), np.zeros(3))
    decision = make_decision(Postprocessing(decision="threshold"), LABELS, 5)
    assert not painted(np.zeros((5, 3, 3, 3), np.float32), grid, grid, decision).any()


@given(st.integers(0, 1000))
def test_activations(seed: int) -> None:
    scores = (np.random.default_rng(seed).normal(size=(3, 2, 4, 5)) * 50).astype(np.float32)
    soft = activate(scores.copy(), "softmax")
    np.testing.assert_allclose(soft.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(soft.argmax(0), scores.argmax(0))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(activate(scores.copy(), "sigmoid"), 1 / (1 + np.exp(-scores)), atol=1e-6)
    assert activate(scores, "none") is scores


def blocks() -> np.ndarray:
    """Label 1: 8 voxels and 1 voxel beside label 2; label 2: 27 voxels with a hole."""
    labels = np.zeros((6, 8, 12), np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    labels[1:4, 3:6, 4:7] = 2
    labels[2, 4, 5] = 0
    labels[1, 3, 7] = 1
    return labels


@pytest.mark.parametrize(
    ("wanted", "one", "two"),
    [
        ({}, 9, 26),
        ({"largest_component": "foreground"}, 1, 26),
        ({"largest_component": "each-label"}, 8, 26),
        ({"minimum_component_ml": 0.002}, 8, 26),
        ({"minimum_component_ml": 0.0265}, 0, 0),
        ({"fill_holes": True}, 9, 27),
    ],
)
def test_components_and_holes(wanted, one: int, two: int) -> None:
    labels = clean(blocks(), np.zeros((6, 8, 12)), 0.001, Postprocessing.model_validate(wanted))
    assert (np.count_nonzero(labels == 1), np.count_nonzero(labels == 2)) == (one, two)


def test_corners_connect_when_asked() -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    for connectivity, left in (("faces", 1), ("corners", 2)):
        wanted = Postprocessing.model_validate({"connectivity": connectivity, "largest_component": "each-label"})
        assert np.count_nonzero(clean(labels.copy(), labels, 1.0, wanted)) == left


def test_labels_outside_the_body_are_removed() -> None:
    values = np.full((2, 12, 12), -1000)
    values[:, 2:9, 2:9] = 40
    values[:, 4:6, 4:6] = -900
    values[:, 11, :] = 100
    assert body_mask(values[0], -400).sum() == 49
    labels = clean(
        np.ones((2, 12, 12), np.uint8), values, 1.0, Postprocessing.model_validate({"body": {"above": -400}})
    )
    assert np.count_nonzero(labels) == 2 * 49
    assert not body_mask(values[0], 5000).any()


def ball(spacing_mm: tuple[float, float, float], radius_mm: float = 12.0) -> np.ndarray:
    sides = [round(40 / each) for each in spacing_mm]
    places = np.meshgrid(*((np.arange(side) - side / 2) * mm for side, mm in zip(sides, spacing_mm, strict=True)))
    return (sum(each**2 for each in places) < radius_mm**2).swapaxes(0, 1).astype(np.uint8)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (4.0, 0.8, 0.8)])
def test_smoothing_is_in_millimetres_along_each_axis(spacing_mm) -> None:
    """A ball keeps its volume, specks and hairs thinner than the neighbourhood go, whatever the voxels."""
    wanted = Postprocessing.model_validate({"smoothing_mm": 1.5})
    labels = ball(spacing_mm)
    volume = labels.sum()
    speck = labels.copy()
    speck[0, 0, 0] = 1
    speck[:, 0, -1] = 1
    cleaned = clean(speck, speck, 1.0, wanted, spacing_mm)
    assert cleaned[0, 0, 0] == 0 and not cleaned[:, 0, -1].any()
    assert abs(int(cleaned.sum()) - int(volume)) < 0.08 * volume
    expected = ndimage.gaussian_filter(labels.astype(np.float32), [1.5 / mm for mm in spacing_mm], mode="nearest")
    np.testing.assert_array_equal(clean(labels, labels, 1.0, wanted, spacing_mm), expected > 0.5)


def test_smoothing_leaves_no_hole_where_three_labels_meet() -> None:
    labels = np.ones((12, 12, 12), np.uint8)
    labels[:, 6:, :6], labels[:, 6:, 6:] = 2, 3
    smoothed = clean(labels.copy(), labels, 1.0, Postprocessing.model_validate({"smoothing_mm": 2.0}))
    assert (smoothed > 0).all() and set(np.unique(smoothed)) == {1, 2, 3}
    assert np.count_nonzero(smoothed != labels) < 0.15 * labels.size


def test_components_of_an_uneven_stack_count_by_their_volume() -> None:
    """Two voxels in thin slices hold less than one in a thick slice."""
    labels = np.zeros((4, 3, 3), np.uint8)
    labels[0:2, 0, 0] = labels[3, 2, 2] = 1
    thicknesses = (0.25, 0.25, 1.0, 2.5)
    wanted = {"largest_component": "each-label"}
    for fields in (wanted, {"minimum_component_ml": 0.9}):
        cleaned = clean(labels.copy(), labels, 1.0, Postprocessing.model_validate(fields), thicknesses=thicknesses)
        assert np.argwhere(cleaned).tolist() == [[3, 2, 2]]
    fields = {"minimum_component_voxels": 2}
    cleaned = clean(labels.copy(), labels, 1.0, Postprocessing.model_validate(fields), thicknesses=thicknesses)
    assert np.argwhere(cleaned).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_a_gate_on_an_uneven_stack_goes_by_volume() -> None:
    labels = np.zeros((3, 2, 2), np.uint8)
    labels[2, 0, 0] = 1
    grid = Grid((3, 2, 2), np.diag([10.0, 10.0, 10.0, 1.0]), (0.0, 0.4, 2.0))
    share = grid.thicknesses[2]
    assert share != 1
    found = Found(grid, (labels,), {"A": 1})
    for factor, expected in ((0.99, True), (1.01, False)):
        region = Region(stage="first", use="gate", minimum_ml=share * factor)
        assert found.is_found(region) is expected
