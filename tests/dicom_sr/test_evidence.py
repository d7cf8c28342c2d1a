"""Source images that are odd, incomplete or not the right ones."""

import copy
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr.errors import SourceMismatch
from dicom_sr.evidence import TYPE_2, check_evidence
from dicom_sr.render import render


def written_again(rendered) -> Dataset:
    return dcmread(BytesIO(rendered.to_bytes()))


@pytest.mark.parametrize("keyword", TYPE_2)
def test_missing_type_2_attribute_is_written_empty(sources, result, keyword):
    for source in sources:
        delattr(source, keyword)
    for rendered in render(result, sources):
        assert not written_again(rendered)[keyword].value


@pytest.mark.parametrize(
    "keyword, value",
    [("PatientBirthDate", "00000000"), ("PatientSex", "W"), ("StudyTime", "ab"), ("StudyDate", "soon")],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_illegal_value_becomes_empty(sources, result, keyword, value):
    for source in sources:
        setattr(source, keyword, value)
    for rendered in render(result, sources):
        assert not written_again(rendered)[keyword].value


@pytest.mark.parametrize(
    "character_set, name",
    [
        ("ISO_IR 192", "Grüß^Jörg"),
        ("ISO_IR 100", "Grüß^Jörg"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (None, "Singlename"),
    ],
)
def test_patient_name_in_any_character_set(sources, result, character_set, name):
    for source in sources:
        if character_set is None:
            del source.SpecificCharacterSet
        else:
            source.SpecificCharacterSet = character_set
        source.PatientName = name
    read = [dcmread(BytesIO(to_bytes(source))) for source in sources]
    for rendered in render(result, read):
        assert str(written_again(rendered).PatientName) == name


def to_bytes(source: Dataset) -> bytes:
    buffer = BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Incorrect value for Specific Character Set")
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_misspelt_character_set_is_written_as_utf_8(sources, result):
    for source in sources:
        source.PatientName = "Grüß^Jörg"
        source.SpecificCharacterSet = "ISO-IR 100"
    for rendered in render(result, sources):
        again = written_again(rendered)
        assert again.SpecificCharacterSet == "ISO_IR 192"
        assert str(again.PatientName) == "Grüß^Jörg"


def test_own_text_beyond_the_character_set_of_the_source(sources, result):
    for source in sources:
        del source.SpecificCharacterSet
    renamed = replace(result, algorithm=replace(result.algorithm, name="Hirnkammern größer"))
    for rendered in render(renamed, sources):
        assert "größer" in written_again(rendered).SeriesDescription


def test_sources_are_left_as_they_were(sources, result):
    before = copy.deepcopy(sources)
    render(result, sources)
    assert sources == before


def test_empty_reference_of_the_study_is_left_out(sources, result):
    item = Dataset()
    item.ReferencedSOPClassUID = item.ReferencedSOPInstanceUID = ""
    for source in sources:
        source.ReferencedStudySequence = [item]
    for rendered in render(result, sources):
        assert "ReferencedStudySequence" not in rendered.dataset


def test_no_patient_data_in_warnings(sources, result, recwarn, caplog):
    for source in sources:
        source.PatientName = "CANARY"
    render(result, sources)
    assert "CANARY" not in caplog.text
    assert not [warning for warning in recwarn if "CANARY" in str(warning.message)]


def test_uids_of_64_characters(sources, make_result):
    long_uid = "1.2." + "1234567890." * 5 + "12345"
    assert len(long_uid) == 64
    for number, source in enumerate(sources):
        source.StudyInstanceUID = source.SeriesInstanceUID = long_uid
        source.FrameOfReferenceUID = long_uid
        source.SOPInstanceUID = long_uid[:-2] + str(10 + number)
    for rendered in render(make_result(sources), sources):
        assert written_again(rendered).StudyInstanceUID == long_uid


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "PixelSpacing", "ImagePositionPatient"])
@pytest.mark.parametrize("empty", [True, False])
def test_what_cannot_be_left_out_is_refused_by_name(sources, result, keyword, empty):
    if empty:
        sources[4][keyword].value = None
    else:
        delattr(sources[4], keyword)
    with pytest.raises(SourceMismatch, match=keyword):
        check_evidence(result, sources)


def test_other_images_are_refused(sources, result):
    with pytest.raises(SourceMismatch, match="expected the 12 source images"):
        check_evidence(result, sources[:-1])
    with pytest.raises(SourceMismatch, match="at slice 0"):
        check_evidence(result, sources[::-1])


def test_other_study_grid_or_frame_of_reference_is_refused(sources, result):
    with pytest.raises(SourceMismatch, match="StudyInstanceUID"):
        check_evidence(replace(result, study_instance_uid="1.9"), sources)
    with pytest.raises(SourceMismatch, match="label volume of shape"):
        check_evidence(replace(result, labels=np.zeros((12, 26, 30), np.uint8)), sources)
    sources[3].FrameOfReferenceUID = "1.2.9"
    with pytest.raises(SourceMismatch, match="2 values of FrameOfReferenceUID"):
        check_evidence(result, sources)


def test_slice_spacing_is_measured(sources, result):
    for source in sources:
        source.SpacingBetweenSlices = 99
        source.SliceThickness = 1
    evidence = check_evidence(result, sources)
    assert evidence.spacing_mm == pytest.approx((3.0, 1.5, 1.25))
    assert evidence.voxel_volumes_ml == pytest.approx(3.0 * 1.5 * 1.25 / 1000)
