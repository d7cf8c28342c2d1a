"""What the rows of a series say about it as a stack of slices. Pure; unknown where they do not say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from node.select.completeness import Shape
from node.store.catalogue import StoredSeries

PLANES = ("sagittal", "coronal", "axial")
"""Closest plane by the patient axis (x, y, z) along which the slices are stacked."""

SAME_PLACE_MM = 1e-3
SAME_ORIENTATION = 0.01


@dataclass(frozen=True)
class Stack:
    """Facts in mm; None where the headers do not say. `slice_spacing_mm` is the median distance between neighbours.

    `has_repeats`: several images lie at one place.
    """

    slices: int
    has_repeats: bool = False
    plane: str | None = None
    slice_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None
    pixel_spacing_mm: float | None = None
    slice_coverage_mm: float | None = None
    in_plane_coverage_mm: float | None = None


def stack_of(series: StoredSeries) -> Stack:
    """Count the slices of a series and measure how they lie along the normal of its first image."""
    return stack_from([each.geometry for each in series.instances if each.geometry])


def stack_from(geometries: Sequence[Mapping[str, Any]]) -> Stack:
    """The same of images given by their geometries; an empty one is no image."""
    geometries = [each for each in geometries if each]
    slices = len(geometries) + sum([int(each["NumberOfFrames"]) - 1 for each in geometries if "NumberOfFrames" in each])
    first = geometries[0] if geometries else {}
    normal = _normal(first.get("ImageOrientationPatient"))
    positions = _positions(geometries, normal)
    distances = positions[1:] - positions[:-1]
    gaps = distances[distances > SAME_PLACE_MM]
    spacing = _median(gaps) if gaps.size else None
    pixel = [float(value) for value in first.get("PixelSpacing") or ()]
    in_plane = None
    if len(pixel) == 2 and first.get("Rows") and first.get("Columns"):
        in_plane = min(pixel[0] * int(first["Rows"]), pixel[1] * int(first["Columns"]))
    thickness = first.get("SliceThickness")
    return Stack(
        slices=slices,
        has_repeats=gaps.size < distances.size,
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
    a, b, c, d, e, f = (float(value) for value in orientation)
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.sqrt(x * x + y * y + z * z)
    return np.array([x, y, z]) / length if length > 0.5 else None


def _positions(geometries: Sequence[Mapping[str, Any]], normal: np.ndarray | None) -> np.ndarray:
    """Places of the slices along `normal`, ascending, in mm."""
    if normal is None:
        return np.empty(0)
    return np.sort(_array(_placed(geometries)) @ normal)


def _placed(geometries: Sequence[Mapping[str, Any]]) -> list[Sequence[float]]:
    """Image Position (Patient) of the images that have one."""
    try:
        positions = [each["ImagePositionPatient"] for each in geometries]
        if set(map(len, positions)) == {3}:
            return positions
    except (KeyError, TypeError):
        pass
    return [place for each in geometries if len(place := each.get("ImagePositionPatient") or ()) == 3]


def _median(values: np.ndarray) -> float:
    """As `numpy.median`, which costs more than all else for as few values as a stack has."""
    ordered = np.sort(values)
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def _array(positions: Sequence[Sequence[float]]) -> np.ndarray:
    """Positions as an array (image, axis)."""
    flat = np.fromiter(chain.from_iterable(positions), dtype=float, count=3 * len(positions))
    return flat.reshape(-1, 3)


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
    placed = [each for each in geometries if each and len(each.get("ImagePositionPatient") or ()) == 3]
    stacks: dict[int, list[Mapping[str, Any]]] = {}
    for group, geometry in zip(orientation_groups(placed), placed, strict=True):
        if group is not None:
            stacks.setdefault(group, []).append(geometry)
    shapes = {
        _shape_of_stack(members[0]["ImageOrientationPatient"], [each["ImagePositionPatient"] for each in members])
        for members in stacks.values()
    }
    return Shape.HOLED if Shape.HOLED in shapes else Shape.WHOLE if Shape.WHOLE in shapes else Shape.UNKNOWN


def orientation_groups(geometries: Sequence[Mapping[str, Any] | None]) -> list[int | None]:
    """For each image the number of its orientation (first met is 0); None without Image Orientation (Patient).

    Orientations whose cosines differ by no more than `SAME_ORIENTATION` are one.
    """
    orientations = [each.get("ImageOrientationPatient") if each else None for each in geometries]
    first = orientations[0] if orientations else None
    if first and len(first) == 6 and orientations.count(first) == len(orientations):
        return [0] * len(orientations)
    known: list[Sequence[float]] = []
    groups: list[int | None] = []
    for found in orientations:
        if not found or len(found) != 6:
            groups.append(None)
            continue
        group = next((number for number, other in enumerate(known) if _is_same(found, other)), len(known))
        if group == len(known):
            known.append(found)
        groups.append(group)
    return groups


def _is_same(one: Sequence[float], other: Sequence[float]) -> bool:
    return one == other or all(abs(a - b) <= SAME_ORIENTATION for a, b in zip(one, other, strict=True))


def _shape_of_stack(orientation: Sequence[float], positions: Sequence[Sequence[float]]) -> Shape:
    normal = _normal(orientation)
    if normal is None:
        return Shape.UNKNOWN
    places = np.sort(_array(positions) @ normal)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(places) > 10 * SAME_PLACE_MM]))
    if len(starts) < FEWEST_OF_A_STACK:
        return Shape.UNKNOWN
    at_each = np.diff(np.append(starts, len(places)))
    gaps = np.diff(places[starts])
    middle = _median(gaps)
    if at_each.min() != at_each.max() or gaps.max() > HOLE_SHARE * middle:
        return Shape.HOLED
    return Shape.WHOLE if np.all(np.abs(gaps - middle) <= EVEN_SHARE * middle) else Shape.UNKNOWN
