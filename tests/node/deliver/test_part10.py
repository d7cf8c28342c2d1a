import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from node.deliver.part10 import NotPart10, read_file_meta
from tests.phantoms import write_series


def test_file_meta_and_data_set_are_found(tmp_path: Path):
    path = write_series(tmp_path, shape=(1, 16, 16))[0]
    file = read_file_meta(path)
    whole = dcmread(path)
    assert file.sop_class_uid == whole.SOPClassUID
    assert file.sop_instance_uid == whole.SOPInstanceUID
    assert file.transfer_syntax_uid == whole.file_meta.TransferSyntaxUID
    assert path.read_bytes()[file.data_set_offset :][:4] == b"\x08\x00\x05\x00"
    assert file.data_set_offset + file.data_set_bytes == path.stat().st_size


def test_group_length_that_lies_does_not_matter(tmp_path: Path):
    path = write_series(tmp_path, shape=(1, 16, 16))[0]
    content = bytearray(path.read_bytes())
    honest = read_file_meta(path)
    content[140:144] = (5).to_bytes(4, "little")
    path.write_bytes(content)
    assert read_file_meta(path) == honest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no DICM prefix"),
        (b"hello" * 100, "no DICM prefix"),
        (bytes(128) + b"DICM", "no valid Media Storage SOP Class UID"),
        (bytes(128) + b"DICM\x02\x00\x10\x00UI\x14\x001.2", "ends within its file meta"),
        (bytes(128) + b"DICM\x02\x00\x10\x00\x14\x00\x00\x001.2", "not in Explicit VR Little Endian"),
        (bytes(128) + b"DICM\x02\x00\x01\x00OB\x00\x00\xff\xff\xff\xff", "4294967295 bytes"),
    ],
)
def test_what_is_no_dicom_file_is_said_so(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(NotPart10, match=reason):
        read_file_meta(path)


def test_file_without_data_set_is_refused(tmp_path: Path):
    path = write_series(tmp_path, shape=(1, 16, 16))[0]
    path.write_bytes(path.read_bytes()[: read_file_meta(path).data_set_offset])
    with pytest.raises(NotPart10, match="no data set"):
        read_file_meta(path)


@given(noise=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
def test_no_content_makes_reading_fail_otherwise_than_by_not_part10(tmp_path: Path, noise: bytes):
    path = tmp_path / "file"
    path.write_bytes(bytes(128) + b"DICM" + noise)
    with contextlib.suppress(NotPart10):
        read_file_meta(path)
