"""Regions in images and in space, as coordinates on a slice."""

from dataclasses import replace

import numpy as np
import pytest

from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import PlanarRegion, PlanarShape, SpatialRegion, SpatialShape
from dicom_sr.regions import draw, region_in_space

SPACING_MM = (3.0, 1.5, 1.25)


@pytest.fixture
def evidence(result, sources) -> Evidence:
    """Of twelve obliquely oriented images."""
    return check_evidence(result, sources)


def at(evidence: Evidence, column: float, row: float, slice_index: float) -> np.ndarray:
    """LPS millimetres of a place in pixels from the outer corner and slices from their centres."""
    along_row, along_column = np.array(evidence.orientation).reshape(2, 3)
    first, second = (np.array(evidence.frames[index].position_mm) for index in (0, 1))
    return (
        first
        + (column - 0.5) * SPACING_MM[2] * along_row
        + (row - 0.5) * SPACING_MM[1] * along_column
        + slice_index * (second - first)
    )


def in_space(evidence: Evidence, shape: SpatialShape, places: list[tuple[float, float, float]]) -> SpatialRegion:
    points = tuple(tuple(float(value) for value in at(evidence, *place)) for place in places)
    return SpatialRegion(shape, points, evidence.frame_of_reference_uid)


def test_point_in_space_lies_where_it_is(evidence):
    drawn = draw(in_space(evidence, SpatialShape.POINT, [(7.25, 11.5, 4.0)]), evidence)
    assert drawn.slice_index == 4
    assert drawn.points == pytest.approx(np.array([[7.25, 11.5]]), abs=1e-6)


def test_box_becomes_a_closed_rectangle_on_its_middle_slice(evidence):
    corners = [(5.0, 6.0, 2.0), (15.0, 6.0, 2.0), (5.0, 12.0, 2.0), (5.0, 6.0, 6.0)]
    drawn = draw(in_space(evidence, SpatialShape.BOX, corners), evidence)
    assert drawn.slice_index == 4
    rectangle = [(5, 6), (15, 6), (15, 12), (5, 12), (5, 6)]
    assert drawn.points == pytest.approx(np.array(rectangle, float), abs=1e-6)
    assert region_in_space(in_space(evidence, SpatialShape.BOX, corners)) is None


def test_ellipsoid_becomes_the_ellipse_around_it(evidence):
    ends = [
        (6.0, 10.0, 5.0),
        (14.0, 10.0, 5.0),
        (10.0, 7.0, 5.0),
        (10.0, 13.0, 5.0),
        (10.0, 10.0, 3.0),
        (10.0, 10.0, 7.0),
    ]
    drawn = draw(in_space(evidence, SpatialShape.ELLIPSOID, ends), evidence)
    assert drawn.slice_index == 5 and drawn.is_outline
    assert np.array_equal(drawn.points[0], drawn.points[-1])
    assert drawn.points.min(axis=0) == pytest.approx((6, 7), abs=1e-6)
    assert drawn.points.max(axis=0) == pytest.approx((14, 13), abs=1e-6)
    polygon_of_36 = 36 / 2 * np.sin(2 * np.pi / 36) * 4 * 3
    assert drawn.area_mm2(SPACING_MM[1:]) == pytest.approx(polygon_of_36 * 1.5 * 1.25)


def test_polygon_in_space_is_closed_and_kept_in_space(evidence):
    region = in_space(evidence, SpatialShape.POLYGON, [(5, 5, 3), (9, 5, 3), (9, 9, 3), (7, 11, 3), (5, 9, 3)])
    drawn, kept = draw(region, evidence), region_in_space(region)
    assert drawn.slice_index == 3 and len(drawn.points) == 6
    shape, points = kept
    assert shape is SpatialShape.POLYGON
    assert points[:-1] == pytest.approx(np.array(region.points), abs=1e-4)
    assert (points[0] == points[-1]).all()


def test_polygon_in_space_that_is_not_flat_is_refused(evidence):
    bent = in_space(evidence, SpatialShape.POLYGON, [(5, 5, 3), (9, 5, 3), (9, 9, 4), (7, 11, 3), (5, 9, 3)])
    with pytest.raises(InvalidResult, match="one plane"):
        region_in_space(bent)


def test_an_open_line_is_no_region_and_has_a_length(evidence, sources):
    line = PlanarRegion(str(sources[2].SOPInstanceUID), PlanarShape.POLYLINE, ((2.0, 3.0), (6.0, 6.0)))
    drawn = draw(line, evidence)
    assert drawn.is_path and not drawn.is_outline and drawn.slice_index == 2
    assert drawn.length_mm(SPACING_MM[1:]) == pytest.approx(np.hypot(4 * 1.25, 3 * 1.5))
    assert drawn.shape is PlanarShape.POLYLINE


def test_what_cannot_be_drawn_is_refused(evidence, sources):
    uid = str(sources[0].SOPInstanceUID)
    wrong = (
        (PlanarRegion("1.2.99", PlanarShape.POINT, ((1.0, 1.0),)), "none of the source images"),
        (PlanarRegion(uid, PlanarShape.CIRCLE, ((1.0, 1.0),)), "expected 2"),
        (PlanarRegion(uid, PlanarShape.POINT, ()), "no points"),
        (PlanarRegion(uid, PlanarShape.POINT, ((float("nan"), 1.0),)), "no numbers"),
        (SpatialRegion(SpatialShape.POINT, ((0.0, 0.0, 0.0),), "1.2.99"), "frame of reference"),
        (in_space(evidence, SpatialShape.POINT, [(5, 5, 40)]), "beside the images"),
        (in_space(evidence, SpatialShape.POINT, [(5, 5, 1), (6, 5, 1)]), "POINT with 2 points"),
        (in_space(evidence, SpatialShape.POLYGON, [(5, 5, 1), (6, 5, 1)]), "POLYGON with 2 points"),
        (in_space(evidence, SpatialShape.BOX, [(5, 5, 1)]), "BOX with 1 points"),
        (in_space(evidence, SpatialShape.ELLIPSOID, [(5, 5, 1)]), "ELLIPSOID with 1 points"),
    )
    for region, said in wrong:
        with pytest.raises(InvalidResult, match=said):
            draw(region, evidence)


def moved(evidence: Evidence, sideways_mm: float, heights_mm: list[float]) -> Evidence:
    """The slices at these heights, each pushed along its columns by a share of its height, as a tilted gantry does."""
    along_row, along_column = np.array(evidence.orientation).reshape(2, 3)
    origin = np.array(evidence.frames[0].position_mm)
    way = np.array(evidence.frames[-1].position_mm) - origin
    normal = np.cross(along_row, along_column) * np.sign(np.cross(along_row, along_column) @ way)
    frames = [
        replace(frame, position_mm=tuple(origin + height * (normal + sideways_mm * along_column)))
        for frame, height in zip(evidence.frames, heights_mm, strict=True)
    ]
    return replace(evidence, frames=tuple(frames))


@pytest.mark.parametrize(
    ("sideways_mm", "heights_mm"),
    [(0.36, [3.0 * index for index in range(12)]), (0.0, [2.0 * index + (index > 6) * 4.0 for index in range(12)])],
    ids=["tilted", "uneven"],
)
@pytest.mark.parametrize("slice_index", [0, 5, 7, 11])
def test_place_in_space_lies_on_the_slice_that_shows_it(evidence, sideways_mm, heights_mm, slice_index):
    stack = moved(evidence, sideways_mm, heights_mm)
    along_row, along_column = np.array(evidence.orientation).reshape(2, 3)

    def place(column: float, row: float) -> tuple[float, ...]:
        origin = np.array(stack.frames[slice_index].position_mm)
        point = origin + (column - 0.5) * SPACING_MM[2] * along_row + (row - 0.5) * SPACING_MM[1] * along_column
        return tuple(float(value) for value in point)

    uid = evidence.frame_of_reference_uid
    drawn = draw(SpatialRegion(SpatialShape.POINT, (place(7.25, 11.5),), uid), stack)
    assert drawn.slice_index == slice_index
    assert drawn.points == pytest.approx(np.array([[7.25, 11.5]]), abs=1e-6)
    polygon = draw(SpatialRegion(SpatialShape.POLYGON, (place(5, 5), place(9, 5), place(7, 11)), uid), stack)
    assert polygon.slice_index == slice_index
    assert polygon.points[:3] == pytest.approx(np.array([(5, 5), (9, 5), (7, 11)], float), abs=1e-6)


def test_place_between_slices_far_apart_lies_on_the_nearer(evidence):
    stack = moved(evidence, 0.0, [2.0 * index + (index > 6) * 4.0 for index in range(12)])
    first, second = (np.array(stack.frames[index].position_mm) for index in (6, 7))
    uid = evidence.frame_of_reference_uid
    for share, slice_index in ((0.45, 6), (0.55, 7)):
        point = tuple(float(value) for value in first + share * (second - first))
        assert draw(SpatialRegion(SpatialShape.POINT, (point,), uid), stack).slice_index == slice_index
