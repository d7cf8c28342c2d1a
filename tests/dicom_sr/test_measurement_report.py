"""Reports, read back."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from highdicom import sr
from pydicom.dataset import Dataset

from dicom_sr import codes, content_tree
from dicom_sr.errors import InvalidResult
from dicom_sr.findings import Finding, Measurement, PlanarRegion, PlanarShape, Predecessor
from dicom_sr.identity import tracking_uid
from dicom_sr.measurement_report import encode_measurement_report
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, ReportClass, Role
from dicom_sr.render import render
from dicom_sr.segmentation import encode_segmentations
from tests.dicom_sr.cases import chest_boxes, mammography

PROBABILITY = Finding(
    finding=codes.concept("36118008", "SCT", "Pneumothorax"),
    tracking_identifier="Pneumothorax, AI probability",
    measurements=(Measurement(codes.concept("probability", "99OVERREAD", "Probability"), 87.0, codes.PERCENT),),
)


def read_report(result, sources, role=Role.REPORT, profile=CONSERVATIVE):
    """The report of a result, written and read again by highdicom."""
    rendered = next(item for item in render(result, sources, profile) if item.role is role)
    return sr.srread(BytesIO(rendered.to_bytes()))


def comments_of(report):
    return [item.TextValue for item in content_tree.walk(report) if content_tree.concept_value(item) == "121106"]


def test_two_groups_under_one_tracking_uid(result, sources):
    report = read_report(result, sources)
    volumetric = report.content.get_volumetric_roi_measurement_groups()
    planar = report.content.get_planar_roi_measurement_groups()
    expected = [tracking_uid(result, "Brain 1"), tracking_uid(result, "Left ventricle 1")]
    assert [group.tracking_uid for group in volumetric] == expected
    assert [group.tracking_uid for group in planar] == expected
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"


def test_measurements_come_back(result, sources):
    groups = read_report(result, sources).content.get_volumetric_roi_measurement_groups()
    ventricle = result.findings[2]
    found = [(m.name.value, m.value, m.unit.value) for m in groups[1].get_measurements()]
    assert found == [(m.concept.value, pytest.approx(m.value), m.unit.value) for m in ventricle.measurements]
    assert groups[1].finding_type == codes.BRAIN_VENTRICLE
    assert groups[1].finding_sites[0].laterality == codes.LEFT


def test_groups_refer_to_the_renumbered_segments(result, sources):
    (segmentation,) = encode_segmentations(result, sources)
    groups = read_report(result, sources).content.get_volumetric_roi_measurement_groups()
    references = [content_tree.referenced_segment(group[0]) for group in groups]
    assert references == [(segmentation.SOPInstanceUID, 1), (segmentation.SOPInstanceUID, 2)]


def test_outline_encloses_its_own_area_on_the_right_slice(result, sources):
    group = read_report(result, sources).content.get_planar_roi_measurement_groups()[1]
    points = np.array(group.roi.value)
    assert len(points) == 9, "a block of 4 x 4 pixels, which viewers must not take for a rectangle"
    assert points.min(axis=0).tolist() == [14, 12]
    assert points.max(axis=0).tolist() == [18, 16]
    (area,) = group.get_measurements()
    assert (area.name, area.value, area.unit) == (codes.AREA, 16 * 1.5 * 1.25, codes.SQUARE_MILLIMETER)
    image = group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert image in [sources[index].SOPInstanceUID for index in (5, 6, 7)]


def test_evidence_lists_every_image_and_the_segmentation(result, sources):
    report = read_report(result, sources)
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    uids = {item.ReferencedSOPInstanceUID for each in series for item in each.ReferencedSOPSequence}
    assert uids == {i.SOPInstanceUID for i in sources} | {encode_segmentations(result, sources)[0].SOPInstanceUID}


def test_flags_observer_and_algorithm(result, sources):
    report = read_report(result, sources)
    assert (report.PreliminaryFlag, report.VerificationFlag, report.CompletionFlag) == (
        "PRELIMINARY",
        "UNVERIFIED",
        "COMPLETE",
    )
    (observer,) = report.content.get_observer_contexts()
    assert observer.observer_identifying_attributes.name == "Brain and ventricles"
    texts = [item.TextValue for item in content_tree.walk(report) if content_tree.concept_value(item) == "111003"]
    assert texts == ["1.2.0"] * 4


def test_comments_name_what_is_missing_and_that_it_is_not_for_clinical_use(result, sources):
    comments = comments_of(read_report(result, sources))
    assert "Not for clinical use." in comments
    assert "No voxel found of: Lesion; it is not in the segmentation." in comments
    assert "Ran on the CPU." in comments
    cleared = replace(result, not_for_clinical_use=False)
    report = read_report(cleared, sources)
    assert "Not for clinical use." not in comments_of(report)
    assert "clinical" not in report.SeriesDescription


def test_empty_result_is_a_text_report_with_its_zeros(empty_result, sources):
    rendered = render(empty_result, sources)
    assert [item.role for item in rendered] == [Role.REPORT]
    report = read_report(empty_result, sources)
    assert report.ConceptNameCodeSequence[0].CodeValue != "126000"
    groups = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == [
        "Brain 1: no voxel found",
        "Lesion 1: no voxel found",
        "Left ventricle 1: no voxel found",
    ]
    assert groups[0].get_measurements(codes.VOLUME)[0].value == 0


@pytest.mark.parametrize("labels", [True, False])
def test_result_without_findings_says_so(empty_result, sources, labels):
    changed = replace(empty_result, findings=(), labels=empty_result.labels if labels else None)
    (group,) = read_report(changed, sources).content.get_image_measurement_groups()
    (evaluation,) = group.get_qualitative_evaluations(codes.PROCESSING_SUMMARY)
    assert evaluation.value.value == "111241"


def test_segments_without_findings_are_shown_with_their_outline(result, sources):
    report = read_report(replace(result, findings=()), sources)
    groups = report.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["Brain", "Left ventricle"]
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"


def test_findings_without_a_place_get_a_report_of_their_own(result, sources):
    mixed = replace(result, findings=(*result.findings, PROBABILITY))
    rendered = render(mixed, sources)
    assert [item.role for item in rendered] == [Role.SEGMENTATION, Role.REPORT, Role.REPORT_WITHOUT_PLACE]
    assert len({item.dataset.SeriesInstanceUID for item in rendered}) == 3
    assert len({item.dataset.SeriesNumber for item in rendered}) == 3
    report = read_report(mixed, sources, Role.REPORT_WITHOUT_PLACE)
    (group,) = report.content.get_image_measurement_groups()
    assert group.tracking_identifier == "Pneumothorax, AI probability"
    assert report.ConceptNameCodeSequence[0].CodeValue != "126000"


def test_predecessors(result, sources):
    earlier = (
        Predecessor("1.2.50", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.51"),
        Predecessor("1.2.50", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.52"),
        Predecessor("1.2.60", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.61"),
    )
    report = read_report(replace(result, revision=2, predecessors=earlier), sources)
    (study,) = report.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == result.study_instance_uid
    found = [
        (series.SeriesInstanceUID, item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert found == [("1.2.50", "1.2.51"), ("1.2.50", "1.2.52"), ("1.2.60", "1.2.61")]


@pytest.mark.parametrize("report_class", ReportClass)
def test_report_classes(result, sources, report_class):
    profile = DestinationProfile("other", report_class=report_class, image_library=False)
    report = read_report(result, sources, profile=profile)
    assert report.SOPInstanceUID != read_report(result, sources).SOPInstanceUID
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 2


def test_findings_that_contradict_the_result_are_refused(result, sources):
    (segmentation,) = encode_segmentations(result, sources)
    no_number = Measurement(codes.VOLUME, float("nan"), codes.MILLILITER)
    for findings, message in (
        ((replace(result.findings[0], segment_number=5),), "does not describe"),
        ((result.findings[0], result.findings[0]), "tracking identifier"),
        ((replace(result.findings[0], measurements=(no_number,)),), "nan"),
    ):
        with pytest.raises(InvalidResult, match=message):
            encode_measurement_report(replace(result, findings=findings), sources, [segmentation])


def test_report_without_the_segmentation_keeps_places_and_numbers(result, sources):
    profile = DestinationProfile("report only", roles=(Role.REPORT,))
    report = read_report(result, sources, profile=profile)
    numbers = report.content.get_image_measurement_groups()
    outlines = report.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in numbers] == ["Brain 1", "Left ventricle 1"]
    assert [group.tracking_uid for group in outlines] == [group.tracking_uid for group in numbers]
    assert numbers[0].get_measurements(codes.VOLUME)[0].value == pytest.approx(result.findings[0].measurements[0].value)


def test_library_says_side_view_and_orientation_of_projections():
    case = mammography()
    report = read_report(case.result, case.sources)
    images = [item for item in content_tree.walk(report) if item.ValueType == "IMAGE" and "ContentSequence" in item]
    said = [
        {
            content_tree.concept_value(child): child.get("TextValue") or child.ConceptCodeSequence[0].CodeValue
            for child in image.ContentSequence
        }
        for image in images
    ]
    sides, views = [each["111027"] for each in said], [each["111031"] for each in said]
    assert sides == [codes.RIGHT.value, codes.LEFT.value] * 2
    assert views == ["399162004"] * 2 + ["399368009"] * 2
    assert {(each["111044"], each["111043"]) for each in said} == {("P", "F")}


def test_library_says_no_more_than_the_images_do():
    case = chest_boxes()
    (image,) = case.sources
    image.ViewPosition, image.PatientOrientation = "ODD", ["L", ""]
    image.ViewCodeSequence = [Dataset()]
    report = read_report(case.result, case.sources)
    listed = next(item for item in content_tree.walk(report) if content_tree.concept_value(item) == "126200")
    (entry,) = [item for item in listed.ContentSequence if item.ValueType == "IMAGE"]
    assert [content_tree.concept_value(child) for child in entry.ContentSequence] == ["111044"]


def test_several_points_at_once_are_no_image_region(result, sources):
    """TID 1410 has none of graphic type MULTIPOINT, and readers refuse the whole report."""
    region = PlanarRegion(str(sources[3].SOPInstanceUID), PlanarShape.MULTIPOINT, ((1.0, 2.0), (3.0, 4.0)))
    spots = Finding(codes.LUNG, "Spots", regions=(region,))
    with pytest.raises(InvalidResult, match="MULTIPOINT"):
        encode_measurement_report(replace(result, labels=None, segments=(), findings=(spots,)), sources, ())
