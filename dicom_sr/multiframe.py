"""Multi-frame functional groups (PS3.3 C.7.6.16) and dimensions (C.7.6.17) of frames that lie where source frames lie.

Per-frame items are built as bytes (`element_bytes`): what differs between the frames of an object is its segment and
its slice, so a few hundred pieces make up thousands of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DS

from dicom_sr import codes
from dicom_sr.arithmetic import dot, lengths
from dicom_sr.element_bytes import coded, decimals, item, raw_sequence, sequence, text, unsigned
from dicom_sr.evidence import Evidence
from dicom_sr.identity import derived_uid


@dataclass(frozen=True)
class Frame:
    """One frame of a derived object.

    Parameters
    ----------
    slice_index : int
        The slice it lies on.
    segment_number : int, optional
        The segment that it shows; None where frames are not told apart by segments.
    """

    slice_index: int
    segment_number: int | None = None


@dataclass(frozen=True)
class Dimension:
    """One item of the Dimension Index Sequence."""

    pointer: str
    group: str
    label: str


SEGMENT = Dimension("ReferencedSegmentNumber", "SegmentIdentificationSequence", "Referenced Segment Number")
POSITION = Dimension("ImagePositionPatient", "PlanePositionSequence", "Image Position Patient")
STACK_POSITION = Dimension("InStackPositionNumber", "FrameContentSequence", "In-Stack Position Number")
FRAME_LABEL = Dimension("FrameLabel", "FrameContentSequence", "Frame Label")


def slice_order(evidence: Evidence) -> list[int]:
    """Slice indices in the order in which frames are written: as highdicom orders them, against the normal of the image
    plane (row direction x column direction); as they come where they have no place in space.
    """
    if not evidence.in_space:
        return list(range(len(evidence.frames)))
    along_row, along_column = np.array(evidence.orientation, float).reshape(2, 3)
    positions = np.array([frame.position_mm for frame in evidence.frames], float)
    return [int(index) for index in np.argsort(dot(positions, np.cross(along_column, along_row)), kind="stable")]


def add_functional_groups(
    dataset: Dataset, evidence: Evidence, frames: Sequence[Frame], derivation: Code
) -> RawDataElement:
    """Set dimensions, shared groups and the number of frames; the Per-Frame Functional Groups are returned as bytes.

    Parameters
    ----------
    dataset : Dataset
    evidence : Evidence
    frames : sequence of Frame
        In the order of their pixels.
    derivation : Code
        How they were derived from the source images (CID 7203).
    """
    dimensions = _dimensions(evidence, frames)
    _describe_dimensions(dataset, dimensions)
    shared = Dataset()
    if evidence.in_space:
        shared.PlaneOrientationSequence = [_orientation(evidence)]
    measures = _measures(evidence)
    if measures is not None:
        shared.PixelMeasuresSequence = [measures]
    segments = {frame.segment_number for frame in frames} - {None}
    only_segment = len(dataset.get("SegmentSequence", ())) == 1 and len(segments) == 1
    if only_segment:
        identification = Dataset()
        identification.ReferencedSegmentNumber = segments.pop()
        shared.SegmentIdentificationSequence = [identification]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.NumberOfFrames = len(frames)
    if evidence.in_space and (only_segment or not segments) and _evenly_spaced(evidence, frames):
        dataset.DimensionOrganizationType = "3D"
    return raw_sequence(
        "PerFrameFunctionalGroupsSequence", _per_frame(evidence, frames, dimensions, derivation, only_segment)
    )


def _dimensions(evidence: Evidence, frames: Sequence[Frame]) -> list[Dimension]:
    dimensions = [SEGMENT] if frames[0].segment_number is not None else []
    if evidence.in_space:
        dimensions.append(POSITION)
    elif len(evidence.frames) > 1:
        dimensions.append(STACK_POSITION)
    return dimensions or [FRAME_LABEL]


def _describe_dimensions(dataset: Dataset, dimensions: Sequence[Dimension]) -> None:
    uid = derived_uid("dimension-organization", dataset.SOPInstanceUID)
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = []
    for dimension in dimensions:
        index = Dataset()
        index.DimensionOrganizationUID = uid
        index.DimensionIndexPointer = tag_for_keyword(dimension.pointer)
        index.FunctionalGroupPointer = tag_for_keyword(dimension.group)
        index.DimensionDescriptionLabel = dimension.label
        dataset.DimensionIndexSequence.append(index)


def _orientation(evidence: Evidence) -> Dataset:
    orientation = Dataset()
    assert evidence.orientation is not None
    orientation.ImageOrientationPatient = [DS(value, auto_format=True) for value in evidence.orientation]
    return orientation


def _measures(evidence: Evidence) -> Dataset | None:
    """Pixel Measures; of a projection only where its pixel spacing is calibrated."""
    first = evidence.images[0]
    if evidence.spacing_mm is None or not (evidence.in_space or "PixelSpacing" in first):
        return None
    measures = Dataset()
    measures.PixelSpacing = [DS(value, auto_format=True) for value in evidence.spacing_mm[1:]]
    if evidence.in_space:
        measures.SliceThickness = DS(float(first.SliceThickness), auto_format=True)
        measures.SpacingBetweenSlices = DS(evidence.spacing_mm[0], auto_format=True)
    return measures


def _evenly_spaced(evidence: Evidence, frames: Sequence[Frame]) -> bool:
    """Whether several planes follow each other at one distance, straight above each other (as highdicom judges it)."""
    positions = np.array([evidence.frames[frame.slice_index].position_mm for frame in frames], float)
    if len(positions) < 2 or len({frame.slice_index for frame in frames}) < len(frames):
        return False
    steps = np.diff(positions, axis=0)
    normal = np.cross(*np.array(evidence.orientation, float).reshape(2, 3))
    along = np.abs(dot(steps, normal))
    straight = np.abs(along / np.maximum(lengths(steps), 1e-12) - 1).max() < 1e-3
    return bool(straight and np.ptp(along) <= 0.01 * along.mean() + 1e-9)


def _per_frame(
    evidence: Evidence, frames: Sequence[Frame], dimensions: Sequence[Dimension], derivation: Code, only_segment: bool
) -> bytes:
    """The items; elements in each are in the order of their tags."""
    used = {frame.slice_index for frame in frames}
    order = [index for index in slice_order(evidence) if index in used]
    place = {index: number for number, index in enumerate(order, 1)}
    derived = coded("DerivationCodeSequence", derivation)
    in_space = evidence.in_space
    derivations = {index: _derivation(evidence, index, derived) for index in used}
    positions = {index: _position(evidence, index) for index in used}
    with_stack = STACK_POSITION in dimensions
    items = []
    for frame in frames:
        index = frame.slice_index
        values = [] if frame.segment_number is None else [frame.segment_number]
        values += [place[index]] if in_space or with_stack else []
        identification = b""
        if frame.segment_number is not None and not only_segment:
            number = unsigned("ReferencedSegmentNumber", "US", frame.segment_number)
            identification = sequence("SegmentIdentificationSequence", item(number))
        content = _frame_content(values or [1], place[index] if with_stack else None, FRAME_LABEL in dimensions)
        items.append(item(derivations[index], content, positions[index], identification))
    return b"".join(items)


def _frame_content(values: Sequence[int], stack_position: int | None, with_label: bool) -> bytes:
    """Frame Content Sequence (PS3.3 C.7.6.16.2.2)."""
    elements = []
    if stack_position is not None:
        elements.append(text("StackID", "SH", "1"))
        elements.append(unsigned("InStackPositionNumber", "UL", stack_position))
    elements.append(unsigned("DimensionIndexValues", "UL", *values))
    if with_label:
        elements.append(text("FrameLabel", "LO", "Frame"))
    return sequence("FrameContentSequence", item(*elements))


def _derivation(evidence: Evidence, slice_index: int, derived: bytes) -> bytes:
    """Derivation Image Sequence: the one source frame that lies where the new frame does."""
    image = evidence.image_of(slice_index)
    frame_number = evidence.frames[slice_index].frame_number
    source = item(
        text("ReferencedSOPClassUID", "UI", image.SOPClassUID),
        text("ReferencedSOPInstanceUID", "UI", image.SOPInstanceUID),
        text("ReferencedFrameNumber", "IS", str(frame_number)) if frame_number else b"",
        text("SpatialLocationsPreserved", "CS", "YES"),
        coded("PurposeOfReferenceCodeSequence", codes.SOURCE_IMAGE),
    )
    return sequence("DerivationImageSequence", item(sequence("SourceImageSequence", source), derived))


def _position(evidence: Evidence, slice_index: int) -> bytes:
    """Plane Position Sequence; nothing for a frame without a place in space."""
    position_mm = evidence.frames[slice_index].position_mm
    if not evidence.in_space or position_mm is None:
        return b""
    return sequence("PlanePositionSequence", item(decimals("ImagePositionPatient", position_mm)))
