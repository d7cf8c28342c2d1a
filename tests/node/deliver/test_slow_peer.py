"""A peer that reads slowly is waited for; one that stops reading, or whose answer has no end, is not."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.deliver import dimse, upper_layer
from node.deliver.find_scu import find_objects
from node.deliver.hl7_transport import Hl7Transport
from node.deliver.storage_scu import SendInterrupted, send
from node.deliver.transport import NotTaken
from node.destination_settings import Hl7Destination
from node.errors import Transient
from node.jobs.job import Job
from node.settings import Destination
from node.store.deliveries import AcceptedObject
from tests.counterparts import LOOPBACK, PATIENCE
from tests.node.deliver.conftest import SEGMENTATION, Node, parcel_of, write_object
from tests.node.deliver.test_upper_layer import associate_accept

DestinationAt = Callable[..., Destination]


def peer_that(behaves: Callable[[socket.socket], None]) -> AbstractContextManager[int]:
    """The port of a peer that accepts an association with one context, and then does what it is told."""

    def accept(connection: socket.socket) -> None:
        connection.recv(65536)
        body = associate_accept({1: 0}, maximum_length=0)
        connection.sendall(upper_layer.PDU_HEADER.pack(upper_layer.PduType.ASSOCIATE_AC, len(body)) + body)
        behaves(connection)

    return tcp_peer_that(accept)


@contextmanager
def tcp_peer_that(behaves: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a peer that takes one connection, and then does what it is told."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            behaves(connection)

    with socket.create_server((LOOPBACK, 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(20 * PATIENCE)
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
    with peer_that(lambda connection: done.wait()) as port:
        try:
            with pytest.raises(SendInterrupted, match=r"the peer took nothing for 2 s"):
                send(destination_at(port), "OVERREAD", [path], 2)
        finally:
            done.set()


def test_peer_that_reads_slowly_is_waited_for_beyond_the_timeout(tmp_path: Path, destination_at: DestinationAt):
    path = write_object(tmp_path / "large.dcm", SEGMENTATION, 30_000_000)

    def read_slowly(connection: socket.socket) -> None:
        left = path.stat().st_size  # a little less than what comes; the rest is small and stays in the buffer
        while left > 0:
            wanted = min(left, 1_000_000)
            while wanted > 0:
                if not (count := len(connection.recv(wanted))):
                    return
                wanted -= count
                left -= count
            time.sleep(0.08)
        connection.sendall(store_response(0x0000))
        connection.recv(65536)

    started = time.monotonic()
    with peer_that(read_slowly) as port:
        (answer,) = send(destination_at(port), "OVERREAD", [path], 2.0)
    assert answer.status == 0x0000
    assert time.monotonic() - started > 2.0


def test_peer_that_answers_another_message_is_not_believed(tmp_path: Path, destination_at: DestinationAt):
    path = write_object(tmp_path / "small.dcm", SEGMENTATION, 1000)

    def answer_wrongly(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(
            store_response(0x0000).replace(b"\x20\x01\x02\x00\x00\x00\x01\x00", b"\x20\x01\x02\x00\x00\x00\x07\x00")
        )
        connection.recv(65536)

    with peer_that(answer_wrongly) as port, pytest.raises(SendInterrupted, match="a response to something else"):
        send(destination_at(port), "OVERREAD", [path], 60)


NO_WHOLE_ANSWER = "answered (too slowly|nothing)"
"""The second where the machine is so busy that the peer itself comes to a halt; what matters is that it is left."""


def drip(connection: socket.socket, piece: bytes, first: bytes = b"") -> None:
    """Send a piece again and again, until nobody listens."""
    connection.recv(65536)
    connection.sendall(first)
    while True:
        connection.sendall(piece)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("first", "piece"),
    [(upper_layer.PDU_HEADER.pack(4, 1 << 20), b"x"), (b"", upper_layer.DATA_HEADER.pack(4, 6, 2, 1, 0b01))],
)
def test_answer_that_comes_byte_by_byte_is_left(
    tmp_path: Path, destination_at: DestinationAt, first: bytes, piece: bytes
):
    """A PDU of which each byte comes in time, and empty fragments of a message that never ends."""
    path = write_object(tmp_path / "small.dcm", SEGMENTATION, 1000)
    with (
        peer_that(lambda connection: drip(connection, piece, first)) as port,
        pytest.raises(Transient, match=NO_WHOLE_ANSWER),
    ):
        send(destination_at(port), "OVERREAD", [path], 0.3)


def test_peer_that_goes_on_talking_is_left_after_it_has_taken_everything(tmp_path: Path, destination_at: DestinationAt):
    path = write_object(tmp_path / "small.dcm", SEGMENTATION, 1000)

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(store_response(0x0000))
        drip(connection, store_response(0x0000))

    with peer_that(talk) as port:
        (answer,) = send(destination_at(port), "OVERREAD", [path], 5)
    assert answer.status == 0x0000


def test_query_without_an_end_is_left(destination_at: DestinationAt):
    pending = dimse.encode_command(
        {
            dimse.COMMAND_FIELD: dimse.C_FIND_RSP,
            dimse.MESSAGE_ID_BEING_RESPONDED_TO: 1,
            dimse.COMMAND_DATA_SET_TYPE: dimse.NO_DATA_SET,
            dimse.STATUS: 0xFF00,
        }
    )
    match = upper_layer.DATA_HEADER.pack(4, len(pending) + 6, len(pending) + 2, 1, 0b11) + pending

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(match * 2000)

    with peer_that(answer) as port, pytest.raises(Transient, match="more than 1000 matches"):
        objects = [AcceptedObject(SEGMENTATION, "1.2.3", "1.2")]
        find_objects(destination_at(port), "OVERREAD", "1.2", objects, 60, lambda: None)


@pytest.mark.parametrize("sent", [b"", b"\x0b", b"\x0bMSH|^~", b"\x0bMSH|^~\\&|\rMSA|AA|1\r", b"\x0bMSA|AA|1\r\x1c"])
def test_connection_lost_anywhere_in_the_acknowledgement_is_tried_again(node: Node, real: Job, sent: bytes):
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 20)
        connection.sendall(sent)

    with tcp_peer_that(answer) as port:
        ris = Hl7Destination(name="pacs", kind="hl7", host=LOOPBACK, port=port)
        with pytest.raises(NotTaken, match="before the message was acknowledged"):
            Hl7Transport(node.engine, ris, 10, lambda: datetime.now(UTC)).send(parcel_of(node, real), lambda: None)


def test_acknowledgement_that_comes_byte_by_byte_is_left(node: Node, real: Job):
    with tcp_peer_that(lambda connection: drip(connection, b"x")) as port:
        ris = Hl7Destination(name="pacs", kind="hl7", host=LOOPBACK, port=port)
        with pytest.raises(NotTaken, match=NO_WHOLE_ANSWER):
            Hl7Transport(node.engine, ris, 0.3, lambda: datetime.now(UTC)).send(parcel_of(node, real), lambda: None)
