"""The gate before delivery: objects are read again, with their sources beside them, and what is wrong is listed.

Checked are the attributes that must be there, that every reference resolves and is evidence, that Segmentation and
report agree on tracking UIDs and volumes, that the geometry is that of the sources, and the rules by which viewers open
objects.
What validators check (value representations, relationships of content items) is left to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_sr import content_tree
from dicom_sr.source_frames import measure_spacing

TYPE_1 = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "InstanceNumber",
          "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "ContentDate",
          "ContentTime", "SeriesNumber", "SeriesDescription")  # fmt: skip
TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
          "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
TYPE_1_OF = {
    "SEG": ("FrameOfReferenceUID", "SegmentationType", "SegmentSequence", "ContentLabel", "NumberOfFrames", "PixelData",
            "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ReferencedSeriesSequence",
            "DimensionOrganizationSequence", "DimensionIndexSequence"),
    "SR": ("CompletionFlag", "VerificationFlag", "ConceptNameCodeSequence", "ContentSequence",
           "CurrentRequestedProcedureEvidenceSequence"),
}  # fmt: skip
TYPE_2_OF = {
    "SEG": ("PositionReferenceIndicator", "ContentDescription", "ContentCreatorName"),
    "SR": ("ReferencedPerformedProcedureStepSequence", "PerformedProcedureCodeSequence"),
}
LARGEST_DISAGREEMENT = 1e-6
"""Relative difference between a number of the report and the same from the segmentation."""
POSITION_TOLERANCE_MM = 1e-3
MILLILITERS = {"ml": 1.0, "mL": 1.0, "cm3": 1.0, "mm3": 1e-3}


@dataclass(frozen=True)
class Problem:
    """Why an object must not be delivered.

    Parameters
    ----------
    sop_instance_uid : str
    code : str
        ``attribute``, ``reference``, ``evidence``, ``tracking``, ``volume``, ``area``, ``geometry`` or ``viewer``.
    message : str
        One sentence without patient data.
    """

    sop_instance_uid: str
    code: str
    message: str


def check(objects: Sequence[Dataset], sources: Sequence[Dataset]) -> list[Problem]:
    """All problems of the objects of one result; none means that they conform.

    Parameters
    ----------
    objects : sequence of Dataset
        All objects rendered from one Result for one destination.
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    """
    segmentations = {str(item.SOPInstanceUID): item for item in objects if item.get("Modality") == "SEG"}
    known = {str(item.SOPInstanceUID) for item in (*objects, *sources)}
    problems = []
    for item in objects:
        findings = [*_attributes(item, sources[0]), *_references(item, known)]
        if item.get("Modality") == "SEG" and not findings:
            findings += [*_geometry(item, sources), *_segments(item)]
        if item.get("Modality") == "SR" and not findings:
            findings += [*_groups(item), *_agreement(item, segmentations, sources)]
        problems += [Problem(str(item.get("SOPInstanceUID", "")), code, message) for code, message in findings]
    return problems


def check_files(paths: Sequence[Path], sources: Sequence[Dataset]) -> list[Problem]:
    """`check` of what really stands in the files."""
    return check([dcmread(path) for path in paths], sources)


def count_voxels(segmentation: Dataset) -> Mapping[int, int]:
    """Voxels of each segment of a BINARY Segmentation, counted in its Pixel Data."""
    size = int(segmentation.Rows) * int(segmentation.Columns)
    frames = segmentation.PerFrameFunctionalGroupsSequence
    packed = np.frombuffer(segmentation.PixelData, np.uint8)
    counts: dict[int, int] = {int(item.SegmentNumber): 0 for item in segmentation.SegmentSequence}
    for index, frame in enumerate(frames):
        first, end = index * size, (index + 1) * size
        if first % 8 == 0 and end % 8 == 0:
            voxels = int(np.bitwise_count(packed[first // 8 : end // 8]).sum(dtype=np.int64))
        else:
            bits = np.unpackbits(packed[first // 8 : end // 8 + 1], bitorder="little")
            voxels = int(np.count_nonzero(bits[first % 8 : first % 8 + size]))
        number = int(_functional_group(segmentation, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        counts[number] = counts.get(number, 0) + voxels
    return counts


def _functional_group(segmentation: Dataset, frame: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, which is shared where it is the same for all (PS3.3 C.7.6.16)."""
    owner = frame if keyword in frame else segmentation.SharedFunctionalGroupsSequence[0]
    group: Dataset = owner[keyword].value[0]
    return group


_Findings = Iterator[tuple[str, str]]


def _attributes(item: Dataset, source: Dataset) -> _Findings:
    """Type 1 and 2 attributes, and the study's own ones unchanged."""
    modality = str(item.get("Modality", ""))
    if modality not in TYPE_1_OF:
        yield "attribute", f"Modality is {modality!r}, expected SEG or SR"
        return
    for keyword in (*TYPE_1, *TYPE_1_OF[modality]):
        if item.get(keyword) in (None, "", b"") or (item[keyword].VR == "SQ" and not item[keyword].value):
            yield "attribute", f"{keyword} (type 1) is missing or empty"
    for keyword in (*TYPE_2, *TYPE_2_OF[modality]):
        if keyword not in item:
            yield "attribute", f"{keyword} (type 2) is missing"
    for keyword in ("StudyInstanceUID", "PatientID", "AccessionNumber"):
        if str(item.get(keyword) or "") != str(source.get(keyword) or ""):
            yield "attribute", f"{keyword} is not that of the source images"
    if modality == "SR" and (item.get("VerificationFlag"), item.get("PreliminaryFlag")) != (
        "UNVERIFIED",
        "PRELIMINARY",
    ):
        yield "attribute", "an AI report must be UNVERIFIED and PRELIMINARY"


def _references(item: Dataset, known: set[str]) -> _Findings:
    """Every instance referred to exists; those in the content of a report are evidence too."""
    missing = {uid for uid in _referenced(item) if uid not in known}
    if missing:
        yield "reference", f"{len(missing)} referenced instances are neither sources nor delivered, e.g. {min(missing)}"
    if item.get("Modality") != "SR":
        return
    evidence = {
        uid for entry in item.get("CurrentRequestedProcedureEvidenceSequence", ()) for uid in _referenced(entry)
    }
    content = {uid for entry in item.get("ContentSequence", ()) for uid in _referenced(entry)}
    if content - evidence:
        yield "evidence", f"{len(content - evidence)} instances of the content are not listed as evidence"


def _referenced(dataset: Dataset) -> Iterator[str]:
    """Referenced SOP Instance UIDs at any depth; what was replaced and what the study itself refers to left out."""
    for element in dataset:
        if element.keyword == "ReferencedSOPInstanceUID":
            yield str(element.value)
        elif element.VR == "SQ" and element.keyword not in ("PredecessorDocumentsSequence", "ReferencedStudySequence"):
            for item in element.value:
                yield from _referenced(item)


def _geometry(item: Dataset, sources: Sequence[Dataset]) -> _Findings:
    """Grid, frame of reference, spacing, orientation, and each frame where its source image is."""
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        if item.get(keyword) != sources[0].get(keyword):
            yield "geometry", f"{keyword} is not that of the source images"
    shared = item.SharedFunctionalGroupsSequence[0]
    measures, orientation = shared.PixelMeasuresSequence[0], shared.PlaneOrientationSequence[0]
    spacing_mm = measure_spacing(sources)
    found_mm = (float(measures.get("SpacingBetweenSlices", 0)), *(float(value) for value in measures.PixelSpacing))
    if spacing_mm is None or not np.allclose(found_mm, spacing_mm, rtol=1e-5):
        yield "geometry", f"spacing (slice, row, column) is {found_mm} mm, that of the sources {spacing_mm} mm"
    if not np.allclose(orientation.ImageOrientationPatient, sources[0].ImageOrientationPatient, atol=1e-5):
        yield "geometry", "ImageOrientationPatient is not that of the source images"
    positions = {str(source.SOPInstanceUID): source.ImagePositionPatient for source in sources}
    for index, frame in enumerate(item.PerFrameFunctionalGroupsSequence, 1):
        uids = [uid for derivation in frame.get("DerivationImageSequence", ()) for uid in _referenced(derivation)]
        if len(uids) != 1:
            yield "viewer", f"frame {index} refers to {len(uids)} source images, expected one"
            return
        place = _functional_group(item, frame, "PlanePositionSequence").ImagePositionPatient
        there = np.subtract(place, positions[uids[0]], dtype=float)
        if np.abs(there).max() > POSITION_TOLERANCE_MM:
            yield "geometry", f"frame {index} does not lie where its source image does"
            return


def _segments(item: Dataset) -> _Findings:
    """Rules for segmentations: flavour, numbers, names, colours, no empty segment."""
    if item.SegmentationType != "BINARY" or item.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        yield "viewer", "only BINARY in Explicit VR Little Endian opens everywhere"
    segments = item.SegmentSequence
    if [int(segment.SegmentNumber) for segment in segments] != list(range(1, len(segments) + 1)):
        yield "viewer", "segment numbers do not run from 1 without gaps"
    if len({segment.SegmentLabel for segment in segments}) < len(segments):
        yield "viewer", "two segments have the same label"
    for segment in segments:
        for keyword in ("RecommendedDisplayCIELabValue", "SegmentAlgorithmName", "TrackingID", "TrackingUID"):
            if not segment.get(keyword):
                yield "viewer", f"segment {segment.SegmentNumber}: {keyword} is missing"
    empty = [number for number, voxels in count_voxels(item).items() if not voxels]
    if empty:
        yield "viewer", f"segments {empty} have no voxel"


def _groups(report: Dataset) -> _Findings:
    """Rules for reports: tracking in every group, coordinates under the title 126000, outlines not taken for boxes."""
    groups = content_tree.measurement_groups(report)
    placed: dict[str, bool] = {}
    for group in groups:
        uid = content_tree.tracking_uid_of(group)
        if not uid or not content_tree.tracking_identifier_of(group):
            yield "viewer", "a measurement group has no Tracking Identifier or no Tracking Unique Identifier"
        placed[uid] = placed.get(uid, False) or content_tree.has_coordinates(group)
        has_number = any(child.ValueType == "NUM" for child in group.ContentSequence)
        for child in group.ContentSequence:
            if child.ValueType != "SCOORD" or child.GraphicType != "POLYLINE":
                continue
            data = list(child.GraphicData)
            if data[:2] != data[-2:]:
                yield "viewer", "an outline is not closed"
            if has_number and len(data) // 2 in (4, 5):
                yield "viewer", "a number beside an outline of 4 or 5 points, which viewers take for a rectangle"
    if not groups:
        yield "viewer", "a report without a measurement group"
    if content_tree.concept_value(report) == "126000" and not all(placed.values()):
        yield "viewer", "a finding without coordinates under the title 126000 opens as a black viewport"


def _agreement(report: Dataset, segmentations: Mapping[str, Dataset], sources: Sequence[Dataset]) -> _Findings:
    """Report and segmentation name the same things and state the same sizes."""
    spacing_mm = measure_spacing(sources) or (0.0, 0.0, 0.0)  # no size can be stated without one
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    counts = {uid: count_voxels(item) for uid, item in segmentations.items()}
    tracked: dict[tuple[str, int], set[str]] = {}
    for group in content_tree.measurement_groups(report):
        segment = content_tree.referenced_segment(group)
        if segment is not None:
            tracked.setdefault(segment, set()).add(content_tree.tracking_uid_of(group))
            yield from _volumes(group, counts.get(segment[0], {}).get(segment[1], 0) * voxel_ml)
        yield from _areas(group, spacing_mm[1:])
    for (uid, number), uids in tracked.items():
        if uid not in segmentations:
            yield "reference", f"segment {number} is said to be in {uid}, which is no segmentation of this result"
            continue
        described = {int(item.SegmentNumber): item for item in segmentations[uid].SegmentSequence}
        if number not in described:
            yield "reference", f"segment {number} is not in the segmentation"
        elif str(described[number].get("TrackingUID", "")) not in uids:
            yield "tracking", f"segment {number}: the report tracks it under another UID than the segmentation"


def _volumes(group: Dataset, volume_ml: float) -> _Findings:
    """Each Volume of a group equals voxels times voxel size."""
    for item in content_tree.children_named(group, "118565006"):
        value, unit = content_tree.number_of(item)
        if unit in MILLILITERS and not np.isclose(value * MILLILITERS[unit], volume_ml, rtol=LARGEST_DISAGREEMENT):
            yield "volume", f"volume of {value} {unit} in the report, {volume_ml:.6f} ml in the segmentation"


def _areas(group: Dataset, spacing_mm: tuple[float, float]) -> _Findings:
    """Each Area beside an outline is the area of that outline."""
    outlines = [item for item in group.ContentSequence if item.ValueType == "SCOORD" and item.GraphicType == "POLYLINE"]
    for item in content_tree.children_named(group, "42798000") if outlines else ():
        value, unit = content_tree.number_of(item)
        area_mm2 = content_tree.polygon_area_mm2(outlines[0], *spacing_mm)
        if unit == "mm2" and not np.isclose(value, area_mm2, rtol=LARGEST_DISAGREEMENT):
            yield "area", f"area of {value} mm2 beside an outline of {area_mm2:.3f} mm2"
