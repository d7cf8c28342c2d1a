"""Source images with missing, odd and private attributes: every kind of object is written, and nothing is invented."""

import os
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr.conformance import check
from dicom_sr.evidence import TYPE_2
from dicom_sr.findings import SourceImage
from dicom_sr.identity import IMPLEMENTATION_CLASS_UID
from dicom_sr.profile import CONSERVATIVE, Role
from dicom_sr.profile_files import SITE_ROLES
from dicom_sr.render import render
from tests.dicom_sr.cases import Case, lung_mask, mammography

LONG_UID = "1.2.826.0.1." + "9" * 52
EVERYTHING = replace(CONSERVATIVE, name="everything", roles=SITE_ROLES)
OPTIONAL = (*TYPE_2, "SpecificCharacterSet", "Manufacturer", "StudyDescription", "SeriesDescription", "SeriesNumber",
            "InstanceNumber", "PositionReferenceIndicator", "BodyPartExamined", "PatientAge")  # fmt: skip


def read_again(case: Case) -> list[Dataset]:
    return [dcmread(BytesIO(each.to_bytes())) for each in render(case.result, case.sources, EVERYTHING)]


@settings(max_examples=60 if os.environ.get("OVERREAD_SOAK") else 4, deadline=None)
@given(
    missing=st.sets(st.sampled_from(OPTIONAL)),
    emptied=st.sets(st.sampled_from(OPTIONAL)),
    make=st.sampled_from([lung_mask, mammography]),
)
def test_whatever_is_missing_or_empty_stays_so(missing, emptied, make):
    case = make()
    for source in case.sources:
        for keyword in emptied & set(source.dir()):
            setattr(source, keyword, "")
        for keyword in missing & set(source.dir()):
            delattr(source, keyword)
    objects = read_again(case)
    for item in objects:
        for keyword in TYPE_2:
            assert keyword in item
            assert str(item[keyword].value or "") == str(case.sources[0].get(keyword) or "")
    assert check(objects, case.sources, result=case.result, profile=EVERYTHING) == []


@pytest.mark.parametrize(
    "name, character_set",
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
        ("Люкceмбypг", "ISO_IR 144"),
        ("A" * 60 + "^B", "ISO_IR 100"),
        ("Name\x1bOdd", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_are_those_of_the_source_in_every_object(name, character_set):
    case = mammography()
    for source in case.sources:
        source.PatientName, source.SpecificCharacterSet = name, character_set
    for item in read_again(case):
        assert str(item.PatientName).replace("\x1b", "") == name.replace("\x1b", "")


def test_uids_of_64_characters_and_private_attributes():
    case = lung_mask()
    for number, source in enumerate(case.sources):
        source.SOPInstanceUID = f"{LONG_UID[:-2]}{number:02d}".replace(".0", ".1")
        source.StudyInstanceUID, source.SeriesInstanceUID = LONG_UID, LONG_UID[:-1] + "8"
        source.FrameOfReferenceUID = LONG_UID[:-1] + "7"
        block = source.private_block(0x0009, "SECRET MAKER", create=True)
        block.add_new(1, "LO", "CANARY")
    first = case.sources[0]
    images = tuple(SourceImage(str(s.SOPClassUID), str(s.SOPInstanceUID)) for s in case.sources)
    result = replace(case.result, study_instance_uid=first.StudyInstanceUID, source_images=images,
                     series_instance_uid=first.SeriesInstanceUID)  # fmt: skip
    for item in read_again(Case(result, case.sources)):
        assert item.StudyInstanceUID == LONG_UID
        assert item.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
        assert not any(element.tag.is_private for element in item.iterall())
        assert "CANARY" not in str(item)


def test_every_role_is_written_for_a_case_that_has_content_for_it():
    case = lung_mask()
    roles = {each.role for each in render(case.result, case.sources, EVERYTHING)}
    assert {Role.SEGMENTATION, Role.REPORT, Role.KEY_OBJECTS, Role.DOCUMENT} <= roles
