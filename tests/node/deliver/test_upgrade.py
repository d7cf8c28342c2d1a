"""A node of an earlier version is brought up to date while its outbox is full: everything goes out, once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine, insert, select

from node.destination_settings import FolderDestination
from node.store.database import MIGRATIONS, migrate, open_database, read_transaction, write_transaction
from node.store.deliveries import get_destination_state, hold, learn, record_delivered
from node.store.tables import DeliveryState
from tests.node.deliver.conftest import Node

RENAMED = {("instance", "sha256"): "digest"}
REFUSED = {"class 1.2.3": "2030-01-01T00:00:00+00:00"}


def as_of_revision(node: Node, path: Path, revision: str) -> None:
    """Write what is in the database of `node` into one of this revision, as far as that had a place for it."""
    alembic = Config()
    alembic.set_main_option("script_location", str(MIGRATIONS))
    now, old = create_engine(node.engine.url), create_engine(f"sqlite:///{path}")
    with now.connect() as source, old.begin() as target:
        alembic.attributes["connection"] = target
        command.upgrade(alembic, revision)
        newest, wanted = MetaData(), MetaData()
        newest.reflect(source)
        wanted.reflect(target)
        for name, table in wanted.tables.items():
            if name == "alembic_version":
                continue
            columns = [
                newest.tables[name].c[RENAMED.get((name, column.name), column.name)].label(column.name)
                for column in table.columns
            ]
            rows = [dict(row._mapping) for row in source.execute(select(*columns))]
            if rows:
                target.execute(insert(table), rows)
    now.dispose()
    old.dispose()


@pytest.mark.parametrize("revision", ["0002", "0004", "0008"])
def test_full_outbox_of_an_earlier_version_goes_out(node: Node, tmp_path: Path, revision: str):
    waiting, accepted = node.add_result("files")[0], node.add_result("pacs")[0]
    with write_transaction(node.engine) as connection:
        record_delivered(connection, accepted.job_id, "pacs", (), datetime.now(UTC), datetime.now(UTC))
        hold(connection, "pacs", datetime.now(UTC))
        learn(connection, "pacs", REFUSED)
    as_of_revision(node, tmp_path / "earlier.sqlite", revision)
    url = f"sqlite:///{tmp_path / 'earlier.sqlite'}"
    migrate(url, tmp_path / "backup")
    engine = open_database(url)
    later = Node(tmp_path, engine)
    target = tmp_path / "out"
    target.mkdir()
    try:
        with later.outbox(later.settings(FolderDestination(name="files", folder=target))):
            later.wait_for_end(waiting)
        delivery = later.delivery(accepted)
        assert delivery is not None and delivery.state is DeliveryState.DELIVERED and delivery.check_after
        with read_transaction(engine) as connection:
            state = get_destination_state(connection, "pacs")
        assert state.held_at is not None and state.learned == REFUSED
    finally:
        engine.dispose()
    assert {path.stem for path in target.rglob("*.dcm")} == set(node.uids(waiting))
