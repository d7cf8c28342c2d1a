"""DICOM Segmentation from a label volume (PS3.3 A.51): BINARY, on the source grid, without empty frames.

What viewers need is said by the rules that this file follows: segments numbered from 1 without gaps, a
colour, a label and a Tracking UID for each, per-frame references to the source images, a series description
that names the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_sr import codes, provenance
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Result, Segment, count_labels
from dicom_sr.identity import derived_uid, tracking_uid, uid_for
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role

SERIES_OFFSET = 0


@dataclass(frozen=True)
class SegmentNumbering:
    """Which segments are written, and under which number.

    Parameters
    ----------
    present : tuple of Segment
        Segments with a voxel, in the order in which they are written.
    absent : tuple of Segment
        Segments without a voxel; left out, since viewers list an empty segment and show nothing.
    largest_slices : tuple of int
        For each present segment the index of the slice that holds most of its voxels.
    """

    present: tuple[Segment, ...]
    absent: tuple[Segment, ...]
    largest_slices: tuple[int, ...] = ()

    @property
    def segment_numbers(self) -> Mapping[int, int]:
        """Label of the Result -> Segment Number (0062,0004) in the object."""
        return {segment.number: number for number, segment in enumerate(self.present, 1)}


def number_segments(result: Result) -> SegmentNumbering:
    """The numbering of a Result's segments; refuses labels without a segment and names used twice."""
    numbers = [segment.number for segment in result.segments]
    names = [segment.label for segment in result.segments]
    if len(set(numbers)) < len(numbers) or len(set(names)) < len(names) or min(numbers, default=1) < 1:
        raise InvalidResult(f"segments need distinct numbers from 1 and distinct labels, found {numbers}")
    if result.labels is None:
        return SegmentNumbering((), result.segments)
    counts = count_labels(result.labels, max(numbers, default=0))
    totals = counts.sum(axis=0)
    unknown = sorted({int(label) for label in np.flatnonzero(totals)} - {0, *numbers})
    if unknown:
        raise InvalidResult(f"label volume holds {unknown}, segments are described for {sorted(numbers)}")
    ordered = sorted(result.segments, key=lambda segment: segment.number)
    present = tuple(segment for segment in ordered if totals[segment.number])
    return SegmentNumbering(
        present=present,
        absent=tuple(segment for segment in ordered if not totals[segment.number]),
        largest_slices=tuple(int(counts[:, segment.number].argmax()) for segment in present),
    )


def tracking_identifier(result: Result, segment: Segment) -> str:
    """Tracking ID of a segment: that of the first finding that it shows, else its label."""
    shown = (finding for finding in result.findings if finding.segment_number == segment.number)
    return next((finding.tracking_identifier for finding in shown), segment.label)


def encode_segmentation(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> Dataset | None:
    """The Segmentation of a Result, or None when no segment has a voxel.

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
    if result.labels is None or not numbering.present:
        return None
    dataset = hd.seg.Segmentation(
        source_images=evidence.images,
        pixel_array=renumber(result.labels, numbering),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_describe_segments(result, numbering),
        series_instance_uid=uid_for(result, f"segmentation-series@{profile.name}"),
        series_number=provenance.series_number(result, profile, SERIES_OFFSET),
        sop_instance_uid=uid_for(result, f"{Role.SEGMENTATION.value}@{profile.name}"),
        instance_number=1,
        series_description=provenance.series_description(result, "SEG"),
        content_label="AI_SEG",
        content_description=_content_description(result),
        content_creator_name=_creator(result),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        specific_character_set=provenance.character_set(result, evidence),
        **provenance.equipment_arguments(result),
    )
    _name_dimensions(dataset)
    provenance.complete(dataset, result, evidence, profile)
    return dataset


def renumber(labels: np.ndarray, numbering: SegmentNumbering) -> np.ndarray:
    """The label volume in the numbers of the object; the same array where they are already equal."""
    if all(label == number for label, number in numbering.segment_numbers.items()):
        return labels
    lookup = np.zeros(np.iinfo(labels.dtype).max + 1, dtype=np.uint8 if len(numbering.present) < 256 else np.uint16)
    for label, number in numbering.segment_numbers.items():
        lookup[label] = number
    return lookup[labels]


def _describe_segments(result: Result, numbering: SegmentNumbering) -> list[hd.seg.SegmentDescription]:
    """Items of the Segment Sequence (PS3.3 C.8.20.2)."""
    algorithm = hd.AlgorithmIdentificationSequence(
        name=provenance.clean_text(result.algorithm.name)[: provenance.LONG_STRING],
        family=codes.check(result.algorithm.family),
        version=provenance.clean_text(result.algorithm.version)[: provenance.LONG_STRING],
        source=provenance.clean_text(result.algorithm.manufacturer)[: provenance.LONG_STRING],
    )
    return [
        _describe_segment(result, segment, number, algorithm) for number, segment in enumerate(numbering.present, 1)
    ]


def _describe_segment(
    result: Result, segment: Segment, number: int, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    """One segment; its laterality modifies the anatomic region if there is one, else the type."""
    identifier = tracking_identifier(result, segment)
    region = segment.anatomic_region
    item = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=codes.check(segment.category),
        segmented_property_type=codes.check(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid(result, identifier),
        tracking_id=identifier,
        anatomic_regions=[codes.check(region)] if region else None,
        display_color=hd.color.CIELabColor.from_rgb(*segment.rgb),
    )
    if segment.laterality:
        modifier = [hd.sr.CodedConcept.from_code(codes.check(segment.laterality))]
        if region:
            item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = modifier
        else:
            type_item = item.SegmentedPropertyTypeCodeSequence[0]
            type_item.SegmentedPropertyTypeModifierCodeSequence = modifier
    return item


def _content_description(result: Result) -> str:
    """Content Description (0070,0081), shown by several viewers beside the label."""
    use = f"{provenance.NOT_FOR_CLINICAL_USE}. " if result.not_for_clinical_use else ""
    return f"{use}AI result, unverified: {provenance.clean_text(result.algorithm.name)}"[: provenance.LONG_STRING]


def _creator(result: Result) -> str:
    """Content Creator's Name (0070,0084): the node, as a person name."""
    name = provenance.clean_text(result.equipment.manufacturer_model_name)
    return "".join(" " if character in "^=" else character for character in name)[:58].strip() + "^AI"


def _name_dimensions(dataset: Dataset) -> None:
    """Give the dimension organization a UID that follows from the object's, instead of a random one."""
    uid = derived_uid("dimension-organization", dataset.SOPInstanceUID)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
