"""Rendering: order, repeatability, time."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta, timezone
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_sr.profile import DestinationProfile, Role
from dicom_sr.render import render
from tests.dicom_sr.digests import digests

ROOT = Path(__file__).parents[2]


def test_segmentation_comes_before_the_report_that_refers_to_it(result, sources):
    assert [item.role for item in render(result, sources)] == [Role.SEGMENTATION, Role.REPORT]


def test_rendering_twice_gives_the_same_bytes(result, sources):
    first = [item.to_bytes() for item in render(result, sources)]
    assert [item.to_bytes() for item in render(result, sources)] == first


def test_every_time_is_that_of_the_result(result, sources):
    """So nothing depends on when or where it was rendered."""
    for rendered in render(result, sources):
        dataset = rendered.dataset
        for name in ("InstanceCreation", "Series", "Content"):
            assert str(dataset[f"{name}Date"].value) == "20260304"
            assert str(dataset[f"{name}Time"].value) == "050607.089000"
        times = [item.get("ContributionDateTime") for item in dataset.ContributingEquipmentSequence[1:]]
        assert {str(time) for time in times} == {"20260304050607.089000+0000"}


def test_time_is_told_on_the_clock_of_the_source(result, sources):
    for source in sources:
        source.TimezoneOffsetFromUTC = "-0330"
    for rendered in render(result, sources):
        assert rendered.dataset.TimezoneOffsetFromUTC == "-0330"
        assert str(rendered.dataset.ContentTime) == "013607.089000"


def test_without_a_source_clock_the_result_keeps_its_own(result, sources):
    local = replace(result, created_at=result.created_at.astimezone(timezone(timedelta(hours=2))))
    assert str(render(local, sources)[0].dataset.ContentTime) == "070607.089000"


def test_profiles_give_different_objects_of_the_same_findings(result, sources):
    default, other = render(result, sources), render(result, sources, DestinationProfile("other"))
    for one, two in zip(default, other, strict=True):
        assert one.dataset.SOPInstanceUID != two.dataset.SOPInstanceUID
    tracked = [item.dataset.SegmentSequence[0].TrackingUID for item in (default[0], other[0])]
    assert tracked[0] == tracked[1]


def test_only_wanted_roles_are_rendered(result, sources):
    profile = DestinationProfile("segmentation only", roles=(Role.SEGMENTATION,))
    assert [item.role for item in render(result, sources, profile)] == [Role.SEGMENTATION]


@pytest.mark.parametrize("report_only", [True, False])
def test_report_refers_only_to_what_is_delivered(result, sources, report_only):
    roles = (Role.REPORT,) if report_only else (Role.SEGMENTATION, Role.REPORT)
    rendered = render(result, sources, DestinationProfile("some", roles=roles))
    known = {item.dataset.SOPInstanceUID for item in rendered} | {source.SOPInstanceUID for source in sources}
    report = dcmread(BytesIO(rendered[-1].to_bytes()))
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for each in series for item in each.ReferencedSOPSequence} <= known


def test_another_process_in_another_place_gives_the_same_bytes(tmp_path):
    """Hash seed, time zone, language and folder are others; what is rendered is every object that there is."""
    there = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.dicom_sr.digests"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=there)
    assert ran.stdout.split() == digests()
