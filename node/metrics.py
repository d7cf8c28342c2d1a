"""What monitoring asks for: how much waits and how old it is, what failed, which destinations are away, the disk.

`measure` reads it, `exposition` writes it in the text format of Prometheus (0.0.4). Numbers only: no UID, nothing of a
patient; of the configuration the names of destinations.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import Connection, Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.jobs import history
from node.jobs.speculation import early_work
from node.jobs.worker import utc_now
from node.settings import Settings
from node.store import catalogue, deliveries
from node.store.database import read_transaction
from node.store.notices import notice_counts
from node.store.tables import JobKind, JobState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Figure:
    """One number; `labels` tell it from others of the same name, all of which have the same `help_text`."""

    name: str
    help_text: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def measure(connection: Connection, destinations: Sequence[str], disk_free_bytes: int, now: datetime) -> list[Figure]:
    """All figures, those of one name after each other."""
    held = catalogue.holdings(connection)
    early = early_work(connection)
    return [
        Figure("overread_studies", "Studies that are known.", held.studies),
        Figure("overread_series_receiving", "Series of which images may still come.", held.series_receiving),
        Figure("overread_instances", "Images that are stored.", held.instances),
        Figure("overread_instance_bytes", "Bytes of the images that are stored.", held.instance_bytes),
        Figure("overread_disk_free_bytes", "Bytes that are free where data_dir is.", disk_free_bytes),
        Figure("overread_quarantined", "Objects that could not be taken and are in quarantine.", held.quarantined),
        Figure("overread_not_analysed", "Answers that a study was wanted and not analysed.", held.not_analysed),
        *_jobs(connection, now),
        *_destinations(connection, destinations, now),
        *(
            Figure("overread_notices", "Notices of critical results.", number, (("state", state.lower()),))
            for state, number in notice_counts(connection).items()
        ),
        Figure("overread_early_confirmed", "Jobs begun early that were confirmed.", early.confirmed),
        Figure("overread_early_saved_seconds", "Seconds saved by beginning early.", early.saved_seconds),
    ]


def exposition(figures: Iterable[Figure]) -> str:
    """The text format: HELP and TYPE once for each name, then its samples."""
    lines = []
    for name, same in groupby(figures, lambda figure: figure.name):
        samples = list(same)
        lines += [f"# HELP {name} {samples[0].help_text}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(one)} {one.value:.15g}" for one in samples]
    return "\n".join(lines) + "\n"


def metrics_route(engine: Engine, settings: Settings) -> Route:
    """`GET /metrics`."""
    names = [each.name for each in settings.destinations]

    def answer(request: Request) -> Response:
        free = shutil.disk_usage(settings.node.data_dir).free
        with read_transaction(engine) as connection:
            figures = measure(connection, names, free, utc_now())
        return Response(exposition(figures), media_type=CONTENT_TYPE)

    return Route("/metrics", answer, methods=["GET"])


def _jobs(connection: Connection, now: datetime) -> Iterable[Figure]:
    counts = history.job_counts(connection)
    for kind in JobKind:
        for state in JobState:
            labels = (("kind", kind.lower()), ("state", state.lower()))
            yield Figure("overread_jobs", "Jobs by kind and state.", counts[kind, state], labels)
    for kind in JobKind:
        age = _age(history.oldest_waiting(connection, kind), now)
        help_text = "Age of the job that has waited longest; 0 when none waits."
        yield Figure("overread_oldest_waiting_seconds", help_text, age, (("kind", kind.lower()),))


def _destinations(connection: Connection, names: Sequence[str], now: datetime) -> Iterable[Figure]:
    backlogs = deliveries.backlogs(connection)
    found = {name: backlogs.get(name) or deliveries.Backlog(name, 0, None, 0) for name in names}
    states = {name: deliveries.get_destination_state(connection, name) for name in names}
    for name, help_text, value in (
        ("waiting", "Deliveries that wait.", lambda name: found[name].waiting),
        ("oldest_seconds", "Age of the oldest delivery that waits.", lambda name: _age(found[name].oldest_at, now)),
        ("failed", "Deliveries given up.", lambda name: found[name].failed),
        ("failures", "Attempts in a row that did not reach it.", lambda name: states[name].failures),
        ("held", "1 while an operator holds it.", lambda name: float(states[name].held_at is not None)),
    ):
        for each in names:
            yield Figure(f"overread_destination_{name}", help_text, value(each), (("destination", each),))


def _age(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def _labels(figure: Figure) -> str:
    if not figure.labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in figure.labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
