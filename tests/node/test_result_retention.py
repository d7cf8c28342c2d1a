"""The files of a result are deleted when it has arrived everywhere, its time is over and nothing may want it again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from node.jobs.job import Job
from node.jobs.lease import finish
from node.jobs.queue import claim, get_job
from node.jobs.state import JobEvent
from node.retention import Swept, find_due, sweep
from node.retention_settings import RetentionSettings
from node.route_settings import Route
from node.settings import Settings
from node.store import tables
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import AcceptedObject, get_delivery, record_confirmed, record_delivered, record_lost
from node.store.tables import DeliveryState, JobKind, JobState
from tests.node.deliver.conftest import Node, node, requeued  # noqa: F401

TAKEN = (AcceptedObject("1.2", "1.2.3", "1.2.4"),)


def settings_of(node: Node, results_hours: float = 24, **route: Any) -> Settings:  # noqa: F811
    """Results for a day; the route of all jobs of `add_result`, with these settings."""
    routes = (Route(name="mr-brain", models=("brain",), **route),)
    update = {"retention": RetentionSettings(images_hours=0, results_hours=results_hours), "routes": routes}
    return node.settings().model_copy(update=update)


def send(node: Node, job: Job, event: JobEvent = JobEvent.SUCCEED, check: bool = False) -> None:  # noqa: F811
    """What a lane notes of a delivery, which may be asked about."""
    now = datetime.now(UTC)
    with write_transaction(node.engine) as connection:
        claimed = claim(connection, JobKind.DELIVER, "test", 60, now)
        assert claimed is not None and claimed.job_id == job.job_id
        if event is JobEvent.SUCCEED:
            record_delivered(connection, job.job_id, job.destination or "", TAKEN, now, now if check else None)
        finish(connection, claimed, event, now)


def swept_after(node: Node, hours: float, **route: Any) -> int:  # noqa: F811
    return sweep(node.engine, settings_of(node, **route), datetime.now(UTC) + timedelta(hours=hours)).results


def files_of(node: Node, job: Job) -> list[str]:  # noqa: F811
    with read_transaction(node.engine) as connection:
        folder = connection.scalars(select(tables.result.c.folder).where(tables.result.c.id == job.result_id)).one()
    return sorted(path.name for path in (node.folder / folder).rglob("*") if path.is_file())


def test_files_go_when_all_deliveries_have_arrived_and_a_retry_says_so(node: Node):  # noqa: F811
    first, second = node.add_result("pacs", "vna")
    send(node, first)
    assert swept_after(node, 48) == 0 and len(files_of(node, first)) == 2
    send(node, second)
    assert swept_after(node, 23) == 0
    assert len(find_due(node.engine, settings_of(node), datetime.now(UTC) + timedelta(hours=25)).results) == 1
    other_form = node.folder / f"results/{first.result_id}/labelmap"
    other_form.mkdir()
    (other_form / "objects.json").write_text("[]")
    (other_form / "segmentation.dcm").write_text("x")
    assert swept_after(node, 25) == 1
    assert files_of(node, first) == ["objects.json"]
    assert swept_after(node, 26) == 0
    requeued(node, first)
    with node.outbox(node.settings(_folder(node))):
        ended = node.wait_for_end(first, JobState.FAILED)
    assert "were deleted on" in (ended.last_error or "")


def _folder(node: Node) -> Any:  # noqa: F811
    from node.destination_settings import FolderDestination

    return FolderDestination(name="pacs", folder=node.folder)


def test_files_stay_while_it_is_not_known_that_they_are_kept_and_while_they_are_lost(node: Node):  # noqa: F811
    (job,) = node.add_result("pacs")
    send(node, job, check=True)
    assert swept_after(node, 1000) == 0
    now = datetime.now(UTC)
    with write_transaction(node.engine) as connection:
        known = get_delivery(connection, job.job_id)
        assert known is not None and record_lost(connection, known, "gone")
    assert swept_after(node, 1000) == 0
    requeued(node, job)
    assert swept_after(node, 1000) == 0
    send(node, get_job_now(node, job), check=True)
    with write_transaction(node.engine) as connection:
        known = get_delivery(connection, job.job_id)
        assert known is not None and known.state is DeliveryState.DELIVERED
        assert record_confirmed(connection, known, now + timedelta(hours=10))
    assert swept_after(node, 33) == 0  # the hours count from its confirmation
    assert swept_after(node, 35) == 1


def get_job_now(node: Node, job: Job) -> Job:  # noqa: F811
    with read_transaction(node.engine) as connection:
        return get_job(connection, job.job_id)


def test_files_stay_for_a_delivery_that_failed_and_where_nothing_was_delivered(node: Node):  # noqa: F811
    (failed,) = node.add_result("pacs")
    send(node, failed, JobEvent.FAIL)
    node.add_result()
    assert swept_after(node, 10_000) == 0


def test_what_was_replaced_needs_no_delivery(node: Node):  # noqa: F811
    (job,) = node.add_result("pacs", study="1.2.99")
    assert swept_after(node, 1000) == 0
    with write_transaction(node.engine) as connection:
        connection.execute(update(tables.result).values(state="SUPERSEDED"))
        connection.execute(update(tables.job).where(tables.job.c.id == job.job_id).values(state="CANCELLED"))
    assert swept_after(node, 1000) == 1


def test_files_stay_while_a_notice_waits_for_somebody(node: Node):  # noqa: F811
    (job,) = node.add_result("pacs", critical=["Bleeding"])
    send(node, job)
    assert swept_after(node, 1000) == 0
    with write_transaction(node.engine) as connection:
        connection.execute(update(tables.notice).values(state="UNANSWERED", due_at=None))
    assert swept_after(node, 1000) == 1


@pytest.mark.parametrize(
    ("hours", "results_hours", "route_hours", "goes"),
    [(25, 24, None, 1), (25, 24, 48, 0), (49, 24, 48, 1), (25, 24, 1, 1), (9999, 24, 0, 0), (9999, 0, None, 0)],
)
def test_the_longer_of_both_hours_counts_and_0_is_for_ever(
    node: Node,  # noqa: F811
    hours: float,
    results_hours: float,
    route_hours: float | None,
    goes: int,
):
    (job,) = node.add_result("pacs")
    send(node, job)
    assert swept_after(node, hours, results_hours=results_hours, retention_hours=route_hours) == goes


def test_what_a_crash_left_after_the_row_was_changed_goes_with_the_next_sweep(node: Node):  # noqa: F811
    (job,) = node.add_result("pacs")
    send(node, job)
    now = datetime.now(UTC)
    with write_transaction(node.engine) as connection:
        connection.execute(update(tables.result).values(expired_at=now))
    assert sweep(node.engine, settings_of(node), now) == Swept(orphans=2)
    assert files_of(node, job) == []
