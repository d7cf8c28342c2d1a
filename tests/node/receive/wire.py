"""A C-STORE client without manners: builds PDUs byte by byte, so that a test can send any of them wrong."""

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body


def associate_request(
    contexts: Sequence[tuple[int, str, Sequence[str]]],
    *,
    called: str = "OVERREAD",
    calling: str = "TESTER",
    user_items: bytes = b"",
    application_context: str = "1.2.840.10008.3.1.1.1",
    version: int = 1,
) -> bytes:
    """An A-ASSOCIATE-RQ; contexts are (number, abstract syntax, transfer syntaxes)."""
    body = struct.pack(">HH", version, 0) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32)
    body += item(0x10, application_context.encode())
    for number, abstract, syntaxes in contexts:
        inner = item(0x30, abstract.encode()) + b"".join(item(0x40, uid.encode()) for uid in syntaxes)
        body += item(0x20, bytes([number, 0, 0, 0]) + inner)
    body += item(0x50, item(0x51, struct.pack(">L", 65536)) + item(0x52, b"1.2.3") + user_items)
    return pdu(1, body)


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def uid_value(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def command(
    field: int = 1, message_id: int = 1, sop_class: str = "", sop_instance: str = "", has_data: bool = True
) -> bytes:
    """A command set with the elements of a C-STORE-RQ or C-ECHO-RQ."""
    rest = element(2, uid_value(sop_class)) if sop_class else b""
    rest += element(0x100, struct.pack("<H", field)) + element(0x110, struct.pack("<H", message_id))
    rest += element(0x700, b"\0\0") + element(0x800, struct.pack("<H", 0 if has_data else 0x101))
    rest += element(0x1000, uid_value(sop_instance)) if sop_instance else b""
    return element(0, struct.pack("<L", len(rest))) + rest


def pdv(context_id: int, content: bytes, *, is_command: bool, is_last: bool) -> bytes:
    return struct.pack(">LBB", len(content) + 2, context_id, is_command | is_last << 1) + content


def p_data(*values: bytes) -> bytes:
    return pdu(4, b"".join(values))


def message(context_id: int, command_set: bytes, data_set: bytes | None, fragment_bytes: int = 16000) -> bytes:
    """All PDUs of one message, the data set in fragments."""
    out = [p_data(pdv(context_id, command_set, is_command=True, is_last=True))]
    if data_set is not None:
        view = memoryview(data_set)
        pieces = [view[at : at + fragment_bytes] for at in range(0, len(view), fragment_bytes)] or [view]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            out.append(p_data(pdv(context_id, bytes(piece), is_command=False, is_last=last)))
    return b"".join(out)


RELEASE = pdu(5, bytes(4))
ABORT = pdu(7, bytes(4))


@dataclass(frozen=True)
class Encoded:
    """One object as it goes over the wire."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_set: bytes

    def message(self, context_id: int = 1, message_id: int = 1, fragment_bytes: int = 16000) -> bytes:
        head = command(1, message_id, self.sop_class, self.sop_instance)
        return message(context_id, head, self.data_set, fragment_bytes)


def encode(image: Dataset) -> Encoded:
    """The data set of a pydicom image in Explicit or Implicit VR Little Endian."""
    syntax = UID(image.file_meta.TransferSyntaxUID)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax.is_implicit_VR
    write_dataset(buffer, image)
    return Encoded(str(image.SOPClassUID), str(image.SOPInstanceUID), str(syntax), buffer.getvalue())


def read_encoded(path: Path) -> Encoded:
    """The data set of a file, bit for bit."""
    content = path.read_bytes()
    found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    start = 132
    while content[start : start + 2] == b"\2\0":
        is_long = content[start + 4 : start + 6] in (b"OB", b"UN")
        length = int.from_bytes(
            content[start + 8 : start + 12] if is_long else content[start + 6 : start + 8], "little"
        )
        start += length + (12 if is_long else 8)
    syntax = str(found.file_meta.TransferSyntaxUID)
    return Encoded(str(found.SOPClassUID), str(found.SOPInstanceUID), syntax, content[start:])


class Client:
    """A socket to a receiver."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def read_pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; (0, b"") when the connection was closed."""
        header = self._read(6)
        if len(header) < 6:
            return 0, b""
        return header[0], self._read(int.from_bytes(header[2:6], "big"))

    def read_status(self) -> int:
        """Status of the next response."""
        kind, body = self.read_pdu()
        assert kind == 4, f"PDU type {kind} where a response was expected"
        at = body.index(b"\0\0\0\x09\x02\0\0\0")
        return int.from_bytes(body[at + 8 : at + 10], "little")

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the peer ends the connection, whatever it sends before; looks at least once."""
        deadline = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                if not self.socket.recv(65536):
                    return True
            except TimeoutError:
                if time.monotonic() > deadline:
                    return False
            except OSError:
                return True

    def associate(self, contexts: Iterable[tuple[int, str, Sequence[str]]], **options: str | bytes | int) -> bytes:
        """Associate; the body of the A-ASSOCIATE-AC."""
        self.send(associate_request(list(contexts), **options))  # type: ignore[arg-type]
        kind, body = self.read_pdu()
        assert kind == 2, f"PDU type {kind} where A-ASSOCIATE-AC was expected"
        return body

    def store(self, image: Encoded, context_id: int = 1) -> int:
        self.send(image.message(context_id))
        return self.read_status()

    def release(self) -> None:
        self.send(RELEASE)
        assert self.read_pdu()[0] == 6

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            received = self.socket.recv(65536)
            if not received:
                break
            self._buffer += received
        out, self._buffer = self._buffer[:count], self._buffer[count:]
        return out
