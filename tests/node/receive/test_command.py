"""Command sets, against pynetdicom's own."""

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dsutils import decode

from node.receive.command import Command, CommandError, read_command, write_response
from tests.node.receive.wire import CT, command


def test_store_request_is_read() -> None:
    found = read_command(command(1, 77, CT, "1.2.3.4"))
    assert found == Command(1, 77, CT, "1.2.3.4", has_data_set=True)


@pytest.mark.parametrize("status", [0, 0xA700, 0xC000])
def test_response_is_understood_by_pynetdicom(status: int) -> None:
    written = write_response(Command(1, 77, CT, "1.2.3.4", True), status, "out-of-room")
    response = decode(BytesIO(written), True, True)
    assert response.CommandField == 0x8001 and response.MessageIDBeingRespondedTo == 77
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == (CT, "1.2.3.4")
    assert response.Status == status and response.CommandDataSetType == 0x0101
    assert response.get("ErrorComment", "") == ("out-of-room" if status else "")
    assert response.CommandGroupLength == len(written) - 12


@given(st.data())
def test_any_bytes_give_a_command_or_a_command_error(data: st.DataObject) -> None:
    content = bytearray(command(1, 77, CT, "1.2.3.4"))
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CommandError):
        read_command(bytes(content[: data.draw(st.integers(0, len(content)))]) + data.draw(st.binary(max_size=20)))
