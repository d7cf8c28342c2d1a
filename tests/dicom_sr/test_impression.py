"""The draft impression: what it says of which finding."""

from dataclasses import replace
from datetime import date

import pytest

from dicom_sr import codes, content_tree
from dicom_sr.findings import Finding, Likelihood, Measurement, Presence, PriorValue
from dicom_sr.impression import comparison, draft_impression, english_phrases, likelihood_words, sentence
from dicom_sr.profile import CONSERVATIVE, Role
from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.dicom_sr.cases import CERTAINTY, DIAMETER, NODULE, PNEUMOTHORAX, follow_up, in_space

NODULE_1 = Finding(NODULE, "Nodule 1", None, codes.LUNG, codes.RIGHT, (Measurement(DIAMETER, 9.46, codes.MILLIMETER),))


@pytest.mark.parametrize(
    "finding, said",
    [
        (NODULE_1, "Nodule in the right lung, diameter 9.46 mm."),
        (replace(NODULE_1, likelihood=Likelihood(0.62, CERTAINTY)),
         "Nodule in the right lung, diameter 9.46 mm, likely, certainty of finding 62 %."),
        (replace(NODULE_1, critical=True, measurements=()), "Nodule in the right lung. To be told at once."),
        (Finding(PNEUMOTHORAX, "x", None, presence=Presence.ABSENT), "No sign of pneumothorax."),
        (Finding(NODULE, "x", None, codes.LUNG, presence=Presence.ABSENT, likelihood=Likelihood(0.02, CERTAINTY)),
         "No nodule in the lung found (very unlikely, certainty of finding 2 %)."),
        (Finding(PNEUMOTHORAX, "x", laterality=codes.LEFT, likelihood=Likelihood(0.97, CERTAINTY)),
         "Pneumothorax (left), almost certain, certainty of finding 97 %."),
        (Finding(NODULE, "x", laterality=codes.LEFT, presence=Presence.ABSENT), "No nodule (left) found."),
        (Finding(NODULE, "x", presence=Presence.INDETERMINATE), "Nodule: not certain whether it is there."),
    ],
)  # fmt: skip
def test_sentences(result, finding, said):
    assert sentence(finding, result) == said


def test_a_structure_is_told_by_its_numbers(result):
    ventricle = result.findings[2]
    assert sentence(ventricle, result).startswith("Brain ventricle (left): volume 0.")


@pytest.mark.parametrize(
    "before, now, said",
    [
        (10.0, 12.5, "volume larger than on 2023-11-02 (10 ml, +25 %)"),
        (10.0, 5.0, "volume smaller than on 2023-11-02 (10 ml, -50 %)"),
        (10.0, 10.2, "unchanged volume since 2023-11-02"),
        (0.0, 2.0, "volume larger than on 2023-11-02 (0 ml, +2 ml)"),
        (0.0, 0.0, "unchanged volume since 2023-11-02"),
    ],
)
def test_comparison_with_an_earlier_study(before, now, said):
    prior = PriorValue(before, date(2023, 11, 2), "1.2.9")
    assert comparison(Measurement(codes.VOLUME, now, codes.MILLILITER, prior=prior)) == said


def test_every_likelihood_has_words():
    words = {likelihood_words(Likelihood(percent / 100, CERTAINTY)).split(",")[0] for percent in range(101)}
    assert words == {band["words"] for band in english_phrases()["likelihood"]}


def test_the_draft_says_that_it_is_one_and_critical_findings_come_first():
    case = in_space()
    findings = (*case.result.findings[1:], case.result.findings[0])
    lines = draft_impression(replace(case.result, findings=findings)).splitlines()
    assert lines[0].startswith("DRAFT, made from the findings of")
    assert lines[1].endswith("To be told at once.")
    assert len(lines) == 1 + len(findings)
    assert draft_impression(replace(case.result, findings=())).endswith("The algorithm reports no finding.")


def test_it_stands_in_the_report_apart_from_what_the_model_wrote():
    case = in_space()
    (report,) = (each.dataset for each in render(case.result, case.sources, named_profile("ohif")))
    (impression,) = [item for item in content_tree.walk(report) if content_tree.concept_value(item) == "121073"]
    assert impression.TextValue == draft_impression(case.result)
    assert case.result.text not in impression.TextValue
    comments = [item.TextValue for item in content_tree.walk(report) if content_tree.concept_value(item) == "121106"]
    assert f"Text written by the algorithm Brain and ventricles 1.2.0: {case.result.text}" in comments
    (usual,) = (each.dataset for each in render(case.result, case.sources, CONSERVATIVE))
    assert not [item for item in content_tree.walk(usual) if content_tree.concept_value(item) == "121073"]


def test_follow_up_is_told():
    case = follow_up()
    assert "volume smaller than on 2023-11-02" in draft_impression(case.result)
    report = next(each.dataset for each in render(case.result, case.sources) if each.role is Role.REPORT_WITHOUT_PLACE)
    shown = [content_tree.tracking_identifier_of(group) for group in content_tree.measurement_groups(report)]
    assert shown == ["Right lung, earlier study of 2023-11-02"]
