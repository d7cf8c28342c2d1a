"""PostgreSQL as a counterpart: a cluster of its own for a session of tests, gone with the process that started it.

It listens on a Unix socket in a folder of its own and nowhere else, so that no port can be taken. Nothing is synced:
what a power cut would do to it is for PostgreSQL to know.
"""

import getpass
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pg8000.dbapi
from sqlalchemy import Connection

from tests.counterparts import wait_until

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
"""Where Debian keeps the server's programs, one folder a version; they are not on the PATH."""

_CONFIGURATION = """\
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
autovacuum = off
max_connections = 100
shared_buffers = 16MB
"""

_END_CONNECTIONS = """\
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()
"""

_EMPTY = """\
DO $$
DECLARE each record;
BEGIN
  SET LOCAL session_replication_role = replica;
  FOR each IN SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' LOOP
    IF each.name <> 'alembic_version' THEN
      EXECUTE format('DELETE FROM %I', each.name);
    END IF;
  END LOOP;
  PERFORM setval(sequencename::regclass, 1, false) FROM pg_sequences WHERE schemaname = 'public';
END $$
"""
"""References are not checked meanwhile. TRUNCATE would make every file of every table anew, which takes much longer."""


@dataclass(frozen=True)
class Cluster:
    """A running server. `owner` is the role that may do everything, trusted without a password."""

    folder: Path
    owner: str

    def url(self, database: str) -> str:
        """The URL by which the node opens a database of it."""
        return f"postgresql://{self.owner}@/{database}?unix_sock={self.folder}/.s.PGSQL.5432"

    def create(self) -> str:
        """Make a database with nothing in it; its URL."""
        name = f"t{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, and end the connections to it."""
        name = name_in(url)
        self.run(_END_CONNECTIONS.format(name=name))
        self.run(f"DROP DATABASE {name}")

    def run(self, statement: str) -> None:
        """Run a statement outside every transaction."""
        with closing(self._connect()) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            self._connect().close()
        except (OSError, pg8000.dbapi.Error):
            return False
        return True

    def _connect(self) -> pg8000.dbapi.Connection:
        return pg8000.dbapi.connect(self.owner, unix_sock=f"{self.folder}/.s.PGSQL.5432", database="postgres")


def name_in(url: str) -> str:
    """The database that a URL of `Cluster.url` names."""
    return url.rpartition("/")[0].rpartition("?")[0].rpartition("/")[2]


def empty_tables(connection: Connection) -> None:
    """Leave a database as if it had just been migrated."""
    connection.exec_driver_sql(_EMPTY)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server with nothing in it. PostgreSQL refuses to be run by root: then it is run by another user."""
    owner = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="overread-pg-"))
    try:
        shutil.chown(folder, owner)
        as_owner = (
            [] if os.getuid() else ["--reuid", owner, "--regid", str(pwd.getpwnam(owner).pw_gid), "--clear-groups"]
        )
        _run(
            [*as_owner, "--", PROGRAMS[-1] / "initdb", "-D", folder / "data", "-A", "trust", "--no-sync", "-N"], folder
        )
        with (folder / "data" / "postgresql.auto.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION.format(folder=folder))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "SIGQUIT",
                    *as_owner,
                    "--",
                    PROGRAMS[-1] / "postgres",
                    "-D",
                    folder / "data",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        try:
            server = Cluster(folder, owner)
            wait_until(server.answers, "answer of PostgreSQL", 30)
            yield server
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(["setpriv", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _unprivileged_user() -> str:
    if os.getuid():
        return getpass.getuser()
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
