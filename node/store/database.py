"""Opening the database, its transactions, and bringing it to the newest schema.

SQLite runs in WAL mode with ``synchronous=FULL`` (a commit survives a power cut) and enforced foreign keys.
A writer takes the write lock when its transaction begins (``BEGIN IMMEDIATE``), so that it never fails
half-way because somebody else wrote first; it waits up to 30 seconds for the lock.

PostgreSQL writes at the isolation level READ COMMITTED: who decides on what others may change meanwhile locks the row
first. A reader has REPEATABLE READ, which there, too, is one consistent state without waiting.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite

from node.errors import Permanent

BUSY_SECONDS = 30
_BUSY_TICK_SECONDS = 0.01
MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x0EAD  # any number that nobody else uses for an advisory lock in this database


class SchemaMismatch(Permanent):
    """The database is not at the schema that this version of the node works with."""


def open_database(url: str) -> Engine:
    """An engine for any number of threads of one process; a process that forks opens its own."""
    return _open(url, foreign_keys=True)


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection that may write: commits at the end, rolls back when anything is raised."""
    with engine.connect().execution_options(takes_write_lock=True) as connection, connection.begin():
        yield connection


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection that sees one consistent state and never waits for writers. It must not write."""
    with engine.connect() as connection, connection.begin():
        yield connection


def empty_log(engine: Engine) -> bool:
    """SQLite: bring everything from the write-ahead log into the database, on disk, and begin the log anew; False where
    others read or wrote for too long. Raises `sqlite3.Error`, `SQLAlchemyError`."""
    with engine.connect() as connection:
        raw = connection.connection.cursor()  # no transaction: one would keep the log as it is
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (is_busy, *_) = raw.fetchone() or (1,)
    return not is_busy


def insert_on_conflict(connection: Connection, table: Table) -> Any:
    """An INSERT that offers `on_conflict_do_nothing` and `on_conflict_do_update`, in the dialect of the
    connection."""
    return insert_for(connection.dialect.name, table)


def insert_for(dialect_name: str, table: Table) -> Any:
    """The same for a dialect by name, for statements that are built once."""
    return postgresql.insert(table) if dialect_name == "postgresql" else sqlite.insert(table)


def migrate(url: str, backup_folder: Path | None, migrations: Path = MIGRATIONS) -> str:
    """Bring the database to the newest schema and return its revision.

    An SQLite file that already holds tables is copied into `backup_folder` before it is changed (None: no
    copy). Several processes may call this at once; one migrates, the others wait and find it done.

    Raises
    ------
    SchemaMismatch
        If the database was made by a newer version of the node.
    """
    _make_folder(url)
    engine = _open(url, foreign_keys=False)  # changing an SQLite table copies it, which would drop its references
    try:
        with write_transaction(engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            found, wanted = _revision(connection), _newest_revision(migrations)
            if found == wanted:
                return wanted
            _refuse_unknown(found, migrations)
            if found is not None and backup_folder is not None:
                _back_up(url, backup_folder, found)
            command.upgrade(_alembic_config(migrations, connection), wanted)
            _check_references(connection)
        return wanted
    finally:
        engine.dispose()


def check_schema(engine: Engine) -> None:
    """Raise `SchemaMismatch` unless the database is at the newest schema."""
    with read_transaction(engine) as connection:
        found = _revision(connection)
    wanted = _newest_revision(MIGRATIONS)
    if found != wanted:
        _refuse_unknown(found, MIGRATIONS)
        raise SchemaMismatch(
            f"the database is at revision {found or 'none'} and this version needs {wanted}: "
            "start `overread run` once, which migrates it"
        )


def _open(url: str, foreign_keys: bool) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return _open_postgresql(make_url(url))
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=8, max_overflow=24)
    event.listen(engine, "connect", lambda connection, _: _set_pragmas(connection, foreign_keys))
    event.listen(engine, "begin", _begin)
    return engine


def _open_postgresql(url: URL) -> Engine:
    """`postgresql://` is opened with pg8000, which the extra `postgresql` installs; a driver that is named is used."""
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+pg8000")
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise Permanent(
            f"node.database_url names PostgreSQL, and its driver {error.name} is not installed: "
            "in the checkout, .venv/bin/pip install -e '.[postgresql]'"
        ) from None
    event.listen(engine, "begin", _begin_reading)
    return engine


def _begin_reading(connection: Connection) -> None:
    if not connection.get_execution_options().get("takes_write_lock", False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _set_pragmas(connection: sqlite3.Connection, foreign_keys: bool) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}").close()
    _use_write_ahead_log(connection)
    connection.execute("PRAGMA synchronous = FULL").close()
    connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}").close()


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Several processes may turn a new database over to it at once, and SQLite does not wait for the other there."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_BUSY_TICK_SECONDS)


def _begin(connection: Connection) -> None:
    takes_write_lock = connection.get_execution_options().get("takes_write_lock", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if takes_write_lock else "BEGIN")


def _make_folder(url: str) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)


def _alembic_config(migrations: Path, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _newest_revision(migrations: Path) -> str:
    newest = ScriptDirectory.from_config(_alembic_config(migrations)).get_current_head()
    if newest is None:
        raise SchemaMismatch(f"no migrations are installed in {migrations.name}/: install the node again")
    return newest


def _refuse_unknown(found: str | None, migrations: Path) -> None:
    if found is None:
        return
    try:
        ScriptDirectory.from_config(_alembic_config(migrations)).get_revision(found)
    except CommandError:
        raise SchemaMismatch(
            f"the database is at revision {found}, which this version does not know: install the newer "
            "version again, or restore the copy in backup/ that was made before it migrated"
        ) from None


def _back_up(url: str, folder: Path, revision: str) -> None:
    """Copy the SQLite file as it is committed now; PostgreSQL is backed up by its administrator."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    copy = folder / f"{Path(parsed.database).stem}-{revision}-{stamp}.sqlite"
    with closing(sqlite3.connect(parsed.database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _check_references(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise SchemaMismatch(
            f"after migrating, table {broken[0]} would refer to rows that do not exist: nothing was changed"
        )
