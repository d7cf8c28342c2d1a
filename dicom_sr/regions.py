"""Regions of findings as coordinates in images (SCOORD) and in space (SCOORD3D).

A region in space is also written on the slice through its middle: viewers draw that, older report classes hold
nothing else.
"""

from dataclasses import dataclass

import numpy as np
from highdicom.spatial import are_points_coplanar

from dicom_sr import arithmetic
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence
from dicom_sr.findings import PlanarRegion, PlanarShape, SpatialRegion, SpatialShape

ROUND_POINTS = 36
"""Points of the polygon that stands for the section of an ellipsoid."""

POINTS_OF = {PlanarShape.POINT: (1, 1), PlanarShape.CIRCLE: (2, 2), PlanarShape.ELLIPSE: (4, 4)}
"""Fewest and most points of the graphic types that have a fixed number (PS3.3 C.18.6.1.2)."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Coordinates in one image.

    Parameters
    ----------
    slice_index : int
    shape : PlanarShape
    points : ndarray of float64, shape (n, 2)
        (column, row) in pixels.
    is_path : bool
        An open line, which is no region: it belongs to a number (TID 320).
    """

    slice_index: int
    shape: PlanarShape
    points: np.ndarray
    is_path: bool = False

    @property
    def is_outline(self) -> bool:
        """Whether it is a polygon that no viewer takes for a rectangle (4 or 5 points)."""
        return self.shape is PlanarShape.POLYLINE and not self.is_path and len(self.points) > 5

    def area_mm2(self, spacing_mm: tuple[float, float]) -> float:
        """Area of the polygon for a (row, column) spacing."""
        return abs(arithmetic.polygon_area(self.points)) * spacing_mm[0] * spacing_mm[1]

    def length_mm(self, spacing_mm: tuple[float, float]) -> float:
        """Length of the line for a (row, column) spacing."""
        steps = np.diff(self.points, axis=0) * (spacing_mm[1], spacing_mm[0])
        return arithmetic.total(arithmetic.lengths(steps))


def draw(region: PlanarRegion | SpatialRegion, evidence: Evidence) -> Drawn:
    """A region as coordinates in one image, or `InvalidResult`."""
    if not region.points or not np.isfinite(np.array(region.points, float)).all():
        raise InvalidResult(f"a region of shape {region.shape.value} has no points, or points that are no numbers")
    return _draw_planar(region, evidence) if isinstance(region, PlanarRegion) else _draw_spatial(region, evidence)


def region_in_space(region: SpatialRegion) -> tuple[SpatialShape, np.ndarray] | None:
    """Graphic type and LPS points of the region as SCOORD3D; None for a box, which has no graphic type, and an
    ellipsoid, which is no region of TID 1410: their sections are drawn.

    Raises
    ------
    InvalidResult
        A polygon whose points are not in one plane (PS3.3 C.18.9.1.2).
    """
    points = np.array(region.points, float)
    if region.shape is SpatialShape.POINT:
        return SpatialShape.POINT, points
    if region.shape is not SpatialShape.POLYGON:
        return None
    if not are_points_coplanar(points):
        raise InvalidResult(f"a POLYGON of {len(points)} points that do not lie in one plane")
    return SpatialShape.POLYGON, _closed(points)


def _draw_planar(region: PlanarRegion, evidence: Evidence) -> Drawn:
    slice_index = evidence.slice_of(region.sop_instance_uid, region.frame_number)
    if slice_index is None:
        raise InvalidResult(f"a region lies in image {region.sop_instance_uid}, which is none of the source images")
    points = np.array(region.points, float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InvalidResult(f"a region in an image needs (column, row) points, found shape {points.shape}")
    fewest, most = POINTS_OF.get(region.shape, (2 if region.shape is PlanarShape.POLYLINE else 1, 8000))
    if not fewest <= len(points) <= most:
        raise InvalidResult(f"{region.shape.value} with {len(points)} points, expected {fewest} to {most}")
    is_path = region.shape is PlanarShape.POLYLINE and not np.array_equal(points[0], points[-1])
    return Drawn(slice_index, region.shape, points, is_path)


def _draw_spatial(region: SpatialRegion, evidence: Evidence) -> Drawn:
    """The section of a region with the slice through its middle."""
    if not evidence.in_space or region.frame_of_reference_uid != evidence.frame_of_reference_uid:
        raise InvalidResult(
            f"a region in space lies in frame of reference {region.frame_of_reference_uid}, the images in "
            f"{evidence.frame_of_reference_uid or 'none'}"
        )
    points = np.array(region.points, float)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InvalidResult(f"a region in space needs (x, y, z) points, found shape {points.shape}")
    match region.shape:
        case SpatialShape.POINT:
            if len(points) != 1:
                raise InvalidResult(f"a POINT with {len(points)} points, expected 1")
            slice_index = _slice(points[0], evidence)
            return Drawn(slice_index, PlanarShape.POINT, _on_slice(points[:1], slice_index, evidence))
        case SpatialShape.POLYGON:
            if len(points) < 3:
                raise InvalidResult(f"a POLYGON with {len(points)} points, expected at least 3")
            slice_index = _slice(points.mean(axis=0), evidence)
            return _polygon(slice_index, _closed(_on_slice(points, slice_index, evidence)))
        case SpatialShape.BOX:
            return _draw_box(points, evidence)
        case SpatialShape.ELLIPSOID:
            return _draw_ellipsoid(points, evidence)


def _draw_box(points: np.ndarray, evidence: Evidence) -> Drawn:
    """The rectangle around the box, as five points."""
    if len(points) != 4:
        raise InvalidResult(f"a BOX with {len(points)} points, expected a corner and the three beside it")
    corner, edges = points[0], points[1:] - points[0]
    corners = np.array([corner + (edges * np.reshape(choice, (3, 1))).sum(axis=0) for choice in np.ndindex(2, 2, 2)])
    slice_index = _slice(corners.mean(axis=0), evidence)
    pixels = _on_slice(corners, slice_index, evidence)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    rectangle = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    return _polygon(slice_index, rectangle)


def _draw_ellipsoid(points: np.ndarray, evidence: Evidence) -> Drawn:
    """The section through the centre: the ellipse that bounds the ellipsoid seen along the slices' normal."""
    if len(points) != 6:
        raise InvalidResult(f"an ELLIPSOID with {len(points)} points, expected the ends of its three axes")
    slice_index = _slice(points.mean(axis=0), evidence)
    ends = _on_slice(points, slice_index, evidence)
    half_axes = (ends[0::2] - ends[1::2]) / 2
    across, along = half_axes.T
    wide = float(arithmetic.dot(across, across))  # with the next two: the matrix whose ellipse bounds the shadow
    slant = float(arithmetic.dot(across, along)) / np.sqrt(wide) if wide else 0.0
    high = np.sqrt(max(0.0, float(arithmetic.dot(along, along)) - slant * slant))
    x, y = arithmetic.circle(ROUND_POINTS).T
    outline = ends.mean(axis=0) + np.stack([x * np.sqrt(wide), x * slant + y * high], axis=1)
    return _polygon(slice_index, outline)


def _polygon(slice_index: int, outline: np.ndarray) -> Drawn:
    return Drawn(slice_index, PlanarShape.POLYLINE, outline)


def _closed(points: np.ndarray) -> np.ndarray:
    return points if np.array_equal(points[0], points[-1]) else np.vstack([points, points[:1]])


def _slice(point: np.ndarray, evidence: Evidence) -> int:
    """Index of the slice nearest to a point (LPS mm), along their normal; a point in the outer half of the first or
    last slice still lies in it.
    """
    assert evidence.orientation is not None and evidence.spacing_mm is not None
    normal = np.cross(*np.array(evidence.orientation, float).reshape(2, 3))
    places = arithmetic.dot(np.array([frame.position_mm for frame in evidence.frames], float), normal)
    place = float(arithmetic.dot(point, normal))
    nearest = int(np.abs(places - place).argmin())
    steps = np.abs(places - places[nearest])
    slice_mm = steps[steps > 0].min() if steps.any() else evidence.spacing_mm[0]
    beside_mm = max(places.min() - place, place - places.max())
    if beside_mm > slice_mm * (0.5 + 1e-6):
        raise InvalidResult(
            f"a region in space lies beside the images, {beside_mm:.3g} mm from the nearest of {len(places)} slices"
        )
    return nearest


def _on_slice(points: np.ndarray, slice_index: int, evidence: Evidence) -> np.ndarray:
    """LPS millimetres to (column, row) on a slice, counted from its outer corner: from its own position, since those of
    a tilted stack are shifted against each other.
    """
    assert evidence.orientation is not None and evidence.spacing_mm is not None
    _, row_mm, column_mm = evidence.spacing_mm
    along_row, along_column = np.array(evidence.orientation, float).reshape(2, 3)
    origin = np.array(evidence.frames[slice_index].position_mm, float)
    way = points - origin
    column, row = arithmetic.dot(way, along_row / column_mm), arithmetic.dot(way, along_column / row_mm)
    return np.stack([column, row], axis=1) + 0.5
