"""Which refusals are said to whom, and when nothing is said."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from node.destination_settings import FolderDestination, Hl7Destination
from node.infer.manifest import Manifest, load_manifest
from node.jobs import queue
from node.jobs.completion import complete_inference
from node.jobs.job import Job
from node.jobs.lease import finish
from node.jobs.queue import claim
from node.jobs.state import JobEvent
from node.settings import Route, Settings
from node.statements import are_wanted, order_statement, refusals_to_state
from node.store.database import read_transaction, write_transaction
from node.store.decisions import decisions_of_study, record_decisions
from node.store.results import NewResult, ResultObject, current_result
from node.store.tables import DecisionOutcome, JobKind, JobState
from tests.models import threshold_network, write_model
from tests.node.jobs.examples import LEASE_SECONDS, new_result, order
from tests.node.store.examples import NOW, add_study, decided


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = write_model(tmp_path_factory.mktemp("models") / "brain", "brain", threshold_network())
    return {"brain": load_manifest(folder)}


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Two archives, of which one wants to know, and a reporting system that cannot."""
    return Settings(
        routes=(Route(name="mr-brain", models=("brain",), destinations=("pacs", "quiet", "ris")),),
        destinations=(
            FolderDestination(name="pacs", folder=tmp_path, send_not_analysed=True),
            FolderDestination(name="quiet", folder=tmp_path),
            Hl7Destination(name="ris", host="127.0.0.1", port=2575),
        ),
    )


def refused(engine: Engine, code: str = "gap-in-stack") -> None:
    with write_transaction(engine) as connection:
        add_study(connection)
        record_decisions(connection, [decided(DecisionOutcome.NOT_ANALYSED, code)])


def stated(engine: Engine, settings: Settings, manifests: dict[str, Manifest], since=NOW) -> list[Job]:
    with read_transaction(engine) as connection:
        refusals = refusals_to_state(connection, settings, manifests, since)
    with write_transaction(engine) as connection:
        made = [order_statement(connection, each, settings, manifests, NOW) for each in refusals]
    return [job for job in made if job is not None]


def finish_statement(engine: Engine, job: Job) -> NewResult:
    """Let the statement be made."""
    uid = f"2.25.{job.job_id}"
    statement = ResultObject(f"{uid}.1", "1.2", f"{uid}.2", "not-analysed", 0, "not-analysed.dcm", "a" * 64)
    with write_transaction(engine) as connection:
        running = claim(connection, JobKind.INFER, "w", LEASE_SECONDS, NOW)
        assert running is not None and running.job_id == job.job_id
        made = NewResult(**{**vars(new_result(running)), "objects": (statement,)})
        complete_inference(connection, running, made, 3, NOW)
        finish(connection, running, JobEvent.SUCCEED, NOW)
    return made


def test_refusal_is_said_once_to_who_wants_it(engine, settings, manifests):
    refused(engine)
    (job,) = stated(engine, settings, manifests)
    assert (job.refusal_code, job.refusal_text) == ("gap-in-stack", "because gap-in-stack")
    assert job.destinations == ["pacs"], "not to the quiet archive, and not as a message that nothing was found"
    assert job.inputs == {"looked-at": ["1.2.3.1"]}
    assert stated(engine, settings, manifests) == []
    finish_statement(engine, job)
    assert stated(engine, settings, manifests) == []
    refused(engine, "another-reason")
    (other,) = stated(engine, settings, manifests)
    assert other.revision == 2


def test_what_was_ordered_meanwhile_is_not_ordered_again(engine, settings, manifests):
    refused(engine)
    with read_transaction(engine) as connection:
        (refusal,) = refusals_to_state(connection, settings, manifests, NOW)
    with write_transaction(engine) as connection:
        assert order_statement(connection, refusal, settings, manifests, NOW) is not None
    with write_transaction(engine) as connection:
        assert order_statement(connection, refusal, settings, manifests, NOW) is None


def test_nothing_is_said_where_nobody_wants_it_or_nobody_could_say_it(engine, settings, manifests):
    refused(engine)
    quiet = settings.model_copy(update={"destinations": settings.destinations[1:]})
    assert are_wanted(settings) and not are_wanted(quiet)
    assert stated(engine, quiet, manifests) == []
    assert stated(engine, settings, {}) == []
    assert stated(engine, settings, manifests, since=NOW + timedelta(seconds=1)) == []


def test_nothing_is_said_beside_a_result_or_work_on_one(engine, settings, manifests):
    refused(engine)
    with write_transaction(engine) as connection:
        queue.enqueue_infer(connection, order(), NOW)
    assert stated(engine, settings, manifests) == []
    with write_transaction(engine) as connection:
        running = claim(connection, JobKind.INFER, "w", LEASE_SECONDS, NOW)
        assert running is not None
        complete_inference(connection, running, new_result(running), 3, NOW)
        finish(connection, running, JobEvent.SUCCEED, NOW)
    assert stated(engine, settings, manifests) == []


def test_job_that_failed_is_stated_and_can_still_be_tried_again(engine, settings, manifests):
    with write_transaction(engine) as connection:
        add_study(connection)
        failed = queue.enqueue_infer(connection, order(), NOW)
        running = claim(connection, JobKind.INFER, "w", LEASE_SECONDS, NOW)
        assert running is not None
        finish(connection, running, JobEvent.FAIL, NOW, "NotAnalysed: 12 slices are missing", code="gap-in-stack")
    (statement,) = stated(engine, settings, manifests)
    assert (statement.refusal_code, statement.refusal_text) == ("gap-in-stack", "12 slices are missing")
    finish_statement(engine, statement)
    with write_transaction(engine) as connection:
        assert queue.requeue(connection, failed.job_id, NOW).state is JobState.QUEUED
        running = claim(connection, JobKind.INFER, "w", LEASE_SECONDS, NOW)
        assert running is not None and running.revision == 1 and statement.revision == 2
        stated_before = current_result(connection, "1.2", "brain")
        assert stated_before is not None and stated_before.is_replaced_by(1), "its report names the statement"
        recorded = complete_inference(connection, running, new_result(running), 3, NOW)
        current = current_result(connection, "1.2", "brain")
    assert recorded.is_current and current is not None and not current.is_statement
    assert current.result_id == recorded.result_id
    assert current.is_replaced_by(3) and not current.is_replaced_by(1)


def test_statement_that_cannot_be_made_is_no_reason_why_the_study_was_not_analysed(engine, settings, manifests):
    refused(engine)
    stated(engine, settings, manifests)
    with write_transaction(engine) as connection:
        running = claim(connection, JobKind.INFER, "w", LEASE_SECONDS, NOW)
        assert running is not None
        finish(connection, running, JobEvent.FAIL, NOW, "disk is full", code="disk-full")
    with read_transaction(engine) as connection:
        assert [each.code for each in decisions_of_study(connection, "1.2")] == ["gap-in-stack"]
