"""What a faulty archive does to the deliveries of its neighbour: from a result to its arrival at a good archive, median
and 95th percentile, with the faulty archive beside it and without, alternating, and the ratio of the two.

    .venv/bin/python benchmarks/deliver_neighbour.py [--rounds 3] [--results 60] [--per-second 4]

Results come at a steady rate. The faulty archive is, from delivery to delivery, stalling, aborting, rejecting,
dropping the connection and answering out of resources; the good one is dcmtk's storescp.
"""

import argparse
import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parent.parent))

from sqlalchemy import select

from node.store.database import migrate, open_database, read_transaction
from node.store.tables import JobState, delivery, job
from tests.counterparts import LOOPBACK, free_port, storescp
from tests.faulty_archive import Abort, Answer, Drop, Fault, FaultyArchive, Reject, Stall
from tests.node.deliver.conftest import Node


def faults() -> Iterator[Fault]:
    """For ever: everything that an archive can do wrong and that is tried again."""
    kinds: list[Fault] = [
        Stall(),
        Answer(0xA700),
        Drop(20_000),
        Abort(),
        Reject(2, 3, 1),
        Answer(0xA701),
        Reject(1, 1, 1),
    ]
    return itertools.cycle(kinds)


@contextlib.contextmanager
def deliverer(node: Node, ports: dict[str, tuple[str, int]]) -> Iterator[None]:
    """`overread deliver` as a process of its own."""
    tables = "".join(
        f'[[destinations]]\nname = "{name}"\nae_title = "{title}"\nhost = "{LOOPBACK}"\nport = {port}\n'
        for name, (title, port) in ports.items()
    )
    config = node.folder / "node.toml"
    config.write_text(
        '[node]\ndata_dir = "."\n[deliver]\nfirst_retry_seconds = 1\nlongest_retry_seconds = 10\ntimeout_seconds = 10\n'
        f"probe_seconds = 1\npoll_seconds = 0.2\n{tables}"
    )
    command = [sys.executable, "-m", "node", "deliver", "--config", str(config)]
    with (node.folder / "deliver.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def seconds_to_arrive(folder: Path, results: int, per_second: float, with_neighbour: bool) -> list[float]:
    """Of each result, from its deliveries being made to its arrival at the good archive."""
    folder.mkdir()
    url = f"sqlite:///{folder / 'overread.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    node = Node(folder, engine)
    names = ("good", "faulty") if with_neighbour else ("good",)
    with storescp(folder / "peer") as good, FaultyArchive(itertools.islice(faults(), 100_000)) as faulty:
        ports = {"good": (good.ae_title, good.port), "faulty": (faulty.ae_title, faulty.port or free_port())}
        with deliverer(node, {name: ports[name] for name in names}):
            node.add_result("good", size_bytes=100_000)
            _wait(engine, 1)  # until it is up
            for _ in range(results):
                started = time.monotonic()
                node.add_result(*names, size_bytes=100_000)
                time.sleep(max(0.0, 1 / per_second - (time.monotonic() - started)))
            arrived = _wait(engine, results + 1)[1:]
    engine.dispose()
    return arrived


def _wait(engine, results: int) -> list[float]:
    statement = (
        select(job.c.created_at, delivery.c.delivered_at)
        .join(delivery, delivery.c.job_id == job.c.id)
        .where(job.c.destination == "good", job.c.state == JobState.SUCCEEDED)
        .order_by(job.c.id)
    )
    while True:
        with read_transaction(engine) as connection:
            rows = connection.execute(statement).all()
        if len(rows) == results:
            return [(row.delivered_at - row.created_at).total_seconds() for row in rows]
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=int, default=60)
    parser.add_argument("--per-second", type=float, default=4)
    options = parser.parse_args()
    taken: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for beside in (False, True):
                place = Path(folder) / f"{number}-{beside}"
                taken[beside] += seconds_to_arrive(place, options.results, options.per_second, beside)
    p95 = {beside: quantiles(found, n=20)[-1] for beside, found in taken.items()}
    for beside, found in taken.items():
        name = "with the faulty archive" if beside else "alone"
        print(f"{name:24} {len(found)} results: median {median(found) * 1000:.0f} ms, p95 {p95[beside] * 1000:.0f} ms")
    print(f"p95 with the faulty archive is {p95[True] / p95[False]:.2f} of that without")


if __name__ == "__main__":
    main()
