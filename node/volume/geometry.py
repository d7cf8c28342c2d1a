"""Order and geometry of a stack of single-frame images, checked. Pure.

PS3.3 C.7.6.2.1.1: a pixel's place is its image's position plus row and column steps along the direction
cosines. Slices are ordered by the projection of their position on the normal of the plane; Instance Number
and Slice Location play no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.volume.reason import Reason, refusal

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of a direction cosine within a stack: 0.03 mm at 256 mm from the corner."""

COSINE_TOLERANCE = 1e-3
"""How far direction cosines may be from unit length and a right angle (headers with three decimals)."""

PLACE_TOLERANCE = 0.01
"""How far a slice may lie from its even place, as a share of the spacing, and at least..."""

PLACE_TOLERANCE_MM = 0.01
"""...this many millimetres."""

SHEAR_TOLERANCE = 2e-3
"""Sideways shift of a stack per millimetre along its normal (0.11 degrees) above which it counts as
tilted.
"""

LARGEST_UNEVENNESS = 3.0
"""How many times the smallest distance of neighbours the largest may be: what lies between is interpolated."""

LARGEST_TILT_DEGREES = 45.0
"""A gantry tilts by up to 30 degrees; what is shifted more is no stack of one scan."""


@dataclass(frozen=True)
class Plane:
    """Geometry of one image, as its header gives it (PS3.3 C.7.6.2, C.7.6.3)."""

    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    pixel_spacing_mm: tuple[float, float]
    rows: int
    columns: int
    frame_of_reference_uid: str
    distinguishing: tuple[tuple[str, str], ...] = ()
    """What else may tell images at one place apart: echo, time, acquisition; (keyword, value)."""


@dataclass(frozen=True, eq=False)
class Stack:
    """`order[i]` is the index of the plane that becomes slice i; `affine_lps` maps (slice, row, column, 1)
    to LPS mm, exactly also for a tilted stack, whose slices do not lie straight above each other; `tilt_degrees` is 0
    for one that is upright. `levels` is None for evenly spaced slices; else it says where each of them lies on the
    first axis of `affine_lps`, whose step is then the mean one. `distances_mm` are the smallest and largest between
    neighbours.
    """

    order: tuple[int, ...]
    affine_lps: np.ndarray
    tilt_degrees: float = 0.0
    levels: tuple[float, ...] | None = None
    distances_mm: tuple[float, float] = (0.0, 0.0)


def stack_planes(planes: Sequence[Plane]) -> Stack:
    """Order the planes and place them, or say why they are not one stack.

    Raises
    ------
    NotAnalysed
        ``missing-geometry``, ``mixed-size``, ``mixed-frame-of-reference``, ``mixed-orientation``,
        ``too-few-slices``, ``duplicate-position``, ``gantry-tilt``, ``gap-in-stack`` or ``uneven-spacing``,
        in this order.
    """
    first = planes[0]
    _check_alike(planes)
    row_direction = np.array(first.orientation[:3])
    column_direction = np.array(first.orientation[3:])
    normal = _normal(row_direction, column_direction)
    if len(planes) < 2:
        raise refusal(Reason.TOO_FEW_SLICES, "the series has 1 slice; wanted at least 2")
    positions = np.array([plane.position_mm for plane in planes], dtype=np.float64)
    heights = positions @ normal
    order = tuple(int(i) for i in np.argsort(heights, kind="stable"))
    positions, heights = positions[list(order)], heights[list(order)]
    _check_duplicates([planes[i] for i in order], heights)
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    tilt_degrees = _check_shear(positions, heights, normal)
    is_even = _check_spacing(heights)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column_direction * first.pixel_spacing_mm[0]
    affine[:3, 2] = row_direction * first.pixel_spacing_mm[1]
    affine[:3, 3] = positions[0]
    affine.setflags(write=False)
    distances = np.diff(heights)
    return Stack(
        order,
        affine,
        tilt_degrees,
        None if is_even else tuple(float(v) for v in (heights - heights[0]) / (normal @ step)),
        (float(distances.min()), float(distances.max())),
    )


def _check_alike(planes: Sequence[Plane]) -> None:
    first = planes[0]
    for plane in planes:
        if (plane.rows, plane.columns) != (first.rows, first.columns):
            raise refusal(
                Reason.MIXED_SIZE,
                f"images differ in rows x columns: found {first.rows} x {first.columns} and "
                f"{plane.rows} x {plane.columns}; wanted one size",
            )
        if plane.pixel_spacing_mm != first.pixel_spacing_mm:
            raise refusal(
                Reason.MIXED_SIZE,
                f"images differ in Pixel Spacing: found {_millimetres(first.pixel_spacing_mm)} and "
                f"{_millimetres(plane.pixel_spacing_mm)}; wanted one spacing",
            )
    frames = {plane.frame_of_reference_uid for plane in planes}
    if len(frames) > 1:
        raise refusal(
            Reason.MIXED_FRAME_OF_REFERENCE,
            f"images lie in {len(frames)} frames of reference: found {', '.join(sorted(frames)[:3])}; wanted one",
        )
    orientations = np.array([plane.orientation for plane in planes])
    difference = float(np.abs(orientations - orientations[0]).max())
    if difference > ORIENTATION_TOLERANCE:
        raise refusal(
            Reason.MIXED_ORIENTATION,
            f"images differ in orientation: direction cosines differ by up to {difference:.6g}; "
            f"wanted at most {ORIENTATION_TOLERANCE:g}",
        )


def _normal(row_direction: np.ndarray, column_direction: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(row_direction), np.linalg.norm(column_direction)
    cosine = float(row_direction @ column_direction)
    if max(abs(length - 1) for length in lengths) > COSINE_TOLERANCE or abs(cosine) > COSINE_TOLERANCE:
        raise refusal(
            Reason.MISSING_GEOMETRY,
            "Image Orientation (Patient) is not two perpendicular unit vectors: found lengths "
            f"{lengths[0]:.6g} and {lengths[1]:.6g} and cosine {cosine:.6g} between them; wanted 1, 1 and 0 "
            f"within {COSINE_TOLERANCE:g}",
        )
    normal = np.cross(row_direction, column_direction)
    return np.asarray(normal / np.linalg.norm(normal))


def _check_duplicates(planes: Sequence[Plane], heights: np.ndarray) -> None:
    """No two slices at one place; tell what else sets them apart, for that is why they are there."""
    distances = np.diff(heights)
    doubled = np.flatnonzero(distances < 1e-3)
    if not doubled.size:
        return
    places = int(np.count_nonzero(distances >= 1e-3)) + 1
    one, other = planes[doubled[0]], planes[doubled[0] + 1]
    differing = [
        name
        for (name, value), (_, another) in zip(one.distinguishing, other.distinguishing, strict=True)
        if value != another
    ]
    raise refusal(
        Reason.DUPLICATE_POSITION,
        f"{len(planes)} images lie at only {places} places: found two at {heights[doubled[0]]:.3f} mm of the "
        f"normal ({'they differ in ' + ', '.join(differing) if differing else 'nothing sets them apart'}); "
        "wanted one image at each place",
    )


def _check_shear(positions: np.ndarray, heights: np.ndarray, normal: np.ndarray) -> float:
    """The tilt in degrees, 0 within rounding; slices lie on one line."""
    travel = positions[-1] - positions[0]
    along = float(travel @ normal)
    sideways = float(np.linalg.norm(travel - along * normal))
    angle = float(np.degrees(np.arctan2(sideways, along)))
    if angle > LARGEST_TILT_DEGREES:
        raise refusal(
            Reason.GANTRY_TILT,
            f"slices are shifted sideways by {sideways:.3f} mm over {along:.3f} mm, a tilt of {angle:.2f} "
            f"degrees; wanted at most {LARGEST_TILT_DEGREES:g} degrees",
        )
    off_line = positions - positions[0] - ((heights - heights[0]) / along)[:, None] * travel
    off_line -= np.outer(off_line @ normal, normal)
    worst = float(np.linalg.norm(off_line, axis=1).max())
    allowed = max(PLACE_TOLERANCE * along / (len(positions) - 1), PLACE_TOLERANCE_MM)
    if worst > allowed:
        raise refusal(
            Reason.UNEVEN_SPACING,
            f"slices do not lie on one line: one is {worst:.3f} mm aside; wanted at most {allowed:.3f} mm",
        )
    return angle if sideways > SHEAR_TOLERANCE * along else 0.0


def _check_spacing(heights: np.ndarray) -> bool:
    """Whether slices are evenly spaced; refuses gaps, and distances that differ too much to be filled in between."""
    distances = np.diff(heights)
    usual = float(np.median(distances))
    for index in np.flatnonzero(distances > 1.5 * usual):
        steps = distances[index] / usual
        if abs(steps - round(steps)) <= 0.1:
            missing = round(float((distances / usual - 1).clip(0).round().sum()))
            raise refusal(
                Reason.GAP_IN_STACK,
                f"slices are missing: found {distances[index]:.3f} mm between slices {index + 1} and "
                f"{index + 2} of {len(heights)}, wanted {usual:.3f} mm everywhere; {missing} missing in all",
            )
    even = heights[0] + np.arange(len(heights)) * (heights[-1] - heights[0]) / (len(heights) - 1)
    worst = float(np.abs(heights - even).max())
    allowed = max(PLACE_TOLERANCE * usual, PLACE_TOLERANCE_MM)
    if worst <= allowed and float(np.abs(distances - usual).max()) <= 2 * allowed:
        return True
    if distances.max() > LARGEST_UNEVENNESS * distances.min():
        raise refusal(
            Reason.UNEVEN_SPACING,
            f"slices are too unevenly spaced: found {distances.min():.3f} to {distances.max():.3f} mm between "
            f"neighbours; wanted at most {LARGEST_UNEVENNESS:g} times the smallest distance",
        )
    return False


def _millimetres(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values) + " mm"
