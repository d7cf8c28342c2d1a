"""Delivery under a faulty archive and `kill -9`: everything is confirmed at the end, and nothing is doubled.

OVERREAD_SOAK=1 runs it with 1,000 results and 30 kills.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import select

from node.jobs.job import Job
from node.store.database import migrate, open_database, read_transaction
from node.store.deliveries import AcceptedObject
from node.store.tables import JobKind, JobState, delivery, job
from tests.counterparts import LOOPBACK, orthanc, storescp, wait_until
from tests.losing_archive import LosingArchive
from tests.node.deliver.conftest import Node, add_real_result

SOAK = os.environ.get("OVERREAD_SOAK") == "1"
RESULTS, KILLS = (1000, 30) if SOAK else (30, 4)
SECONDS = 3600 if SOAK else 120
LOSE, STALL, DIE = (20, 150, 200) if SOAK else (20, 17, 25)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    url = f"sqlite:///{tmp_path / 'overread.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    yield Node(tmp_path, engine)
    engine.dispose()


@dataclass(frozen=True)
class Peer:
    """A destination of the configuration."""

    name: str
    ae_title: str
    port: int
    confirm: str


def start(node: Node, peers: Sequence[Peer]) -> subprocess.Popen[bytes]:
    """`overread deliver` as a process of its own."""
    config = node.folder / "node.toml"
    archives = "".join(
        f'[[destinations]]\nname = "{one.name}"\nae_title = "{one.ae_title}"\nhost = "{LOOPBACK}"\n'
        f'port = {one.port}\nconfirm = "{one.confirm}"\nconfirm_after_seconds = 0.2\n'
        for one in peers
    )
    config.write_text(
        '[node]\ndata_dir = "."\n[deliver]\nfirst_retry_seconds = 0.1\nlongest_retry_seconds = 1\nlease_seconds = 3\n'
        f"poll_seconds = 0.5\nprobe_seconds = 0.5\ntimeout_seconds = 3\n{archives}"
    )
    with (node.folder / "deliver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "node", "deliver", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def states(node: Node) -> Counter[tuple[str, str]]:
    """How many deliveries of each destination are in each state of confirmation."""
    with read_transaction(node.engine) as connection:
        return Counter((row.destination, row.state) for row in connection.execute(select(delivery)))


def test_all_results_are_confirmed_whatever_is_lost_and_killed(node: Node) -> None:
    """Each result goes to an archive that loses one in twenty, stalls and dies, and to a good one; each tenth also to
    Orthanc, to storescp and, as one that can be written in another form, to an archive that refuses its class."""
    tenth = ("pacs", "other", "orthanc", "storescp")
    wanted = [tenth if number % 10 == 0 else ("pacs", "other") for number in range(RESULTS)]
    jobs = [node.add_result(*names, size_bytes=2000) for names in wanted]
    reformed = [add_real_result(node, "refusing") for _ in range(RESULTS // 10)]
    expected = Counter({(name, "CONFIRMED"): sum(name in names for names in wanted) for name in tenth[:3]})
    expected["storescp", "DELIVERED"] = expected["orthanc", "CONFIRMED"]
    expected["refusing", "CONFIRMED"] = len(reformed)
    dice = random.Random(4711)
    started = datetime.now(UTC)
    with (
        LosingArchive(lose_every=LOSE, stall_every=STALL, die_every=DIE) as pacs,
        LosingArchive() as other,
        LosingArchive(refuse=("COMPREHENSIVE_3D_SR",)) as refusing,
        orthanc(node.folder / "orthanc") as real,
        storescp(node.folder / "storescp") as dcmtk,
    ):
        peers = [
            Peer("pacs", "LOSING", pacs.port, "storage-commitment"),
            Peer("other", "LOSING", other.port, "storage-commitment"),
            Peer("refusing", "LOSING", refusing.port, "storage-commitment"),
            Peer("orthanc", real.ae_title, real.dicom_port, "find"),
            Peer("storescp", dcmtk.ae_title, dcmtk.port, "none"),
        ]
        process = start(node, peers)
        try:
            for _ in range(KILLS):
                before = pacs.stores + other.stores
                wait_until(lambda before=before: pacs.stores + other.stores > before, "progress", 60)
                time.sleep(dice.random() * 0.5)  # a random moment of the work that goes on
                process.kill()
                process.wait()
                process = start(node, peers)
            wait_until(lambda: states(node) == expected, "confirmation", SECONDS)
        finally:
            process.kill()
            process.wait()
        in_orthanc = [one["SOPInstanceUID"] for one in real.instances()]
        in_storescp = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in dcmtk.received()]
    every = {uid for made in jobs for uid in node.uids(made[0])}
    some = {uid for made, names in zip(jobs, wanted, strict=True) if names == tenth for uid in node.uids(made[0])}
    assert set(pacs.kept) == every and set(other.kept) == every
    assert sorted(in_orthanc) == sorted(some) and sorted(in_storescp) == sorted(some)
    assert pacs.lost and pacs.stalls and pacs.deaths and not other.lost
    assert set(refusing.kept) == {one.sop_instance_uid for job in reformed for one in _accepted(node, job)}
    with read_transaction(node.engine) as connection:
        ended = connection.scalars(select(job.c.state).where(job.c.kind == JobKind.DELIVER)).all()
        sent = connection.execute(select(delivery)).all()
    assert ended == [JobState.SUCCEEDED] * expected.total()
    _print_figures(started, sent, pacs)
    log = (node.folder / "deliver.log").read_text().lower()
    assert "canary" not in log and "traceback" not in log


def _accepted(node: Node, made: Job) -> tuple[AcceptedObject, ...]:
    """What its destination took."""
    found = node.delivery(made)
    assert found is not None
    return found.objects


def _print_figures(started: datetime, sent: Sequence[Any], pacs: LosingArchive) -> None:
    last: dict[str, float] = {}
    for row in sent:
        seconds = ((row.confirmed_at or row.delivered_at) - started).total_seconds()
        last[row.destination] = max(last.get(row.destination, 0.0), seconds)
    print(
        f"{RESULTS} results, {len(sent)} deliveries, {KILLS} kills; pacs lost {len(pacs.lost)} objects, stalled "
        f"{pacs.stalls} and died {pacs.deaths} times; {sum(row.resends for row in sent)} resends; all there after "
        + ", ".join(f"{seconds:.0f} s ({name})" for name, seconds in sorted(last.items()))
    )
