"""RT Structure Set (PS3.3 A.19) of the segments of a Result: closed planar contours in space, for planning systems.

Contours run along the edges of the voxels, so that what is inside is what the segment holds; holes are joined to the
outer contour by channels of no width. Contour Data may be longer than the 16 bits of a DS in Explicit VR, so that the
object is written in Implicit VR Little Endian.
"""

import struct
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pydicom.valuerep import DA, DS, TM

from dicom_sr import codes, provenance
from dicom_sr.arithmetic import total
from dicom_sr.contours import keyhole, mask_contours
from dicom_sr.element_bytes import item, tag_of
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Result, Segment
from dicom_sr.instance import Kind, code_item, new_instance, reference
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.segment_description import content_description
from dicom_sr.segment_numbering import SegmentNumbering, SegmentPlace, number_segments

RT_STRUCTURE_SET_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""The retired SOP class that PS3.3 C.8.8.5.4 wants for the study."""
CONTOURS = Kind(Role.STRUCTURE_SET, "RTSTRUCT", "contours")


def encode_structure_set(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> Dataset | None:
    """The Structure Set of a Result; None when no segment has a voxel, or the images have no place in space.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    profile : DestinationProfile
    evidence, numbering : optional
        Given by a caller that has them already.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    if not numbering.places or not evidence.in_space:
        return None
    dataset = new_instance(
        result, evidence, profile, CONTOURS, RT_STRUCTURE_SET_STORAGE, transfer_syntax_uid=ImplicitVRLittleEndian
    )
    moment = provenance.content_moment(result, evidence)
    dataset.OperatorsName = ""
    dataset.FrameOfReferenceUID = evidence.frame_of_reference_uid
    dataset.PositionReferenceIndicator = evidence.images[0].get("PositionReferenceIndicator")
    dataset.StructureSetLabel = "AI contours"
    dataset.StructureSetName = provenance.clean_text(result.algorithm.name)[: provenance.LONG_STRING]
    dataset.StructureSetDescription = content_description(result)
    dataset.StructureSetDate, dataset.StructureSetTime = DA(moment.date()), TM(moment.time())
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(result, evidence)]
    dataset.StructureSetROISequence = [
        _region(result, evidence, place, number) for number, place in enumerate(numbering.places, 1)
    ]
    dataset.RTROIObservationsSequence = [
        _observation(place.segment, number) for number, place in enumerate(numbering.places, 1)
    ]
    dataset.ApprovalStatus = "UNAPPROVED"
    contours = b"".join(
        _contours_of_region(result, evidence, place, number) for number, place in enumerate(numbering.places, 1)
    )
    tag = tag_of("ROIContourSequence")
    dataset[tag] = RawDataElement(tag, "SQ", len(contours), contours, 0, True, True)
    dataset.set_original_encoding(True, True, dataset.original_character_set)
    return dataset


def _frame_of_reference(result: Result, evidence: Evidence) -> Dataset:
    """Referenced Frame of Reference (PS3.3 C.8.8.5): study, series and every image that may carry a contour."""
    series = []
    for uid, images in groupby(evidence.images, key=lambda image: str(image.SeriesInstanceUID)):
        entry = Dataset()
        entry.SeriesInstanceUID = uid
        entry.ContourImageSequence = [reference(image) for image in images]
        series.append(entry)
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = result.study_instance_uid
    study.RTReferencedSeriesSequence = series
    frame = Dataset()
    frame.FrameOfReferenceUID = evidence.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _region(result: Result, evidence: Evidence, place: SegmentPlace, number: int) -> Dataset:
    """Item of the Structure Set ROI Sequence; its volume is that of the voxels, in cm3."""
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = evidence.frame_of_reference_uid
    roi.ROIName = place.segment.label
    roi.ROIDescription = content_description(result)
    roi.ROIVolume = DS(total(place.voxels_of_slices * evidence.voxel_volumes_ml), auto_format=True)
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = provenance.clean_text(f"{result.algorithm.name} {result.algorithm.version}")[:64]
    return roi


def _observation(segment: Segment, number: int) -> Dataset:
    """Item of the RT ROI Observations Sequence (PS3.3 C.8.8.8): what the contour is, in codes."""
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    identification = code_item(codes.check(segment.type))
    if segment.laterality:
        identification.SegmentedPropertyTypeModifierCodeSequence = [code_item(codes.check(segment.laterality))]
    observation.RTROIIdentificationCodeSequence = [identification]
    observation.SegmentedPropertyCategoryCodeSequence = [code_item(codes.check(segment.category))]
    observation.RTROIInterpretedType = "ORGAN" if segment.category == codes.ANATOMICAL_STRUCTURE else ""
    observation.ROIInterpreter = ""
    return observation


def _contours_of_region(result: Result, evidence: Evidence, place: SegmentPlace, number: int) -> bytes:
    """Item of the ROI Contour Sequence (PS3.3 C.8.8.6)."""
    labels = result.label_maps[place.label_map]
    contours: list[bytes] = []
    for slice_index in place.slices:
        mask = labels[slice_index] == place.segment.number
        for _, part in groupby(mask_contours(mask), key=lambda contour: contour.part):
            points = keyhole(list(part))[:-1]
            contours.append(_contour(evidence, int(slice_index), points, len(contours) + 1))
    return item(
        _element("ROIDisplayColor", "\\".join(map(str, place.segment.rgb))),
        _sequence("ContourSequence", *contours),
        _element("ReferencedROINumber", str(number)),
    )


def _contour(evidence: Evidence, slice_index: int, points: np.ndarray, number: int) -> bytes:
    """Item of the Contour Sequence."""
    image, frame_number = evidence.image_of(slice_index), evidence.frames[slice_index].frame_number
    source = item(
        _element("ReferencedSOPClassUID", image.SOPClassUID, b"\0"),
        _element("ReferencedSOPInstanceUID", image.SOPInstanceUID, b"\0"),
        _element("ReferencedFrameNumber", str(frame_number)) if frame_number else b"",
    )
    in_space = to_space(evidence, slice_index, points)
    return item(
        _sequence("ContourImageSequence", source),
        _element("ContourGeometricType", "CLOSED_PLANAR"),
        _element("NumberOfContourPoints", str(len(points))),
        _element("ContourNumber", str(number)),
        _element("ContourData", "\\".join(f"{value:.3f}" for value in in_space.ravel())),
    )


def to_space(evidence: Evidence, slice_index: int, points: np.ndarray) -> np.ndarray:
    """Points (column, row) of a slice, counted from its outer corner, as LPS millimetres (PS3.3 C.7.6.2.1.1)."""
    assert evidence.orientation is not None and evidence.spacing_mm is not None
    along_row, along_column = np.array(evidence.orientation, float).reshape(2, 3)
    _, row_mm, column_mm = evidence.spacing_mm
    centre = np.array(evidence.frames[slice_index].position_mm, float)
    column, row = points[:, :1] - 0.5, points[:, 1:] - 0.5
    return np.asarray(centre + column * column_mm * along_row + row * row_mm * along_column)


def _element(keyword: str, value: str, padding: bytes = b" ") -> bytes:
    """An element of ASCII text in Implicit VR (PS3.5 7.1.3)."""
    content = value.encode("ascii")
    content += padding * (len(content) % 2)
    tag = tag_of(keyword)
    return struct.pack("<HHI", tag.group, tag.element, len(content)) + content


def _sequence(keyword: str, *items: bytes) -> bytes:
    """A sequence in Implicit VR."""
    content = b"".join(items)
    tag = tag_of(keyword)
    return struct.pack("<HHI", tag.group, tag.element, len(content)) + content
