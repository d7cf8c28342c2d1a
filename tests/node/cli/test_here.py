"""Which processes of a node run on this machine."""

import socket
from pathlib import Path

import pytest

from node.cli.here import Here, look_here
from node.jobs.wake import Topic, WakeListener, socket_folder
from node.settings import DimseSettings, NodeSettings, Settings
from tests.counterparts import LOOPBACK

NOTHING = "Nothing of the node runs on this machine: start it with `overread run`, or look where it runs"


def settings(folder: Path, port: int) -> Settings:
    return Settings(node=NodeSettings(data_dir=folder), dimse=DimseSettings(port=port))


def test_a_node_that_runs_is_seen_and_not_woken(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port = listener.getsockname()[1]
        node = settings(tmp_path, port)
        assert look_here(node) == Here(port, listening=False, working=False, delivering=False), "bound, no more"
        listener.listen()
        with WakeListener(node.wake_folder, Topic.INFER) as worker, WakeListener(node.wake_folder, Topic.DELIVER):
            seen = look_here(node)
            assert seen == Here(port, listening=True, working=True, delivering=True)
            assert not worker.wait(0)
        assert seen.describe() == f"On this machine: receiving on port {port}, analysing, delivering"


def test_a_process_that_was_killed_is_not_taken_for_one_that_runs(tmp_path: Path) -> None:
    node = settings(tmp_path, 0)
    with WakeListener(node.wake_folder, Topic.INFER):
        (path,) = socket_folder(node.wake_folder).glob("*.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as killed:
        killed.bind(str(path))
    assert path.exists()
    assert look_here(node) == Here(0, listening=None, working=False, delivering=False)


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (Here(104, False, False, False), NOTHING),
        (Here(104, None, False, False), NOTHING),
        (Here(104, True, False, True), "On this machine: receiving on port 104, delivering; not analysing"),
        (Here(104, None, True, False), "On this machine: analysing; not delivering"),
        (Here(104, False, True, True), "On this machine: analysing, delivering; not receiving on port 104"),
    ],
)
def test_what_runs_is_said_and_what_does_not(here: Here, said: str) -> None:
    assert here.describe() == said


def test_where_the_system_has_no_tables_nothing_is_said_of_the_port(tmp_path: Path) -> None:
    assert look_here(settings(tmp_path, 104), (tmp_path / "absent",)).listening is None
