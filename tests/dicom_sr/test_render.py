"""Rendering: order, repeatability, time."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta, timezone
from io import BytesIO
from itertools import compress
from pathlib import Path

import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from pydicom import dcmread

from dicom_sr import codes
from dicom_sr.profile import DestinationProfile, Role
from dicom_sr.render import render
from tests.dicom_sr.digests import DRAWN, RECORD, digests, libraries

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


def test_characters_of_a_profile_are_declared(result, sources):
    """A site's own titles, in its own language."""
    title = codes.concept("126001", "DCM", "Onkologischer Größenbericht")
    (_, report) = render(result, sources, DestinationProfile("german", title_with_place=title))
    read = dcmread(BytesIO(report.to_bytes()))
    assert read.SpecificCharacterSet == "ISO_IR 192"
    assert read.ConceptNameCodeSequence[0].CodeMeaning == title.meaning


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


@pytest.fixture(scope="module")
def written_here() -> list[str]:
    """Digests of every object, as this process writes them."""
    return list(digests())


def test_another_process_on_another_processor_gives_the_same_bytes(tmp_path, written_here):
    """Hash seed, time zone, language, home and folder are others, and numerical libraries are told of a processor that
    knows less; what is rendered is every object that there is.
    """
    there = os.environ | {
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "HOME": str(tmp_path),
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": " ".join(_beyond_the_least()),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.dicom_sr.digests"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=there)
    assert ran.stdout.splitlines() == [libraries(), *written_here]


def _beyond_the_least() -> list[str]:
    """What numpy uses of this processor and could do without."""
    return [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]


def test_bytes_are_those_that_another_machine_wrote(written_here):
    """If a change of what is written is meant: `python -m tests.dicom_sr.digests --write`."""
    drawn_with, *recorded = RECORD.read_text().splitlines()
    alike = [drawn_with == libraries() or not _is_drawn(line) for line in recorded]
    assert sum(alike) >= len(recorded) - 10 and len(written_here) == len(recorded)
    assert list(compress(written_here, alike)) == list(compress(recorded, alike))


def _is_drawn(line: str) -> bool:
    return line.split()[0].endswith(DRAWN)
