"""Clients that mean no good: each loses its slot by itself, and a good client is served meanwhile."""

import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from tests.counterparts import wait_until
from tests.node.receive.conftest import Receiver
from tests.node.receive.wire import (
    CT,
    EXPLICIT,
    Client,
    Encoded,
    associate_request,
    command,
    p_data,
    pdv,
)

Start = Callable[..., Receiver]
# Short limits, so that the tests are short, and long enough for who is to keep them on a busy machine.
NO_REQUEST = {"acse_timeout_seconds": 0.6}
NO_PDU = {"network_timeout_seconds": 1.2}


def serves(receiver: Receiver, image: Encoded) -> bool:
    """Whether a good client can store an object; it tries again where it was itself too slow for the limits."""

    def stores() -> bool:
        with suppress(OSError, AssertionError), receiver.associated() as client:
            return client.store(image) == 0 and client.release() is None
        return False

    return bool(wait_until(stores, "good client that is served"))


def test_silent_clients_lose_their_connection(receive: Start, images: list[Encoded]) -> None:
    receiver = receive(**NO_REQUEST)
    silent = [Client(receiver.port) for _ in range(60)]
    assert serves(receiver, images[0])
    assert all(client.is_closed_within(60) for client in silent)


def test_crowd_of_silent_clients_cannot_keep_a_good_one_out(receive: Start, images: list[Encoded]) -> None:
    receiver = receive(acse_timeout_seconds=3600)
    silent = [Client(receiver.port) for _ in range(200)]
    assert serves(receiver, images[0])
    wait_until(lambda: len(_association_threads()) <= 129, "end of the oldest of them")
    for client in silent:
        client.socket.close()


@pytest.mark.parametrize("sent", [b"\1", b"\1\0\0\0", associate_request([(1, CT, [EXPLICIT])])[:-3]])
def test_part_of_a_request_loses_its_connection(receive: Start, sent: bytes) -> None:
    receiver = receive(**NO_REQUEST)
    with Client(receiver.port) as client:
        client.send(sent)
        assert client.is_closed_within(60)


def test_idle_association_ends(receive: Start, images: list[Encoded]) -> None:
    receiver = receive(network_timeout_seconds=3)
    with receiver.associated() as client:
        assert client.store(images[0]) == 0
        assert client.is_closed_within(60)


def test_half_a_pdu_and_half_an_object_end(receive: Start, images: list[Encoded]) -> None:
    receiver = receive(**NO_PDU)
    whole = images[0].message(fragment_bytes=400)
    for length in (3, 100, 1000):
        with receiver.associated() as client:
            client.send(whole[:length])
            assert client.is_closed_within(60)
    wait_until(lambda: not receiver.temporary_files(), "removal of temporary files")
    assert receiver.count() == 0 and serves(receiver, images[0])


def test_byte_a_second_ends(receive: Start, images: list[Encoded]) -> None:
    """Bytes keep coming, and each small PDU is complete in time: only the rate tells."""
    receiver = receive(network_timeout_seconds=0.8)
    with receiver.associated() as client:
        head = command(1, 1, CT, images[0].sop_instance)
        client.send(p_data(pdv(1, head, is_command=True, is_last=True)))
        ended = threading.Event()

        def drip() -> None:
            piece = p_data(pdv(1, b"\x08", is_command=False, is_last=False))
            while not ended.wait(0.05):
                try:
                    client.send(piece)
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert client.is_closed_within(60)
        ended.set()
        dripping.join()


@pytest.mark.parametrize("drop", [b"\7\0\0\0\0\4" + bytes(4), b""], ids=["abort", "hang-up"])
def test_end_within_an_object_leaves_nothing(receive: Start, images: list[Encoded], drop: bytes) -> None:
    receiver = receive()
    for length in (10, 300, 900):
        with receiver.associated() as client:
            client.send(images[0].message(fragment_bytes=200)[:length])
            client.send(drop)
    wait_until(lambda: not receiver.temporary_files(), "removal of temporary files")
    assert receiver.count() == 0 and receiver.placed_files() == []
    assert serves(receiver, images[0])


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 7])
def test_announced_4_gib_is_refused_at_once(receive: Start, kind: int) -> None:
    receiver = receive()
    before = psutil.Process().memory_info().rss
    for first in (b"", associate_request([(1, CT, [EXPLICIT])])):
        with Client(receiver.port) as client:
            client.send(first)
            client.send(bytes([kind, 0, 0xFF, 0xFF, 0xFF, 0xFF]))
            assert client.is_closed_within(60)
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_tls_hello_on_the_plain_port(receive: Start) -> None:
    receiver = receive()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as plain, pytest.raises(OSError):
        context.wrap_socket(plain)


def test_probes_leave_nothing_behind(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    assert serves(receiver, images[0])
    process = psutil.Process()
    wait_until(lambda: not _association_threads(), "quiet start")
    descriptors, threads = process.num_fds(), threading.active_count()
    memory = process.memory_info().rss
    for number in range(200):
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as probe:
            if number % 4 == 1:
                probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
            elif number % 4 == 2:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset on close
            elif number % 4 == 3:
                probe.sendall(os.urandom(40))
    assert serves(receiver, images[1])
    wait_until(lambda: threading.active_count() <= threads, "end of the threads")
    pooled = 12  # connections to the database that came to stay
    wait_until(lambda: process.num_fds() <= descriptors + pooled, "closing of the descriptors")
    wait_until(lambda: process.memory_info().rss < memory + (64 << 20), "return of the memory")


def test_more_associations_than_allowed_are_rejected_for_now(receive: Start, images: list[Encoded]) -> None:
    receiver = receive(maximum_associations=3)
    held = [receiver.associated() for _ in range(3)]
    with Client(receiver.port) as client:
        client.send(associate_request([(1, CT, [EXPLICIT])]))
        kind, body = client.read_pdu()
        assert (kind, tuple(body[1:])) == (3, (2, 3, 2))
    for _ in range(5):  # who was told that its association is over may open the next at once
        held.pop().release()
        assert serves(receiver, images[0])
        held.append(receiver.associated())
    for client in held:
        client.socket.close()


def test_one_address_may_not_take_all(receive: Start) -> None:
    receiver = receive(maximum_associations_per_peer=2)
    held = [receiver.associated() for _ in range(2)]
    with Client(receiver.port) as client:
        client.send(associate_request([(1, CT, [EXPLICIT])]))
        assert client.read_pdu()[0] == 3
    for client in held:
        client.socket.close()


def test_client_that_reads_no_answers_is_ended(receive: Start) -> None:
    receiver = receive(network_timeout_seconds=1)
    echo = p_data(pdv(5, command(0x30, 1, "1.2.840.10008.1.1", has_data=False), is_command=True, is_last=True))
    with receiver.associated() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.settimeout(8)
        with pytest.raises(OSError):  # a reset, or nothing at all any more
            for _ in range(100_000):  # far more than any buffers between the two hold; ends when they are full
                client.send(echo * 50)
    wait_until(lambda: not _association_threads(), "end of the association")


def _association_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("association-")]


@pytest.mark.parametrize(
    "sent",
    [
        associate_request([(1, CT, [EXPLICIT])]),
        b"\2\0\0\0\0\4" + bytes(4),
        b"\6\0\0\0\0\4" + bytes(4),
        p_data(pdv(9, command(1, 1, CT, "1.2"), is_command=True, is_last=True)),
        p_data(pdv(1, b"\0\0\0\0\xff\xff\0\0", is_command=True, is_last=True)),
        p_data(pdv(1, b"data", is_command=False, is_last=True)),
        p_data(pdv(1, command(0x8001, 1, CT, "1.2", has_data=False), is_command=True, is_last=True)),
        p_data(pdv(1, command(1, 1, CT, "1.2"), is_command=True, is_last=True)) + b"\5\0\0\0\0\4" + bytes(4),
    ],
    ids=[
        "second-request",
        "accept",
        "release-reply",
        "foreign-context",
        "broken-command",
        "lone-data",
        "response",
        "release-within-object",
    ],
)
def test_broken_protocol_is_aborted(receive: Start, images: list[Encoded], sent: bytes) -> None:
    receiver = receive()
    with receiver.associated() as client:
        client.send(sent)
        kind, body = client.read_pdu()
        assert (kind, body[2]) == (7, 2)
    assert serves(receiver, images[0])
