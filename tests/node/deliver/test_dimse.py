import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode as decode_by_pydicom
from pynetdicom.dsutils import encode as encode_by_pydicom

from node.deliver import dimse
from node.deliver.dimse import MalformedCommand, StoreOutcome

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def decode_response(encoded: bytes) -> dimse.Response:
    return dimse.to_response(dimse.Message(1, dimse.decode_command(encoded), None))


def test_store_request_reads_back_with_pydicom():
    encoded = dimse.store_request(7, SEGMENTATION, "2.25.123")
    command = decode_by_pydicom(BytesIO(encoded), True, True)
    assert command.CommandGroupLength == len(encoded) - 12
    assert (command.CommandField, command.MessageID, command.Priority) == (0x0001, 7, 0)
    assert (command.AffectedSOPClassUID, command.AffectedSOPInstanceUID) == (SEGMENTATION, "2.25.123")
    assert command.CommandDataSetType != 0x0101


def test_echo_request_announces_no_data_set():
    command = decode_by_pydicom(BytesIO(dimse.echo_request(1)), True, True)
    assert (command.CommandField, command.CommandDataSetType) == (0x0030, 0x0101)
    assert command.AffectedSOPClassUID == "1.2.840.10008.1.1"


def response(**elements: object) -> bytes:
    command = Dataset()
    command.CommandField, command.MessageIDBeingRespondedTo = 0x8001, 7
    command.CommandDataSetType, command.Status = 0x0101, 0xA900
    for keyword, value in elements.items():
        setattr(command, keyword, value)
    encoded = encode_by_pydicom(command, True, True)
    assert encoded is not None
    return encoded


def test_response_tells_status_and_offending_elements_but_no_comment():
    decoded = decode_response(
        response(OffendingElement=[0x00100020, 0x00080018], ErrorComment="Canary^Carla is not known")
    )
    assert (decoded.command_field, decoded.message_id, decoded.status) == (0x8001, 7, 0xA900)
    assert decoded.offending_elements == ("(0010,0020)", "(0008,0018)")
    assert "Canary" not in repr(decoded)


def test_response_without_status_is_malformed():
    with pytest.raises(MalformedCommand, match="0900"):
        decode_response(dimse.echo_request(1) + dimse._ELEMENT.pack(0, 0x0120, 2) + b"\1\0")


@given(st.binary(max_size=100))
def test_no_bytes_make_the_decoder_fail_otherwise_than_by_malformed_command(noise: bytes):
    with contextlib.suppress(MalformedCommand):
        decode_response(noise)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, StoreOutcome.DELIVERED),
        (0xB000, StoreOutcome.DELIVERED_WITH_WARNING),
        (0xB006, StoreOutcome.DELIVERED_WITH_WARNING),
        (0xB007, StoreOutcome.DELIVERED_WITH_WARNING),
        (0x0107, StoreOutcome.DELIVERED_WITH_WARNING),
        (0x0111, StoreOutcome.DELIVERED_WITH_WARNING),
        (0xA700, StoreOutcome.TRY_AGAIN),
        (0xA7FF, StoreOutcome.TRY_AGAIN),
        (0x0110, StoreOutcome.TRY_AGAIN),
        (0xFE00, StoreOutcome.TRY_AGAIN),
        (0x1234, StoreOutcome.TRY_AGAIN),
        (0xA800, StoreOutcome.REFUSED),
        (0xA900, StoreOutcome.REFUSED),
        (0xC000, StoreOutcome.REFUSED),
        (0xCFFF, StoreOutcome.REFUSED),
        (0x0117, StoreOutcome.REFUSED),
        (0x0122, StoreOutcome.REFUSED),
        (0x0124, StoreOutcome.REFUSED),
    ],
)
def test_outcome_of_each_status(status: int, outcome: StoreOutcome):
    assert dimse.store_outcome(status) is outcome


@given(st.integers(0, 0xFFFF))
def test_every_status_has_an_outcome_and_words(status: int):
    assert dimse.store_outcome(status) in StoreOutcome
    assert dimse.describe_status(status).startswith(f"0x{status:04X} (")
