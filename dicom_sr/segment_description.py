"""Items of the Segment Sequence (PS3.3 C.8.20.4), and what else a Segmentation says about itself in words."""

from collections.abc import Sequence

import highdicom as hd
from pydicom.dataset import Dataset

from dicom_sr import codes, provenance
from dicom_sr.findings import Result, Segment
from dicom_sr.identity import tracking_uid
from dicom_sr.instance import code_item


def describe_segments(result: Result, segments: Sequence[Segment]) -> list[Dataset]:
    """One item for each segment, numbered from 1."""
    algorithm = hd.AlgorithmIdentificationSequence(
        name=provenance.clean_text(result.algorithm.name)[: provenance.LONG_STRING],
        family=codes.check(result.algorithm.family),
        version=provenance.clean_text(result.algorithm.version)[: provenance.LONG_STRING],
        source=provenance.clean_text(result.algorithm.manufacturer)[: provenance.LONG_STRING],
    )
    return [_describe(result, segment, number, algorithm) for number, segment in enumerate(segments, 1)]


def background(result: Result) -> Dataset:
    """The item for the value 0 of a label map."""
    item = Dataset()
    item.SegmentNumber = 0
    item.SegmentLabel = "Background"
    item.SegmentedPropertyCategoryCodeSequence = [code_item(codes.BACKGROUND)]
    item.SegmentedPropertyTypeCodeSequence = [code_item(codes.BACKGROUND)]
    item.SegmentAlgorithmType = "AUTOMATIC"
    item.SegmentAlgorithmName = provenance.clean_text(result.algorithm.name)[: provenance.LONG_STRING]
    item.RecommendedDisplayCIELabValue = [0, 32896, 32896]
    return item


def tracking_identifier(result: Result, segment: Segment) -> str:
    """Tracking ID of a segment: that of the first finding that it shows, else its label."""
    shown = (finding for finding in result.findings if finding.segment_number == segment.number)
    return next((finding.tracking_identifier for finding in shown), segment.label)


def content_description(result: Result) -> str:
    """Content Description (0070,0081), shown by several viewers beside the label."""
    use = f"{provenance.NOT_FOR_CLINICAL_USE}. " if result.not_for_clinical_use else ""
    return f"{use}AI result, unverified: {provenance.clean_text(result.algorithm.name)}"[: provenance.LONG_STRING]


def content_creator(result: Result) -> str:
    """Content Creator's Name (0070,0084): the node, as a person name."""
    name = provenance.clean_text(result.equipment.manufacturer_model_name)
    return "".join(" " if character in "^=" else character for character in name)[:58].strip() + "^AI"


def _describe(
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
