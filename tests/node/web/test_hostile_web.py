"""HTTP clients that mean no good: each loses its connection by itself, and a good one is served meanwhile."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from pydicom import Dataset

from tests.certificates import make_authority
from tests.counterparts import wait_until
from tests.node.web.conftest import WebUnderTest, compose, part10

Serve = Callable[..., WebUnderTest]
HASTY = {"header_timeout_seconds": 0.6, "body_timeout_seconds": 0.8}


def connect(web: WebUnderTest, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", web.port), timeout=60)
    client.sendall(sent)
    return client


def ends(client: socket.socket) -> bytes:
    """What comes until the server hangs up; the test fails when it does not."""
    received = b""
    try:
        while piece := client.recv(65536):
            received += piece
    except ConnectionError:
        pass
    finally:
        client.close()
    return received


def request_head(content_type: str, length: int, *more: str) -> bytes:
    lines = ["POST /studies HTTP/1.1", "Host: x", f"Content-Type: {content_type}", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def serves(web: WebUnderTest, image: Dataset) -> bool:
    """Whether a good client can store an object; it tries again where it was itself too slow for the limits."""

    def stores() -> bool:
        with suppress(httpx.TransportError):
            return web.post([part10(image)]).status_code == 200
        return False

    return bool(wait_until(stores, "good client that is served"))


def test_clients_that_do_not_finish_a_request_lose_their_connection(serve: Serve, images: list[Dataset]) -> None:
    web = serve(**HASTY)
    head = b"POST /studies HTTP/1.1\r\nHost: x\r\n"
    beginnings = (b"", b"POST /stu", head + b"X: y", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nG")
    silent = [connect(web, sent) for sent in beginnings * 10]
    assert serves(web, images[0])
    for client in silent:
        ends(client)


def test_header_that_comes_byte_by_byte_ends(serve: Serve) -> None:
    web = serve(**HASTY)
    with connect(web) as client, pytest.raises(ConnectionError):
        for byte in b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 10_000:
            client.sendall(bytes([byte]))
            time.sleep(0.02)


def test_crowd_of_silent_clients_cannot_keep_a_good_one_out(serve: Serve, images: list[Dataset]) -> None:
    web = serve(header_timeout_seconds=3600)
    silent = [connect(web) for _ in range(200)]
    assert serves(web, images[0])
    connections = web.server._server.server_state.connections
    wait_until(lambda: len(connections) <= 130, "end of the oldest of them")
    for client in silent:
        client.close()


def test_body_that_stops_is_408_and_leaves_nothing(serve: Serve, images: list[Dataset]) -> None:
    web = serve(body_timeout_seconds=0.8)
    content, content_type = compose([part10(images[0]), part10(images[1])])
    answer = ends(connect(web, request_head(content_type, len(content)) + content[:-900]))
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"error":"timeout"' in answer
    assert web.temporary_files() == []
    assert serves(web, images[0])


def test_body_of_a_byte_now_and_then_is_408(serve: Serve, images: list[Dataset]) -> None:
    """Bytes keep coming within the time limit: only the rate tells."""
    web = serve(body_timeout_seconds=0.8)
    content, content_type = compose([part10(images[0])])
    client = connect(web, request_head(content_type, len(content)))
    ended = threading.Event()

    def drip() -> None:
        for at in range(len(content)):
            if ended.wait(0.05):
                return
            try:
                client.sendall(content[at : at + 1])
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
    finally:
        ended.set()
        thread.join()
        client.close()


def test_client_that_hangs_up_leaves_nothing(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    content, content_type = compose([part10(images[0])])
    for length in (10, 300, 900):
        connect(web, request_head(content_type, len(content)) + content[:length]).close()
    assert serves(web, images[1])
    wait_until(lambda: not web.temporary_files(), "removal of temporary files")
    assert len(web.rows()) == 1


def test_client_that_takes_no_answer_is_cut_off(serve: Serve, images: list[Dataset]) -> None:
    web = serve(**HASTY)
    web.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # type: ignore[union-attr]
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect(("127.0.0.1", web.port))
    with pytest.raises(ConnectionError):
        for _ in range(100_000):  # pipelined: far more answers than any buffers between the two hold
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    client.close()
    wait_until(lambda: not web.server._server.server_state.connections, "end of the connection")
    assert serves(web, images[0])


def test_refused_upload_is_answered_though_the_client_only_writes(serve: Serve) -> None:
    web = serve(maximum_object_mb=1)
    content, content_type = compose([bytes(1_200_000)])
    client = connect(web)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)  # where what is too much is on its way
    client.sendall(request_head(content_type, len(content), "Connection: close") + content)
    answer = ends(client)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_probes_leave_nothing_behind(serve: Serve, images: list[Dataset]) -> None:
    web = serve(**HASTY)
    assert serves(web, images[0])
    process = psutil.Process()
    descriptors = process.num_fds()
    for number in range(120):
        with connect(web) as probe:
            if number % 4 == 1:
                probe.sendall(b"\x01\x00\x00\x00\xff\xff\xff\xff" + os.urandom(40))
            elif number % 4 == 2:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset on close
            elif number % 4 == 3:
                probe.sendall(b"BREW /pot HTCPCP/1.0\r\n\r\n")
    assert serves(web, images[1])
    wait_until(lambda: not web.server._server.server_state.connections, "end of the connections")
    pooled = 12  # connections to the database that came to stay
    wait_until(lambda: process.num_fds() <= descriptors + pooled, "closing of the descriptors")


def test_header_without_end_is_refused(serve: Serve) -> None:
    web = serve()
    answer = ends(connect(web, b"GET /health HTTP/1.1\r\n" + b"X: " + b"y" * 200_000))
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_memory_stays_bounded_with_a_large_object(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    images[0].Rows = images[0].Columns = 5000
    images[0].PixelData = bytes(50_000_000)
    file = part10(images[0])
    head, tail = compose([b""])[0].split(b"\r\n\r\n")
    boundary = head[2:].split(b"\r\n")[0].decode()

    def body():  # type: ignore[no-untyped-def]
        yield head + b"\r\n\r\n"
        for at in range(0, len(file), 1 << 20):
            yield memoryview(file)[at : at + (1 << 20)].tobytes()
        yield b"\r\n" + tail.lstrip(b"\r\n")

    assert serves(web, images[1])
    process = psutil.Process()
    before, peak = process.memory_info().rss, 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with httpx.Client(trust_env=False, timeout=60) as client:
            kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
            answer = client.post(f"{web.url}/studies", content=body(), headers={"Content-Type": kind})
    finally:
        done.set()
        watching.join()
    assert answer.status_code == 200
    assert peak - before < 20_000_000
    assert [row.size_bytes > 50_000_000 for row in web.rows()].count(True) == 1


def test_stop_within_an_upload_is_bounded_and_leaves_nothing(serve: Serve, images: list[Dataset]) -> None:
    web = serve(stop_seconds=1)
    port = web.port
    content, content_type = compose([bytes(400_000), part10(images[0])])
    client = connect(web, request_head(content_type, len(content)) + content[:300_000])
    wait_until(web.temporary_files, "beginning of the upload")
    idle = connect(web)
    stopping = threading.Thread(target=web.server.stop)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()
    assert not ends(client).startswith(b"HTTP/1.1 200") and ends(idle) == b""
    assert web.temporary_files() == [] and web.rows() == []
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=60)


def test_crowd_of_silent_tls_clients_cannot_keep_a_good_one_out(serve: Serve, tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    certificate, key = authority.issue("server")
    web = serve(tls_certificate=str(certificate), tls_key=str(key), header_timeout_seconds=3600)
    silent = [connect(web) for _ in range(200)]
    context = ssl.create_default_context(cafile=str(authority.ca))
    with httpx.Client(verify=context, trust_env=False, timeout=60) as client:
        assert client.get(f"https://127.0.0.1:{web.port}/health").status_code == 200
    wait_until(lambda: len(web.server._server._handshakes) <= 128, "end of the oldest of them")
    ends(silent[0])
    for client_socket in silent[1:]:
        client_socket.close()


def test_tls_hello_on_the_plain_port(serve: Serve) -> None:
    web = serve()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as plain, pytest.raises(OSError):
        context.wrap_socket(plain)
