"""The database of a test: a real SQLite file, and in the rooms that hold the statements a real PostgreSQL as well."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from node.store.database import migrate, open_database, write_transaction
from tests.postgresql import Cluster, cluster, empty_tables

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.counterpart("postgresql"))
ON_BOTH = (
    "tests/node/jobs/",
    "tests/node/store/",
    "tests/node/test_early_work.py",
    "tests/node/test_priors.py",
    "tests/node/test_retention.py",
    "tests/node/test_settle.py",
)
"""Where tests run against both databases; with OVERREAD_SOAK=1 all do that ask for `engine`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of these rooms that use a database run once for each kind."""
    if "database" not in metafunc.fixturenames:
        return
    only = metafunc.definition.get_closest_marker("database")
    both = metafunc.definition.nodeid.startswith(ON_BOTH) or os.environ.get("OVERREAD_SOAK") == "1"
    kinds = only.args if only else ("sqlite", "postgresql") if both else ("sqlite",)
    metafunc.parametrize("database", [POSTGRESQL if kind == "postgresql" else kind for kind in kinds], indirect=True)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that nobody has written to."""
    file = tmp_path_factory.mktemp("database") / "overread.sqlite"
    migrate(f"sqlite:///{file}", None)
    return file


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A PostgreSQL server for these tests."""
    with cluster() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_engine(postgresql: Cluster) -> Iterator[Engine]:
    """A migrated database in it, for one test after another."""
    url = postgresql.create()
    migrate(url, None)
    engine = open_database(url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database at the newest schema, with nothing in it."""
    if database == "sqlite":
        file = shutil.copy(request.getfixturevalue("empty_database"), tmp_path / "overread.sqlite")
        engine = open_database(f"sqlite:///{file}")
        yield engine
        engine.dispose()
        return
    engine = request.getfixturevalue("postgresql_engine")
    with write_transaction(engine) as connection:
        empty_tables(connection)
    yield engine


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """The kind of database that a test is for."""
    return str(request.param)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A write transaction on it, committed at the end of the test."""
    with write_transaction(engine) as connection:
        yield connection
