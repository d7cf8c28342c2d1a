"""The measurement groups of a finding (TID 1411, 1410, 1501), in the forms that viewers open.

OHIF merges the groups of one Tracking Unique Identifier, takes a group with a rectangle and a number for something that
it then cannot read, and under the title 126000 opens nothing without coordinates. So a finding with a place is written
as its place, and as its numbers, in two groups under one Tracking Unique Identifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr import content_items as items
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence
from dicom_sr.findings import Finding, Likelihood, Measurement, PlanarShape, Presence, Result, SpatialRegion
from dicom_sr.identity import tracking_uid
from dicom_sr.measurement_items import measurement_item
from dicom_sr.outline import outline_points
from dicom_sr.profile import DestinationProfile, ReportClass
from dicom_sr.regions import Drawn, draw, region_in_space
from dicom_sr.report_document import algorithm_items
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

VOLUMETRIC, PLANAR, WHOLE_IMAGE = "1411", "1410", "1501"
"""Templates of measurement groups."""

MEASUREMENT_GROUP = codes.concept("125007", "DCM", "Measurement Group")
TRACKING_IDENTIFIER = codes.concept("112039", "DCM", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = codes.concept("112040", "DCM", "Tracking Unique Identifier")
FINDING = codes.concept("121071", "DCM", "Finding")
FINDING_SITE = codes.concept("363698007", "SCT", "Finding Site")
TIME_POINT = codes.concept("C2348792", "UMLS", "Time Point")
TIME_POINT_ORDER = codes.concept("126073", "DCM", "Time Point Order")
IMAGE_REGION = codes.concept("111030", "DCM", "Image Region")
REFERENCED_SEGMENT = codes.concept("121191", "DCM", "Referenced Segment")
SOURCE_SERIES = codes.concept("121232", "DCM", "Source Series for Segmentation")
SOURCE_OF_MEASUREMENT = codes.concept("121112", "DCM", "Source of Measurement")

Group = bytes
"""A measurement group as a content item."""


@dataclass(frozen=True)
class Common:
    """What all groups of a finding share.

    Parameters
    ----------
    tracking_unique_identifier, tracking_identifier : str
    content : bytes
        Finding, finding site and algorithm.
    """

    tracking_unique_identifier: str
    tracking_identifier: str
    content: bytes

    def group(self, template: str, *content: bytes) -> Group:
        """A measurement group with this content behind what is shared."""
        tracking = (
            items.text(items.CONTEXT, TRACKING_IDENTIFIER, self.tracking_identifier),
            items.uid(items.CONTEXT, TRACKING_UNIQUE_IDENTIFIER, self.tracking_unique_identifier),
        )
        children = [*tracking, self.content, *content]
        return items.container(items.CONTAINS, MEASUREMENT_GROUP, children, template=template)


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
            outline = self._planar(self._common(finding), self._outline(finding))
            return [numbers, outline, *self._regions(finding)]
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
                measurement_item(Measurement(m.concept, m.prior.value, m.unit, m.derivation, m.method))
                for m in finding.measurements
                if m.prior is not None and m.prior.study_date == study_date
            ]
            time_point = (
                items.text(items.CONTEXT, TIME_POINT, study_date.isoformat()),
                items.number(items.CONTEXT, TIME_POINT_ORDER, order, codes.NO_UNITS),
            )
            groups.append(self._common(finding, shown).group(WHOLE_IMAGE, *time_point, *before))
        return groups

    def nothing_found(self) -> Group:
        """TID 1501 group of a result without any finding: silence is not the same as nothing found."""
        identifier = "AI result: without findings"
        common = Common(tracking_uid(self.result, identifier), identifier, algorithm_items(self.result))
        said = items.code(items.CONTAINS, codes.PROCESSING_SUMMARY, codes.SUCCEEDED_WITHOUT_FINDINGS)
        return common.group(WHOLE_IMAGE, said, *self._images(()))

    def whole_image(self, finding: Finding, *, with_images: bool = True) -> Group:
        """TID 1501: what a finding says besides its place; without one its tracking identifier says what it is about,
        since viewers leave concept names out.
        """
        common = self._common(finding, self._shown(finding) if with_images else None)
        images = self._images(finding.images) if with_images else []
        return common.group(WHOLE_IMAGE, *_numbers(finding), *_answers(finding), *images)

    def _volumetric(self, finding: Finding) -> Group:
        """TID 1411: the segment and every measurement of the finding."""
        assert finding.segment_number is not None
        place = self.numbering.place_of[finding.segment_number]
        segmentation = self.segmentations[place.object_index]
        segment = items.image(
            items.CONTAINS,
            REFERENCED_SEGMENT,
            str(segmentation.SOPClassUID),
            str(segmentation.SOPInstanceUID),
            segment_number=place.segment_number,
        )
        series = items.uid(items.CONTAINS, SOURCE_SERIES, self.result.series_instance_uid)
        return self._common(finding).group(VOLUMETRIC, *_numbers(finding), *_answers(finding), segment, series)

    def _regions(self, finding: Finding) -> list[Group]:
        """The places that a finding brings along. The first has the finding's Tracking Unique Identifier; viewers show
        one place for each, so that further ones have their own.
        """
        groups: list[Group] = []
        for number, region in enumerate(finding.regions, 1):
            drawn = draw(region, self.evidence)
            if drawn.shape is PlanarShape.MULTIPOINT:
                raise InvalidResult("a MULTIPOINT, which is no image region of TID 1410: expected a POINT for each")
            shown = None if number == 1 else f"{finding.tracking_identifier}, region {number}"
            common = self._common(finding, shown, own_uid=shown)
            groups.append(self._planar(common, drawn))
            if isinstance(region, SpatialRegion) and self.profile.report_class is ReportClass.COMPREHENSIVE_3D:
                in_space = region_in_space(region)
                if in_space is not None:
                    shape, points = in_space
                    frame = region.frame_of_reference_uid
                    coordinates = items.coordinates_in_space(items.CONTAINS, IMAGE_REGION, shape.value, points, frame)
                    groups.append(common.group(PLANAR, coordinates))
        return groups

    def _planar(self, common: Common, drawn: Drawn) -> Group:
        """One place: TID 1410, with its own area if it is an outline; a line as the number that it is (TID 320)."""
        spacing_mm = self._spacing_of(drawn.slice_index)
        if drawn.is_path:
            return self._path(drawn, spacing_mm, common)
        area = drawn.area_mm2(spacing_mm) if drawn.is_outline and spacing_mm is not None else None
        if area is not None and self.profile.native_annotations:
            return self._path(drawn, spacing_mm, replace(common, tracking_identifier=NATIVE_OUTLINE))
        measured = [] if area is None else [measurement_item(Measurement(codes.AREA, area, codes.SQUARE_MILLIMETER))]
        return common.group(PLANAR, *measured, self._coordinates(items.CONTAINS, IMAGE_REGION, drawn))

    def _path(self, drawn: Drawn, spacing_mm: tuple[float, float] | None, common: Common) -> Group:
        """TID 1501 with one number that has coordinates of its own (TID 320)."""
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
        measured_on = self._coordinates(items.INFERRED, codes.SOURCE, drawn)
        return common.group(WHOLE_IMAGE, measurement_item(number, measured_on))

    def _coordinates(self, relationship: str, name: Code, drawn: Drawn) -> bytes:
        image = self.evidence.image_of(drawn.slice_index)
        selected_from = items.image(
            items.SELECTED,
            codes.SOURCE,
            str(image.SOPClassUID),
            str(image.SOPInstanceUID),
            frame_number=self.evidence.frames[drawn.slice_index].frame_number,
        )
        return items.coordinates(relationship, name, drawn.shape.value, drawn.points, selected_from)

    def _outline(self, finding: Finding) -> Drawn:
        """The outline of a segment in the slice where it is largest."""
        assert finding.segment_number is not None
        place = self.numbering.place_of[finding.segment_number]
        mask = self.result.label_maps[place.label_map][place.largest_slice] == finding.segment_number
        return Drawn(place.largest_slice, PlanarShape.POLYLINE, outline_points(mask))

    def _spacing_of(self, slice_index: int) -> tuple[float, float] | None:
        """(row, column) spacing of a slice in mm, None where its image does not say it."""
        if self.evidence.in_space:
            assert self.evidence.spacing_mm is not None
            return self.evidence.spacing_mm[1:]
        uid = self.evidence.image_of(slice_index).SOPInstanceUID
        header = next(each for each in self.headers if each.SOPInstanceUID == uid)
        found = pixel_spacing_mm(header, self.evidence.frames[slice_index].frame_number)
        return found if found and min(found) > 0 else None

    def _common(self, finding: Finding, shown: str | None = None, own_uid: str | None = None) -> Common:
        """Content items that all groups of a finding share."""
        parameters: tuple[tuple[str, str], ...] = ()
        if finding.likelihood is not None and finding.likelihood.operating_point is not None:
            parameters = (("operating point", f"{100 * finding.likelihood.operating_point:.6g} %"),)
        content = [items.code(items.CONTAINS, FINDING, codes.check(finding.finding))]
        if finding.finding_site is not None:
            side = finding.laterality
            sides = [items.code(items.MODIFIER, codes.LATERALITY, codes.check(side))] if side else []
            content.append(items.code(items.MODIFIER, FINDING_SITE, codes.check(finding.finding_site), sides))
        return Common(
            tracking_uid(self.result, own_uid or finding.tracking_identifier),
            shown or finding.tracking_identifier,
            b"".join([*content, algorithm_items(self.result, parameters)]),
        )

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

    def _images(self, wanted: Sequence[str]) -> list[bytes]:
        """The images that a finding without a place is about: those it names, else all if they are few."""
        images = [image for image in self.evidence.images if image.SOPInstanceUID in wanted]
        if len(images) < len(set(wanted)):
            raise InvalidResult("a finding names images that are none of the source images")
        if not images:
            few = not self.evidence.in_space and len(self.evidence.images) <= MOST_IMAGES
            images = list(self.evidence.images) if few else [self.evidence.images[len(self.evidence.images) // 2]]
        return [
            items.image(items.CONTAINS, SOURCE_OF_MEASUREMENT, str(image.SOPClassUID), str(image.SOPInstanceUID))
            for image in images
        ]


def _has_more_to_say(finding: Finding) -> bool:
    """Whether a finding says more than that it is there, and where."""
    return bool(
        finding.measurements
        or finding.likelihood
        or finding.qualifiers
        or finding.presence is not Presence.PRESENT
        or (finding.laterality and finding.finding_site is None)
    )


def _numbers(finding: Finding) -> list[bytes]:
    """Measurements of a finding, and its likelihood under what that is one of."""
    measurements = [measurement_item(each) for each in finding.measurements]
    return [*measurements, *([measurement_item(_likelihood(finding.likelihood))] if finding.likelihood else [])]


def _answers(finding: Finding) -> list[bytes]:
    """Qualitative evaluations: presence where it is not a matter of course, qualifiers, and a side without a site."""
    said = [(codes.check(each.concept), codes.check(each.value)) for each in finding.qualifiers]
    if finding.laterality and finding.finding_site is None:  # which it modifies where there is one
        said.append((codes.LATERALITY, codes.check(finding.laterality)))
    if finding.presence is not Presence.PRESENT or finding.likelihood is not None:
        said.insert(0, (codes.PRESENCE, PRESENCES[finding.presence]))
    return [items.code(items.CONTAINS, name, value) for name, value in said]


def _likelihood(likelihood: Likelihood) -> Measurement:
    """A score between 0 and 1 as a percentage of what it is a score of."""
    if not 0 <= likelihood.value <= 1:
        raise InvalidResult(f"a likelihood of {likelihood.value}, expected 0 to 1")
    return Measurement(likelihood.meaning, 100 * likelihood.value, codes.PERCENT)
