"""Headers read from the first bytes of data sets, one after another."""

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from node.receive import walk
from node.receive.beginnings import Beginnings
from node.receive.header import read_data_set
from tests.node.receive.test_header import nested
from tests.node.receive.wire import Encoded, encode, read_encoded

NATIVE = {
    "CT_small.dcm": "1.2.840.10008.1.2.1",
    "MR_small_implicit.dcm": "1.2.840.10008.1.2",
    "MR_small_bigendian.dcm": "1.2.840.10008.1.2.2",
}


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("CT_small.dcm", "1.2.840.10008.1.2.1"),
        ("MR_small_implicit.dcm", "1.2.840.10008.1.2"),
        ("MR_small_bigendian.dcm", "1.2.840.10008.1.2.2"),
    ],
)
def test_first_bytes_tell_the_same(name: str, syntax: str) -> None:
    """Everything up to the value of Pixel Data is enough, and one byte less is not."""
    encoded = read_encoded(Path(str(get_testdata_file(name))))
    whole = read_data_set(encoded.data_set, syntax)
    assert whole.pixel_offset is not None
    assert Beginnings().read(encoded.data_set[: whole.pixel_offset], syntax) == whole
    assert Beginnings().read(encoded.data_set[: whole.pixel_offset - 1], syntax) is None


def test_first_bytes_are_not_enough_without_native_pixel_data() -> None:
    encoded = encode(nested())
    assert Beginnings().read(encoded.data_set, "1.2.840.10008.1.2.4.90") is None
    assert Beginnings().read(b"", encoded.transfer_syntax) is None


def slice_of_series(number: int) -> Encoded:
    """A CT image whose values change as they do within a series; their lengths, too."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.SOPInstanceUID = f"1.2.3.{100 + number}"
    image.InstanceNumber = number
    image.ImagePositionPatient = [-158.135803, -179.035797, f"{number - 75}.0"]
    image.ContentTime = f"1200{number:02}.000000"
    return encode(image)


def test_what_is_the_same_is_not_walked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    original = walk.walk_elements

    def counted(*arguments: Any, **keywords: Any) -> walk.Walked:
        walks.append(1)
        return original(*arguments, **keywords)

    monkeypatch.setattr(walk, "walk_elements", counted)
    beginnings = Beginnings()
    images = [slice_of_series(number) for number in range(10, 40)]
    found = [beginnings.read(image.data_set, image.transfer_syntax) for image in images]
    assert len(walks) == 2  # the second shows which values vary
    assert found == [read_data_set(image.data_set, image.transfer_syntax) for image in images]


def view_coded(view_position: str, code: str) -> Dataset:
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.ViewPosition = view_position
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = code, "SCT", "a view"
    image.ViewCodeSequence = [view]
    return image


def described(character_set: str, description: bytes) -> Encoded:
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.SpecificCharacterSet, image.SeriesDescription = character_set, "12345678"
    encoded = encode(image)
    return replace(encoded, data_set=encoded.data_set.replace(b"12345678", description))


@pytest.mark.parametrize(
    "images",
    [
        [encode(view_coded(position, "399162004")) for position in ("ML", "LM", "RL", "LL")],
        [encode(view_coded("CC", code)) for code in ("399162004", "399368009", "399260004", "399352003")],
        [described(f"ISO_IR {number}", b"caf\xe9 \xf1\xf5 ") for number in (100, 101, 144, 126)],
    ],
    ids=["view position", "view code", "character set"],
)
def test_values_that_others_depend_on_are_not_read_by_themselves(images: list[Encoded]) -> None:
    """Each differs from the one before in one value of the same length, and it is the one that was seen to vary."""
    beginnings = Beginnings()
    for image in images:
        alone = read_data_set(image.data_set, image.transfer_syntax)
        assert beginnings.read(image.data_set, image.transfer_syntax) == alone


STARTS = [
    *(read_encoded(Path(str(get_testdata_file(name)))) for name in NATIVE),
    *(slice_of_series(number) for number in (1, 9, 10, 11)),
    encode(nested()),
    encode(view_coded("CC", "399162004")),
    encode(view_coded("ML", "399162004")),
]


@given(st.data())
@settings(max_examples=5_000 if os.environ.get("OVERREAD_SOAK") else 150, deadline=None)
def test_each_is_read_as_if_there_had_been_no_other(data: st.DataObject) -> None:
    """Whatever came before it, and wherever a byte differs from that."""
    beginnings = Beginnings()
    one = data.draw(st.sampled_from(STARTS))
    for _ in range(data.draw(st.integers(2, 8))):
        if data.draw(st.booleans()):
            one = data.draw(st.sampled_from(STARTS))
        content = bytearray(one.data_set)
        end = len(content) if data.draw(st.integers(0, 9)) else data.draw(st.integers(0, len(content)))
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, min(len(content), 6000) - 1))] = data.draw(st.integers(0, 255))
        syntax = one.transfer_syntax if data.draw(st.integers(0, 9)) else data.draw(st.sampled_from([*NATIVE.values()]))
        alone = Beginnings().read(bytes(content[:end]), syntax)
        assert beginnings.read(memoryview(content)[:end], syntax) == alone


def with_unknown_sequence(content: bytes) -> bytes:
    """A data set with a private element of VR UN and undefined length, whose items, and what follows, are `content`."""
    uids = struct.pack("<HH2sH6s", 0x0008, 0x0016, b"UI", 6, b"1.2.3\0") + struct.pack(
        "<HH2sH6s", 0x0008, 0x0018, b"UI", 6, b"1.2.4\0"
    )
    unknown = struct.pack("<HH2sHL", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 1)
    return uids + unknown + content + rows + struct.pack("<HH2sHL2s", 0x7FE0, 0x0010, b"OW", 0, 2, b"ab")


def test_sequence_that_is_called_unknown_is_walked_anew_where_it_differs() -> None:
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    full = [struct.pack("<HHL", 0xFFFE, 0xE000, 16) + letter * 16 + end for letter in (b"a", b"b")]
    ends_before = end + struct.pack("<HH2sH16s", 0x0010, 0x0020, b"LO", 16, b"PATIENT OF THIS ")
    data_sets = [with_unknown_sequence(content.ljust(32)) for content in (*full, ends_before)]
    assert len({len(each) for each in data_sets}) == 1
    beginnings = Beginnings()
    found = [beginnings.read(each, "1.2.840.10008.1.2.1") for each in data_sets]
    assert found == [Beginnings().read(each, "1.2.840.10008.1.2.1") for each in data_sets]
    assert found[2] is not None and found[2].patient_id == "PATIENT OF THIS"
