"""Critical results go ahead of everything: of what waits, of their study's other results, of office hours."""

from collections.abc import Callable
from datetime import UTC, datetime

from pydicom.uid import generate_uid

from node.jobs.queue import claim, hold_job
from node.settings import Destination
from node.store.database import write_transaction
from node.store.deliveries import hold, release
from node.store.tables import JobKind, JobState, Priority
from tests.counterparts import wait_until
from tests.faulty_archive import FaultyArchive, Stall
from tests.node.deliver.conftest import Node

DestinationAt = Callable[..., Destination]


def claimed(node: Node) -> int | None:
    with write_transaction(node.engine) as connection:
        job = claim(connection, JobKind.DELIVER, "w", 60, datetime.now(UTC))
    return job.job_id if job else None


def test_critical_result_is_claimed_before_everything_that_waits(node: Node):
    waiting = [node.add_result("pacs", priority=Priority.STAT)[0] for _ in range(2)]
    (critical,) = node.add_result("pacs", critical=["Fracture"])
    assert node.job(critical).critical and node.job(critical).priority is Priority.STAT
    assert [claimed(node) for _ in range(3)] == [critical.job_id, *(job.job_id for job in waiting)]


def test_critical_result_does_not_wait_for_another_result_of_its_study_and_keeps_order_among_critical_ones(node: Node):
    study = generate_uid()
    (first,) = node.add_result("pacs", study=study, model="one")
    assert claimed(node) == first.job_id
    (second,) = node.add_result("pacs", study=study, model="two")
    (third,) = node.add_result("pacs", study=study, model="three", critical=["Fracture"])
    (fourth,) = node.add_result("pacs", study=study, model="four", critical=["Fracture"])
    assert [claimed(node), claimed(node)] == [third.job_id, None]
    assert node.job(second).state is node.job(fourth).state is JobState.QUEUED


def test_critical_result_is_sent_while_the_lane_is_busy_and_outside_the_hours(
    node: Node, destination_at: DestinationAt
):
    now = datetime.now().astimezone()
    closed = f"{(now.hour + 2) % 24:02d}:00-{(now.hour + 3) % 24:02d}:00"
    stalled, shut = node.add_result("pacs", "shut")
    with FaultyArchive([Stall()]) as archive:
        settings = node.settings(
            destination_at(archive.port), destination_at(archive.port, name="shut", hours=closed), timeout_seconds=60
        )
        with node.outbox(settings):
            wait_until(archive.stalled.is_set, "stalled association")
            for job in node.add_result("pacs", "shut", critical=["Fracture"]):
                node.wait_for_end(job)
            assert node.job(stalled).state is JobState.RUNNING and node.job(shut).state is JobState.QUEUED
            archive.resume()
            node.wait_for_end(stalled)


def test_hold_of_an_operator_holds_critical_results_too(node: Node, destination_at: DestinationAt):
    with write_transaction(node.engine) as connection:
        hold(connection, "pacs", datetime.now(UTC))
    (held,) = node.add_result("pacs", critical=["Fracture"])
    (other,) = node.add_result("other", critical=["Fracture"])
    with (
        FaultyArchive() as archive,
        node.outbox(node.settings(destination_at(archive.port), destination_at(archive.port, name="other"))),
    ):
        node.wait_for_end(other)
        assert node.job(held).attempt == 0
        with write_transaction(node.engine) as connection:
            release(connection, "pacs")
        node.wait_for_end(held)


def test_held_delivery_waits_alone_until_it_is_let_go(node: Node, destination_at: DestinationAt):
    (held,) = node.add_result("pacs")
    with write_transaction(node.engine) as connection:
        assert hold_job(connection, held.job_id, True).held
    (other,) = node.add_result("pacs")
    with FaultyArchive() as archive, node.outbox(node.settings(destination_at(archive.port))):
        node.wait_for_end(other)
        assert node.job(held).attempt == 0
        with write_transaction(node.engine) as connection:
            hold_job(connection, held.job_id, False)
        node.wait_for_end(held)
