"""Mammography and Chest CAD SR: what they say, when they are not written, and what others say of them."""

from dataclasses import replace
from datetime import date

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from dicom_sr import chest_cad, content_tree, mammography_cad
from dicom_sr.chest_cad import encode_chest_cad
from dicom_sr.conformance import check
from dicom_sr.findings import Measurement, Predecessor, Presence, PriorValue, Qualifier
from dicom_sr.identity import tracking_uid
from dicom_sr.mammography_cad import BREAST_MASS, encode_mammography_cad
from dicom_sr.profile import CONSERVATIVE, Role
from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.dicom_sr.cases import CASES, Case, chest_boxes, lung_mask, mammography
from tests.dicom_sr.counterparts import assert_clean


def named(item, value):
    return [child for child in content_tree.walk(item) if content_tree.concept_value(child) == value]


def value_of(item) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)


def nodules() -> Case:
    """The radiograph with what Chest CAD has codes for: a nodule in a box, and no pneumothorax."""
    case = chest_boxes()
    nodule, _, _, pneumothorax = case.result.findings
    return Case(replace(case.result, findings=(nodule, pneumothorax)), case.sources)


def absent(case: Case) -> Case:
    """The same with nothing found of what was looked for."""
    findings = tuple(replace(each, presence=Presence.ABSENT, regions=()) for each in case.result.findings)
    return Case(replace(case.result, findings=findings), case.sources)


def test_mammography_says_each_view_the_lesion_over_views_and_the_breast():
    case = mammography()
    report = encode_mammography_cad(case.result, case.sources)
    singles = named(report, "111059")
    assert [value_of(item) for item in singles] == ["129793001", "129793001", "129769006", "129715009"]
    assert [value_of(item) for item in named(report, "111027")] == ["73056007", "80248007"] * 2
    assert [value_of(item) for item in named(report, "111031")] == ["399162004"] * 2 + ["399368009"] * 2
    (composite,) = named(report, "111015")
    assert value_of(composite) == BREAST_MASS.value
    paths = [child.ReferencedContentItemIdentifier for child in composite.ContentSequence if "ValueType" not in child]
    assert [content_tree.item_at(report, path) for path in paths] == singles[:2]
    assert value_of(named(singles[3], "129715009")[0]) == "129718006"
    assert content_tree.number_of(named(singles[0], "111047")[0]) == (pytest.approx(71), "%")
    assert content_tree.number_of(named(singles[2], "111012")[0]) == (pytest.approx(40), "%")


@pytest.mark.parametrize(("orientation", "said"), [(["P", "F"], ["P", "F"]), ("PF", []), (["P", ""], ["P"])])
def test_orientation_is_said_where_it_is_that_of_row_and_column(orientation, said):
    case = mammography()
    images = case.sources
    images[0].PatientOrientation = orientation
    for image in images[1:]:
        del image.PatientOrientation
    report = encode_mammography_cad(case.result, case.sources)
    found = [str(item.TextValue) for concept in ("111044", "111043") for item in named(report, concept)]
    assert found == said


def test_findings_and_their_tracking_come_back():
    for case, encode in ((mammography(), encode_mammography_cad), (nodules(), encode_chest_cad)):
        report = encode(case.result, case.sources)
        found = {
            (item.TextValue, uid.UID)
            for item, uid in zip(named(report, "112039"), named(report, "112040"), strict=True)
        }
        there = [each for each in case.result.findings if each.presence is not Presence.ABSENT]
        assert found == {(f.tracking_identifier, tracking_uid(case.result, f.tracking_identifier)) for f in there}


def test_coordinates_are_selected_from_the_image_that_they_lie_on():
    case = mammography()
    report = encode_mammography_cad(case.result, case.sources)
    wanted = [region for finding in case.result.findings for region in finding.regions]
    outlines = named(report, "111041")
    assert len(outlines) == len(wanted)
    for region, outline in zip(wanted, outlines, strict=True):
        image = content_tree.item_at(report, outline.ContentSequence[0].ReferencedContentItemIdentifier)
        assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == region.sop_instance_uid
        assert list(outline.GraphicData) == pytest.approx([value for point in region.points for value in point])


def test_chest_says_group_and_modifier_and_what_was_done():
    case = nodules()
    report = encode_chest_cad(case.result, case.sources)
    (single,) = named(report, "111059")
    assert (value_of(single), value_of(named(single, "112024")[0])) == ("112033", "27925004")
    assert value_of(named(report, "111017")[0]) == "111242"
    empty = encode_chest_cad(replace(case.result, findings=case.result.findings[1:]), case.sources)
    assert value_of(named(empty, "111017")[0]) == "111241", "what is absent is no finding"


def test_what_was_looked_for_and_not_found_is_what_was_done():
    chest = nodules()
    pneumothorax = replace(chest.result, findings=chest.result.findings[1:])
    breast = absent(mammography())
    calcifications = replace(breast.result, findings=breast.result.findings[1:2])
    for report, done in (
        (encode_chest_cad(pneumothorax, chest.sources), "112062"),
        (encode_mammography_cad(calcifications, breast.sources), "129769006"),
    ):
        assert [value_of(item) for item in named(report, "111022")] == [done]


def test_what_has_no_code_is_told_by_another_report():
    case = chest_boxes()
    assert encode_chest_cad(case.result, case.sources) is None, "cardiomegaly is not in CID 6102"
    views = mammography()
    cluster = replace(views.result.findings[1], measurements=())
    assert encode_mammography_cad(replace(views.result, findings=(cluster,)), views.sources) is None, "TID 4010"
    assert encode_mammography_cad(case.result, case.sources) is None, "no mammograms"
    for case, encode in ((mammography(), encode_mammography_cad), (nodules(), encode_chest_cad)):
        other = replace(case.result.findings[0], finding=Code("1", "99T", "Another thing"), tracking_identifier="other")
        for findings in ((), (replace(other, presence=Presence.ABSENT, regions=()),)):
            said = encode(replace(case.result, findings=findings), case.sources)
            assert said is None, "what was looked for is not known, or has no code"
    brain = CASES["17 labels"]()
    assert encode_chest_cad(brain.result, brain.sources) is None, "no chest images"


def test_profile_writes_cad_for_mammograms_and_the_usual_report_for_all_else():
    profile = named_profile("mammography-cad")
    case, other = without_sizes(mammography()), lung_mask()
    assert [each.role for each in render(case.result, case.sources, profile)] == [Role.MAMMOGRAPHY_CAD]
    assert [each.role for each in render(other.result, other.sources, profile)] == [Role.REPORT]


def test_what_cad_cannot_say_of_mammograms_is_in_a_report_beside_it():
    profile = named_profile("mammography-cad")
    case = without_sizes(mammography())
    first, *others = case.result.findings
    size = Measurement(Code("81827009", "SCT", "Diameter"), 9.0, Code("mm", "UCUM", "mm"))
    assessment = Qualifier(Code("111005", "DCM", "Assessment Category"), Code("111173", "DCM", "3"))
    (number,) = others[0].measurements
    before = PriorValue(2.0, date(2023, 11, 2), "1.2.9")
    for changes in (
        {"findings": (replace(first, measurements=(*first.measurements, size)), *others)},
        {"findings": (replace(first, presence=Presence.INDETERMINATE), *others)},
        {"text": "Compare with the earlier study."},
        {"remarks": ("One view was turned.",)},
        {"findings": (replace(first, critical=True), *others)},
        {"findings": (replace(first, qualifiers=(*first.qualifiers, assessment)), *others)},
        {"findings": (replace(first, regions=(*first.regions, first.regions[0])), *others)},
        {"findings": (replace(first, presence=Presence.ABSENT, regions=(), qualifiers=()), *others)},
        {"findings": (*others[1:], replace(others[0], measurements=(replace(number, prior=before),)))},
    ):
        roles = {each.role for each in render(replace(case.result, **changes), case.sources, profile)}
        assert Role.MAMMOGRAPHY_CAD in roles and roles & {Role.REPORT, Role.REPORT_WITHOUT_PLACE}, changes


@pytest.mark.parametrize("make, encode", [(mammography, encode_mammography_cad), (nodules, encode_chest_cad)])
def test_a_mark_upon_which_doubt_rests_is_not_for_presentation(make, encode):
    """CID 6034: it would look like any other mark."""
    case = make()
    first, *others = case.result.findings
    doubted = replace(case.result, findings=(replace(first, presence=Presence.INDETERMINATE), *others))
    for result, wanted in ((case.result, "111151"), (doubted, "111152")):
        singles = named(encode(result, case.sources), "111059")
        about = [each for each in singles if named(each, "112039")[0].TextValue == first.tracking_identifier]
        assert about and {value_of(named(each, "111056")[0]) for each in about} == {wanted}
        others_said = {value_of(named(each, "111056")[0]) for each in singles if each not in about}
        assert others_said <= {"111151"}


def test_what_a_report_replaces_is_named():
    old = Predecessor("1.2.77", "1.2.840.10008.5.1.4.1.1.88.50", "1.2.77.1")
    for case, encode in ((mammography(), encode_mammography_cad), (nodules(), encode_chest_cad)):
        report = encode(replace(case.result, predecessors=(old,)), case.sources)
        (study,) = report.PredecessorDocumentsSequence
        assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.77.1"
        assert check([report], case.sources) == []


def without_sizes(case: Case) -> Case:
    """The case without what is measured in mm."""
    findings = [
        replace(each, measurements=tuple(one for one in each.measurements if one.unit.value != "mm"))
        for each in case.result.findings
    ]
    return replace(case, result=replace(case.result, findings=tuple(findings)))


def test_codes_are_those_of_the_standard():
    known = {(s, value) for s in ("DCM", "SCT") for words in concepts[s].values() for value in words}
    ours = [*mammography_cad.SINGLE_IMAGE_FINDINGS.values(), *mammography_cad.VIEWS.values()]
    ours += [*mammography_cad.SIDES.values(), mammography_cad.BREAST_COMPOSITION_ANALYSIS, BREAST_MASS]
    ours += [code for pair in chest_cad.KNOWN.values() for code in pair if code is not None]
    assert [code for code in ours if (code.scheme_designator, code.value) not in known] == []


@pytest.mark.counterpart("dicom3tools", "dcmtk")
@pytest.mark.parametrize(
    "kind", ["mammography", "mammography, nothing", "mammography, doubt", "chest", "chest, nothing"]
)
def test_validators_and_gate_have_nothing_to_say(kind, tmp_path):
    case = mammography() if kind.startswith("mammography") else nodules()
    if kind.endswith("nothing"):
        case = absent(case)
    if kind.endswith("doubt"):
        findings = [replace(each, presence=Presence.INDETERMINATE) for each in case.result.findings]
        case = Case(replace(case.result, findings=tuple(findings)), case.sources)
    encode = encode_mammography_cad if kind.startswith("mammography") else encode_chest_cad
    report = encode(case.result, case.sources, CONSERVATIVE)
    assert_clean(report, tmp_path)
    assert check([report], case.sources) == []
