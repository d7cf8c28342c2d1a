"""What the database refuses by itself, whatever the code above it does."""

from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update
from sqlalchemy.exc import DBAPIError

from node.store import tables
from tests.node.store.examples import NOW, add_study, later

INFER = {
    "kind": "INFER",
    "state": "QUEUED",
    "priority": 1,
    "claim_order_at": NOW,
    "run_after": NOW,
    "attempt": 0,
    "maximum_attempts": 3,
    "cancel_requested": False,
    "created_at": NOW,
    "updated_at": NOW,
    "study_instance_uid": "1.2",
    "model": "brain",
    "model_digest": "a" * 64,
    "input_digest": "b" * 64,
    "inputs": {"image": ["1.2.3.1"]},
    "destinations": [],
    "revision": 1,
}
RUNNING = {"state": "RUNNING", "worker": "w", "lease_expires_at": later(30), "attempt": 1}
RESULT = {
    "job_id": 1,
    "study_instance_uid": "1.2",
    "model": "brain",
    "model_digest": "a" * 64,
    "revision": 1,
    "state": "CURRENT",
    "created_at": NOW,
    "folder": "results/1",
    "summary": {},
    "timings": {},
}
DECISION = {"at": NOW, "study_instance_uid": "1.2", "route": "r", "model": "m", "code": "c", "message": ""}


IN_POSTGRESQL = {
    "FOREIGN KEY": "violates foreign key constraint",
    "NOT NULL": "violates not-null constraint",
    "UNIQUE": "violates unique constraint",
}


def refused_by(constraint: str) -> AbstractContextManager[pytest.ExceptionInfo[DBAPIError]]:
    """Either database says which constraint it was, in words of its own."""
    return pytest.raises(DBAPIError, match=f"{constraint}|{IN_POSTGRESQL.get(constraint, constraint)}")


@pytest.fixture
def jobs(connection: Connection) -> Connection:
    """A database with a study and one queued inference job, number 1."""
    add_study(connection)
    connection.execute(insert(tables.job).values(INFER))
    return connection


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"state": "SLEEPING"}, "ck_job_state"),
        ({"state": "RUNNING"}, "ck_job_running_has_worker"),
        ({"worker": "w", "lease_expires_at": NOW}, "ck_job_running_has_worker"),
        ({**RUNNING, "lease_expires_at": None}, "ck_job_lease_has_worker"),
        ({"lease_expires_at": NOW}, "ck_job_lease_has_worker"),
        ({"attempt": -1}, "ck_job_attempts"),
        ({**RUNNING, "attempt": 4}, "ck_job_attempts"),
        ({"maximum_attempts": 0, "state": "FAILED"}, "ck_job_attempts"),
        ({"attempt": 3}, "ck_job_queued_can_run"),
        ({"cancel_requested": True}, "ck_job_cancel_while_running"),
        ({"priority": 3}, "ck_job_priority"),
        ({"kind": "DREAM"}, "ck_job_kind"),
        ({"model": None}, "ck_job_kind_has_columns"),
        ({"inputs": None}, "ck_job_kind_has_columns"),
        ({"revision": None}, "ck_job_kind_has_columns"),
        ({"revision": 0}, "ck_job_kind_has_columns"),
        ({"kind": "DELIVER"}, "ck_job_kind_has_columns"),
        ({"study_instance_uid": "9.9"}, "FOREIGN KEY"),
        ({"study_instance_uid": None}, "NOT NULL"),
        ({"result_id": 77}, "FOREIGN KEY"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(jobs: Connection, changes: dict[str, Any], constraint: str) -> None:
    with refused_by(constraint), jobs.begin_nested():
        jobs.execute(update(tables.job).values(changes))


def test_sensible_jobs_are_taken(jobs: Connection) -> None:
    jobs.execute(update(tables.job).values(RUNNING))
    jobs.execute(update(tables.job).values(cancel_requested=True))


@pytest.mark.parametrize(
    "changes", [{"revision": 2}, {"input_digest": "c" * 64}], ids=["same input set", "same revision"]
)
def test_an_input_set_and_a_revision_have_one_job(jobs: Connection, changes: dict[str, Any]) -> None:
    with refused_by("UNIQUE"), jobs.begin_nested():
        jobs.execute(insert(tables.job).values({**INFER, **changes}))
    jobs.execute(insert(tables.job).values({**INFER, "input_digest": "c" * 64, "revision": 2}))


def test_a_study_and_model_have_one_current_result(jobs: Connection) -> None:
    jobs.execute(insert(tables.job).values({**INFER, "input_digest": "c" * 64, "revision": 2}))
    jobs.execute(insert(tables.result).values(RESULT))
    second = {**RESULT, "job_id": 2, "revision": 2}
    with refused_by("UNIQUE"), jobs.begin_nested():
        jobs.execute(insert(tables.result).values(second))
    jobs.execute(insert(tables.result).values({**second, "state": "SUPERSEDED"}))


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"state": "OLD"}, "ck_result_state"),
        ({"revision": 0}, "ck_result_revision"),
        ({"job_id": 9}, "FOREIGN KEY"),
        ({"summary": None}, "NOT NULL"),
    ],
)
def test_a_result_that_makes_no_sense_is_refused(jobs: Connection, changes: dict[str, Any], constraint: str) -> None:
    with refused_by(constraint), jobs.begin_nested():
        jobs.execute(insert(tables.result).values({**RESULT, **changes}))


def test_a_result_goes_to_a_destination_once(jobs: Connection) -> None:
    jobs.execute(insert(tables.result).values(RESULT))
    common = {name: INFER[name] for name in list(INFER)[:11]}
    delivery = {**common, "kind": "DELIVER", "result_id": 1, "destination": "pacs"}
    jobs.execute(insert(tables.job).values(delivery))
    with refused_by("UNIQUE"), jobs.begin_nested():
        jobs.execute(insert(tables.job).values(delivery))
    jobs.execute(insert(tables.job).values({**delivery, "destination": "archive"}))


def test_a_series_and_a_decision_have_known_states(jobs: Connection) -> None:
    with refused_by("ck_series_state"), jobs.begin_nested():
        jobs.execute(update(tables.series).values(state="LOST"))
    with refused_by("ck_decision_outcome"), jobs.begin_nested():
        jobs.execute(insert(tables.decision).values({**DECISION, "outcome": "MAYBE"}))
    jobs.execute(insert(tables.decision).values({**DECISION, "outcome": "QUEUED"}))
    with refused_by("UNIQUE"), jobs.begin_nested():
        jobs.execute(insert(tables.decision).values({**DECISION, "outcome": "NOT_ANALYSED"}))
