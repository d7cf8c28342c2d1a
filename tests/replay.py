"""Replays recorded traces (`tests/traces/*.toml`) through the real catalogue and settler, on a clock of its own.

A trace says which images of which series come when, in which associations, and what the archive counts. Steps:

    at, every           seconds of the first image, and between images
    series, first, last images by number; `part` of `parts` takes every n-th; `shuffle` mixes them; `skip` leaves out
                        those two that begin there, `fill` sends them first
    sender, association names; an association of its own for each step unless it is named
    then                release, release-each (an association for each image), open, or abort

`archive`: static (knows all from the beginning, `archive_difference` images more or fewer), follows (counts what it has
passed on) or down. `evidence = "none"`: nothing in the trace says that more images will come. `rehearsals` earlier
studies of the same kind teach the node how the sender behaves.
"""

import random
import tomllib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from node import evidence
from node.errors import Transient
from node.select.completeness import SettledBy
from node.settings import CountingArchive, Settings
from node.settle import Settler
from node.store.catalogue import ReceivedInstance, next_settle_at, release_series, store_instances
from node.store.database import migrate, open_database, read_transaction, write_transaction

TRACES = Path(__file__).parent / "traces"
START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
NOTICE_SECONDS = 0.2
ARCHIVE = CountingArchive(name="archive", ae_title="ARCHIVE", host="archive.example")


@dataclass(frozen=True)
class Event:
    """At this time an image (its number in the series) came, or the association was released (image None)."""

    at: float
    series: tuple[str, ...]
    image: int | None
    sender: str


@dataclass(frozen=True)
class Trace:
    """A trace as its file says it."""

    name: str
    about: str
    has_evidence: bool
    rehearsals: int
    archive: str
    archive_difference: int
    series: dict[str, dict[str, Any]]
    events: tuple[Event, ...]

    @property
    def arrivals(self) -> list[float]:
        """When images that were not here yet came, in order."""
        seen, times = set(), []
        for each in self.events:
            if each.image is not None and (each.series, each.image) not in seen:
                seen.add((each.series, each.image))
                times.append(each.at)
        return times


@dataclass(frozen=True)
class Outcome:
    """How a replay went: settlings before the last image, and seconds from it to the settling that held."""

    premature: int
    waited_seconds: float
    settled_by: SettledBy


def traces() -> list[Trace]:
    """All recorded traces, by name."""
    return [load_trace(path) for path in sorted(TRACES.glob("*.toml"))]


def load_trace(path: Path) -> Trace:
    """Read one trace."""
    tree = tomllib.loads(path.read_text())
    events: list[Event] = []
    in_association: dict[str, list[str]] = {}
    for number, step in enumerate(tree["steps"]):
        named = in_association.setdefault(step.get("association", f"step {number}"), [])
        if step["series"] not in named:
            named.append(step["series"])
        events += _events(step, tuple(named))
    return Trace(
        name=path.stem,
        about=tree["about"],
        has_evidence=tree["evidence"] == "yes",
        rehearsals=tree["rehearsals"],
        archive=tree.get("archive", "static"),
        archive_difference=tree.get("archive_difference", 0),
        series=tree["series"],
        events=tuple(sorted(events, key=lambda each: each.at)),
    )


def timer(trace: Trace, seconds: float) -> int:
    """How often a timer that waits so long after the last image would have fired too early."""
    arrivals = trace.arrivals
    return sum(after - before > seconds for before, after in pairwise(arrivals))


def _events(step: dict[str, Any], series_of_association: tuple[str, ...]) -> list[Event]:
    images = list(range(step["first"], step["last"] + 1))
    if "skip" in step:
        images = [image for image in images if image not in (step["skip"], step["skip"] + 1)]
    if "fill" in step:
        images = [step["fill"], step["fill"] + 1, *images]
    if step.get("shuffle"):
        random.Random(7).shuffle(images)
    images = images[step.get("part", 0) :: step.get("parts", 1)]
    sender, events, at = step.get("sender", "SENDER"), [], step["at"]
    for image in images:
        events.append(Event(at, (step["series"],), image, sender))
        if step["then"] == "release-each":
            events.append(Event(at + 0.001, (step["series"],), None, sender))
        at += step["every"]
    if step["then"] == "release":
        events.append(Event(at - step["every"] + 0.01, series_of_association, None, sender))
    return events


class _AtOnce(Executor):
    """Runs what is submitted before `submit` returns."""

    def submit(self, fn: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*arguments, **keywords))
        return future


@dataclass
class Replay:
    """A node's database and settler with a clock that moves when told."""

    engine: Engine
    settings: Settings
    folder: Path
    now: datetime = START
    trace: Trace | None = None
    study: str = ""
    sent: dict[str, set[int]] = field(default_factory=dict)
    settled: list[tuple[datetime, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settler = Settler(
            self.engine, self.settings, dict, self.folder / "run", lambda: self.now, self._ask, _AtOnce()
        )

    def run(self, trace: Trace) -> Outcome:
        """Replay the rehearsals and then the trace itself."""
        for number in range(trace.rehearsals + 1):
            self._run_once(trace, f"1.2.{number + 1}")
        last = self.begun + timedelta(seconds=trace.arrivals[-1])
        premature = [at for at, _ in self.settled if at < last]
        at, by = next((at, by) for at, by in self.settled if at >= last)
        return Outcome(len(premature), (at - last).total_seconds(), SettledBy(by))

    def close(self) -> None:
        """Let go of socket and database."""
        self.settler.stop()
        self.engine.dispose()

    def _run_once(self, trace: Trace, study: str) -> None:
        self.trace, self.study, self.sent, self.settled = trace, study, {}, []
        self.begun = self.now = self.now + timedelta(hours=1)
        noticed = self.now - timedelta(seconds=1)
        group: list[tuple[datetime, Event]] = []
        for each in trace.events:
            at = self.begun + timedelta(seconds=each.at)
            if group and at - group[0][0] >= timedelta(seconds=NOTICE_SECONDS):
                self._store(group)
                group = []
                self._look()
            if not group:
                self._advance(at)
            self.now = at
            if each.image is not None:
                group.append((at, each))
                if at - noticed < timedelta(seconds=NOTICE_SECONDS):
                    continue
                noticed = at
            self._store(group)
            group = []
            if each.image is None:
                self._release(each)
            self._look()
        self._store(group)
        self._look()
        self._advance(self.now + timedelta(hours=1))

    def _advance(self, until: datetime) -> None:
        """Do what falls due before `until`."""
        while True:
            wait = self.settler.seconds_to_deadline()
            with read_transaction(self.engine) as connection:
                idle = next_settle_at(connection) is None
            if idle or self.now + timedelta(seconds=wait) >= until:
                return
            self.now += timedelta(seconds=wait)
            self._look()

    def _look(self) -> None:
        self.settler.settle_due()
        with read_transaction(self.engine) as connection:
            found = evidence.settlement_of_study(connection, self.study)
        if found is not None and (found.settled_at, found.settled_by) not in self.settled:
            self.settled.append((found.settled_at, found.settled_by))

    def _store(self, group: list[tuple[datetime, Event]]) -> None:
        if group:
            for _, each in group:
                self.sent.setdefault(each.series[0], set()).add(int(each.image or 0))
            received = [self._instance(at, each) for at, each in group]
            quiet = timedelta(seconds=self.settings.settle.quiet_seconds)
            with write_transaction(self.engine) as connection:
                store_instances(connection, received, group[-1][0] + quiet)

    def _release(self, released: Event) -> None:
        quiet = timedelta(seconds=self.settings.settle.released_quiet_seconds)
        with write_transaction(self.engine) as connection:
            release_series(connection, [self._uid(name) for name in released.series], self.now + quiet, self.now)

    def _uid(self, series: str) -> str:
        assert self.trace is not None
        return f"{self.study}.{list(self.trace.series).index(series) + 1}"

    def _instance(self, at: datetime, each: Event) -> ReceivedInstance:
        assert self.trace is not None
        name, image = each.series[0], int(each.image or 0)
        kind = self.trace.series[name]
        places = kind["images"] // kind.get("phases", 1)
        geometry: dict[str, Any] = {"Rows": 64, "Columns": 64}
        if kind["kind"] == "stack":
            geometry["ImageOrientationPatient"] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
            geometry["ImagePositionPatient"] = [0.0, 0.0, float(image % places)]
        return ReceivedInstance(
            sop_instance_uid=f"{self._uid(name)}.{image + 1}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            series_instance_uid=self._uid(name),
            study_instance_uid=self.study,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            path=f"{self._uid(name)}.{image}",
            size_bytes=1,
            digest=f"{image:064x}",
            received_at=at,
            calling_ae_title=each.sender,
            called_ae_title="OVERREAD",
            series_header={"Modality": "CT"},
            geometry=geometry,
        )

    def _ask(self, archive: CountingArchive, ae_title: str, study_instance_uid: str) -> dict[str, int]:
        assert self.trace is not None
        if self.trace.archive == "down":
            raise Transient("archive archive: no association for C-FIND")
        if self.trace.archive == "follows":
            return {self._uid(name): len(images) for name, images in self.sent.items()}
        return {
            self._uid(name): kind["images"] + self.trace.archive_difference for name, kind in self.trace.series.items()
        }


def replay(trace: Trace, folder: Path, *, with_archive: bool, **settle: Any) -> Outcome:
    """Replay a trace on a new database with default settings."""
    archives = (ARCHIVE,) if with_archive else ()
    settings = Settings(work={"poll_seconds": 3600}, settle={"archives": archives, **settle})
    url = f"sqlite:///{folder / 'overread.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    run = Replay(engine, settings, folder)
    try:
        return run.run(trace)
    finally:
        run.close()
