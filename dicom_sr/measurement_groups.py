"""The measurement groups of a finding (TID 1411, 1410, 1501), in the forms that viewers open.

OHIF merges the groups of one Tracking Unique Identifier, takes a group with a rectangle and a number for something that
it then cannot read, and under the title 126000 opens nothing without coordinates. So a finding with a place is written
as its place, and as its numbers, in two groups under one Tracking Unique Identifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes, provenance
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence
from dicom_sr.findings import Finding, Likelihood, Measurement, Presence, Result, SpatialRegion
from dicom_sr.identity import tracking_uid
from dicom_sr.outline import outline_points
from dicom_sr.profile import DestinationProfile, ReportClass
from dicom_sr.regions import Drawn, draw, region_in_space
from dicom_sr.segment_numbering import SegmentNumbering
from dicom_sr.source_frames import pixel_spacing_mm

NATIVE_OUTLINE = "Cornerstone3DTools@^0.1.0:PlanarFreehandROI"
"""Tracking Identifier by which OHIF takes an outline for one of its own, editable annotations."""

MOST_IMAGES = 8
"""Up to so many images a finding without a place refers to each; of more, to the one in the middle."""

PRESENCES = {
    Presence.PRESENT: codes.PRESENT,
    Presence.ABSENT: codes.ABSENT,
    Presence.INDETERMINATE: codes.INDETERMINATE,
}

Group = (
    sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)


@dataclass(frozen=True, eq=False)
class GroupWriter:
    """Writes the measurement groups of findings; holds what they all refer to.

    Parameters
    ----------
    result : Result
    headers : sequence of Dataset
        Headers of the source images.
    profile : DestinationProfile
    evidence : Evidence
    numbering : SegmentNumbering
    segmentations : sequence of Dataset
        Empty where none is delivered.
    """

    result: Result
    headers: Sequence[Dataset]
    profile: DestinationProfile
    evidence: Evidence
    numbering: SegmentNumbering
    segmentations: Sequence[Dataset]

    def groups(self, finding: Finding) -> list[Group]:
        """The groups of one finding that say what is found and where."""
        if finding.segment_number in self.numbering.segment_numbers:
            numbers = self._volumetric(finding) if self.segmentations else self.whole_image(finding)
            return [numbers, self._planar(finding, self._outline(finding)), *self._regions(finding)]
        regions = self._regions(finding)
        if not regions:
            return [self.whole_image(finding)]
        return [*regions, *([self.whole_image(finding, with_images=False)] if _has_more_to_say(finding) else [])]

    def priors(self, finding: Finding) -> list[Group]:
        """TID 1501 with a time point (TID 1502) for each earlier study that measurements are compared with."""
        studies = sorted({m.prior.study_date for m in finding.measurements if m.prior is not None})
        groups: list[Group] = []
        for order, study_date in enumerate(studies, 1):
            shown = f"{finding.tracking_identifier}, earlier study of {study_date.isoformat()}"
            before = [
                _measurement(Measurement(m.concept, m.prior.value, m.unit, m.derivation, m.method))
                for m in finding.measurements
                if m.prior is not None and m.prior.study_date == study_date
            ]
            groups.append(
                sr.MeasurementsAndQualitativeEvaluations(
                    time_point_context=sr.TimePointContext(study_date.isoformat(), time_point_order=order),
                    measurements=before,
                    **self._common(finding, shown),
                )
            )
        return groups

    def nothing_found(self) -> sr.MeasurementsAndQualitativeEvaluations:
        """TID 1501 group of a result without any finding: silence is not the same as nothing found."""
        identifier = "AI result: without findings"
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(identifier),
            algorithm_id=provenance.algorithm_identification(self.result),
            source_images=self._images(()),
            qualitative_evaluations=[
                sr.QualitativeEvaluation(codes.PROCESSING_SUMMARY, codes.SUCCEEDED_WITHOUT_FINDINGS)
            ],
        )

    def whole_image(self, finding: Finding, *, with_images: bool = True) -> sr.MeasurementsAndQualitativeEvaluations:
        """TID 1501: what a finding says besides its place; without one its tracking identifier says what it is about,
        since viewers leave concept names out.
        """
        return sr.MeasurementsAndQualitativeEvaluations(
            source_images=self._images(finding.images) if with_images else None,
            **self._numbers(finding),
            **self._common(finding, self._shown(finding) if with_images else None),
        )

    def _volumetric(self, finding: Finding) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
        """TID 1411: the segment and every measurement of the finding."""
        assert finding.segment_number is not None
        place = self.numbering.place_of[finding.segment_number]
        segmentation = self.segmentations[place.object_index]
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=place.segment_number,
                source_series=sr.SourceSeriesForSegmentation(self.result.series_instance_uid),
            ),
            **self._numbers(finding),
            **self._common(finding),
        )

    def _regions(self, finding: Finding) -> list[Group]:
        """The places that a finding brings along. The first has the finding's Tracking Unique Identifier; viewers show
        one place for each, so that further ones have their own.
        """
        groups: list[Group] = []
        for number, region in enumerate(finding.regions, 1):
            drawn = draw(region, self.evidence)
            shown = None if number == 1 else f"{finding.tracking_identifier}, region {number}"
            own_uid = None if number == 1 else shown
            groups.append(self._planar(finding, drawn, shown, own_uid))
            if isinstance(region, SpatialRegion) and self.profile.report_class is ReportClass.COMPREHENSIVE_3D:
                in_space = region_in_space(region)
                if in_space is not None:
                    groups.append(
                        sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                            referenced_region=in_space, **self._common(finding, shown, own_uid)
                        )
                    )
        return groups

    def _planar(self, finding: Finding, drawn: Drawn, shown: str | None = None, own_uid: str | None = None) -> Group:
        """One place: TID 1410, with its own area if it is an outline; a line as the number that it is (TID 320)."""
        spacing_mm = self._spacing_of(drawn.slice_index)
        common = self._common(finding, shown, own_uid)
        if drawn.is_path:
            return self._path(drawn, spacing_mm, common)
        area = drawn.area_mm2(spacing_mm) if drawn.is_outline and spacing_mm is not None else None
        if area is not None and self.profile.native_annotations:
            identifier = sr.TrackingIdentifier(uid=common["tracking_identifier"][1].value, identifier=NATIVE_OUTLINE)
            return self._path(drawn, spacing_mm, common | {"tracking_identifier": identifier})
        measured = None if area is None else [_measurement(Measurement(codes.AREA, area, codes.SQUARE_MILLIMETER))]
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=sr.ImageRegion(
                graphic_type=drawn.graphic_type, graphic_data=drawn.points, source_image=self._source_of(drawn)
            ),
            measurements=measured,
            **common,
        )

    def _path(
        self, drawn: Drawn, spacing_mm: tuple[float, float] | None, common: dict[str, Any]
    ) -> sr.MeasurementsAndQualitativeEvaluations:
        """TID 1501 with one number that has coordinates of its own (TID 320)."""
        coordinates = sr.CoordinatesForMeasurement(
            graphic_type=drawn.graphic_type, graphic_data=drawn.points, source_image=self._source_of(drawn)
        )
        if drawn.is_path:
            value, unit = (
                (drawn.length_mm(spacing_mm), codes.MILLIMETER)
                if spacing_mm
                else (drawn.length_mm((1.0, 1.0)), codes.PIXELS)
            )
            number = Measurement(codes.LENGTH, value, unit)
        else:
            assert spacing_mm is not None
            number = Measurement(codes.AREA, drawn.area_mm2(spacing_mm), codes.SQUARE_MILLIMETER)
        return sr.MeasurementsAndQualitativeEvaluations(measurements=[_measurement(number, coordinates)], **common)

    def _outline(self, finding: Finding) -> Drawn:
        """The outline of a segment in the slice where it is largest."""
        assert finding.segment_number is not None
        place = self.numbering.place_of[finding.segment_number]
        mask = self.result.label_maps[place.label_map][place.largest_slice] == finding.segment_number
        return Drawn(place.largest_slice, sr.GraphicTypeValues.POLYLINE, outline_points(mask))

    def _spacing_of(self, slice_index: int) -> tuple[float, float] | None:
        """(row, column) spacing of a slice in mm, None where its image does not say it."""
        if self.evidence.in_space:
            assert self.evidence.spacing_mm is not None
            return self.evidence.spacing_mm[1:]
        uid = self.evidence.image_of(slice_index).SOPInstanceUID
        header = next(each for each in self.headers if each.SOPInstanceUID == uid)
        found = pixel_spacing_mm(header, self.evidence.frames[slice_index].frame_number)
        return found if found and min(found) > 0 else None

    def _source_of(self, drawn: Drawn) -> sr.SourceImageForRegion:
        image = self.evidence.image_of(drawn.slice_index)
        frame_number = self.evidence.frames[drawn.slice_index].frame_number
        frames = None if frame_number is None else [frame_number]
        return sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, frames)

    def _numbers(self, finding: Finding) -> dict[str, Any]:
        """Measurements and qualitative evaluations of a finding, with its likelihood and what that is one of."""
        likelihood = finding.likelihood
        measurements = [_measurement(item) for item in finding.measurements]
        if likelihood is not None:
            measurements.append(_measurement(_likelihood(likelihood)))
        evaluations = [
            sr.QualitativeEvaluation(codes.check(each.concept), codes.check(each.value)) for each in finding.qualifiers
        ]
        if finding.laterality and finding.finding_site is None:  # which it modifies where there is one
            evaluations.append(sr.QualitativeEvaluation(codes.LATERALITY, codes.check(finding.laterality)))
        if finding.presence is not Presence.PRESENT or likelihood is not None:
            evaluations.insert(0, sr.QualitativeEvaluation(codes.PRESENCE, PRESENCES[finding.presence]))
        return {"measurements": measurements, "qualitative_evaluations": evaluations or None}

    def _common(self, finding: Finding, shown: str | None = None, own_uid: str | None = None) -> dict[str, Any]:
        """Content items that all groups of a finding share."""
        site = finding.finding_site
        parameters: tuple[tuple[str, str], ...] = ()
        if finding.likelihood is not None and finding.likelihood.operating_point is not None:
            parameters = (("operating point", f"{100 * finding.likelihood.operating_point:.6g} %"),)
        return {
            "tracking_identifier": self._tracking(
                own_uid or finding.tracking_identifier, shown or finding.tracking_identifier
            ),
            "finding_type": codes.check(finding.finding),
            "finding_sites": [sr.FindingSite(codes.check(site), _checked(finding.laterality))] if site else None,
            "algorithm_id": provenance.algorithm_identification(self.result, parameters),
        }

    def _shown(self, finding: Finding) -> str:
        """Tracking Identifier of a finding without a place."""
        is_absent = finding.segment_number is not None and finding.segment_number not in self.numbering.segment_numbers
        if is_absent and finding.presence is Presence.PRESENT:
            return f"{finding.tracking_identifier}: no voxel found"
        shown = finding.tracking_identifier
        if finding.presence is not Presence.PRESENT:
            shown += f": {finding.presence.value}"
        if finding.likelihood is not None:
            shown += f", {finding.likelihood.meaning.meaning}"
        return shown

    def _tracking(self, identifier: str, shown: str | None = None) -> sr.TrackingIdentifier:
        return sr.TrackingIdentifier(uid=tracking_uid(self.result, identifier), identifier=shown or identifier)

    def _images(self, wanted: Sequence[str]) -> list[sr.SourceImageForMeasurementGroup]:
        """The images that a finding without a place is about: those it names, else all if they are few."""
        images = [image for image in self.evidence.images if image.SOPInstanceUID in wanted]
        if len(images) < len(set(wanted)):
            raise InvalidResult("a finding names images that are none of the source images")
        if not images:
            few = not self.evidence.in_space and len(self.evidence.images) <= MOST_IMAGES
            images = list(self.evidence.images) if few else [self.evidence.images[len(self.evidence.images) // 2]]
        return [sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in images]


def _has_more_to_say(finding: Finding) -> bool:
    """Whether a finding says more than that it is there, and where."""
    return bool(
        finding.measurements
        or finding.likelihood
        or finding.qualifiers
        or finding.presence is not Presence.PRESENT
        or (finding.laterality and finding.finding_site is None)
    )


def _checked(code: Code | None) -> Code | None:
    return codes.check(code) if code else None


def _likelihood(likelihood: Likelihood) -> Measurement:
    """A score between 0 and 1 as a percentage of what it is a score of."""
    if not 0 <= likelihood.value <= 1:
        raise InvalidResult(f"a likelihood of {likelihood.value}, expected 0 to 1")
    return Measurement(likelihood.meaning, 100 * likelihood.value, codes.PERCENT)


def _measurement(measurement: Measurement, coordinates: sr.CoordinatesForMeasurement | None = None) -> sr.Measurement:
    """TID 300; the value keeps the ten digits that a decimal string surely holds (PS3.5 6.2, DS)."""
    if not np.isfinite(measurement.value):
        raise InvalidResult(f"measurement {measurement.concept.value}: {measurement.value} is no number")
    return sr.Measurement(
        name=codes.check(measurement.concept),
        value=float(f"{measurement.value:.9g}"),
        unit=codes.check(measurement.unit),
        derivation=_checked(measurement.derivation),
        method=_checked(measurement.method),
        referenced_coordinates=None if coordinates is None else [coordinates],
    )
