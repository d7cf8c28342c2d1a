"""Points from heat maps or coordinates, and distances and angles between them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Measurement, Region
from node.errors import Permanent
from node.infer.output_sections import Distance, Landmarks
from node.infer.parts import Call, Part

MILLIMETRE = Code("mm", "UCUM", "millimeter")
DEGREE = Code("deg", "UCUM", "degree")


def locate(section: Landmarks, calls: Sequence[Call], model: str) -> Part:
    """Points and what is measured between them, in each view; of several calls of one (frames, slices) the first."""
    first = {call.subject.name: call for call in reversed(calls)}
    parts = [_locate(section, first[name], model, len(first) > 1) for name in reversed(first)]
    return Part(
        findings=tuple(finding for part in parts for finding in part.findings),
        remarks=tuple(remark for part in parts for remark in part.remarks),
    )


def _locate(section: Landmarks, call: Call, model: str, of_several: bool) -> Part:
    """What one view shows; of several its name stands behind those of the findings."""
    axes = 2 if call.index is not None else 3
    places = _places(section, call, axes, model)
    view = f", {call.subject.name}" if of_several else ""
    remarks = [f"{name}{view}: not found." for name, place in places.items() if place is None]
    findings: list[Finding] = []
    for point in section.points:
        place = places[point.name]
        if place is not None and point.report:
            findings.append(
                Finding(
                    finding=point.finding.code,
                    tracking_identifier=point.name + view,
                    laterality=point.laterality.code if point.laterality else None,
                    regions=(call.subject.point_region(place, call.grid),),
                )
            )
    for measurement in section.measurements:
        found = _measured(measurement, places, call)
        if isinstance(found, str):
            remarks.append(f"{measurement.name}{view}: {found}")
        else:
            findings.append(replace(found, tracking_identifier=found.tracking_identifier + view))
    return Part(findings=tuple(findings), remarks=tuple(remarks))


def _places(section: Landmarks, call: Call, axes: int, model: str) -> dict[str, np.ndarray | None]:
    """Index of each point on the tensor's grid (axis 0, 1, 2)."""
    raw = call.tensors[section.tensor].astype(np.float64)
    found = raw[0] if raw.ndim == (axes + 2 if section.source == "heatmaps" else 3) else raw
    highest = max(point.channel for point in section.points)
    wanted = axes + 1 if section.source == "heatmaps" else 2
    if found.ndim != wanted or len(found) <= highest or (wanted == 2 and found.shape[1] != axes):
        expected = f"(1, {highest + 1}, {'sides' if section.source == 'heatmaps' else axes})"
        raise Permanent(f"model {model}: output {section.tensor!r} has shape {raw.shape}, expected {expected}")
    sides = np.array(call.grid.shape[3 - axes :], float)
    places: dict[str, np.ndarray | None] = {}
    for point in section.points:
        one = found[point.channel]
        if section.source == "heatmaps":
            place = _peak(one, section.least)
            place = None if place is None else (place + 0.5) * sides / np.array(one.shape) - 0.5
        else:
            place = one[::-1] if section.first == "column" else one
            place = place * sides - 0.5 if section.coordinates == "relative" else place
        if place is not None and axes == 2:
            place = np.array([call.index or 0, *place])
        places[point.name] = place
    return places


def _peak(heat: np.ndarray, least: float | None) -> np.ndarray | None:
    """Index of the maximum, between voxels by the parabola through its neighbours along each axis."""
    at = np.unravel_index(int(heat.argmax()), heat.shape)
    if least is not None and heat[at] < least:
        return None
    place = np.array(at, float)
    for axis, (index, side) in enumerate(zip(at, heat.shape, strict=True)):
        if 0 < index < side - 1:
            before, after = (heat[(*at[:axis], index + step, *at[axis + 1 :])] for step in (-1, 1))
            curve = before - 2 * heat[at] + after
            if curve < 0:
                place[axis] += np.clip((before - after) / (2 * curve), -0.5, 0.5)
    return place


def _measured(section: Distance, places: Mapping[str, np.ndarray | None], call: Call) -> Finding | str:
    """The finding, or why there is none."""
    found = [places[name] for name in section.points]
    missing = [name for name, place in zip(section.points, found, strict=True) if place is None]
    if missing:
        return f"not measured, because {', '.join(missing)} was not found."
    points = call.subject.in_mm(np.array(found), call.grid)
    if points is None and section.kind == "distance":
        return "not measured, because the size of the pixels is not known."
    if points is None:
        points = call.subject.place(np.array(found), call.grid)
    if section.kind == "distance":
        measurement = Measurement(section.concept.code, float(np.linalg.norm(points[0] - points[1])), MILLIMETRE)
    else:
        measurement = Measurement(section.concept.code, _angle(points), DEGREE)
    return Finding(
        finding=section.finding.code,
        tracking_identifier=section.name,
        finding_site=section.finding_site.code if section.finding_site else None,
        measurements=(measurement,),
        regions=_regions(found, call),
    )


def _angle(points: np.ndarray) -> float:
    """Degrees at the second of three points, or between the line of the first two and that of the last two."""
    if len(points) == 3:
        one, other = points[0] - points[1], points[2] - points[1]
    else:
        one, other = points[1] - points[0], points[3] - points[2]
    cosine = one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-12)
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return min(angle, 180 - angle) if len(points) == 4 else angle


def _regions(places: Sequence[np.ndarray | None], call: Call) -> tuple[Region, ...]:
    return tuple(call.subject.point_region(place, call.grid) for place in places if place is not None)
