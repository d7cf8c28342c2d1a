"""HTTP towards destinations: answers without an end, and secrets that are none."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import create_server

import pytest

from node.deliver.http import HttpPeer
from node.deliver.transport import Unreachable
from node.destination_settings import HttpDestination
from node.errors import Permanent
from tests.counterparts import LOOPBACK

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def endless_server(chunk: bytes) -> Iterator[str]:
    """The URL of a server that answers one request, with this piece again and again until nobody listens."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20)
            connection.recv(65536)
            try:
                connection.sendall(HEAD)
                while True:
                    connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            except OSError:
                return

    with create_server((LOOPBACK, 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://{LOOPBACK}:{server.getsockname()[1]}"
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "sent", [b"", HEAD[:5], HEAD[:40], HEAD, HEAD + b'5\r\n{"a', HEAD + b"5\r\n12345\r\n", b"\x15\x03\x03"]
)
def test_connection_lost_anywhere_in_the_answer_is_tried_again(sent: bytes):
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(sent)

    with create_server((LOOPBACK, 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://{LOOPBACK}:{server.getsockname()[1]}"
        with (
            closing(HttpPeer(HttpDestination(name="web", url=url), 10)) as peer,
            pytest.raises(Unreachable, match=r"destination 'web' .*: the connection was"),
        ):
            peer.request("GET", "/")
        thread.join(20)


def test_answer_without_an_end_is_left_at_its_longest():
    with (
        endless_server(b"x" * 10_000) as url,
        closing(HttpPeer(HttpDestination(name="web", url=url), 10)) as peer,
        pytest.raises(Unreachable, match="answered with more than 100000 bytes"),
    ):
        peer.request("GET", "/", longest_bytes=100_000)


def test_answer_that_comes_drop_by_drop_is_left_in_time():
    ticks = itertools.count(step=30)  # half a minute goes by between two drops
    with (
        endless_server(b"x") as url,
        closing(HttpPeer(HttpDestination(name="web", url=url), 10, lambda: next(ticks))) as peer,
        pytest.raises(Unreachable, match="no whole answer in time"),
    ):
        peer.request("GET", "/")


@pytest.mark.parametrize("content", [b"", b"\n", "gehe\u00efm".encode(), b"to\nken", b"\xff"])
def test_secret_that_is_none_is_named_and_not_shown(tmp_path: Path, content: bytes):
    token = tmp_path / "token"
    token.write_bytes(content)
    destination = HttpDestination(name="web", url=f"http://{LOOPBACK}:1", bearer_token_file=token)
    wanted = r"token (is empty|holds no token)"
    with closing(HttpPeer(destination, 1)) as peer, pytest.raises(Permanent, match=wanted) as raised:
        peer.request("GET", "/")
    assert "gehe" not in str(raised.value) and "ken\n" not in str(raised.value)
