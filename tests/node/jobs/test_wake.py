import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from node.jobs.wake import Topic, Wake, WakeListener, socket_folder

LONG = 90.0  # seconds; a test that waits this long has failed


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets (that of `tmp_path` may not be)."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def test_a_notice_wakes_everybody_who_listens_for_its_topic(folder: Path) -> None:
    wake = Wake(folder)
    with (
        WakeListener(folder, Topic.INFER) as first,
        WakeListener(folder, Topic.INFER) as second,
        WakeListener(folder, Topic.DELIVER) as other,
    ):
        assert first.hears and second.hears
        assert wake.notify(Topic.INFER) == 2
        assert first.wait(LONG) and second.wait(LONG)
        assert not other.wait(0)


def test_a_notice_that_comes_before_waiting_is_not_lost_and_counts_once(folder: Path) -> None:
    with WakeListener(folder, Topic.INFER) as listener:
        for _ in range(3):
            Wake(folder).notify(Topic.INFER)
        assert listener.wait(LONG)
        assert not listener.wait(0)


def test_a_waiting_thread_is_woken(folder: Path) -> None:
    with WakeListener(folder, Topic.SETTLE) as listener:
        woken: list[bool] = []
        thread = Thread(target=lambda: woken.append(listener.wait(LONG)))
        thread.start()
        assert Wake(folder).notify(Topic.SETTLE) == 1
        thread.join(LONG)
        assert woken == [True]


def test_interrupt_ends_the_next_wait(folder: Path) -> None:
    with WakeListener(folder, Topic.INFER) as listener:
        listener.interrupt()
        assert listener.wait(LONG)
        assert not listener.wait(0)


def test_any_number_of_notices_and_interrupts_block_nobody(folder: Path) -> None:
    with WakeListener(folder, Topic.INFER) as listener:
        for _ in range(2000):
            Wake(folder).notify(Topic.INFER)
            listener.interrupt()
        assert listener.wait(LONG)


def test_sockets_that_nobody_holds_are_removed(folder: Path) -> None:
    with WakeListener(folder, Topic.INFER):
        (stale,) = folder.iterdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(stale))
    assert stale.exists()
    assert Wake(folder).notify(Topic.INFER) == 0
    assert not stale.exists()


def test_sockets_of_another_machine_are_left_alone(folder: Path) -> None:
    theirs = folder / f"{Topic.INFER}-elsewhere-1-0a0b.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(theirs))
    assert Wake(folder).notify(Topic.INFER) == 0
    assert theirs.exists()


def test_a_closed_listener_leaves_nothing(folder: Path) -> None:
    WakeListener(folder, Topic.INFER).close()
    assert list(folder.iterdir()) == []


def test_a_long_path_has_one_short_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    deep = folder / ("d" * 120)
    assert socket_folder(folder) == folder
    assert socket_folder(deep).parent == folder
    assert socket_folder(deep) == socket_folder(folder / "." / deep.name) != socket_folder(deep / "other")
    with WakeListener(deep, Topic.INFER) as listener:
        assert listener.hears
        assert Wake(deep).notify(Topic.INFER) == 1
        assert listener.wait(LONG)


def test_where_no_socket_can_be_bound_waiting_still_works(folder: Path) -> None:
    in_the_way = folder / "run"
    in_the_way.write_text("a file, not a folder")
    with WakeListener(in_the_way, Topic.INFER) as listener:
        assert not listener.hears
        assert Wake(in_the_way).notify(Topic.INFER) == 0
        assert not listener.wait(0.01)
        listener.interrupt()
        assert listener.wait(LONG)
