"""The header walk against pydicom, on well-formed, odd and broken data sets."""

import contextlib
import json
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from node.receive.header import HeaderError, read_data_set, read_header
from tests.node.receive.wire import encode
from tests.phantoms import make_series, write_series

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, ExplicitVRBigEndian)


def nested() -> Dataset:
    """An image with sequences of undefined length in items of undefined length, and a private element."""
    (image,) = make_series(shape=(1, 8, 8))
    innermost, inner = Dataset(), Dataset()
    innermost.CodeValue = "X"
    inner.ConceptCodeSequence = Sequence([innermost])
    inner["ConceptCodeSequence"].is_undefined_length = True
    innermost.is_undefined_length_sequence_item = inner.is_undefined_length_sequence_item = True
    image.ReferencedImageSequence = Sequence([inner, Dataset()])
    image["ReferencedImageSequence"].is_undefined_length = True
    image.private_block(0x0009, "TESTS", create=True).add_new(1, "OB", b"\0\1")
    return image


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_walk_finds_what_pydicom_finds(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    if syntax is ExplicitVRBigEndian:
        path = Path(str(get_testdata_file("MR_small_bigendian.dcm")))
    else:
        (path,) = write_series(tmp_path, shape=(1, 16, 12), transfer_syntax=syntax)
    found, expected = read_header(path), pydicom.dcmread(path)
    assert found.transfer_syntax_uid == syntax
    assert (found.sop_class_uid, found.sop_instance_uid) == (expected.SOPClassUID, expected.SOPInstanceUID)
    assert found.study_instance_uid == expected.StudyInstanceUID
    assert found.series_instance_uid == expected.SeriesInstanceUID
    assert found.geometry is not None
    assert found.geometry["Rows"] == expected.Rows
    assert found.geometry["ImageOrientationPatient"] == [float(v) for v in expected.ImageOrientationPatient]
    assert found.series_header["Modality"] == "MR"
    assert found.pixel_offset is not None
    content = path.read_bytes()
    if syntax.is_encapsulated:
        assert found.pixel_length is None and content[found.pixel_offset :][:4] == b"\xfe\xff\x00\xe0"
    else:
        assert found.pixel_length is not None
        assert content[found.pixel_offset : found.pixel_offset + found.pixel_length] == expected.PixelData
    json.dumps([found.series_header, found.geometry], allow_nan=False)


def test_no_patient_identity_is_kept() -> None:
    (image,) = make_series(shape=(1, 8, 8), patient_name="Canary^Bird", patient_id="CANARY-7")
    encoded = encode(image)
    header = read_data_set(encoded.data_set, encoded.transfer_syntax)
    assert "anary" not in repr(header).lower()


def test_nested_sequences_of_undefined_length_are_stepped_over() -> None:
    encoded = encode(nested())
    header = read_data_set(encoded.data_set, encoded.transfer_syntax)
    assert header.geometry is not None and header.geometry["Columns"] == 8


def test_unknown_sequence_of_undefined_length() -> None:
    encoded = encode(nested())
    tag, unknown = b"\x08\0\x40\x11", b"UN\0\0\xff\xff\xff\xff"
    at = encoded.data_set.index(tag)
    implicit = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x08\0\0\1\2\0\0\0X " + b"\xfe\xff\x0d\xe0\0\0\0\0"
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    after = encoded.data_set.rindex(end) + len(end)
    changed = encoded.data_set[:at] + tag + unknown + implicit + end + encoded.data_set[after:]
    assert read_data_set(changed, encoded.transfer_syntax).series_header["Modality"] == "MR"


def test_deflated_data_set_is_read_without_pixel_offset() -> None:
    encoded = encode(make_series(shape=(1, 8, 8))[0])
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(encoded.data_set) + deflater.flush()
    header = read_data_set(deflated, DeflatedExplicitVRLittleEndian)
    assert header.sop_instance_uid == encoded.sop_instance
    assert header.pixel_offset is None
    with pytest.raises(HeaderError) as caught:
        read_data_set(encoded.data_set, DeflatedExplicitVRLittleEndian)
    assert caught.value.code == "not-understood"


def test_wrong_encoding_falls_back_to_pydicom() -> None:
    """Implicit VR under an Explicit VR transfer syntax, as some senders do."""
    (image,) = make_series(shape=(1, 8, 8))
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    encoded = encode(image)
    header = read_data_set(encoded.data_set, ExplicitVRLittleEndian)
    assert header.sop_instance_uid == image.SOPInstanceUID
    assert header.geometry is not None and header.geometry["Rows"] == 8


@pytest.mark.parametrize("name", ["chrRuss.dcm", "chrH31.dcm", "chrFren.dcm"])
def test_character_sets(name: str) -> None:
    """Text comes out as pydicom decodes it."""
    source = pydicom.dcmread(get_charset_files(name)[0])
    (image,) = make_series(shape=(1, 8, 8))
    image.SpecificCharacterSet = source.SpecificCharacterSet
    image.SeriesDescription = str(source.PatientName).replace("^", " ").replace("=", " ")
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    expected = pydicom.dcmread(BytesIO(buffer.getvalue())).SeriesDescription
    assert read_header(buffer.getvalue()).series_header["SeriesDescription"] == expected


def test_every_cut_is_truncated_or_not_understood() -> None:
    encoded = encode(nested())
    whole = read_data_set(encoded.data_set, encoded.transfer_syntax)
    for length in range(1, len(encoded.data_set)):
        try:
            found = read_data_set(encoded.data_set[:length], encoded.transfer_syntax)
        except HeaderError as error:
            assert error.code == "truncated"
        else:  # a cut between two elements cannot be seen
            assert found.pixel_offset is None and found != whole


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not-dicom"),
        (b"no DICOM" * 50, "not-dicom"),
        (bytes(128) + b"DICM", "not-dicom"),
        (bytes(128) + b"DICM" + b"\2\0\x10\0UI\xff\x01", "truncated"),
    ],
)
def test_no_dicom_file(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(HeaderError) as caught:
        read_header(path)
    assert caught.value.code == code


def test_odd_numbers_are_left_out() -> None:
    (image,) = make_series(shape=(1, 8, 8))
    encoded = encode(image)
    for odd in (b"nan ", b"1e999"[:4], b"\xff\xff\xff\xff", b"inf "):
        changed = encoded.data_set.replace(b"DS\x06\x002000.0", b"DS\x06\x00" + odd + b"  ")
        json.dumps(read_data_set(changed, encoded.transfer_syntax).series_header, allow_nan=False)


NESTED = encode(nested())


@given(st.data())
@settings(max_examples=20_000 if os.environ.get("OVERREAD_SOAK") else 300, deadline=None)
def test_any_bytes_give_a_header_or_a_header_error(data: st.DataObject) -> None:
    content = bytearray(NESTED.data_set)
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    syntax = data.draw(st.sampled_from([*SYNTAXES, DeflatedExplicitVRLittleEndian]))
    with contextlib.suppress(HeaderError):
        header = read_data_set(bytes(content), syntax)
        json.dumps([header.series_header, header.geometry], allow_nan=False)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_number_of_steps_is_bounded(monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    """Elements without value are the most steps that a byte can ask for."""
    monkeypatch.setattr("node.receive.walk.MAXIMUM_STEPS", 100)
    value = b"" if syntax.endswith(".2") else b"LO"
    elements = b"".join(struct.pack("<HH", 0x0008, number) + value + bytes(4 - len(value)) for number in range(200))
    with pytest.raises(HeaderError, match="more than 100"):
        read_data_set(elements, syntax)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_the_view_of_a_mammogram_is_read_from_its_code(syntax: str) -> None:
    (image,) = make_series(shape=(1, 8, 8), Modality="MG", ImageLaterality="R", ViewPosition="")
    modifier = Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = "R-102D6", "SRT", "Magnification"
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399368009", "SCT", "medio-lateral oblique"
    view.ViewModifierCodeSequence = [modifier]
    image.ViewCodeSequence = [view]
    image.file_meta.TransferSyntaxUID = syntax
    encoded = encode(image)
    header = read_data_set(encoded.data_set, encoded.transfer_syntax)
    for found in (header.series_header, header.geometry or {}):
        assert (found["ViewPosition"], found["ViewModifiers"]) == ("MLO", ["magnification"])
        assert found["ImageLaterality"] == "R"


def test_patient_and_time_of_the_study_are_read_for_the_hash_and_the_order() -> None:
    times = {"StudyDate": "20240305", "StudyTime": "0930"}
    (image,) = make_series(shape=(1, 8, 8), patient_id="4711", IssuerOfPatientID="H", **times)
    encoded = encode(image)
    header = read_data_set(encoded.data_set, encoded.transfer_syntax)
    assert (header.patient_id, header.issuer_of_patient_id) == ("4711", "H")
    assert header.study_date_time == "20240305093000"
