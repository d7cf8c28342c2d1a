"""Time limits of an association on a clock of the test's own: the peer's delays end it, ours do not."""

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from node.receive.admission import Occupancy, PeerIdentity, admit
from node.receive.association import Association
from node.receive.command import Command
from node.receive.intake import Intake
from node.receive.witness import NoWitness
from tests.node.receive import fuzzing
from tests.node.receive.wire import CT, EXPLICIT, RELEASE, associate_request, command, message, p_data, pdv

LIMITS = replace(fuzzing.LIMITS, network_timeout_seconds=60, minimum_bytes_per_second=100)
STORE = command(1, 1, CT, "1.2.3")
OBJECT = message(1, STORE, bytes(500))
BEGINNING = p_data(pdv(1, STORE, is_command=True, is_last=True)) + p_data(
    pdv(1, bytes(250), is_command=False, is_last=False)
)
REST = p_data(pdv(1, bytes(250), is_command=False, is_last=True))
ACCEPTED, DATA, RELEASED, ABORTED = 2, 4, 6, 7
Step = bytes | float


class Peer(fuzzing.Wire):
    """Sends the bytes among `steps`, and is silent for the seconds among them, on a clock that it moves."""

    def __init__(self, *steps: Step) -> None:
        super().__init__(b"", 0)
        self.steps = [associate_request([(1, CT, [EXPLICIT])]), *steps]
        self.now = 0.0

    def recv_into(self, room: memoryview) -> int:
        if not self.steps:
            return 0
        step = self.steps.pop(0)
        if isinstance(step, bytes):
            room[: len(step)] = step
            return len(step)
        self.now += step
        raise BlockingIOError

    def answered(self) -> list[int]:
        """The types of the PDUs that it got."""
        types, left = [], self.answers
        while left:
            types.append(left[0])
            left = left[6 + int.from_bytes(left[2:6], "big") :]
        return types


@dataclass
class SlowDisk:
    """An intake that needs so many seconds for each piece of a data set."""

    peer: Peer
    seconds: float

    def begin(self, command: Command, *_: object) -> fuzzing.Forgotten:
        disk = self

        class Slow(fuzzing.Forgotten):
            def add(self, fragment: memoryview) -> None:
                disk.peer.now += disk.seconds
                super().add(fragment)

        return Slow(command, [])


def serve(peer: Peer, disk_seconds: float) -> list[int]:
    Association(
        cast(Any, peer),
        "192.0.2.1",
        LIMITS,
        cast(Intake, SlowDisk(peer, disk_seconds)),
        admit=lambda request: admit(request, fuzzing.RULES, Occupancy(0, 0), PeerIdentity("192.0.2.1")),
        leave=lambda: None,
        on_release=lambda uids: None,
        stopping_at=lambda: None,
        witness=NoWitness(),
        clock=lambda: peer.now,
    ).run()
    return peer.answered()


@pytest.mark.parametrize("disk_seconds", [0.0, 1000.0])
def test_peer_has_its_time_after_each_answer_however_long_that_took(disk_seconds: float) -> None:
    peer = Peer(50.0, OBJECT, 50.0, OBJECT, 50.0, RELEASE)
    assert serve(peer, disk_seconds) == [ACCEPTED, DATA, DATA, RELEASED]


@pytest.mark.parametrize("disk_seconds", [0.0, 1000.0])
def test_rate_of_an_object_is_that_of_its_sender(disk_seconds: float) -> None:
    assert serve(Peer(BEGINNING, 4.0, REST, RELEASE), disk_seconds) == [ACCEPTED, DATA, RELEASED]


@pytest.mark.parametrize("steps", [(61.0,), (OBJECT, 61.0), (BEGINNING, 61.0), (OBJECT[:20], 30.0, 31.0)])
def test_silence_of_the_peer_ends_the_association(steps: tuple[Step, ...]) -> None:
    assert serve(Peer(*steps, OBJECT, RELEASE), 1000.0)[-1] == ABORTED


def test_byte_now_and_then_ends_the_association() -> None:
    piece = p_data(pdv(1, b"\x08", is_command=False, is_last=False))
    assert serve(Peer(BEGINNING, *[10.0, piece] * 7, REST, RELEASE), 1000.0)[-1] == ABORTED
