import pytest
from sqlalchemy import Connection

from node.errors import Permanent
from node.jobs import lease, queue
from node.jobs.completion import complete_inference
from node.jobs.history import list_jobs
from node.jobs.job import HeartbeatReply, Job
from node.jobs.state import JobEvent
from node.store.lanes import raised_lane
from node.store.results import (
    RecordedResult,
    current_result,
    delivery_statuses,
    get_result,
    record_delivery_status,
    result_of_job,
    results_of_study,
)
from node.store.tables import JobState, Priority, ResultState
from tests.node.jobs.examples import DELIVER, INFER, LEASE_SECONDS, new_result, order, running
from tests.node.store.examples import later


def complete(connection: Connection, job: Job, seconds: float = 10) -> RecordedResult:
    recorded = complete_inference(connection, job, new_result(job, later(seconds)), 200, later(seconds))
    lease.finish(connection, job, JobEvent.SUCCEED, later(seconds))
    return recorded


def next_revision(connection: Connection, seconds: float = 60, **changes: object) -> Job:
    queue.enqueue_infer(connection, order(digest=f"d-{seconds}", **changes), later(seconds))
    job = queue.claim(connection, INFER, "w2", LEASE_SECONDS, later(seconds))
    assert job is not None
    return job


def claim_delivery(connection: Connection, seconds: float = 10) -> Job | None:
    return queue.claim(connection, DELIVER, "w1", LEASE_SECONDS, later(seconds))


def test_a_result_is_kept_with_one_delivery_for_each_destination(connection: Connection) -> None:
    job = running(connection, destinations=["pacs", "archive"], priority=Priority.STAT)
    recorded = complete(connection, job)
    assert recorded == RecordedResult(1, True, ())
    result = current_result(connection, "1.2", "brain")
    assert result is not None
    assert (result.result_id, result.state, result.created_at) == (1, ResultState.CURRENT, later(10))
    assert result.objects == new_result(job).objects
    assert result.summary == [{"finding": "ventricles", "millilitres": 21.5}]
    assert result == get_result(connection, 1) == result_of_job(connection, job.job_id)
    deliveries = list_jobs(connection, kind=DELIVER)
    assert {one.destination for one in deliveries} == {"pacs", "archive"}
    assert {(one.priority, one.maximum_attempts, one.result_id) for one in deliveries} == {(Priority.STAT, 200, 1)}


def test_early_work_that_is_given_up_too_late_to_stop_it_is_withdrawn(connection: Connection) -> None:
    for number, (is_given_up, state) in enumerate(((False, ResultState.HELD), (True, ResultState.WITHDRAWN))):
        job = running(connection, f"1.{number}", speculative=True)
        if is_given_up:
            queue.cancel(connection, job.job_id, later(5))
        complete(connection, queue.get_job(connection, job.job_id))
        result = result_of_job(connection, job.job_id)
        assert result is not None and result.state is state


def test_a_delivery_is_made_once(connection: Connection) -> None:
    complete(connection, running(connection))
    (delivery,) = list_jobs(connection, kind=DELIVER)
    assert queue.enqueue_delivery(connection, 1, "pacs", Priority.STAT, 5, later(99)) == delivery


def test_the_next_revision_supersedes_and_cancels_queued_deliveries(connection: Connection) -> None:
    complete(connection, running(connection))
    second = complete(connection, next_revision(connection), 70)
    assert second == RecordedResult(2, True, (1,))
    assert [(one.revision, one.state) for one in results_of_study(connection, "1.2")] == [
        (1, ResultState.SUPERSEDED),
        (2, ResultState.CURRENT),
    ]
    new, old = list_jobs(connection, kind=DELIVER)
    assert (old.result_id, old.state) == (1, JobState.CANCELLED)
    assert old.last_error == "revision 2 replaces this result"
    assert (new.result_id, new.state) == (2, JobState.QUEUED)
    with pytest.raises(Permanent, match="a later one replaced"):
        queue.requeue(connection, old.job_id, later(80))


def test_a_delivery_that_runs_is_asked_to_stop_and_goes_first(connection: Connection) -> None:
    complete(connection, running(connection))
    old = claim_delivery(connection)
    assert old is not None
    complete(connection, next_revision(connection), 70)
    assert lease.heartbeat(connection, old, LEASE_SECONDS, later(71)) is HeartbeatReply.CANCEL
    assert claim_delivery(connection, 72) is None
    lease.finish(connection, old, JobEvent.SUCCEED, later(73))
    new = claim_delivery(connection, 74)
    assert new is not None and new.result_id == 2


def test_a_result_that_comes_after_a_later_revision_goes_nowhere(connection: Connection) -> None:
    slow = running(connection)
    complete(connection, next_revision(connection), 70)
    recorded = complete(connection, slow, 80)
    assert recorded == RecordedResult(2, False, ())
    current = current_result(connection, "1.2", "brain")
    assert current is not None and current.revision == 2
    assert [one.result_id for one in list_jobs(connection, kind=DELIVER)] == [1]


def test_another_model_is_not_superseded(connection: Connection) -> None:
    complete(connection, running(connection))
    assert complete(connection, next_revision(connection, model="lung"), 70).superseded == ()
    assert current_result(connection, "1.2", "brain") is not None


def test_deliveries_of_a_study_arrive_in_order(connection: Connection) -> None:
    complete(connection, running(connection))
    complete(connection, next_revision(connection, model="lung"), 70)
    complete(connection, running(connection, "5.6", digest="x"), 71)
    first = claim_delivery(connection, 80)
    assert first is not None and first.result_id == 1
    other_study = claim_delivery(connection, 80)
    assert other_study is not None and other_study.study_instance_uid == "5.6"
    assert claim_delivery(connection, 80) is None  # the second waits for the first of its study
    assert queue.next_run_at(connection, DELIVER) is None
    lease.finish(connection, first, JobEvent.RETRY, later(81), "Transient: away", later(200))
    assert claim_delivery(connection, 150) is None
    assert queue.next_run_at(connection, DELIVER) == later(200)
    again = claim_delivery(connection, 200)
    assert again is not None and again.job_id == first.job_id
    lease.finish(connection, again, JobEvent.SUCCEED, later(201))
    second = claim_delivery(connection, 202)
    assert second is not None and second.result_id == 2


def test_one_destination_does_not_wait_for_another(connection: Connection) -> None:
    complete(connection, running(connection, destinations=["pacs", "archive"]))
    complete(connection, next_revision(connection, model="lung", destinations=["archive"]), 70)
    pacs = claim_delivery(connection, 80)
    assert pacs is not None and pacs.destination == "pacs"
    lease.finish(connection, pacs, JobEvent.RETRY, later(81), "Transient: away", later(900))
    for result_id in (1, 2):
        archive = claim_delivery(connection, 82)
        assert archive is not None and (archive.destination, archive.result_id) == ("archive", result_id)
        lease.finish(connection, archive, JobEvent.SUCCEED, later(82))


def test_a_delivered_result_may_be_sent_again(connection: Connection) -> None:
    complete(connection, running(connection))
    delivery = claim_delivery(connection)
    assert delivery is not None
    lease.finish(connection, delivery, JobEvent.SUCCEED, later(11))
    assert queue.requeue(connection, delivery.job_id, later(12)).state is JobState.QUEUED


def test_the_last_answer_for_each_object_is_kept(connection: Connection) -> None:
    complete(connection, running(connection))
    (delivery,) = list_jobs(connection, kind=DELIVER)
    record_delivery_status(connection, delivery.job_id, {"2.25.1.1": 0xA700, "2.25.1.2": 0xA700}, later(11))
    record_delivery_status(connection, delivery.job_id, {"2.25.1.1": 0}, later(12))
    assert delivery_statuses(connection, delivery.job_id) == {"2.25.1.1": 0, "2.25.1.2": 0xA700}


def test_an_unknown_result_is_named(connection: Connection) -> None:
    with pytest.raises(Permanent, match="no result 9"):
        get_result(connection, 9)


def test_a_critical_finding_raises_all_further_work_of_its_study(connection: Connection) -> None:
    job = running(connection)
    waiting = queue.enqueue_infer(connection, order(model="chest", priority=Priority.LOW), later(1))
    held = running(connection, "1.7", worker="w7")
    complete(connection, held)
    complete(connection, next_revision(connection, model="lung", seconds=20))
    complete_inference(connection, job, new_result(job, later(30)), 200, later(30), ["haemorrhage"])
    risen = queue.get_job(connection, waiting.job_id)
    assert risen.priority is Priority.STAT
    assert risen.claim_order_at == later(1)
    lanes = {(one.study_instance_uid, one.priority) for one in list_jobs(connection, kind=DELIVER)}
    assert lanes == {("1.2", Priority.STAT), ("1.7", Priority.ROUTINE)}
    assert raised_lane(connection, "1.2") is Priority.STAT
    assert raised_lane(connection, "1.7") is None


def test_a_delivery_that_cancels_itself_is_not_queued_again(connection: Connection) -> None:
    complete(connection, running(connection))
    delivery = claim_delivery(connection)
    assert delivery is not None
    assert lease.finish(connection, delivery, JobEvent.CANCEL, later(11)).state is JobState.CANCELLED
