"""When a lane may send: office hours, hold, circuit breaker, connections and bandwidth."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from pathlib import Path

import pytest

from dicom_sr.profile import CONSERVATIVE
from node.deliver.folder_transport import FolderTransport
from node.deliver.forms import Forms
from node.deliver.gate import Gate, seconds_until_open
from node.deliver.storage_scu import send
from node.deliver.transport import Unreachable
from node.destination_settings import FolderDestination
from node.settings import DeliverSettings, Destination
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import backlogs, get_destination_state, hold, release
from node.store.tables import JobState
from tests.counterparts import free_port, wait_until
from tests.faulty_archive import FaultyArchive, Reject, Stall
from tests.node.deliver.conftest import Node

DestinationAt = Callable[..., Destination]


@pytest.mark.parametrize(
    ("start", "end", "now", "seconds"),
    [
        (clock(18), clock(7), (17, 30), 1800),
        (clock(18), clock(7), (18, 0), 0),
        (clock(18), clock(7), (3, 0), 0),
        (clock(18), clock(7), (7, 0), 11 * 3600),
        (clock(8), clock(16), (7, 59), 60),
        (clock(8), clock(16), (16, 0), 16 * 3600),
        (clock(8), clock(8), (3, 0), 0),
    ],
)
def test_hours_open_and_close(start: clock, end: clock, now: tuple[int, int], seconds: int):
    assert seconds_until_open((start, end), datetime(2030, 1, 1, *now, tzinfo=UTC)) == seconds


def test_without_hours_it_is_always_open():
    assert seconds_until_open(None, datetime(2030, 1, 1, tzinfo=UTC)) == 0


@pytest.mark.parametrize("hours", ["8-16", "25:00-07:00", "18:00", "18:00-7:00"])
def test_hours_that_are_none_are_refused(destination_at: DestinationAt, hours: str):
    with pytest.raises(ValueError, match="18:00-07:00"):
        destination_at(104, hours=hours)


def test_nothing_is_sent_outside_the_hours(node: Node, destination_at: DestinationAt):
    now = datetime.now().astimezone()
    closed = f"{(now.hour + 2) % 24:02d}:00-{(now.hour + 3) % 24:02d}:00"
    (shut, open_) = node.add_result("shut", "open")
    with FaultyArchive() as archive:
        settings = node.settings(
            destination_at(archive.port, name="shut", hours=closed), destination_at(archive.port, name="open")
        )
        with node.outbox(settings):
            node.wait_for_end(open_)
    assert (node.job(shut).state, node.job(shut).attempt) == (JobState.QUEUED, 0)


def test_held_destination_gets_nothing_until_it_is_released(node: Node, destination_at: DestinationAt):
    (job, other) = node.add_result("pacs", "other")
    with write_transaction(node.engine) as connection:
        hold(connection, "pacs", datetime.now(UTC))
    with FaultyArchive() as archive:
        settings = node.settings(destination_at(archive.port), destination_at(archive.port, name="other"))
        with node.outbox(settings):
            node.wait_for_end(other)
            assert node.job(job).attempt == 0
            with write_transaction(node.engine) as connection:
                release(connection, "pacs")
            node.wait_for_end(job)


def test_destination_that_is_down_costs_three_attempts_and_is_probed(node: Node, destination_at: DestinationAt):
    jobs = [node.add_result("pacs")[0] for _ in range(5)]
    archive = FaultyArchive()
    archive.start()
    archive.stop()
    settings = node.settings(destination_at(archive.port), longest_retry_seconds=600, first_retry_seconds=300)
    with node.outbox(settings):
        wait_until(lambda: closed_until(node), "breaker")
        before = closed_until(node)
        wait_until(lambda: closed_until(node) != before, "probe")
        assert sum(node.job(job).attempt for job in jobs) == 3
        with archive:
            for job in jobs:  # also those whose own backoff is minutes long
                node.wait_for_end(job)
    with read_transaction(node.engine) as connection:
        state = get_destination_state(connection, "pacs")
        assert (state.failures, state.closed_until) == (0, None)
        assert state.last_success_at is not None and "Connection refused" in (state.last_error or "")
        assert backlogs(connection)["pacs"].waiting == 0


def closed_until(node: Node) -> datetime | None:
    with read_transaction(node.engine) as connection:
        return get_destination_state(connection, "pacs").closed_until


def test_rejected_association_counts_as_not_reached_and_a_refused_object_does_not(
    node: Node, destination_at: DestinationAt
):
    (job,) = node.add_result("pacs")
    with FaultyArchive([Reject(2, 3, 1)]) as archive, node.outbox(node.settings(destination_at(archive.port))):
        node.wait_for_end(job)
    with read_transaction(node.engine) as connection:
        assert "temporary congestion" in (get_destination_state(connection, "pacs").last_error or "")


def test_connections_deliver_in_parallel_and_each_study_in_order(node: Node, destination_at: DestinationAt):
    (first,) = node.add_result("pacs")
    with (
        FaultyArchive([Stall()]) as archive,
        node.outbox(node.settings(destination_at(archive.port, connections=2), timeout_seconds=60)),
    ):
        wait_until(archive.stalled.is_set, "stalled association")
        # Only now: any of those that wait might be the one that stalls.
        (later,) = node.add_result("pacs", study=first.study_instance_uid, digest="d2", model="lung")
        (second,) = node.add_result("pacs")
        node.wait_for_end(second)
        assert node.job(first).state is JobState.RUNNING
        assert (node.job(later).state, node.job(later).attempt) == (JobState.QUEUED, 0)
        archive.resume()
        node.wait_for_end(first)
        node.wait_for_end(later)


def test_bandwidth_is_limited(result_objects: list[Path], destination_at: DestinationAt):
    with FaultyArchive() as archive:
        started = time.monotonic()
        send(destination_at(archive.port, maximum_kilobytes_per_second=200), "OVERREAD", result_objects, 60)
        assert time.monotonic() - started > 0.45  # 103 kB
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)
        assert len(archive.received) == 4


def test_limited_sending_can_be_stopped(result_objects: list[Path], destination_at: DestinationAt):
    stop = threading.Event()

    class Stopped(Exception):
        pass

    def check() -> None:
        if stop.is_set():
            raise Stopped

    with FaultyArchive() as archive, pytest.raises(Stopped):
        threading.Timer(0.5, stop.set).start()
        send(destination_at(archive.port, maximum_kilobytes_per_second=1), "OVERREAD", result_objects, 60, check=check)


def test_clock_that_is_set_back_leaves_no_destination_closed(node: Node):
    """Down by a clock that was a day ahead."""
    now = [datetime.now(UTC) + timedelta(days=1)]
    folder = FolderDestination(name="files", folder=node.folder)
    transport = FolderTransport(folder, Forms(node.engine, "files", CONSERVATIVE, lambda: now[0]))
    gate = Gate(node.engine, folder, DeliverSettings(), transport, lambda: now[0])
    for _ in range(3):
        gate.unreached(Unreachable("away"))
    assert gate() == DeliverSettings().probe_seconds
    now[0] -= timedelta(days=1)
    assert gate() == 0


def test_probe_of_nobody_leaves_the_destination_closed(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with node.outbox(node.settings(destination_at(free_port()), breaker_failures=1)):
        wait_until(lambda: closed_until(node), "breaker")
        before = closed_until(node)
        wait_until(lambda: closed_until(node) != before, "probe")
    assert node.job(job).attempt == 1
