"""A peer that reads slowly is waited for; one that stops reading is not."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.deliver import dimse, upper_layer
from node.deliver.storage_scu import SendInterrupted, send
from node.settings import Destination
from tests.counterparts import LOOPBACK
from tests.node.deliver.conftest import SEGMENTATION, write_object
from tests.node.deliver.test_upper_layer import associate_accept

DestinationAt = Callable[..., Destination]


@contextmanager
def peer_that(behaves: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a peer that accepts an association with one context, and then does what it is told."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            body = associate_accept({1: 0}, maximum_length=0)
            connection.sendall(upper_layer.PDU_HEADER.pack(upper_layer.PduType.ASSOCIATE_AC, len(body)) + body)
            behaves(connection)

    with socket.create_server((LOOPBACK, 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(20)
        assert not thread.is_alive()


def store_response(status: int) -> bytes:
    command = dimse.encode_command(
        {
            dimse.COMMAND_FIELD: dimse.C_STORE_RSP,
            dimse.MESSAGE_ID_BEING_RESPONDED_TO: 1,
            dimse.COMMAND_DATA_SET_TYPE: dimse.NO_DATA_SET,
            dimse.STATUS: status,
        }
    )
    return upper_layer.DATA_HEADER.pack(4, len(command) + 6, len(command) + 2, 1, 0b11) + command


def test_peer_that_stops_reading_is_left_after_the_timeout(tmp_path: Path, destination_at: DestinationAt):
    done = threading.Event()
    path = write_object(tmp_path / "large.dcm", SEGMENTATION, 30_000_000)
    with peer_that(lambda connection: done.wait(20)) as port:
        with pytest.raises(SendInterrupted, match=r"the peer took nothing for 0\.5 s"):
            send(destination_at(port), "OVERREAD", [path], 0.5)
        done.set()


def test_peer_that_reads_slowly_is_waited_for_beyond_the_timeout(tmp_path: Path, destination_at: DestinationAt):
    path = write_object(tmp_path / "large.dcm", SEGMENTATION, 30_000_000)

    def read_slowly(connection: socket.socket) -> None:
        left = path.stat().st_size  # a little less than what comes; the rest is small and stays in the buffer
        while left > 0:
            wanted = min(left, 1_000_000)
            while wanted > 0:
                count = len(connection.recv(wanted))
                wanted -= count
                left -= count
            time.sleep(0.05)
        connection.sendall(store_response(0x0000))
        connection.recv(65536)

    started = time.monotonic()
    with peer_that(read_slowly) as port:
        (answer,) = send(destination_at(port), "OVERREAD", [path], 1.0)
    assert answer.status == 0x0000
    assert time.monotonic() - started > 1.0


def test_peer_that_answers_another_message_is_not_believed(tmp_path: Path, destination_at: DestinationAt):
    path = write_object(tmp_path / "small.dcm", SEGMENTATION, 1000)

    def answer_wrongly(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(
            store_response(0x0000).replace(b"\x20\x01\x02\x00\x00\x00\x01\x00", b"\x20\x01\x02\x00\x00\x00\x07\x00")
        )
        connection.recv(65536)

    with peer_that(answer_wrongly) as port, pytest.raises(SendInterrupted, match="a response to something else"):
        send(destination_at(port), "OVERREAD", [path], 5)
