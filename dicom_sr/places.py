"""Where findings are, as slices of the grid: what key images, overlays and texts are made for."""

from dataclasses import dataclass

from dicom_sr.evidence import Evidence
from dicom_sr.findings import Finding
from dicom_sr.regions import draw
from dicom_sr.segment_numbering import SegmentNumbering


@dataclass(frozen=True)
class Place:
    """One slice of the grid.

    Parameters
    ----------
    slice_index : int
    sop_instance_uid : str
    frame_number : int, optional
        From 1, in a multi-frame image.
    """

    slice_index: int
    sop_instance_uid: str
    frame_number: int | None = None


def largest_slice(numbering: SegmentNumbering, segment_number: int) -> int | None:
    """Index of the slice that holds most voxels of a segment of the Result; None for one without a voxel."""
    place = numbering.place_of.get(segment_number)
    return None if place is None else place.largest_slice


def place_at(evidence: Evidence, slice_index: int) -> Place:
    """The image, or frame, that a slice is."""
    uid = str(evidence.image_of(slice_index).SOPInstanceUID)
    return Place(slice_index, uid, evidence.frames[slice_index].frame_number)


def places_of(finding: Finding, evidence: Evidence, numbering: SegmentNumbering) -> list[Place]:
    """The slices that show a finding: those that its regions are drawn on, and the one where its segment is largest."""
    found = []
    if finding.segment_number is not None:
        slice_index = largest_slice(numbering, finding.segment_number)
        found += [] if slice_index is None else [place_at(evidence, slice_index)]
    found += [place_at(evidence, draw(region, evidence).slice_index) for region in finding.regions]
    return list(dict.fromkeys(found))
