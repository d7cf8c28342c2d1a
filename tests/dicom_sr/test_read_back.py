"""What was rendered, read again: the same findings, measurements, places and tracking as in the Result."""

import os
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr import codes, content_tree
from dicom_sr.conformance import check, count_voxels
from dicom_sr.findings import Finding, Likelihood, Measurement, PlanarRegion, PlanarShape, Presence, Qualifier, Result
from dicom_sr.identity import tracking_uid
from dicom_sr.measurement_groups import PRESENCES
from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.dicom_sr.cases import CASES, CERTAINTY, MARGIN, NODULE, SPICULATED, Case, chest_boxes
from tests.dicom_sr.radiographs import SHAPE

UNITS = (codes.MILLIMETER, codes.SQUARE_MILLIMETER, codes.MILLILITER, codes.PERCENT, codes.NO_UNITS)


def read_again(case: Case, profile_name: str) -> list[Dataset]:
    """Everything that a destination gets, from bytes."""
    rendered = render(case.result, case.sources, named_profile(profile_name))
    return [dcmread(BytesIO(each.to_bytes())) for each in rendered]


def groups_of(objects: list[Dataset], result: Result, finding: Finding) -> list[Dataset]:
    """The measurement groups of a finding over all reports."""
    uid = tracking_uid(result, finding.tracking_identifier)
    reports = [item for item in objects if item.Modality == "SR"]
    return [
        group
        for report in reports
        for group in content_tree.measurement_groups(report)
        if content_tree.tracking_uid_of(group) == uid
    ]


def numbers_of(groups: list[Dataset]) -> list[tuple[str, float, str]]:
    return [
        (content_tree.concept_value(item), *content_tree.number_of(item))
        for group in groups
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    ]


def coded(groups: list[Dataset], name: str) -> set[str]:
    items = [item for group in groups for item in content_tree.children_named(group, name)]
    return {str(item.ConceptCodeSequence[0].CodeValue) for item in items}


def assert_told(objects: list[Dataset], result: Result, finding: Finding) -> None:
    """The groups of a finding say all that it says."""
    groups = groups_of(objects, result, finding)
    assert groups, finding.tracking_identifier
    assert coded(groups, "121071") == {finding.finding.value}
    assert coded(groups, "363698007") == ({finding.finding_site.value} if finding.finding_site else set())
    items = [item for group in groups for item in content_tree.walk(group)]
    sides = {item.ConceptCodeSequence[0].CodeValue for item in items if content_tree.concept_value(item) == "272741003"}
    assert sides == ({finding.laterality.value} if finding.laterality else set())
    numbers = numbers_of(groups)
    for measurement in finding.measurements:
        wanted = (measurement.concept.value, pytest.approx(measurement.value, rel=1e-8), measurement.unit.value)
        assert wanted in numbers
    if finding.likelihood is not None:
        percent = pytest.approx(100 * finding.likelihood.value, rel=1e-8)
        assert (finding.likelihood.meaning.value, percent, "%") in numbers
        assert coded(groups, codes.PRESENCE.value) == {PRESENCES[finding.presence].value}
    for qualifier in finding.qualifiers:
        assert qualifier.value.value in coded(groups, qualifier.concept.value)
    drawn = [item for group in groups for item in content_tree.walk(group) if item.ValueType == "SCOORD"]
    for region in finding.regions[:1]:
        if isinstance(region, PlanarRegion):
            assert list(drawn[0].GraphicData) == pytest.approx([value for point in region.points for value in point])
            reference = drawn[0].ContentSequence[0].ReferencedSOPSequence[0]
            assert reference.ReferencedSOPInstanceUID == region.sop_instance_uid


@pytest.mark.parametrize("profile_name", ["conservative", "ohif"])
@pytest.mark.parametrize("case_name", ["lung mask", "chest boxes", "mammography", "overlap", "follow-up", "in space"])
def test_reports_say_what_the_result_says(case_name, profile_name):
    case = CASES[case_name]()
    objects = read_again(case, profile_name)
    for finding in case.result.findings:
        assert_told(objects, case.result, finding)


@pytest.mark.parametrize("profile_name", ["conservative", "labelmap"])
@pytest.mark.parametrize("case_name", ["17 labels", "overlap"])
def test_segmentations_hold_the_voxels_and_the_tracking_of_the_result(case_name, profile_name):
    case = CASES[case_name]()
    found = {}
    for item in read_again(case, profile_name):
        if item.Modality == "SEG":
            counts = count_voxels(item)
            found |= {s.TrackingUID: counts[int(s.SegmentNumber)] for s in item.SegmentSequence if "TrackingUID" in s}
    assert found == {
        tracking_uid(case.result, finding.tracking_identifier): sum(
            int(np.count_nonzero(labels == finding.segment_number)) for labels in case.result.label_maps
        )
        for finding in case.result.findings
    }


findings = st.builds(
    Finding,
    finding=st.just(NODULE),
    tracking_identifier=st.just(""),
    finding_site=st.sampled_from([None, codes.LUNG]),
    laterality=st.sampled_from([None, codes.LEFT]),
    presence=st.sampled_from(Presence),
    likelihood=st.none() | st.builds(Likelihood, st.floats(0, 1), st.just(CERTAINTY), st.none() | st.floats(0, 1)),
    qualifiers=st.sampled_from([(), (Qualifier(MARGIN, SPICULATED),)]),
    measurements=st.lists(
        st.builds(
            Measurement,
            st.just(codes.LENGTH),
            st.floats(1e-6, 1e9, allow_nan=False).map(lambda value: float(f"{value:.9g}")),
            st.sampled_from(UNITS),
        ),
        max_size=2,
    ).map(tuple),
    regions=st.lists(
        st.lists(
            st.tuples(st.integers(0, SHAPE[1]).map(float), st.integers(0, SHAPE[0]).map(float)), min_size=3, max_size=9
        ).map(lambda points: PlanarRegion("1.2.5.1", PlanarShape.POLYLINE, (*points, points[0]))),
        max_size=2,
    ).map(tuple),
)


@settings(max_examples=200 if os.environ.get("OVERREAD_SOAK") else 10, deadline=None)
@given(drawn=st.lists(findings, max_size=4), profile_name=st.sampled_from(["conservative", "ohif", "legacy", "weasis"]))
def test_any_findings_on_a_radiograph_come_back_and_pass_the_gate(drawn, profile_name):
    case = chest_boxes()
    named = tuple(replace(finding, tracking_identifier=f"Finding {n}") for n, finding in enumerate(drawn))
    case = Case(replace(case.result, findings=named), case.sources)
    objects = read_again(case, profile_name)
    assert check(objects, case.sources, result=case.result, profile=named_profile(profile_name)) == []
    for finding in named:
        assert_told(objects, case.result, finding)
