"""An MLLP receiver on loopback that answers as it is told."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.counterparts import LOOPBACK

Answer = Callable[[str], bytes | None]


@contextmanager
def mllp_server(answers: list[Answer], tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """Takes messages; each is answered by the next of `answers`, then by AA. None hangs up without an answer."""
    received: list[str] = []
    server = socket.create_server((LOOPBACK, 0))
    server.settimeout(0.1)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            connection.settimeout(20)
            try:
                with tls.wrap_socket(connection, server_side=True) if tls else connection as secured:
                    _serve_one(secured, received, answers)
            except OSError:  # no handshake, or the sender hung up
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], received
    finally:
        stopping.set()
        thread.join()
        server.close()


def _serve_one(connection: socket.socket, received: list[str], answers: list[Answer]) -> None:
    content = b""
    while not content.endswith(b"\x1c\r") and (piece := connection.recv(65536)):
        content += piece
    if not content:
        return
    message = content[1:-2].decode()
    received.append(message)
    answer = (answers.pop(0) if answers else acknowledge("AA"))(message)
    if answer is not None:
        connection.sendall(b"\x0b" + answer + b"\x1c\r")


def acknowledge(code: str, control_id: str = "") -> Answer:
    """An ACK of this code, which quotes a patient as careless receivers do."""

    def answer(message: str) -> bytes:
        found = control_id or message.split("\r")[0].split("|")[9]
        return f"MSH|^~\\&|RIS||OVERREAD||20300101||ACK^R01|1|P|2.5.1\rMSA|{code}|{found}|Canary^Carla?\r".encode()

    return answer
