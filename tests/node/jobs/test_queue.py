from datetime import timedelta

import pytest
from sqlalchemy import Connection, select

from node.errors import Permanent
from node.jobs import lease, queue
from node.jobs.history import job_counts, job_history, last_failures, list_jobs, oldest_waiting
from node.jobs.job import HeartbeatReply, Job, JobNotFound, LeaseLost
from node.jobs.state import IllegalTransition, JobEvent
from node.jobs.transition import AGEING_PER_LANE
from node.store import tables
from node.store.tables import JobState, Priority
from tests.node.jobs.examples import DELIVER, INFER, LEASE_SECONDS, order, queued, running
from tests.node.store.examples import NOW, later


def claim(connection: Connection, seconds: float = 0, worker: str = "w1") -> Job | None:
    return queue.claim(connection, INFER, worker, LEASE_SECONDS, later(seconds))


def events(connection: Connection, job: Job) -> list[str]:
    return [str(line.event) for line in job_history(connection, job.job_id)]


def everything(connection: Connection) -> list:
    return [*connection.execute(select(tables.job)), *connection.execute(select(tables.job_event))]


# enqueueing


def test_the_same_input_set_has_one_job(connection: Connection) -> None:
    first = queued(connection)
    assert queue.enqueue_infer(connection, order(), later(60)) == first
    assert first.revision == 1 and first.state is JobState.QUEUED and first.attempt == 0
    assert events(connection, first) == ["ENQUEUE"]


def test_two_routes_to_one_inference_join_their_destinations(connection: Connection) -> None:
    queued(connection, destinations=["pacs"])
    both = order(destinations=["archive", "pacs"], priority=Priority.STAT)
    joined = queue.enqueue_infer(connection, both, NOW)
    assert joined.destinations == ["pacs", "archive"]
    assert (joined.priority, joined.claim_order_at) == (Priority.STAT, NOW)


def test_what_was_queued_by_a_clock_that_was_ahead_runs_once_that_is_set_back(connection: Connection) -> None:
    due = queued(connection, "1.1", later(86400))
    waits = queued(connection, "1.2", later(900))
    assert queue.heed_clock_set_back(connection, DELIVER, 900, NOW) == 0
    assert queue.heed_clock_set_back(connection, INFER, 900, NOW) == 1
    assert queue.get_job(connection, due.job_id).run_after == NOW
    assert queue.get_job(connection, waits.job_id).run_after == later(900)


def test_another_job_of_the_study_is_one_that_has_still_to_run(connection: Connection) -> None:
    first = running(connection)
    queued(connection, "1.3")
    assert not queue.another_of_its_study(connection, first)
    second = queue.enqueue_infer(connection, order(model="liver"), NOW)
    assert queue.another_of_its_study(connection, first) and queue.another_of_its_study(connection, second)
    lease.finish(connection, first, JobEvent.SUCCEED, later(5))
    assert not queue.another_of_its_study(connection, second)


def test_a_finished_job_stays_as_it_was(connection: Connection) -> None:
    job = lease.finish(connection, running(connection), JobEvent.SUCCEED, later(5))
    assert queue.enqueue_infer(connection, order(destinations=["archive"]), later(9)) == job


def test_a_new_input_set_is_the_next_revision_and_cancels_a_queued_older_one(connection: Connection) -> None:
    first = queued(connection)
    second = queue.enqueue_infer(connection, order(digest="d2"), later(60))
    assert second.revision == 2
    first = queue.get_job(connection, first.job_id)
    assert (first.state, first.last_error) == (JobState.CANCELLED, "revision 2 replaces it")


def test_a_new_input_set_asks_a_running_older_one_to_stop(connection: Connection) -> None:
    first = running(connection)
    queue.enqueue_infer(connection, order(digest="d2"), later(60))
    assert lease.heartbeat(connection, first, LEASE_SECONDS, later(61)) is HeartbeatReply.CANCEL


def test_a_new_input_set_leaves_other_studies_and_models_alone(connection: Connection) -> None:
    queued(connection)
    other_study = queued(connection, "5.6")
    other_model = queue.enqueue_infer(connection, order(model="lung"), NOW)
    queue.enqueue_infer(connection, order(digest="d2"), NOW)
    for job in (other_study, other_model):
        assert queue.get_job(connection, job.job_id) == job and job.revision == 1


# claiming


def test_a_claim_leases_the_job_and_counts_the_attempt(connection: Connection) -> None:
    job = queued(connection)
    claimed = claim(connection, 5, "w7")
    assert claimed is not None and claimed.job_id == job.job_id
    assert (claimed.state, claimed.worker, claimed.attempt) == (JobState.RUNNING, "w7", 1)
    assert claimed.lease_expires_at == later(5 + LEASE_SECONDS)
    assert claimed.inputs == {"image": ["1.2.3.1"]} and claimed.destinations == ["pacs"]
    assert claim(connection, 6) is None
    line = job_history(connection, job.job_id)[-1]
    assert (line.event, line.from_state, line.to_state, line.attempt, line.worker, line.at) == (
        JobEvent.CLAIM,
        JobState.QUEUED,
        JobState.RUNNING,
        1,
        "w7",
        later(5),
    )


def test_claim_skips_job_not_yet_due(connection: Connection) -> None:
    job = running(connection)
    lease.finish(connection, job, JobEvent.RETRY, later(1), "Transient: away", later(10))
    assert claim(connection, 9.9) is None
    assert queue.next_run_at(connection, INFER) == later(10)
    again = claim(connection, 10)
    assert again is not None and again.attempt == 2


def test_claim_takes_its_own_kind(connection: Connection) -> None:
    queued(connection)
    assert queue.claim(connection, DELIVER, "w1", LEASE_SECONDS, NOW) is None
    assert queue.next_run_at(connection, DELIVER) is None


def test_lanes_go_before_age_and_age_before_number(connection: Connection) -> None:
    low = queued(connection, "1.1", later(0), priority=Priority.LOW)
    routine_late = queued(connection, "1.2", later(9))
    routine_early = queued(connection, "1.3", later(5))
    stat = queued(connection, "1.4", later(60), priority=Priority.STAT)
    claimed = [claim(connection, 100) for _ in range(4)]
    assert [one and one.job_id for one in claimed] == [one.job_id for one in (stat, routine_early, routine_late, low)]


def test_stat_is_next_however_many_wait(connection: Connection) -> None:
    for number in range(200):
        queued(connection, f"1.{number}", later(number / 10))
    stat = queued(connection, "2.1", later(30), priority=Priority.STAT)
    claimed = claim(connection, 30)
    assert claimed is not None and claimed.job_id == stat.job_id


@pytest.mark.parametrize("lane", [Priority.ROUTINE, Priority.LOW])
def test_steady_stat_does_not_starve_the_other_lanes(connection: Connection, lane: Priority) -> None:
    waiting = queued(connection, "1.1", priority=lane)
    for minutes in range(200):  # one STAT job a minute, each taking a minute: the lane above is never empty
        now = NOW + timedelta(minutes=minutes)
        queued(connection, f"2.{minutes}", now, priority=Priority.STAT)
        job = queue.claim(connection, INFER, "w1", LEASE_SECONDS, now)
        assert job is not None
        if job.job_id == waiting.job_id:
            assert timedelta(minutes=minutes) == lane * AGEING_PER_LANE
            return
        lease.finish(connection, job, JobEvent.SUCCEED, now)
    pytest.fail("the job never ran")


# leases


def test_a_heartbeat_prolongs_the_lease(connection: Connection) -> None:
    job = running(connection)
    assert lease.heartbeat(connection, job, LEASE_SECONDS, later(20)) is HeartbeatReply.HELD
    assert lease.rescue(connection, later(LEASE_SECONDS + 1)) == []
    assert queue.get_job(connection, job.job_id).lease_expires_at == later(20 + LEASE_SECONDS)


def test_an_expired_job_is_rescued_and_the_attempt_counts(connection: Connection) -> None:
    job = running(connection)
    (rescued,) = lease.rescue(connection, later(31))
    assert (rescued.state, rescued.attempt, rescued.worker) == (JobState.QUEUED, 1, None)
    assert events(connection, job) == ["ENQUEUE", "CLAIM", "RESCUE"]
    assert "w1" in (rescued.last_error or "")
    again = claim(connection, 31, "w2")
    assert again is not None and again.attempt == 2


def test_a_rescue_in_the_last_attempt_parks_the_job(connection: Connection) -> None:
    job = running(connection, maximum_attempts=1)
    (parked,) = lease.rescue(connection, later(31))
    assert parked.state is JobState.FAILED
    assert events(connection, job)[-1] == "EXHAUST"


def test_a_rescue_of_a_job_to_be_cancelled_cancels_it(connection: Connection) -> None:
    job = running(connection)
    queue.cancel(connection, job.job_id, later(1))
    (cancelled,) = lease.rescue(connection, later(31))
    assert (cancelled.state, cancelled.cancel_requested) == (JobState.CANCELLED, False)


def test_the_jobs_of_a_dead_worker_are_rescued_before_their_lease_ends(connection: Connection) -> None:
    dead, alive = running(connection, "1.1", "dead"), running(connection, "1.2", "alive")
    rescued = lease.rescue(connection, later(1), lambda worker: worker == "dead")
    assert [job.job_id for job in rescued] == [dead.job_id]
    assert lease.heartbeat(connection, alive, LEASE_SECONDS, later(1)) is HeartbeatReply.HELD


def test_an_attempt_in_which_the_node_died_is_given_back_but_not_for_ever(connection: Connection) -> None:
    """A job that takes the machine down each time is parked in the end; an operator can have it run again."""
    job = running(connection, maximum_attempts=2)

    def die(number: int) -> Job:
        (rescued,) = lease.rescue(connection, later(10 * number), lambda worker: True, lambda worker: True)
        claim(connection, 10 * number + 1, f"w{number + 1}")
        return rescued

    assert [(each.state, each.attempt) for each in map(die, range(1, 5))] == [
        (JobState.QUEUED, 0),
        (JobState.QUEUED, 0),
        (JobState.QUEUED, 1),
        (JobState.FAILED, 2),
    ]
    assert [event for event in events(connection, job) if event != "CLAIM"] == [
        "ENQUEUE",
        "NODE_DIED",
        "NODE_DIED",
        "RESCUE",
        "EXHAUST",
    ]
    queue.requeue(connection, job.job_id, later(50))
    claim(connection, 51, "w6")
    assert die(6).attempt == 0


def test_an_attempt_in_which_only_the_worker_died_counts(connection: Connection) -> None:
    running(connection)
    (rescued,) = lease.rescue(connection, later(1), lambda worker: True, lambda worker: False)
    assert rescued.attempt == 1


@pytest.mark.parametrize("event", ["SUCCEED", "RETRY", "FAIL", "RELEASE", "CANCEL"])
@pytest.mark.parametrize("taken_by", [None, "w1", "w2"], ids=["nobody", "the same worker", "another"])
def test_finishing_with_a_lost_lease_changes_nothing(connection: Connection, event: str, taken_by: str | None) -> None:
    job = running(connection)
    lease.rescue(connection, later(31))
    if taken_by:
        claim(connection, 31, taken_by)
    before = everything(connection)
    assert lease.heartbeat(connection, job, LEASE_SECONDS, later(32)) is HeartbeatReply.LOST
    with pytest.raises(LeaseLost):
        lease.held(connection, job)
    with pytest.raises(LeaseLost):
        lease.finish(connection, job, JobEvent(event), later(32), "too late", later(40))
    assert everything(connection) == before


def test_finishing_twice_changes_nothing(connection: Connection) -> None:
    job = running(connection)
    lease.finish(connection, job, JobEvent.SUCCEED, later(1))
    before = everything(connection)
    with pytest.raises(LeaseLost):
        lease.finish(connection, job, JobEvent.FAIL, later(2), "no")
    assert everything(connection) == before


@pytest.mark.parametrize("event", ["CLAIM", "RESCUE", "EXHAUST", "REQUEUE", "REQUEST_CANCEL", "ENQUEUE"])
def test_a_worker_cannot_finish_with_what_is_not_its_to_say(connection: Connection, event: str) -> None:
    job = running(connection)
    with pytest.raises(ValueError, match=event):
        lease.finish(connection, job, JobEvent(event), later(1))


# ends


def test_a_release_costs_no_attempt(connection: Connection) -> None:
    job = running(connection, maximum_attempts=1)
    released = lease.finish(connection, job, JobEvent.RELEASE, later(1), "the worker stops")
    assert (released.state, released.attempt, released.run_after) == (JobState.QUEUED, 0, later(1))
    again = claim(connection, 1)
    assert again is not None and again.attempt == 1


def test_a_dead_letter_keeps_the_error_of_each_attempt(connection: Connection) -> None:
    job = running(connection)
    lease.finish(connection, job, JobEvent.RETRY, later(1), "Transient: first", later(2))
    second = claim(connection, 2)
    assert second is not None
    lease.finish(connection, second, JobEvent.RETRY, later(3), "Transient: second", later(4))
    third = claim(connection, 4)
    assert third is not None
    failed = lease.finish(connection, third, JobEvent.FAIL, later(5), "Transient: third")
    assert (failed.state, failed.attempt, failed.last_error) == (JobState.FAILED, 3, "Transient: third")
    failures = last_failures(connection)
    assert [(line.attempt, line.message) for line in failures] == [
        (3, "Transient: third"),
        (2, "Transient: second"),
        (1, "Transient: first"),
    ]
    assert claim(connection, 99) is None


def test_success_leaves_no_error_behind(connection: Connection) -> None:
    job = running(connection)
    lease.finish(connection, job, JobEvent.RETRY, later(1), "Transient: away", later(1))
    again = claim(connection, 1)
    assert again is not None
    done = lease.finish(connection, again, JobEvent.SUCCEED, later(2))
    assert (done.state, done.last_error, done.worker) == (JobState.SUCCEEDED, None, None)


# cancelling


def test_a_queued_job_is_cancelled_at_once(connection: Connection) -> None:
    job = queued(connection)
    cancelled = queue.cancel(connection, job.job_id, later(1), "wrong route")
    assert (cancelled.state, cancelled.last_error) == (JobState.CANCELLED, "wrong route")
    assert claim(connection, 2) is None


def test_a_running_job_learns_of_its_cancellation(connection: Connection) -> None:
    job = running(connection)
    asked = queue.cancel(connection, job.job_id, later(1))
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    assert lease.heartbeat(connection, job, LEASE_SECONDS, later(2)) is HeartbeatReply.CANCEL
    cancelled = lease.finish(connection, job, JobEvent.CANCEL, later(3), "cancelled while it ran")
    assert (cancelled.state, cancelled.cancel_requested) == (JobState.CANCELLED, False)
    assert events(connection, job) == ["ENQUEUE", "CLAIM", "REQUEST_CANCEL", "CANCEL"]


@pytest.mark.parametrize("event", [JobEvent.RETRY, JobEvent.RELEASE])
def test_a_job_to_be_cancelled_is_not_queued_again(connection: Connection, event: JobEvent) -> None:
    job = running(connection)
    queue.cancel(connection, job.job_id, later(1))
    ended = lease.finish(connection, job, event, later(2), "Transient: away", later(3))
    assert ended.state is JobState.CANCELLED


@pytest.mark.parametrize("event", [JobEvent.SUCCEED, JobEvent.FAIL])
def test_a_finished_job_cannot_be_cancelled(connection: Connection, event: JobEvent) -> None:
    job = lease.finish(connection, running(connection), event, later(1))
    before = everything(connection)
    with pytest.raises(IllegalTransition):
        queue.cancel(connection, job.job_id, later(2))
    assert everything(connection) == before


def test_an_unknown_job_is_named(connection: Connection) -> None:
    for act in (queue.cancel, queue.requeue):
        with pytest.raises(JobNotFound, match="no job 77"):
            act(connection, 77, NOW)


# running again


def test_requeue_after_failure_starts_with_no_attempts(connection: Connection) -> None:
    job = running(connection, maximum_attempts=1)
    lease.finish(connection, job, JobEvent.FAIL, later(1), "Transient: away")
    again = queue.requeue(connection, job.job_id, later(100))
    assert (again.state, again.attempt, again.run_after) == (JobState.QUEUED, 0, later(100))
    assert again.last_error == "Transient: away"
    claimed = claim(connection, 100)
    assert claimed is not None and claimed.attempt == 1
    assert events(connection, job) == ["ENQUEUE", "CLAIM", "FAIL", "REQUEUE", "CLAIM"]


def test_requeue_after_cancelling(connection: Connection) -> None:
    job = queued(connection)
    queue.cancel(connection, job.job_id, later(1))
    assert queue.requeue(connection, job.job_id, later(2)).state is JobState.QUEUED


def test_requeue_of_an_unfinished_job_changes_nothing(connection: Connection) -> None:
    for job in (queued(connection, "1.1"), running(connection, "1.2")):
        before = everything(connection)
        with pytest.raises(IllegalTransition):
            queue.requeue(connection, job.job_id, later(2))
        assert everything(connection) == before


def test_requeue_of_what_is_outdated_is_refused(connection: Connection) -> None:
    first = queued(connection)
    queue.enqueue_infer(connection, order(digest="d2"), later(1))
    with pytest.raises(Permanent, match="revision 2 replaced it"):
        queue.requeue(connection, first.job_id, later(2))


def test_requeue_of_an_inference_that_has_its_result_is_refused(connection: Connection) -> None:
    job = lease.finish(connection, running(connection), JobEvent.SUCCEED, later(1))
    with pytest.raises(Permanent, match="has its result already"):
        queue.requeue(connection, job.job_id, later(2))


# reading


def test_counts_lists_and_the_oldest(connection: Connection) -> None:
    assert oldest_waiting(connection, INFER) is None
    first, second = queued(connection, "1.1", later(1)), queued(connection, "1.2", later(2))
    counts = job_counts(connection)
    assert counts[INFER, JobState.QUEUED] == 2 and counts[DELIVER, JobState.FAILED] == 0
    assert oldest_waiting(connection, INFER) == later(1)
    assert [job.job_id for job in list_jobs(connection)] == [second.job_id, first.job_id]
    assert list_jobs(connection, study_instance_uid="1.1", kind=INFER, state=JobState.QUEUED) == [first]
    assert list_jobs(connection, state=JobState.RUNNING) == []
    assert list_jobs(connection, limit=1) == [second]
