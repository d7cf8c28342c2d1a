"""Models that compare: the earlier study comes before or after the later one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from node.infer.manifest import Manifest
from node.store.catalogue import release_series, store_instances
from node.store.database import write_transaction
from node.store.expiry import expire_study, settled_studies
from node.store.tables import JobState
from tests.node.store.examples import later
from tests.node.test_early_work import Node
from tests.node.test_early_work import manifests as manifests
from tests.node.test_settle import image


@pytest.fixture
def node(engine: Engine, manifests: dict[str, Manifest], tmp_path: Path) -> Iterator[Node]:
    """A node whose model takes an earlier study where there is one."""
    first = manifests["ball"].inputs[0]
    requires = first.requires.model_copy(update={"timepoint": "prior", "optional": True})
    inputs = (first, first.model_copy(update={"name": "before", "requires": requires}))
    comparing = manifests["ball"].model_copy(update={"inputs": inputs})
    made = Node(engine, {"ball": comparing}, tmp_path, begin_early=False)
    yield made
    made.settler.stop()


def arrive(node: Node, study: str, year: int, at: float) -> None:
    """A study of three images, and what follows from it."""
    images = [
        image(
            number,
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
            sop_instance_uid=f"{study}.1.{number}",
            received_at=later(at + number),
            patient_key="k" * 64,
            study_date_time=f"{year}0101120000",
        )
        for number in range(3)
    ]
    with write_transaction(node.engine) as connection:
        store_instances(connection, images, later(at + 30))
        release_series(connection, [f"{study}.1"], later(at + 22), later(at + 2))
    for seconds in (25, 26, 27):
        node.at(at + seconds)


def inputs(node: Node) -> list[tuple[str, int | None, list[str]]]:
    return [(job.study_instance_uid, job.revision, sorted(job.inputs or {})) for job in node.jobs()]


def test_an_earlier_study_that_is_here_is_taken(node: Node) -> None:
    arrive(node, "1.2", 2020, 0)
    arrive(node, "1.3", 2024, 100)
    assert inputs(node) == [("1.2", 1, ["image"]), ("1.3", 1, ["before", "image"])]
    job = node.jobs()[1]
    assert {uid.rsplit(".", 1)[0] for uid in (job.inputs or {})["before"]} == {"1.2.1"}


def test_an_earlier_study_that_comes_later_makes_the_next_revision(node: Node) -> None:
    arrive(node, "1.3", 2024, 0)
    arrive(node, "1.2", 2020, 100)
    assert inputs(node) == [("1.3", 1, ["image"]), ("1.2", 1, ["image"]), ("1.3", 2, ["before", "image"])]
    assert [job.state for job in node.jobs()] == [JobState.CANCELLED, JobState.QUEUED, JobState.QUEUED]
    node.at(500)
    assert len(node.jobs()) == 3


def test_a_later_study_whose_images_were_deleted_stays_as_it_is(node: Node) -> None:
    arrive(node, "1.3", 2024, 0)
    job = node.claim()
    assert job is not None
    node.finish(job)
    with write_transaction(node.engine) as connection:
        (held,) = settled_studies(connection, later(90))
        assert expire_study(connection, held, later(90)) is not None
    arrive(node, "1.2", 2020, 100)
    assert inputs(node) == [("1.3", 1, ["image"]), ("1.2", 1, ["image"])]
