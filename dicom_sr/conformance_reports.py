"""The gate's rules for structured reports: relationships, viewer rules, agreement with the Segmentations."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicom_sr import content_tree
from dicom_sr.conformance_kinds import BY_REFERENCE, RELATIONS
from dicom_sr.conformance_segmentations import Basis, Found
from dicom_sr.source_frames import measure_thicknesses, pixel_spacing_mm

LARGEST_DISAGREEMENT = 1e-6
"""Relative difference between a number of the report and the same from the segmentation."""
MILLILITERS = {"ml": 1.0, "mL": 1.0, "cm3": 1.0, "mm3": 1e-3}
IMAGE_REGION = "111030"
NATIVE = "Cornerstone3DTools@"


def check_relationships(report: Dataset) -> Found:
    """Each content item stands under its parent in a way that the SOP class allows; references go to items above or
    beside (PS3.3 A.35, C.17.3.2.4).
    """
    allowed = {
        (above, relationship, below)
        for parents, relationship, children in RELATIONS[str(report.SOPClassUID)]
        for above in parents
        for below in children
    }
    for parent, child in _pairs(report):
        relationship = str(child.get("RelationshipType", ""))
        if "ReferencedContentItemIdentifier" in child:
            if str(report.SOPClassUID) not in BY_REFERENCE:
                yield "relationship", "a content item is given by reference, which this SOP class does not allow"
                continue
            target = content_tree.item_at(report, child.ReferencedContentItemIdentifier)
            if target is None:
                yield "relationship", "a reference to a content item that is not there"
                continue
            below = str(target.ValueType)
        else:
            below = str(child.get("ValueType", ""))
        if (str(parent.get("ValueType", "")), relationship, below) not in allowed:
            yield "relationship", f"{parent.get('ValueType', '')} {relationship} {below} is not allowed"


def _pairs(item: Dataset) -> Iterator[tuple[Dataset, Dataset]]:
    for child in item.get("ContentSequence", ()):
        yield item, child
        yield from _pairs(child)


def check_groups(report: Dataset) -> Found:
    """Rules for reports: tracking in every group, coordinates under the title 126000, outlines not taken for boxes."""
    groups = content_tree.measurement_groups(report)
    placed: dict[str, bool] = {}
    for group in groups:
        uid, identifier = content_tree.tracking_uid_of(group), content_tree.tracking_identifier_of(group)
        if not uid or not identifier:
            yield "viewer", "a measurement group has no Tracking Identifier or no Tracking Unique Identifier"
        placed[uid] = placed.get(uid, False) or content_tree.has_coordinates(group)
        yield from _check_group(group, identifier)
    if not groups:
        yield "viewer", "a report without a measurement group"
    if content_tree.concept_value(report) == "126000" and not all(placed.values()):
        yield "viewer", "a finding without coordinates under the title 126000 opens as a black viewport"


def _check_group(group: Dataset, identifier: str) -> Found:
    has_number = any(child.ValueType == "NUM" for child in group.ContentSequence)
    is_planar = any(child.ValueType == "SCOORD" for child in group.ContentSequence)
    if identifier.startswith(NATIVE) and is_planar:
        yield "viewer", "an identifier of native annotations on a group whose coordinates do not stand under a number"
    for child in group.ContentSequence:
        if child.ValueType != "SCOORD" or child.GraphicType != "POLYLINE":
            continue
        data = list(child.GraphicData)
        if content_tree.concept_value(child) == IMAGE_REGION and data[:2] != data[-2:]:
            yield "viewer", "an outline is not closed"
        if has_number and len(data) // 2 in (4, 5):
            yield "viewer", "a number beside an outline of 4 or 5 points, which viewers take for a rectangle"
    for item in content_tree.walk(group):
        if item.ValueType == "SCOORD" and not item.get("ContentSequence"):
            yield "reference", "coordinates without an image that they are selected from"


def check_agreement(report: Dataset, basis: Basis) -> Found:
    """Report and segmentation name the same things and state the same sizes."""
    segmentations = basis.segmentations
    voxel_ml = float(np.prod(basis.spacing_mm)) / 1000 if basis.spacing_mm else None
    tracked: dict[tuple[str, int], set[str]] = {}
    for group in content_tree.measurement_groups(report):
        segment = content_tree.referenced_segment(group)
        if segment is not None:
            tracked.setdefault(segment, set()).add(content_tree.tracking_uid_of(group))
            if voxel_ml is not None:
                volume_ml = basis.voxels_of(segment[0]).get(segment[1], 0) * voxel_ml
                yield from _check_volumes(group, volume_ml, basis.sources)
        yield from _check_areas(group, basis.sources)
    for (uid, number), uids in tracked.items():
        if uid not in segmentations:
            yield "reference", f"segment {number} is said to be in {uid}, which is no segmentation of this result"
            continue
        described = {int(item.SegmentNumber): item for item in segmentations[uid].SegmentSequence}
        if number not in described:
            yield "reference", f"segment {number} is not in the segmentation"
        elif str(described[number].get("TrackingUID", "")) not in uids:
            yield "tracking", f"segment {number}: the report tracks it under another UID than the segmentation"


def _check_volumes(group: Dataset, volume_ml: float, sources: Sequence[Dataset]) -> Found:
    """Each Volume of a group equals voxels times voxel size, or is one that slices of unequal thickness allow."""
    for item in content_tree.children_named(group, "118565006"):
        value, unit = content_tree.number_of(item)
        if unit not in MILLILITERS:
            continue
        stated_ml = value * MILLILITERS[unit]
        if np.isclose(stated_ml, volume_ml, rtol=LARGEST_DISAGREEMENT):
            continue
        thinnest, thickest = measure_thicknesses(sources)
        least_ml = volume_ml * thinnest * (1 - LARGEST_DISAGREEMENT)
        most_ml = volume_ml * thickest * (1 + LARGEST_DISAGREEMENT)
        if not least_ml <= stated_ml <= most_ml:
            yield "volume", f"volume of {value} {unit} in the report, {volume_ml:.6f} ml in the segmentation"


def _check_areas(group: Dataset, sources: Sequence[Dataset]) -> Found:
    """Each Area beside an outline, or above one, is the area of that outline."""
    beside = [item for item in group.ContentSequence if _is_outline(item)]
    for item in content_tree.children_named(group, "42798000"):
        outlines = [child for child in item.get("ContentSequence", ()) if _is_outline(child)] or beside
        spacing_mm = _spacing_below(outlines[0], sources) if outlines else None
        value, unit = content_tree.number_of(item)
        if spacing_mm is None or unit != "mm2":
            continue
        area_mm2 = content_tree.polygon_area_mm2(outlines[0], *spacing_mm)
        if not np.isclose(value, area_mm2, rtol=LARGEST_DISAGREEMENT):
            yield "area", f"area of {value} mm2 beside an outline of {area_mm2:.3f} mm2"


def _is_outline(item: Dataset) -> bool:
    return bool(item.ValueType == "SCOORD" and item.GraphicType == "POLYLINE")


def _spacing_below(outline: Dataset, sources: Sequence[Dataset]) -> tuple[float, float] | None:
    """(row, column) spacing of the image that an outline is selected from."""
    reference = outline.ContentSequence[0].ReferencedSOPSequence[0] if outline.get("ContentSequence") else Dataset()
    frame = reference.get("ReferencedFrameNumber")
    for source in sources:
        if source.SOPInstanceUID == reference.get("ReferencedSOPInstanceUID"):
            return pixel_spacing_mm(source, int(frame) if frame else None)
    return None
