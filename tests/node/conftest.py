import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from node.store.database import migrate, open_database, write_transaction


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that nobody has written to."""
    file = tmp_path_factory.mktemp("database") / "overread.sqlite"
    migrate(f"sqlite:///{file}", None)
    return file


@pytest.fixture
def engine(tmp_path: Path, empty_database: Path) -> Iterator[Engine]:
    """A real SQLite file at the newest schema."""
    file = shutil.copy(empty_database, tmp_path / "overread.sqlite")
    engine = open_database(f"sqlite:///{file}")
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A write transaction on it, committed at the end of the test."""
    with write_transaction(engine) as connection:
        yield connection
