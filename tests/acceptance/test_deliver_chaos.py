"""Delivery under a faulty archive and `kill -9`: everything is confirmed at the end, and nothing is doubled.

OVERREAD_SOAK=1 runs it with 1,000 results and 30 kills.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from node.store.database import migrate, open_database, read_transaction
from node.store.tables import DeliveryState, JobKind, JobState, delivery, job
from tests.counterparts import LOOPBACK, wait_until
from tests.losing_archive import LosingArchive
from tests.node.deliver.conftest import Node

SOAK = os.environ.get("OVERREAD_SOAK") == "1"
RESULTS, KILLS = (1000, 30) if SOAK else (30, 4)
SECONDS = 1500 if SOAK else 120


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    url = f"sqlite:///{tmp_path / 'overread.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    yield Node(tmp_path, engine)
    engine.dispose()


def start(node: Node, pacs: LosingArchive, other: LosingArchive) -> subprocess.Popen[bytes]:
    """`overread deliver` as a process of its own."""
    config = node.folder / "node.toml"
    archives = "".join(
        f'[[destinations]]\nname = "{name}"\nae_title = "LOSING"\nhost = "{LOOPBACK}"\nport = {archive.port}\n'
        'confirm = "storage-commitment"\nconfirm_after_seconds = 0.2\n'
        for name, archive in (("pacs", pacs), ("other", other))
    )
    config.write_text(
        '[node]\ndata_dir = "."\n[deliver]\nfirst_retry_seconds = 0.1\nlongest_retry_seconds = 1\nlease_seconds = 3\n'
        f"poll_seconds = 0.5\n{archives}"
    )
    with (node.folder / "deliver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "node", "deliver", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def states(node: Node) -> dict[str, int]:
    """How many deliveries are in each state of confirmation."""
    with read_transaction(node.engine) as connection:
        counted = select(delivery.c.state, func.count().label("number")).group_by(delivery.c.state)
        return {row.state: row.number for row in connection.execute(counted)}


def test_all_results_are_confirmed_whatever_is_lost_and_killed(node: Node) -> None:
    jobs = [node.add_result("pacs", "other", size_bytes=2000) for _ in range(RESULTS)]
    dice = random.Random(4711)
    started = datetime.now(UTC)
    with LosingArchive(lose_every=20) as pacs, LosingArchive() as other:
        process = start(node, pacs, other)
        try:
            for _ in range(KILLS):
                before = pacs.stores + other.stores
                wait_until(lambda before=before: pacs.stores + other.stores > before, "progress", 60)
                time.sleep(dice.random() * 0.5)  # a random moment of the work that goes on
                process.kill()
                process.wait()
                process = start(node, pacs, other)
            wait_until(lambda: states(node) == {DeliveryState.CONFIRMED: 2 * RESULTS}, "confirmation", SECONDS)
        finally:
            process.kill()
            process.wait()
    expected = {uid for pair in jobs for uid in node.uids(pair[0])}
    assert set(pacs.kept) == expected and set(other.kept) == expected
    assert pacs.lost and not other.lost
    with read_transaction(node.engine) as connection:
        deliveries = select(job.c.state).where(job.c.kind == JobKind.DELIVER)
        assert connection.scalars(deliveries).all() == [JobState.SUCCEEDED] * 2 * RESULTS
        sent = connection.execute(select(delivery.c.destination, delivery.c.confirmed_at, delivery.c.resends)).all()
    seconds = {
        name: sorted((row.confirmed_at - started).total_seconds() for row in sent if row.destination == name)
        for name in ("pacs", "other")
    }
    print(
        f"{RESULTS} results, {KILLS} kills, {len(pacs.lost)} objects lost by pacs and sent again, resends "
        f"{sum(row.resends for row in sent)}; all confirmed after {seconds['pacs'][-1]:.1f} s (pacs), "
        f"{seconds['other'][-1]:.1f} s (other)"
    )
    log = (node.folder / "deliver.log").read_text().lower()
    assert "canary" not in log and "traceback" not in log
