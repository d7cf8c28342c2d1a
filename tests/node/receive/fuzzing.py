"""What is fuzzed of the receiver. Each target takes any bytes and returns, or raises what no peer may cause.

`corpus/<target>/` holds inputs that reach far, and every input that once failed. `test_fuzzing` runs them all and
begins its own search there; `fuzz_search` searches on, led by coverage.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from node.errors import Refused
from node.receive import association as association_module
from node.receive.admission import AdmissionRules, Occupancy, PeerIdentity, admit
from node.receive.association import Association, Limits
from node.receive.beginnings import Beginnings
from node.receive.command import Command, CommandError, read_command, write_response
from node.receive.header import HeaderError, InstanceHeader, read_data_set
from node.receive.intake import Intake
from node.receive.multipart import MultipartError, MultipartParser, PartBegins, PartData
from node.receive.witness import NoWitness

CORPUS = Path(__file__).parent / "corpus"
LIMITS = Limits(
    maximum_pdu_bytes=16384,
    maximum_object_bytes=100_000,
    network_timeout_seconds=60,
    acse_timeout_seconds=60,
    minimum_bytes_per_second=0,
)
RULES = AdmissionRules("OVERREAD", False, frozenset(), 10, 10)
SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.1.99",
)


class Wire:
    """A socket whose peer sends `stream` in pieces of at most `cut` bytes, and hangs up. It waits for the answer to its
    first PDU."""

    def __init__(self, stream: bytes, cut: int) -> None:
        self._stream = stream
        self._first = 6 + int.from_bytes(stream[2:6], "big")
        self._cut = cut
        self.answers = b""

    def recv_into(self, room: memoryview) -> int:
        assert len(room) > 0, "the parser has no room left"
        count = min(len(room), self._cut, len(self._stream), self._first or len(self._stream))
        self._first = max(0, self._first - count)
        room[:count] = self._stream[:count]
        self._stream = self._stream[count:]
        return count

    def recv(self, most: int) -> bytes:
        return b""

    def sendall(self, answer: bytes) -> None:
        self.answers += answer

    def shutdown(self, how: int) -> None:
        """Nothing more is sent."""

    def settimeout(self, seconds: float | None) -> None:
        """It never waits."""

    def setsockopt(self, *option: int | bytes) -> None:
        """It has none."""

    def close(self) -> None:
        """It is gone with the test."""


@dataclass
class Forgotten:
    """A data set on its way to nowhere; used like `IncomingObject`."""

    command: Command
    received: list[bytes]
    size_bytes: int = 0
    fragments: list[memoryview] = field(default_factory=list)

    def refuse(self, refusal: Refused) -> None:
        """Nothing is kept anyway."""

    def add(self, fragment: memoryview) -> None:
        self.size_bytes += len(fragment)
        self.fragments.append(fragment)

    def flush(self) -> None:
        self.received += [bytes(fragment) for fragment in self.fragments]
        self.fragments = []

    def complete(self) -> None:
        self.flush()

    def discard(self) -> None:
        self.fragments = []


@dataclass
class Nowhere:
    """An intake that keeps the bytes of data sets in order of their arrival."""

    received: list[bytes] = field(default_factory=list)

    def begin(self, command: Command, *_: object) -> Forgotten:
        return Forgotten(command, self.received)


class Faults:
    """The log of an association: a fault of ours is raised."""

    def bind(self, **fields: object) -> "Faults":
        return self

    def info(self, event: str, **fields: object) -> None:
        json.dumps(fields)

    warning = info

    def error(self, event: str, **fields: object) -> None:
        raise AssertionError(f"{event}: {fields}")


def serve(stream: bytes, cut: int) -> tuple[bytes, bytes]:
    """What is answered, and the data sets that came, when a peer sends `stream`."""
    wire, intake = Wire(stream, cut), Nowhere()
    Association(
        cast(Any, wire),
        "192.0.2.1",
        LIMITS,
        cast(Intake, intake),
        admit=lambda request: admit(request, RULES, Occupancy(0, 0), PeerIdentity("192.0.2.1")),
        leave=lambda: None,
        on_release=lambda uids: None,
        stopping_at=lambda: None,
        witness=NoWitness(),
    ).run()
    return wire.answers, b"".join(intake.received)


def fuzz_association(stream: bytes) -> None:
    """Whatever a peer sends: no fault of ours, and the same answers however its bytes are cut."""
    cut = 1 + (stream[0] if stream else 0) * 37
    whole, parts = serve(stream[1:], 1 << 20), serve(stream[1:], cut)
    assert whole[0] == parts[0], "the answers depend on how the bytes were cut"


def fuzz_header(content: bytes) -> None:
    """Whatever a data set is: a header that JSON can hold or a reason; the quick way finds what the long one does."""
    syntax = SYNTAXES[content[0] % len(SYNTAXES)] if content else SYNTAXES[0]
    data_set = content[1:]
    with contextlib.suppress(HeaderError):
        header = read_data_set(data_set, syntax)
        json.dumps([header.series_header, header.geometry], allow_nan=False)
        check_beginning(data_set, syntax, header)


def check_beginning(data_set: bytes, syntax: str, header: InstanceHeader) -> None:
    """What is read from the first bytes is None or the same as what is read from all of them, whatever came before."""
    beginnings = Beginnings()
    for length in (len(data_set), len(data_set) // 2, header.pixel_offset or 0):
        beginning = beginnings.read(data_set[:length], syntax)
        assert beginning is None or beginning == header, "the beginning tells something else"


def fuzz_command(content: bytes) -> None:
    """Whatever a command set is: a request that can be answered, or a reason."""
    with contextlib.suppress(CommandError):
        command = read_command(content)
        assert read_command(write_response(command, 0xC000, "reason")).is_response


def read_parts(body: bytes, cut: int) -> list[tuple[dict[str, str], bytes]] | str:
    """Headers and content of each part of a body with the boundary B that comes in pieces of `cut` bytes; or the code
    of what is wrong with it."""
    parser = MultipartParser("B", 5)
    parts: list[tuple[dict[str, str], bytes]] = []
    try:
        for begin in range(0, len(body), cut):
            for event in parser.feed(body[begin : begin + cut]):
                match event:
                    case PartBegins(headers):
                        parts.append((dict(headers), b""))
                    case PartData(piece):
                        parts[-1] = (parts[-1][0], parts[-1][1] + piece)
        parser.close()
    except MultipartError as error:
        return error.code
    return parts


def fuzz_multipart(content: bytes) -> None:
    """Whatever a body is: the same parts however its bytes are cut, none longer than the body; or a reason."""
    cut = 1 + (content[0] if content else 0)
    body = content[1:]
    whole = read_parts(body, max(1, len(body)))
    assert whole == read_parts(body, cut), "the parts depend on how the bytes were cut"
    if isinstance(whole, list):
        assert sum(len(data) for _, data in whole) <= len(body), "there is more in the parts than in the body"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "association": fuzz_association,
    "header": fuzz_header,
    "command": fuzz_command,
    "multipart": fuzz_multipart,
}


def silence() -> None:
    """Let associations log into `Faults`."""
    association_module.get_logger = lambda room: Faults()
