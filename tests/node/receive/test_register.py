"""Limits on associations hold for all listener processes of the node together."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.receive.register import SharedRegister, make_register
from tests.counterparts import wait_until
from tests.node.receive.receiver_process import Receivers
from tests.node.receive.wire import CT, EXPLICIT, Client, associate_request


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    receivers = Receivers()
    yield receivers
    receivers.close()


def open_registers(folder: Path, number: int) -> list[SharedRegister]:
    registers = [SharedRegister(folder) for _ in range(number)]
    for register in registers:
        register.open()
    return registers


def others(register: SharedRegister) -> Counter[str]:
    with register.counted() as found:
        return found


def write(register: SharedRegister, *peers: str) -> None:
    with register.counted():
        register.write(peers)


def test_each_counts_the_others(tmp_path: Path) -> None:
    first, second, third = open_registers(tmp_path / "run", 3)
    write(first, "10.0.0.1", "10.0.0.2")
    write(second, "10.0.0.1", "fe80::1")
    assert others(first) == {"10.0.0.1": 1, "fe80::1": 1}
    assert others(second) == {"10.0.0.1": 1, "10.0.0.2": 1}
    assert others(third) == {"10.0.0.1": 2, "10.0.0.2": 1, "fe80::1": 1}
    first.update([])
    assert others(third) == {"10.0.0.1": 1, "fe80::1": 1}
    second.close()
    assert others(third) == {}
    first.close()
    third.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_file_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    (register,) = open_registers(tmp_path, 1)
    left = tmp_path / "999-abcd.peers"
    left.write_text("10.0.0.1\n10.0.0.2")
    assert others(register) == {} and not left.exists()
    register.close()


def test_lock_that_cannot_be_had_stops_nobody(tmp_path: Path) -> None:
    first, second = open_registers(tmp_path, 2)
    write(first, "10.0.0.1")
    stuck = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(stuck, fcntl.LOCK_EX)
    assert others(second) == {}
    os.close(stuck)
    assert others(second) == {"10.0.0.1": 1}
    first.update(["10.0.0.2"])
    assert others(second) == {"10.0.0.2": 1}
    first.close()
    second.close()


def test_one_process_keeps_no_files(tmp_path: Path) -> None:
    register = make_register(1, tmp_path / "run")
    register.open()
    with register.counted() as found:
        assert found == {}
    assert not (tmp_path / "run").exists()


def test_processes_share_a_limit_and_a_killed_one_gives_its_places_back(tmp_path: Path, receivers: Receivers) -> None:
    limits = {"processes": 2, "maximum_associations": 4}
    first, port = receivers.start(tmp_path / "data", **limits)
    receivers.start(tmp_path / "data", port=port, **limits)
    held: list[Client] = []

    def associate() -> bool:
        """Whether there was room; the association stays open."""
        client = Client(port)
        client.send(associate_request([(1, CT, [EXPLICIT])]))
        kind, body = client.read_pdu()
        if kind == 2:
            held.append(client)
            return True
        client.socket.close()
        assert kind == 0 or (kind, tuple(body[1:])) == (3, (2, 3, 2))
        return False

    for _ in range(4):
        assert associate()
    assert not any(associate() for _ in range(6))  # whichever process they reach
    receivers.kill(first)
    lost = [client for client in held if client.is_closed_within(0.3)]
    for _ in lost:
        wait_until(associate, "a place of the killed process")
    assert not any(associate() for _ in range(6))
    held[-1].release()
    wait_until(associate, "the place of the association that was released")
    for client in held:
        client.socket.close()
