"""What monitoring is told, and that it is told nothing of a patient."""

import asyncio
import re
from pathlib import Path

import httpx
from sqlalchemy import Connection, Engine
from starlette.applications import Starlette

from node.jobs.queue import claim
from node.metrics import CONTENT_TYPE, Figure, exposition, measure, metrics_route
from node.settings import Destination, NodeSettings, Settings
from node.store.database import write_transaction
from node.store.deliveries import hold, record_unreached
from node.store.tables import JobKind
from tests.node.jobs.examples import queued
from tests.node.store.examples import later

SAMPLE = re.compile(r'^[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+]+$')


def samples(text: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_figures_tell_what_waits_and_which_destination_is_away(connection: Connection) -> None:
    queued(connection)
    queued(connection, "8.8", later(30))
    claim(connection, JobKind.INFER, "w", 30, later(31))
    record_unreached(connection, "pacs", later(40), "away", None)
    record_unreached(connection, "pacs", later(50), "away", None)
    hold(connection, "other", later(50))
    found = samples(exposition(measure(connection, ["pacs", "other"], 5_000, later(90))))
    assert found['overread_jobs{kind="infer",state="queued"}'] == 1
    assert found['overread_jobs{kind="infer",state="running"}'] == 1
    assert found['overread_oldest_waiting_seconds{kind="infer"}'] == 60
    assert found['overread_oldest_waiting_seconds{kind="deliver"}'] == 0
    assert found['overread_destination_failures{destination="pacs"}'] == 2
    assert found['overread_destination_held{destination="other"}'] == 1
    assert (found["overread_studies"], found["overread_instances"]) == (2, 2)
    assert found["overread_disk_free_bytes"] == 5_000


def test_each_name_is_explained_once_and_its_samples_follow(connection: Connection) -> None:
    lines = exposition(measure(connection, ["pacs", "other"], 1, later(0))).splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert len(names) == len(set(names))
    assert all(line.startswith("#") or SAMPLE.match(line) for line in lines)


def test_labels_are_escaped() -> None:
    assert 'x{name="a\\"b\\\\c"} 1' in exposition([Figure("x", "X.", 1, (("name", 'a"b\\c'),))])


async def get(path: str, app: Starlette) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://node") as client:
        return await client.get(path)


def test_metrics_are_served(engine: Engine, tmp_path: Path) -> None:
    settings = Settings(
        node=NodeSettings(data_dir=tmp_path),
        destinations=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104),),
    )
    with write_transaction(engine) as connection:
        queued(connection)
    answer = asyncio.run(get("/metrics", Starlette(routes=[metrics_route(engine, settings)])))
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    found = samples(answer.text)
    assert found['overread_jobs{kind="infer",state="queued"}'] == 1
    assert found["overread_disk_free_bytes"] > 0
    assert "1.2" not in re.sub(r" [0-9.e+]+$", "", answer.text, flags=re.M).replace("0.0.4", "")
