import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

from node.store.database import (
    MIGRATIONS,
    SchemaMismatch,
    check_schema,
    migrate,
    open_database,
    read_transaction,
    write_transaction,
)
from node.store.tables import metadata, series, study
from tests.node.store.examples import NOW

NEWEST = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{newest}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("study") as table:
        table.add_column(sa.Column("note", sa.Text()))
    {then}
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'data' / 'overread.sqlite'}"


def newer_migrations(tmp_path: Path, then: str = "pass") -> Path:
    """The migrations of a version to come: ours and one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "9999_note.py").write_text(NEXT_REVISION.format(newest=NEWEST, then=then))
    return folder


def schema(url: str) -> dict[str, list[str]]:
    """Every table and index as SQLite keeps it, its clauses sorted (their order means nothing)."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: sorted(clauses(sql)) for name, sql in rows if name != "alembic_version"}


def clauses(sql: str) -> list[str]:
    """The parts of a CREATE statement between its outermost brackets and commas, however it is broken into lines."""
    parts, depth = [""], 0
    for character in sql:
        depth += (character == "(") - (character == ")")
        if (character == "(" and depth == 1) or (character == ")" and depth == 0) or (character == "," and depth == 1):
            parts.append("")
        else:
            parts[-1] += character
    return [" ".join(part.split()).replace('"', "") for part in parts]  # a table that was copied has its name quoted


def test_migrations_create_exactly_the_tables(url: str, tmp_path: Path) -> None:
    migrate(url, None)
    direct = f"sqlite:///{tmp_path / 'direct.sqlite'}"
    engine = create_engine(direct)
    metadata.create_all(engine)
    engine.dispose()
    assert schema(url) == schema(direct)
    migrated = open_database(url)
    with read_transaction(migrated) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrated.dispose()


@pytest.mark.database("sqlite")
def test_sqlite_is_durable_and_enforces_references(engine: Engine) -> None:
    with read_transaction(engine) as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


@pytest.mark.database("sqlite")
def test_a_writer_holds_the_lock_from_the_beginning(engine: Engine, tmp_path: Path) -> None:
    other = create_engine(engine.url, connect_args={"timeout": 0})
    with write_transaction(engine), other.connect() as connection, pytest.raises(OperationalError):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    other.dispose()


def test_a_reader_does_not_wait_for_a_writer(engine: Engine) -> None:
    with write_transaction(engine) as writer:
        writer.execute(insert(study).values(study_instance_uid="1", first_received_at=NOW, last_received_at=NOW))
        with read_transaction(engine) as reader:
            assert reader.execute(select(study)).all() == []


def test_a_reader_sees_one_state_whatever_others_write(engine: Engine) -> None:
    rows = [{"study_instance_uid": uid, "first_received_at": NOW, "last_received_at": NOW} for uid in ("1", "2")]
    with write_transaction(engine) as writer:
        writer.execute(insert(study), rows[:1])
    with read_transaction(engine) as reader:
        before = reader.execute(select(study.c.study_instance_uid)).all()
        with write_transaction(engine) as writer:
            writer.execute(insert(study), rows[1:])
        assert reader.execute(select(study.c.study_instance_uid)).all() == before == [("1",)]


@pytest.mark.database("postgresql")
def test_a_reader_cannot_write(engine: Engine) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"), read_transaction(engine) as connection:
        connection.execute(insert(study).values(study_instance_uid="1", first_received_at=NOW, last_received_at=NOW))


def test_an_exception_undoes_the_transaction(engine: Engine) -> None:
    with pytest.raises(KeyError), write_transaction(engine) as connection:
        connection.execute(insert(study).values(study_instance_uid="1", first_received_at=NOW, last_received_at=NOW))
        raise KeyError
    with read_transaction(engine) as connection:
        assert connection.execute(select(study)).all() == []


def test_references_hold(engine: Engine) -> None:
    values = {"state": "RECEIVING", "settle_at": NOW, "last_received_at": NOW, "header": {}}
    row = dict(values, series_instance_uid="1", study_instance_uid="9", calling_ae_title="A", called_ae_title="B")
    with (
        pytest.raises(DBAPIError, match=r"FOREIGN KEY|violates foreign key constraint"),
        write_transaction(engine) as connection,
    ):
        connection.execute(insert(series).values(row))


def test_times_come_back_aware_and_naive_ones_are_refused(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        connection.execute(insert(study).values(study_instance_uid="1", first_received_at=NOW, last_received_at=NOW))
        assert connection.scalar(select(study.c.first_received_at)) == NOW
        with pytest.raises(StatementError, match="naive"):
            connection.scalar(select(study).where(study.c.first_received_at == NOW.replace(tzinfo=None)))


def test_an_empty_database_is_refused_until_it_is_migrated(url: str, tmp_path: Path) -> None:
    Path(url.removeprefix("sqlite:///")).parent.mkdir()
    engine = open_database(url)
    with pytest.raises(SchemaMismatch, match="revision none"):
        check_schema(engine)
    assert migrate(url, tmp_path / "backup") == NEWEST
    check_schema(engine)
    engine.dispose()


def test_no_copy_is_made_when_nothing_changes(url: str, tmp_path: Path) -> None:
    migrate(url, tmp_path / "backup")
    migrate(url, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_copy_is_made_before_a_real_change(url: str, tmp_path: Path) -> None:
    migrate(url, tmp_path / "backup")
    engine = open_database(url)
    with write_transaction(engine) as connection:
        connection.execute(insert(study).values(study_instance_uid="1.2", first_received_at=NOW, last_received_at=NOW))
    engine.dispose()
    assert migrate(url, tmp_path / "backup", newer_migrations(tmp_path)) == "9999"
    (copy,) = (tmp_path / "backup").iterdir()
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(NEWEST,)]
        assert connection.execute("SELECT study_instance_uid FROM study").fetchall() == [("1.2",)]
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("SELECT study_instance_uid, note FROM study").fetchall() == [("1.2", None)]


def test_a_migration_that_fails_changes_nothing(url: str, tmp_path: Path) -> None:
    migrate(url, None)
    before = schema(url)
    with pytest.raises(OperationalError):
        migrate(url, None, newer_migrations(tmp_path, then="op.execute('SELECT * FROM nowhere')"))
    assert schema(url) == before
    assert migrate(url, None) == NEWEST


def test_a_database_of_a_newer_version_is_refused(url: str, tmp_path: Path) -> None:
    migrate(url, None, newer_migrations(tmp_path))
    with pytest.raises(SchemaMismatch, match="revision 9999, which this version does not know"):
        migrate(url, None)
    engine = open_database(url)
    with pytest.raises(SchemaMismatch, match="does not know"):
        check_schema(engine)
    engine.dispose()


def test_new_database_that_another_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, waits = tmp_path / "new.sqlite", []
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # as who turns it over to the write-ahead log has it

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr(time, "sleep", wait)
        engine = open_database(f"sqlite:///{path}")
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        engine.dispose()
    assert len(waits) == 3


def test_new_database_that_stays_busy_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, passed = tmp_path / "new.sqlite", [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: passed[0])
    monkeypatch.setattr(time, "sleep", lambda _: passed.__setitem__(0, passed[0] + 10))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        engine = open_database(f"sqlite:///{path}")
        with pytest.raises(OperationalError, match="locked"):
            engine.connect()
        engine.dispose()
    assert passed[0] == 30


def test_several_may_migrate_at_once(url: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(lambda _: migrate(url, tmp_path / "backup"), range(4)))
    assert revisions == [NEWEST] * 4
