"""What decides on a study holds it first: on PostgreSQL, where others write at the same time, nothing comes between."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, get_ident

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.dialects import postgresql

from node.jobs import lease
from node.jobs.queue import claim
from node.jobs.state import JobEvent
from node.select.decide import decide
from node.settings import Settings
from node.settle import begin_weighed, settle_weighed, weigh_study
from node.store.catalogue import settle_study, store_instances
from node.store.database import read_transaction, write_transaction
from node.store.expiry import expire_study, settled_studies
from node.store.tables import JobKind
from tests.node.jobs.examples import queued
from tests.node.store.examples import later
from tests.node.test_settle import image


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The first that is executed meanwhile, as PostgreSQL would be told it."""
    seen: list[str] = []

    def take(connection: object, statement: object, *more: object) -> None:
        if not seen:
            seen.append(str(statement.compile(dialect=postgresql.dialect())))  # type: ignore[attr-defined]

    event.listen(engine, "before_execute", take)
    yield seen
    event.remove(engine, "before_execute", take)


def holds_first(seen: list[str]) -> bool:
    return "FROM study" in seen[0] and seen[0].endswith("FOR UPDATE")


def test_deciding_holds_the_study(engine: Engine) -> None:
    settings = Settings()
    with write_transaction(engine) as connection:
        store_instances(connection, [image(number) for number in range(3)], later(30))
    with read_transaction(engine) as connection:
        weighed = weigh_study(connection, "1.2", settings)
    assert weighed is not None
    trace = decide(weighed.series, (), {})
    for act in (begin_weighed, settle_weighed):
        with statements(engine) as seen, write_transaction(engine) as connection:
            act(connection, weighed, trace, settings, {}, later(60))
        assert holds_first(seen)


def test_ending_an_attempt_holds_the_study(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        job = queued(connection)
    for attempt in range(2):
        with write_transaction(engine) as connection:
            claimed = claim(connection, job.kind, "w", 30, later(60))
        assert claimed is not None
        with statements(engine) as seen, write_transaction(engine) as connection:
            if attempt:
                lease.finish(connection, claimed, JobEvent.SUCCEED, later(61))
            else:
                lease.finish(connection, claimed, JobEvent.RETRY, later(61), "away", later(60))
        assert holds_first(seen)


@pytest.mark.database("postgresql")
def test_of_two_that_rescue_one_does(engine: Engine) -> None:
    """Both find the job with its dead worker before either of them takes it."""
    with write_transaction(engine) as connection:
        queued(connection)
        claim(connection, JobKind.INFER, "w", 30, later(60))
    both_found_it = Barrier(2)
    found: set[int] = set()

    def is_dead(worker: str) -> bool:
        if get_ident() not in found:
            found.add(get_ident())
            both_found_it.wait(90)
        return True

    def rescue(_: int) -> int:
        with write_transaction(engine) as connection:
            return len(lease.rescue(connection, later(61), is_dead))

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(rescue, range(2))) == [0, 1]


def test_deleting_holds_the_study(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        store_instances(connection, [image(number) for number in range(3)], later(30))
        settle_study(connection, "1.2", later(60))
        (held,) = settled_studies(connection, later(1e6))
    with statements(engine) as seen, write_transaction(engine) as connection:
        assert len(expire_study(connection, held, later(1e6)) or ()) == 3
    assert holds_first(seen)
