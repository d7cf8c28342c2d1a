"""What the rows of a series say about it as a stack of slices. Pure; unknown where they do not say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from node.select.completeness import Shape
from node.store.catalogue import StoredSeries

PLANES = ("sagittal", "coronal", "axial")
"""Closest plane by the patient axis (x, y, z) along which the slices are stacked."""

SAME_PLACE_MM = 1e-3


@dataclass(frozen=True)
class Stack:
    """Facts in mm; None where the headers do not say. `slice_spacing_mm` is the median distance between neighbours."""

    slices: int
    plane: str | None = None
    slice_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None
    pixel_spacing_mm: float | None = None
    slice_coverage_mm: float | None = None
    in_plane_coverage_mm: float | None = None


def stack_of(series: StoredSeries) -> Stack:
    """Count the slices of a series and measure how they lie along the normal of its first image."""
    geometries = [each.geometry for each in series.instances if each.geometry]
    slices = sum(int(geometry.get("NumberOfFrames") or 1) for geometry in geometries)
    first = geometries[0] if geometries else {}
    normal = _normal(first.get("ImageOrientationPatient"))
    positions = _positions(geometries, normal)
    gaps = np.diff(positions)
    gaps = gaps[gaps > SAME_PLACE_MM]
    spacing = float(np.median(gaps)) if gaps.size else None
    pixel = [float(value) for value in first.get("PixelSpacing") or ()]
    in_plane = None
    if len(pixel) == 2 and first.get("Rows") and first.get("Columns"):
        in_plane = min(pixel[0] * int(first["Rows"]), pixel[1] * int(first["Columns"]))
    thickness = first.get("SliceThickness")
    return Stack(
        slices=slices,
        plane=PLANES[int(np.argmax(np.abs(normal)))] if normal is not None else None,
        slice_spacing_mm=spacing,
        slice_thickness_mm=float(thickness) if thickness is not None else None,
        pixel_spacing_mm=max(pixel) if pixel else None,
        slice_coverage_mm=float(positions[-1] - positions[0]) + spacing if spacing is not None else None,
        in_plane_coverage_mm=in_plane,
    )


def _normal(orientation: Any) -> np.ndarray | None:
    """Direction in which slices are stacked, from Image Orientation (Patient); None when it is missing or no
    orientation.
    """
    if not orientation or len(orientation) != 6:
        return None
    cosines = np.asarray(orientation, dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    length = float(np.linalg.norm(normal))
    return normal / length if length > 0.5 else None


def _positions(geometries: Sequence[Mapping[str, Any]], normal: np.ndarray | None) -> np.ndarray:
    """Places of the slices along `normal`, ascending, in mm."""
    if normal is None:
        return np.empty(0)
    placed = [g["ImagePositionPatient"] for g in geometries if len(g.get("ImagePositionPatient") or ()) == 3]
    return np.sort(np.asarray(placed, dtype=float).reshape(-1, 3) @ normal)


EVEN_SHARE = 0.1
"""Distances of neighbours that differ by less than this share of their median are even."""
HOLE_SHARE = 1.5
"""A distance of more than this many medians is a hole."""
FEWEST_OF_A_STACK = 3


def shape_of(geometries: Sequence[Mapping[str, Any] | None]) -> Shape:
    """Whether the images of a series lie as a stack in which nothing is missing.

    Images of one orientation are one stack. A stack is WHOLE when its places are evenly spaced and as many images lie
    at each; it is HOLED when a place is skipped, or when there are fewer images at some places than at others (a phase
    that is not complete). Fewer than three places say nothing, nor do images without position.
    """
    stacks: dict[tuple[float, ...], list[Sequence[float]]] = {}
    for geometry in geometries:
        if geometry:
            orientation, position = geometry.get("ImageOrientationPatient"), geometry.get("ImagePositionPatient")
            if orientation and position and len(orientation) == 6 and len(position) == 3:
                key = tuple(round(float(value), 2) + 0.0 for value in orientation)
                stacks.setdefault(key, []).append(position)
    shapes = {_shape_of_stack(orientation, positions) for orientation, positions in stacks.items()}
    return Shape.HOLED if Shape.HOLED in shapes else Shape.WHOLE if Shape.WHOLE in shapes else Shape.UNKNOWN


def _shape_of_stack(orientation: Sequence[float], positions: Sequence[Sequence[float]]) -> Shape:
    normal = _normal(orientation)
    if normal is None:
        return Shape.UNKNOWN
    places = np.sort(np.asarray(positions, dtype=float) @ normal)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(places) > 10 * SAME_PLACE_MM]))
    if len(starts) < FEWEST_OF_A_STACK:
        return Shape.UNKNOWN
    at_each = np.diff(np.append(starts, len(places)))
    gaps = np.diff(places[starts])
    middle = float(np.median(gaps))
    if at_each.min() != at_each.max() or gaps.max() > HOLE_SHARE * middle:
        return Shape.HOLED
    return Shape.WHOLE if np.all(np.abs(gaps - middle) <= EVEN_SHARE * middle) else Shape.UNKNOWN
