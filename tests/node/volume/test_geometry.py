"""Order and geometry of stacks, without a file: every affine reproduces the positions, every fault has its code."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import NotAnalysed
from node.volume.geometry import Plane, stack_planes
from node.volume.volume import Grid


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    """Rotation by three Euler angles."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        one, other = [i for i in range(3) if i != axis]
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def planes(
    places_mm: list[float], *, axes: np.ndarray | None = None, drift_mm: float = 0.0, origin=(0.0, 0.0, 0.0), **changed
) -> list[Plane]:
    """Planes at these places along the normal; each is shifted by `drift_mm` per millimetre along its rows."""
    axes = np.eye(3) if axes is None else axes
    row, column, normal = axes[:, 0], axes[:, 1], np.cross(axes[:, 0], axes[:, 1])
    made = []
    for place in places_mm:
        position = np.array(origin) + place * normal + place * drift_mm * column
        fields = {
            "position_mm": tuple(float(v) for v in position),
            "orientation": tuple(float(v) for v in (*row, *column)),
            "pixel_spacing_mm": (0.7, 0.5),
            "rows": 20,
            "columns": 30,
            "frame_of_reference_uid": "1.2.3",
        }
        made.append(Plane(**(fields | changed)))
    return made


def refused(wanted: str, given_planes: list[Plane]) -> str:
    with pytest.raises(NotAnalysed) as caught:
        stack_planes(given_planes)
    assert caught.value.code == wanted
    return str(caught.value)


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.floats(0.3, 9),
    origin=st.tuples(*[st.floats(-400, 400)] * 3),
    order=st.permutations(range(7)),
)
def test_affine_gives_every_position_of_a_shuffled_stack(angles, spacing, origin, order) -> None:
    axes = rotation(angles)
    shuffled = planes([index * spacing for index in order], axes=axes, origin=origin)
    stack = stack_planes(shuffled)
    assert [order[i] for i in stack.order] == list(range(7))
    for index, plane in enumerate(stack.order):
        corner = stack.affine_lps @ [index, 0, 0, 1]
        np.testing.assert_allclose(corner[:3], shuffled[plane].position_mm, atol=1e-9)
        pixel = stack.affine_lps @ [index, 4, 6, 1]
        expected = np.array(shuffled[plane].position_mm) + 4 * 0.7 * axes[:, 1] + 6 * 0.5 * axes[:, 0]
        np.testing.assert_allclose(pixel[:3], expected, atol=1e-9)


def test_axial_slices_ascend_towards_the_head() -> None:
    stack = stack_planes(planes([5.0, 0.0, 2.5]))
    assert stack.order == (1, 2, 0)
    np.testing.assert_array_equal(stack.affine_lps, [[0, 0, 0.5, 0], [0, 0.7, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1]])


def test_one_slice_is_too_few() -> None:
    assert "has 1 slice; wanted at least 2" in refused("too-few-slices", planes([0]))


def test_gap_says_between_which_slices_and_how_many_are_missing() -> None:
    message = refused("gap-in-stack", planes([0, 2, 4, 10, 12, 14, 18]))
    assert "found 6.000 mm between slices 3 and 4 of 7, wanted 2.000 mm everywhere; 3 missing in all" in message


@pytest.mark.parametrize("places", [[0, 2, 4.6, 6.6, 8.6], [2.0 * i + 0.003 * i * i for i in range(20)]])
@pytest.mark.parametrize("drift_mm", [0.0, 0.2])
def test_uneven_slices_have_levels_that_place_each_of_them(places: list[float], drift_mm: float) -> None:
    given_planes = planes(places, drift_mm=drift_mm)
    stack = stack_planes(given_planes)
    assert stack.levels is not None and stack.levels[0] == 0
    assert stack.levels[-1] == pytest.approx(len(places) - 1)
    for level, index in zip(stack.levels, stack.order, strict=True):
        np.testing.assert_allclose(
            (stack.affine_lps @ [level, 0, 0, 1])[:3], given_planes[index].position_mm, atol=1e-9
        )
    assert stack.distances_mm == pytest.approx((min(np.diff(places)), max(np.diff(places))))


def test_distances_that_differ_too_much() -> None:
    assert "1.000 to 3.300 mm" in refused("uneven-spacing", planes([0, 1, 2.4, 5.7, 7.1]))


def test_rounded_positions_are_even_enough() -> None:
    assert len(stack_planes(planes([round(i * 0.6333333, 3) for i in range(50)])).order) == 50


def test_duplicate_position_names_what_differs() -> None:
    one = planes([0, 2, 4], distinguishing=(("EchoTime", "3"), ("ImageType", "a")))
    two = planes([0, 2, 4], distinguishing=(("EchoTime", "9"), ("ImageType", "a")))
    message = refused("duplicate-position", one + two)
    assert "6 images lie at only 3 places" in message
    assert "differ in EchoTime)" in message


def test_tilted_gantry_is_placed_exactly() -> None:
    stack = stack_planes(planes([0, 5, 10], drift_mm=0.1))
    assert stack.tilt_degrees == pytest.approx(5.7106, abs=1e-3)
    np.testing.assert_allclose(stack.affine_lps[:3, 0], [0, 0.5, 5], atol=1e-12)


def test_more_than_a_gantry_tilts_is_refused() -> None:
    assert "a tilt of 50.19 degrees; wanted at most 45" in refused("gantry-tilt", planes([0, 5, 10], drift_mm=1.2))


def test_rounding_is_no_tilt() -> None:
    assert stack_planes(planes([0, 5, 10], drift_mm=0.0019)).tilt_degrees == 0


def test_shear_within_rounding_is_kept_exactly_in_the_affine() -> None:
    stack = stack_planes(planes([0, 5, 10], drift_mm=0.001))
    np.testing.assert_allclose(stack.affine_lps[:3, 0], [0, 0.005, 5], atol=1e-12)


def test_slice_beside_the_line() -> None:
    stack = planes([0, 2, 4, 6])
    stack[1] = planes([2], origin=(0.5, 0, 0))[0]
    refused("uneven-spacing", stack)


def test_mixed_orientation() -> None:
    other = planes([4], axes=rotation((0.01, 0, 0)))
    assert "direction cosines differ" in refused("mixed-orientation", planes([0, 2]) + other)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"rows": 21}, "mixed-size"),
        ({"columns": 31}, "mixed-size"),
        ({"pixel_spacing_mm": (0.7, 0.6)}, "mixed-size"),
        ({"frame_of_reference_uid": "1.2.4"}, "mixed-frame-of-reference"),
    ],
)
def test_images_that_do_not_belong_together(changed, code) -> None:
    refused(code, planes([0, 2]) + planes([4], **changed))


@pytest.mark.parametrize("orientation", [(0.9, 0, 0, 0, 1, 0), (1, 0, 0, 0.1, 0.995, 0), (0, 0, 0, 0, 0, 0)])
def test_orientation_must_be_two_perpendicular_unit_vectors(orientation) -> None:
    refused("missing-geometry", planes([0, 2], orientation=orientation))


@given(
    drift=st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    slices=st.integers(2, 9),
)
def test_upright_grid_covers_every_voxel_of_a_tilted_one(drift, angles, slices) -> None:
    axes = rotation(angles)
    affine = np.eye(4)
    affine[:3, 1], affine[:3, 2], affine[:3, 3] = axes[:, 1] * 0.7, axes[:, 0] * 0.5, (30, -20, 10)
    affine[:3, 0] = np.cross(affine[:3, 1], affine[:3, 2]) * 8 + drift[0] * axes[:, 0] + drift[1] * axes[:, 1]
    tilted = Grid((slices, 20, 30), affine)
    upright = tilted.upright()
    steps = upright.affine_lps[:3, :3]
    overlap = np.abs(steps.T @ steps - np.diag(np.diag(steps.T @ steps))).max()
    assert overlap < 1e-9 or upright is tilted
    assert upright.voxel_ml == pytest.approx(tilted.voxel_ml)
    corners = np.array(list(itertools.product(*((0, size - 1) for size in tilted.shape), [1])), float).T
    places = np.linalg.solve(upright.affine_lps, tilted.affine_lps @ corners)[:3]
    slack = 1e-6 if upright is not tilted else 1
    assert (places >= -slack).all() and (np.array(upright.shape) - 1 + slack >= places.T).all()
    if upright is not tilted:
        np.testing.assert_allclose(places[0], corners[0], atol=1e-9)
