"""Comprehensive 3D SR of the findings by TID 1500 (Measurement Report), preliminary and unverified.

A finding that a segment shows is written as two measurement groups under one Tracking Unique Identifier: TID
1411 with the reference to the segment and all its measurements, and TID 1410 with its outline in the slice
where it is largest. OHIF merges the two, and opens a report titled 126000 only when every tracked finding has
coordinates. Findings without a place stand in TID 1501 groups of a report with another title, which OHIF
shows as text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes, provenance
from dicom_sr.content_items import insert_image_library, qualitative_evaluations
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Finding, Measurement, Result
from dicom_sr.identity import device_uid, tracking_uid, uid_for
from dicom_sr.outline import Outline, outline_points
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, ReportClass, Role
from dicom_sr.segmentation import SegmentNumbering, number_segments

SERIES_OFFSETS = {Role.REPORT: 1, Role.REPORT_WITHOUT_PLACE: 2}

REPORT_CLASSES = {
    ReportClass.COMPREHENSIVE_3D: sr.Comprehensive3DSR,
    ReportClass.COMPREHENSIVE: sr.ComprehensiveSR,
    ReportClass.ENHANCED: sr.EnhancedSR,
}

Group = (
    sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)


def placed_findings(result: Result, numbering: SegmentNumbering) -> tuple[Finding, ...]:
    """Findings that a segment with voxels shows; a segment that no finding names is one without measurements."""
    named = {finding.segment_number for finding in result.findings}
    unnamed = (segment for segment in numbering.present if segment.number not in named)
    return (
        *(finding for finding in result.findings if finding.segment_number in numbering.segment_numbers),
        *(
            Finding(segment.type, segment.label, segment.number, segment.anatomic_region, segment.laterality)
            for segment in unnamed
        ),
    )


def findings_of(result: Result, numbering: SegmentNumbering, role: Role) -> tuple[Finding, ...]:
    """What a report says: those with a place, or without; a result without any place has one report with all.

    Findings of absent segments beside present ones appear as remarks only.
    """
    placed = placed_findings(result, numbering)
    if role is Role.REPORT:
        return placed or result.findings
    return tuple(finding for finding in result.findings if finding.segment_number is None) if placed else ()


def encode_measurement_report(
    result: Result,
    sources: Sequence[Dataset],
    segmentation: Dataset | None,
    profile: DestinationProfile = CONSERVATIVE,
    *,
    role: Role = Role.REPORT,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> Dataset:
    """A report of a Result.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    segmentation : Dataset, optional
        The Segmentation of the same Result. None where no segment has a voxel, or where it is not delivered: then
        the measurements stand in TID 1501 groups, under the Tracking Unique Identifiers of the outlines.
    profile : DestinationProfile
    role : Role
        REPORT, or REPORT_WITHOUT_PLACE for the image-level findings that stand beside others with a place.
    evidence, numbering : optional
        Given by a caller that has them already.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    _check_findings(result)
    findings = findings_of(result, numbering, role)
    writer = _GroupWriter(result, evidence, numbering, segmentation)
    with_place = role is Role.REPORT and bool(placed_findings(result, numbering))
    groups = [group for finding in findings for group in writer.groups(finding)] or [writer.nothing_found()]
    content = sr.MeasurementReport(
        observation_context=_observation_context(result),
        procedure_reported=codes.PROCEDURES_REPORTED.get(
            evidence.images[0].get("Modality", ""), codes.PROCEDURE_OF_OTHER_MODALITY
        ),
        imaging_measurements=groups,
        title=profile.title_with_place if with_place else profile.title_without_place,
    )
    content[0].ContentSequence.append(qualitative_evaluations(_comments(result, numbering)))
    dataset = REPORT_CLASSES[profile.report_class](
        evidence=[*evidence.images, *([segmentation] if segmentation is not None else [])],
        content=content[0],
        series_instance_uid=uid_for(result, f"{role.value}-series@{profile.name}"),
        series_number=provenance.series_number(result, profile, SERIES_OFFSETS[role]),
        sop_instance_uid=uid_for(result, f"{role.value}@{profile.name}"),
        instance_number=1,
        series_description=provenance.series_description(result, "report"),
        is_complete=True,
        is_final=False,
        is_verified=False,
        specific_character_set=provenance.character_set(result, evidence),
        **provenance.equipment_arguments(result),
    )
    if profile.image_library and with_place:  # as text, OHIF would print a line of noise for each image
        insert_image_library(dataset, evidence)
    _refer_to_predecessors(dataset, result)
    provenance.complete(dataset, result, evidence, profile)
    return dataset


def _check_findings(result: Result) -> None:
    identifiers = [finding.tracking_identifier for finding in result.findings]
    if len(set(identifiers)) < len(identifiers) or not all(identifiers):
        raise InvalidResult("each finding needs a tracking identifier of its own")
    known = {None, *(segment.number for segment in result.segments)}
    unknown = sorted({finding.segment_number for finding in result.findings} - known, key=str)
    if unknown:
        raise InvalidResult(f"findings name segments {unknown} that the result does not describe")


def _observation_context(result: Result) -> sr.ObservationContext:
    """The algorithm as device observer (TID 1004)."""
    algorithm = result.algorithm
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=sr.CodedConcept.from_code(codes.DEVICE),
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=device_uid(algorithm),
                name=algorithm.name,
                manufacturer_name=algorithm.manufacturer,
                model_name=algorithm.identifier,
                serial_number=algorithm.version,
            ),
        )
    )


def _comments(result: Result, numbering: SegmentNumbering) -> list[str]:
    """What a reader has to know beside the findings, as sentences."""
    comments = [f"{provenance.NOT_FOR_CLINICAL_USE}."] if result.not_for_clinical_use else []
    comments.append("Result of an AI algorithm, not verified by a physician.")
    comments += [result.algorithm.intended_use] if result.algorithm.intended_use else []
    comments += [f"No voxel found of: {segment.label}; it is not in the segmentation." for segment in numbering.absent]
    return [*comments, *result.remarks]


def _refer_to_predecessors(dataset: Dataset, result: Result) -> None:
    """Predecessor Documents Sequence (PS3.3 C.17.2): one item for the study, with all series in it."""
    if not result.predecessors:
        return
    series: dict[str, Dataset] = {}
    for predecessor in result.predecessors:
        item = Dataset()
        item.ReferencedSOPClassUID = predecessor.sop_class_uid
        item.ReferencedSOPInstanceUID = predecessor.sop_instance_uid
        uid = predecessor.series_instance_uid
        if uid not in series:
            series[uid] = Dataset()
            series[uid].SeriesInstanceUID = uid
            series[uid].ReferencedSOPSequence = []
        series[uid].ReferencedSOPSequence.append(item)
    study = Dataset()
    study.StudyInstanceUID = result.study_instance_uid
    study.ReferencedSeriesSequence = list(series.values())
    dataset.PredecessorDocumentsSequence = [study]


class _GroupWriter:
    """Writes the measurement groups of findings; holds what they all refer to."""

    def __init__(
        self, result: Result, evidence: Evidence, numbering: SegmentNumbering, segmentation: Dataset | None
    ) -> None:
        self.result = result
        self.evidence = evidence
        self.numbering = numbering
        self.segmentation = segmentation

    def groups(self, finding: Finding) -> list[Group]:
        """The groups of one finding, under one Tracking Unique Identifier."""
        if finding.segment_number not in self.numbering.segment_numbers:
            return [self._whole_image(finding)]
        if self.segmentation is None:
            return [self._whole_image(finding), self._planar(finding)]
        return [self._volumetric(finding), self._planar(finding)]

    def nothing_found(self) -> sr.MeasurementsAndQualitativeEvaluations:
        """TID 1501 group of a result without any finding: silence is not the same as nothing found."""
        identifier = "AI result: without findings"
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(identifier),
            algorithm_id=provenance.algorithm_identification(self.result),
            source_images=[self._middle_image()],
            qualitative_evaluations=[
                sr.QualitativeEvaluation(codes.PROCESSING_SUMMARY, codes.SUCCEEDED_WITHOUT_FINDINGS)
            ],
        )

    def _volumetric(self, finding: Finding) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
        """TID 1411: the segment and every measurement of the finding."""
        assert self.segmentation is not None and finding.segment_number is not None
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=self.segmentation.SOPClassUID,
                sop_instance_uid=self.segmentation.SOPInstanceUID,
                segment_number=self.numbering.segment_numbers[finding.segment_number],
                source_series=sr.SourceSeriesForSegmentation(self.result.series_instance_uid),
            ),
            measurements=[_measurement(item) for item in finding.measurements],
            **self._common(finding),
        )

    def _planar(self, finding: Finding) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
        """TID 1410: the outline in the slice where the segment is largest, with its own area."""
        outline = self._outline(finding)
        image = self.evidence.image_of(outline.slice_index)
        frame_number = self.evidence.frames[outline.slice_index].frame_number
        spacing_mm = self.evidence.spacing_mm
        areas = [] if spacing_mm is None else [outline.area_mm2(*spacing_mm[1:])]
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=sr.ImageRegion(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=outline.points,
                source_image=sr.SourceImageForRegion(
                    image.SOPClassUID, image.SOPInstanceUID, [frame_number] if frame_number else None
                ),
            ),
            measurements=[_measurement(Measurement(codes.AREA, area, codes.SQUARE_MILLIMETER)) for area in areas],
            **self._common(finding),
        )

    def _whole_image(self, finding: Finding) -> sr.MeasurementsAndQualitativeEvaluations:
        """TID 1501: a finding without a place; its tracking identifier says what viewers leave out."""
        absent = finding.segment_number is not None and finding.segment_number not in self.numbering.segment_numbers
        identifier = f"{finding.tracking_identifier}: no voxel found" if absent else finding.tracking_identifier
        common = self._common(finding) | {
            "tracking_identifier": self._tracking(finding.tracking_identifier, identifier)
        }
        return sr.MeasurementsAndQualitativeEvaluations(
            source_images=[self._middle_image()],
            measurements=[_measurement(item) for item in finding.measurements],
            **common,
        )

    def _outline(self, finding: Finding) -> Outline:
        assert self.result.labels is not None and finding.segment_number is not None
        position = self.numbering.segment_numbers[finding.segment_number] - 1
        slice_index = self.numbering.largest_slices[position]
        return Outline(slice_index, outline_points(self.result.labels[slice_index] == finding.segment_number))

    def _common(self, finding: Finding) -> dict[str, Any]:
        """Content items that all groups of a finding share."""
        site = finding.finding_site
        return {
            "tracking_identifier": self._tracking(finding.tracking_identifier),
            "finding_type": codes.check(finding.finding),
            "finding_sites": [sr.FindingSite(codes.check(site), _checked(finding.laterality))] if site else None,
            "algorithm_id": provenance.algorithm_identification(self.result),
        }

    def _tracking(self, identifier: str, shown: str | None = None) -> sr.TrackingIdentifier:
        return sr.TrackingIdentifier(uid=tracking_uid(self.result, identifier), identifier=shown or identifier)

    def _middle_image(self) -> sr.SourceImageForMeasurementGroup:
        image = self.evidence.images[len(self.evidence.images) // 2]
        return sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)


def _checked(code: Code | None) -> Code | None:
    return codes.check(code) if code else None


def _measurement(measurement: Measurement) -> sr.Measurement:
    """TID 300; the value keeps the ten digits that a decimal string surely holds (PS3.5 6.2, DS)."""
    if not np.isfinite(measurement.value):
        raise InvalidResult(f"measurement {measurement.concept.value}: {measurement.value} is no number")
    return sr.Measurement(
        name=codes.check(measurement.concept),
        value=float(f"{measurement.value:.9g}"),
        unit=codes.check(measurement.unit),
        derivation=_checked(measurement.derivation),
    )
