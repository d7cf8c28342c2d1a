"""Prepared statements do what the same statements do through SQLAlchemy."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, bindparam, select
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine.interfaces import DBAPICursor

from node.store import tables
from node.store.catalogue import _CHUNK, ReceivedInstance, store_instances
from node.store.database import migrate, open_database, read_transaction, write_transaction
from node.store.prepared import _ROWS, Overtaken, PreparedConnection, _Prepared, _values_of
from tests.node.store.examples import received

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    urls = [f"sqlite:///{tmp_path_factory.mktemp('prepared') / name}" for name in ("one.sqlite", "two.sqlite")]
    for url in urls:
        migrate(url, None)
    first, second = (open_database(url) for url in urls)
    yield first, second
    first.dispose()
    second.dispose()


def instances() -> st.SearchStrategy[ReceivedInstance]:
    return st.builds(
        ReceivedInstance,
        sop_instance_uid=st.integers(1, 6).map(lambda n: f"1.2.{n}"),
        sop_class_uid=st.just("1.2.840"),
        series_instance_uid=st.integers(1, 3).map(lambda n: f"1.3.{n}"),
        study_instance_uid=st.integers(1, 2).map(lambda n: f"1.4.{n}"),
        transfer_syntax_uid=st.just("1.2"),
        path=st.just("instances/x"),
        size_bytes=st.integers(0, 1 << 40),
        digest=st.sampled_from(["a" * 64, "b" * 64]),
        received_at=st.integers(0, 1000).map(lambda n: NOW + timedelta(milliseconds=n)),
        calling_ae_title=st.just("A"),
        called_ae_title=st.just("B"),
        series_header=st.dictionaries(st.sampled_from(["Modality", "KVP"]), st.text(max_size=4), max_size=2),
        geometry=st.none() | st.just({"Rows": 3, "PixelSpacing": [0.5, 0.25]}),
        pixel_offset=st.none() | st.integers(0, 1 << 40),
        pixel_length=st.none() | st.integers(0, 1 << 40),
    )


def empty(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        for table in (tables.instance, tables.series, tables.study):
            connection.execute(table.delete())


def contents(engine: Engine) -> list[list[object]]:
    with read_transaction(engine) as connection:
        return [
            [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key)).all()]
            for table in (tables.study, tables.series, tables.instance)
        ]


@given(st.lists(st.lists(instances(), min_size=1, max_size=4), max_size=5))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_same_rows_and_answers(engines: tuple[Engine, Engine], groups: list[list[ReceivedInstance]]) -> None:
    plain, prepared = engines
    connection = PreparedConnection(prepared)
    for number, group in enumerate(groups):
        settle_at = NOW + timedelta(seconds=number)
        with write_transaction(plain) as ordinary:
            expected = store_instances(ordinary, group, settle_at)
        with connection.write_transaction() as fast:
            assert store_instances(fast, group, settle_at) == expected
    connection.close()
    assert contents(plain) == contents(prepared)


def test_more_images_than_one_statement_takes(engines: tuple[Engine, Engine]) -> None:
    plain, prepared = engines
    for engine in engines:
        empty(engine)
    group = [received(number) for number in range(1, max(_CHUNK, _ROWS) + 2)]
    again = [*group, received(1, series="1.2.4")]
    connection = PreparedConnection(prepared)
    with connection.write_transaction() as fast:
        assert store_instances(fast, group, NOW) == ["stored"] * len(group)
    with connection.write_transaction() as fast:
        assert store_instances(fast, again, NOW) == ["duplicate"] * len(group) + ["stored"]
    connection.close()
    with write_transaction(plain) as ordinary:
        store_instances(ordinary, group, NOW)
        store_instances(ordinary, again, NOW)
    assert contents(plain) == contents(prepared)


@pytest.mark.database("postgresql")
def test_several_rows_in_postgresql(engine: Engine, engines: tuple[Engine, Engine]) -> None:
    plain, _ = engines
    empty(plain)
    group = [*map(received, range(1, 4)), received(1, series="1.2.4", geometry=None, pixel_offset=None)]
    with write_transaction(plain) as ordinary:
        store_instances(ordinary, group, NOW)
    connection = PreparedConnection(engine)
    for answer in ("stored", "duplicate"):
        with connection.write_transaction() as fast:
            assert store_instances(fast, group, NOW) == [answer] * 4
    connection.close()
    assert contents(engine) == contents(plain)


@pytest.mark.parametrize("more", ["ON CONFLICT (digest) DO NOTHING", "RETURNING digest"])
def test_what_follows_the_values_is_not_repeated(more: str) -> None:
    assert _values_of("INSERT INTO instance (digest) VALUES (?)") == "(?)"
    assert _values_of(f"INSERT INTO instance (digest) VALUES (?) {more}") is None
    assert _values_of(f"INSERT INTO instance (digest) VALUES (lower(?)) {more} (x)") is None


class Recorder:
    """In place of a cursor: what it was told."""

    def execute(self, text: str, parameters: dict[str, object]) -> None:
        self.text, self.parameters = text, parameters


def test_lists_are_written_out_for_drivers_that_take_parameters_by_name() -> None:
    statement = select(tables.instance.c.digest).where(
        tables.instance.c.sop_instance_uid.in_(bindparam("uids", expanding=True))
    )
    recorder = Recorder()
    prepared = _Prepared(statement, psycopg.dialect(), {"uids": ["1", "2", "3"]})
    prepared.run(cast(DBAPICursor, recorder), {"uids": ["1.2", "1.3", "1.4"]})
    wanted = re.findall(r"%\((\w+)\)s", recorder.text)
    assert [recorder.parameters[name] for name in wanted] == ["1.2", "1.3", "1.4", "1.4"]


def test_failure_keeps_nothing_and_the_next_transaction_works(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    connection = PreparedConnection(engine)
    row = {"study_instance_uid": "1.2", "first_received_at": NOW, "last_received_at": NOW}
    with pytest.raises(Overtaken, match="IntegrityError"), connection.write_transaction() as fast:
        fast.execute(tables.study.insert(), row)
        fast.execute(tables.study.insert(), row)
    with connection.write_transaction() as fast:
        fast.execute(tables.study.insert(), row)
    with pytest.raises(ZeroDivisionError), connection.write_transaction() as fast:
        fast.execute(tables.study.insert(), {**row, "study_instance_uid": "1.3"})
        raise ZeroDivisionError
    with read_transaction(engine) as reading:
        assert [row.study_instance_uid for row in reading.execute(select(tables.study))] == ["1.2"]
    connection.close()
    engine.dispose()
