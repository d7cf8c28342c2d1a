"""Rejection notes for what a later result replaces: what a destination took, and nothing else."""

import shutil
from collections.abc import Callable

import pytest
from pydicom import dcmread
from sqlalchemy import update

from node.jobs.job import Job
from node.settings import Destination
from node.store.database import read_transaction, write_transaction
from node.store.results import get_result
from node.store.tables import DeliveryState, result, result_object
from tests.faulty_archive import FaultyArchive
from tests.node.deliver.conftest import Node, add_real_result

KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
DestinationAt = Callable[..., Destination]


def replaced(node: Node, earlier: Job, digest: str) -> Job:
    """The delivery of the next result of the same study, with a Result that can be retracted in its turn."""
    (job,) = node.add_result("pacs", study=earlier.study_instance_uid, digest=digest)
    with read_transaction(node.engine) as connection:
        old, new = (get_result(connection, each.result_id or 0).folder for each in (earlier, job))
    for path in (node.folder / old).iterdir():
        if path.suffix in (".json", ".npz"):
            shutil.copy(path, node.folder / new)
    return job


def rejected(note_uid: str, node: Node, job: Job) -> set[str]:
    with read_transaction(node.engine) as connection:
        folder = get_result(connection, job.result_id or 0).folder
    note = dcmread(node.folder / folder / "retraction" / "pacs.dcm")
    assert note.SOPInstanceUID == note_uid
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    return {
        one.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }


def test_what_was_taken_is_retracted_when_a_later_result_replaces_it(node: Node, destination_at: DestinationAt) -> None:
    with FaultyArchive() as archive:
        destination = destination_at(archive.port, retract=True)
        first = add_real_result(node, "pacs")
        with node.outbox(node.settings(destination)):
            node.wait_for_end(first)
            assert [one.sop_class_uid for one in archive.received if one.sop_class_uid == KEY_OBJECTS] == []
            second = replaced(node, first, "d2")
            node.wait_for_end(second)
            third = replaced(node, second, "d3")
            node.wait_for_end(third)
        sent = [one.sop_instance_uid for one in archive.received]
    assert len(sent) == 2 + 3 + 3
    assert rejected(sent[4], node, second) == set(node.uids(first))
    assert rejected(sent[7], node, third) == set(node.uids(second))
    kept = node.wait_for_state(third, DeliveryState.DELIVERED)
    assert [one.sop_instance_uid for one in kept.objects] == [*node.uids(third), sent[7]]


@pytest.mark.parametrize("retract", [False, True])
def test_nothing_is_retracted_that_was_not_taken_or_where_it_is_not_wanted(
    node: Node, destination_at: DestinationAt, retract: bool
) -> None:
    with FaultyArchive() as archive:
        first = add_real_result(node, "pacs")
        destination = destination_at(archive.port, retract=retract)
        if not retract:
            with node.outbox(node.settings(destination)):
                node.wait_for_end(first)
        second = replaced(node, first, "d2")
        with node.outbox(node.settings(destination)):
            node.wait_for_end(second)
        assert KEY_OBJECTS not in [one.sop_class_uid for one in archive.received]


def test_an_archive_that_takes_no_notes_gets_the_result_and_says_so(node: Node, destination_at: DestinationAt) -> None:
    with FaultyArchive(refuse=["KEY_OBJECTS"]) as archive:
        first = add_real_result(node, "pacs")
        with node.outbox(node.settings(destination_at(archive.port, retract=True))):
            node.wait_for_end(first)
            second = replaced(node, first, "d2")
            ended = node.wait_for_end(second)
        assert [one.sop_instance_uid for one in archive.received][2:] == node.uids(second)
    assert "not retracted, because the destination refuses Key Object Selection" in str(ended.last_error)


def test_statement_that_nothing_was_analysed_is_retracted_when_a_retry_succeeds(
    node: Node, destination_at: DestinationAt
) -> None:
    """It is of a later revision than the job that is tried again."""
    with FaultyArchive() as archive:
        first = add_real_result(node, "pacs")
        said_to_be_a_statement(node, first, revision=3)
        with node.outbox(node.settings(destination_at(archive.port, retract=True))):
            node.wait_for_end(first)
            second = replaced(node, first, "d2")
            node.wait_for_end(second)
            third = replaced(node, second, "d3")
            node.wait_for_end(third)
        sent = [one.sop_instance_uid for one in archive.received]
    assert rejected(sent[4], node, second) == set(node.uids(first))
    assert rejected(sent[7], node, third) == set(node.uids(second)), "and the statement is not retracted twice"


def said_to_be_a_statement(node: Node, job: Job, revision: int) -> None:
    with write_transaction(node.engine) as connection:
        connection.execute(update(result).where(result.c.id == job.result_id).values(revision=revision))
        connection.execute(
            update(result_object).where(result_object.c.result_id == job.result_id).values(role="not-analysed")
        )
