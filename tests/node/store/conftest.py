from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from node.store.database import migrate, open_database, write_transaction


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A real SQLite file at the newest schema."""
    url = f"sqlite:///{tmp_path / 'overread.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A write transaction on it, committed at the end of the test."""
    with write_transaction(engine) as connection:
        yield connection
