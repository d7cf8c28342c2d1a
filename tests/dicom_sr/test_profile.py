"""Profiles: files, and what is left when a destination refuses something."""

import tomllib
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from dicom_sr.errors import ProfileError
from dicom_sr.profile import CONSERVATIVE, OTHER_CLASS_UIDS, ReportClass, Role, SegmentationFlavour, is_form_of
from dicom_sr.profile_files import SHIPPED, load_profile, named_profile, shipped_names

COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED = (f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (34, 33, 22))
BINARY, LABELMAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
SECONDARY_CAPTURE = OTHER_CLASS_UIDS[Role.SECONDARY_CAPTURE]
SITE = Path(__file__).parents[2] / "config" / "profiles"


def test_seven_profiles_are_shipped_and_each_says_what_it_is_for():
    names = ("conservative", "labelmap", "legacy", "mammography-cad", "ohif", "slicer", "weasis")
    assert shipped_names() == names
    for name in names:
        assert named_profile(name).name == name
        assert tomllib.loads((SHIPPED / f"{name}.toml").read_text())["description"]


def test_the_file_of_the_conservative_profile_says_what_the_code_says():
    assert named_profile("conservative") == CONSERVATIVE


def test_a_site_extends_a_shipped_profile():
    profile = named_profile("old-pacs", [SITE])
    assert (profile.name, profile.report_class, profile.maximum_frames) == ("old-pacs", ReportClass.COMPREHENSIVE, 500)
    assert profile.roles == CONSERVATIVE.roles


@pytest.mark.parametrize(
    "text, said",
    [
        ("roles = 3", "roles: expected a list"),
        ('roles = ["report", "poem"]', "'poem' is none of segmentation, report"),
        ('roles = ["rejection"]', "'rejection' is none of"),
        ("roles = []", "at least one object"),
        ('report_class = "basic"', "comprehensive-3d, comprehensive, enhanced"),
        ("colour = 1", "colour: unknown; known are"),
        ("[limits]\nframes = -1", "maximum_frames: expected a whole number"),
        ("[limit]\nframes = 1", r"\[limit\] is no table"),
        ("first_series_number = 2000000001", "at most 2000000000"),
        ('roles = [["report"]]', r"\['report'\] is none of segmentation, report"),
        (
            'algorithm_purpose = { value = 1, scheme = "DCM", meaning = "x" }',
            "value must be 1 to 16 characters, found 1",
        ),
        ('draft_text = "yes"', "expected true or false"),
        ('extends = "pacs"', "extends: 'pacs' is none of conservative"),
        ("title_with_place = 1", "expected { value"),
        ('title_without_place = { value = "126000", scheme = "DCM", meaning = "x" }', "black viewport"),
        ("roles = [", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_file_and_key(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=said) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)


def test_a_name_that_is_not_there_or_taken(tmp_path):
    with pytest.raises(ProfileError, match="no profile is called 'mine': known are conservative"):
        named_profile("mine", [tmp_path])
    (tmp_path / "ohif.toml").write_text("draft_text = false")
    with pytest.raises(ProfileError, match="give this one another name"):
        named_profile("ohif", [tmp_path])


@pytest.mark.parametrize("name", ["conservative-comprehensive", "ohif-enhanced-without-segmentation", "a-enhanced"])
def test_a_name_that_a_form_of_another_profile_has_is_refused(tmp_path, name):
    """Else one archive could be sent two contents under one UID."""
    (tmp_path / f"{name}.toml").write_text("")
    (tmp_path / "a.toml").write_text("")
    with pytest.raises(ProfileError, match="where a destination refuses some of it: give this one another name"):
        named_profile(name, [tmp_path])
    assert named_profile("a", [tmp_path]).name == "a"


def test_every_form_is_known_by_its_name():
    labelmap = replace(named_profile("labelmap"), roles=(*CONSERVATIVE.roles, Role.DOCUMENT, Role.KEY_OBJECTS))
    classes = {labelmap.sop_class_uid(role) for role in labelmap.roles} | {BINARY, SECONDARY_CAPTURE, COMPREHENSIVE}
    names: dict[str, object] = {}
    for count in range(len(classes) + 1):
        for refused in combinations(sorted(classes), count):
            form = labelmap.without(refused)
            assert form is None or form == labelmap or is_form_of(form.name, "labelmap")
            assert form is None or names.setdefault(form.name, form) == form


@pytest.mark.parametrize("limit", ["maximum_frames", "maximum_megabytes"])
def test_pixels_are_needed_where_a_capture_may_take_the_place_of_what_is_too_large(limit):
    assert replace(named_profile("ohif"), **{limit: 5}).needs_pixels
    assert not named_profile("ohif").needs_pixels
    assert not replace(CONSERVATIVE, **{limit: 5}).needs_pixels


@pytest.mark.parametrize(
    "refused, name",
    [
        ([], "conservative"),
        ([LABELMAP], "conservative"),
        ([COMPREHENSIVE_3D], "conservative-comprehensive"),
        ([COMPREHENSIVE_3D, COMPREHENSIVE], "conservative-enhanced"),
        ([BINARY], "conservative-comprehensive-3d-without-segmentation"),
        ([BINARY, COMPREHENSIVE_3D], "conservative-comprehensive-without-segmentation"),
    ],
)
def test_fallback_of_the_conservative_profile(refused, name):
    profile = CONSERVATIVE.without(refused)
    assert profile is not None and profile.name == name
    assert not {profile.sop_class_uid(role) for role in profile.roles} & set(refused)


def test_nothing_is_left_that_tells_the_findings():
    assert CONSERVATIVE.without([COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED]) is None
    legacy = named_profile("legacy").without([ENHANCED])
    assert legacy is not None and legacy.roles == (Role.SECONDARY_CAPTURE,)


def test_label_map_becomes_binary_then_a_secondary_capture():
    profile = named_profile("labelmap")
    binary = profile.without([LABELMAP])
    assert binary is not None and binary.segmentation_flavour is SegmentationFlavour.BINARY
    assert binary.name == "labelmap-comprehensive-3d-binary"
    captured = profile.without([LABELMAP, BINARY])
    assert captured is not None and Role.SECONDARY_CAPTURE in captured.roles and Role.SEGMENTATION not in captured.roles
    plain = profile.without([LABELMAP, BINARY, SECONDARY_CAPTURE])
    assert plain is not None and plain.roles == (Role.REPORT, Role.REPORT_WITHOUT_PLACE)


def test_other_objects_are_left_out_when_refused():
    profile = replace(CONSERVATIVE, roles=(*CONSERVATIVE.roles, Role.DOCUMENT))
    without = profile.without([OTHER_CLASS_UIDS[Role.DOCUMENT]])
    assert without is not None and without.roles == CONSERVATIVE.roles
    assert without.name.endswith("-without-document")
