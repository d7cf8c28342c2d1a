"""The report that says why a study was not analysed."""

from dataclasses import replace

import pytest

from dicom_sr import content_tree
from dicom_sr.archive import load_result, save_result
from dicom_sr.conformance import check
from dicom_sr.errors import InvalidResult
from dicom_sr.findings import Refusal, SourceImage
from dicom_sr.not_analysed import MOST_IMAGES, encode_not_analysed
from dicom_sr.profile import Role
from dicom_sr.profile_files import named_profile, shipped_names
from dicom_sr.render import render
from tests.dicom_sr.counterparts import assert_clean

REFUSAL = Refusal("gap-in-stack", "12 slices are missing between slice 30 and 43")


@pytest.fixture
def refused(result):
    return replace(result, findings=(), segments=(), labels=None, not_analysed=REFUSAL)


def test_every_profile_gets_the_statement_and_nothing_else(refused, sources):
    for name in shipped_names():
        (rendered,) = render(refused, sources, named_profile(name))
        assert rendered.role is Role.NOT_ANALYSED
        assert check([rendered.dataset], sources) == []


def test_it_says_who_did_not_analyse_and_why(refused, sources):
    report = encode_not_analysed(refused, sources[5:6])
    (group,) = content_tree.measurement_groups(report)
    assert content_tree.tracking_identifier_of(group) == f"Not analysed by Brain and ventricles: {REFUSAL.text}"
    coded = [item.ConceptCodeSequence[0].CodeValue for item in group.ContentSequence if item.ValueType == "CODE"]
    assert {"not-analysed", "111245", "gap-in-stack"} <= set(coded)
    assert "111241" not in coded, "silence is not the same as nothing found"
    assert report.ConceptNameCodeSequence[0].CodeValue != "126000"
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    evidence = {item.ReferencedSOPInstanceUID for each in series for item in each.ReferencedSOPSequence}
    assert evidence == {source.SOPInstanceUID for source in sources}


def test_images_of_several_series_and_very_many_of_them(refused, sources):
    images = tuple(SourceImage(str(sources[0].SOPClassUID), f"1.2.8.{n}", f"1.2.7.{n % 3}") for n in range(500))
    report = encode_not_analysed(replace(refused, source_images=(*refused.source_images[:1], *images)), sources)
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(series) == 4
    assert sum(len(each.ReferencedSOPSequence) for each in series) == MOST_IMAGES


def test_result_with_findings_cannot_say_it(result, sources):
    with pytest.raises(InvalidResult, match="not analysed"):
        encode_not_analysed(replace(result, not_analysed=REFUSAL), sources)


def test_it_is_kept_and_read_back(refused, sources, tmp_path):
    save_result(refused, tmp_path)
    assert load_result(tmp_path).not_analysed == REFUSAL
    first, second = (render(load_result(tmp_path), sources)[0].to_bytes() for _ in range(2))
    assert first == second


@pytest.mark.counterpart("dicom3tools", "dcmtk")
@pytest.mark.parametrize("profile", ["conservative", "legacy"])
def test_validators_have_nothing_to_say(refused, sources, profile, tmp_path):
    assert_clean(encode_not_analysed(refused, sources, named_profile(profile)), tmp_path)
