"""The page for people: what stands on it, and that it is the same each time."""

from dataclasses import replace

import pytest

from dicom_sr.conformance import check
from dicom_sr.content_tree import walk
from dicom_sr.displayed import displayed_frame
from dicom_sr.encapsulated_pdf import encode_document
from dicom_sr.findings import Likelihood
from dicom_sr.measurement_report import encode_measurement_report
from dicom_sr.profile import CONSERVATIVE, Role
from dicom_sr.render import render
from dicom_sr.secondary_capture import encode_secondary_capture
from tests.dicom_sr.cases import CASES, CERTAINTY, chest_boxes, follow_up
from tests.dicom_sr.counterparts import assert_clean
from tests.dicom_sr.radiographs import radiograph


def text_of(document) -> str:
    """Everything written on the page: strings of the uncompressed content stream."""
    return document.EncapsulatedDocument.decode("latin-1").replace("\\(", "(").replace("\\)", ")")


def test_patient_findings_and_model_stand_on_one_page():
    case = chest_boxes()
    document = encode_document(case.result, case.sources)
    page = text_of(document)
    assert page.startswith("%PDF-") and page.count("/Type /Page\n") == 1
    for words in ("Phantom, Ray", "PH-2", "1960-01-02", "ACC-2", "Nodule 1", "diameter 9.5 mm", "not found",
                  "Not for clinical use.", "not verified", "brain-ventricles", "0123456789ab", "DRAFT"):  # fmt: skip
        assert words in page, words
    assert page.count("/Subtype /Image") == 1
    assert document.DocumentTitle == "AI result: Brain and ventricles 1.2.0"


def test_the_same_result_gives_the_same_bytes():
    case = follow_up()
    first, second = (encode_document(case.result, case.sources).EncapsulatedDocument for _ in range(2))
    assert first == second


def test_images_without_pixels_and_nothing_found():
    case = CASES["empty"]()
    for source in case.sources:
        del source.PixelData
    page = text_of(encode_document(case.result, case.sources))
    assert "The algorithm reports no finding." in page and "/Subtype /Image" not in page


def test_what_does_not_fit_is_counted():
    case = chest_boxes()
    findings = tuple(replace(case.result.findings[3], tracking_identifier=f"Finding {n}") for n in range(90))
    page = text_of(encode_document(replace(case.result, findings=findings), case.sources))
    assert "more in the structured report" in page and page.count("/Type /Page\n") == 1


@pytest.mark.parametrize("score, is_alarm", [(0.87, True), (0.4, False)])
def test_alarm_stands_at_the_top_of_the_page_and_in_the_report(score, is_alarm):
    """As notices do, it depends on the operating point."""
    case = chest_boxes()
    first, *others = case.result.findings
    first = replace(first, critical=True, likelihood=Likelihood(score, CERTAINTY, 0.5))
    result = replace(case.result, findings=(first, *others))
    said = "Critical finding, somebody is to be told at once: Nodule 1."
    assert ("Critical finding" in text_of(encode_document(result, case.sources))) == is_alarm
    report = encode_measurement_report(result, case.sources, ())
    comments = [str(item.TextValue) for item in walk(report) if item.ValueType == "TEXT"]
    assert (said in comments) == is_alarm
    captured, usual = (encode_secondary_capture(each, case.sources) for each in (result, case.result))
    assert (captured.Rows > usual.Rows) == is_alarm


def test_fonts_are_in_the_file():
    """Readers that have not got them would take others, which are wider or narrower."""
    case = chest_boxes()
    text = text_of(encode_document(case.result, case.sources))
    assert text.count("/FontFile2") == 2
    assert "+BitstreamVeraSans-Roman" in text and "+BitstreamVeraSans-Bold" in text


@pytest.mark.parametrize("name, shown", [("Люкceмбypг", "not printable"), ("", "Patient ID"), ("Grüß^Jörg", "<00F6>")])
def test_names_in_any_characters_or_none(name, shown):
    case = chest_boxes()
    case.sources[0].PatientName = name
    assert shown in text_of(encode_document(case.result, case.sources))


def test_monochrome1_is_turned_and_windows_hold():
    plain, turned = radiograph(), radiograph(PhotometricInterpretation="MONOCHROME1")
    assert (displayed_frame(plain) + displayed_frame(turned) >= 254).all()
    narrow = displayed_frame(radiograph(WindowCenter=3500, WindowWidth=100))
    assert {0, 255} <= set(narrow.ravel().tolist())
    broken = radiograph()
    broken.PixelData = b"\0\0"
    assert displayed_frame(broken) is None


def test_rendered_when_the_profile_asks(tmp_path):
    case = chest_boxes()
    profile = replace(CONSERVATIVE, name="page", roles=(Role.DOCUMENT,))
    assert profile.needs_pixels
    (rendered,) = render(case.result, case.sources, profile)
    assert check([rendered.dataset], case.sources, profile=profile) == []


@pytest.mark.counterpart("dicom3tools")
def test_dciodvfy_has_nothing_to_say(tmp_path):
    case = follow_up()
    assert_clean(encode_document(case.result, case.sources), tmp_path)
