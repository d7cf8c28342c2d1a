"""Vectors of results, and the studies that they find; through the handler of a job and the command line, too."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper
from pydicom import dcmread
from sqlalchemy import Connection
from typer.testing import CliRunner

from node.cli import build_app
from node.errors import Permanent
from node.installed_models import installed_models
from node.jobs import lease, queue
from node.jobs.completion import complete_inference
from node.jobs.state import JobEvent
from node.settings import Settings, load_settings
from node.store.catalogue import store_instances
from node.store.database import migrate, open_database
from node.store.embeddings import keep_embeddings, nearest_studies
from node.work import InferHandler
from tests.models import graph, write_task_model
from tests.node.jobs.examples import INFER, LEASE_SECONDS, new_result, order, running
from tests.node.store.examples import NOW, later, received
from tests.phantoms import default_voxels, write_series


def keep(connection: Connection, study: str, vector: list[float], **changes: object) -> None:
    """A finished job of a study with this vector."""
    job = running(connection, study, **changes)
    finish(connection, job, vector)


def finish(connection: Connection, job, vector: list[float]) -> None:
    new = new_result(job, later(10))
    recorded = complete_inference(connection, job, new, 200, later(10))
    keep_embeddings(connection, recorded.result_id, new, {"look": np.array(vector, np.float32)})
    lease.finish(connection, job, JobEvent.SUCCEED, later(10))


def test_the_nearest_come_first_and_only_of_the_same_model(connection: Connection) -> None:
    keep(connection, "1.1", [1, 0, 0])
    keep(connection, "1.2", [0, 5, 0])
    keep(connection, "1.3", [3, 1, 0])
    keep(connection, "1.4", [1, 0, 0], model_digest="m2")
    keep(connection, "1.5", [0, 0, 0])
    found = nearest_studies(connection, "1.1")
    assert [each.study_instance_uid for each in found] == ["1.3", "1.2"]
    assert [each.similarity for each in found] == [pytest.approx(3 / np.sqrt(10)), pytest.approx(0, abs=1e-6)]
    assert len(nearest_studies(connection, "1.1", limit=1)) == 1


def test_a_replaced_result_is_not_found(connection: Connection) -> None:
    keep(connection, "1.1", [1, 0])
    keep(connection, "1.2", [1, 0])
    queue.enqueue_infer(connection, order("1.2", digest="d2"), later(60))
    second = queue.claim(connection, INFER, "w2", LEASE_SECONDS, later(60))
    assert second is not None
    finish(connection, second, [0, 1])
    (found,) = nearest_studies(connection, "1.1")
    assert found.study_instance_uid == "1.2" and found.similarity == pytest.approx(0, abs=1e-6)


def test_a_study_without_a_vector(connection: Connection) -> None:
    keep(connection, "1.5", [0, 0])
    with pytest.raises(Permanent, match=r"study 1\.5: found no vector, expected a result of a model with task"):
        nearest_studies(connection, "1.5")


TABLES = """
[[inputs]]
name = "image"
[inputs.requires]
modality = ["MR"]
[preprocessing]
orientation = "SPL"
alignment = "acquisition"
[[outputs]]
task = "embedding"
name = "look"
length = 2
"""


def analyse(connection: Connection, settings: Settings, study: str, brightness: int) -> None:
    """Receive a small series, and let the handler do its job."""
    folder = settings.node.data_dir / study
    voxels = default_voxels((4, 8, 8), (3.0, 3.0, 3.0)) + np.int16(brightness)
    paths = write_series(
        folder, study_instance_uid=study, series_instance_uid=f"{study}.3", shape=(4, 8, 8), voxels=voxels
    )
    unknown = {"geometry": None, "pixel_offset": None, "pixel_length": None}
    images = [
        received(
            number,
            series=f"{study}.3",
            study=study,
            sop_instance_uid=str(dcmread(path).SOPInstanceUID),
            path=str(path.relative_to(settings.node.data_dir)),
            **unknown,
        )
        for number, path in enumerate(paths)
    ]
    store_instances(connection, images, later(30))
    registry = installed_models(settings)
    wanted = {"image": [image.sop_instance_uid for image in images]}
    model = registry.get("look")
    made = order(study, model="look", model_digest=model.digest, inputs=wanted, destinations=[])
    queue.enqueue_infer(connection, made, NOW)
    job = queue.claim(connection, INFER, "w1", LEASE_SECONDS, NOW)
    assert job is not None
    connection.commit()
    handler = InferHandler(connection.engine, settings, registry, lambda: NOW)
    heartbeat: Any = SimpleNamespace(check=lambda: None)
    handler(job, heartbeat)(connection, job)
    connection.commit()


def test_studies_through_the_handler_and_the_command_line(tmp_path: Path) -> None:
    """A network that gives mean and maximum: of three studies those of like brightness are nearest."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3, 4], keepdims=0),
        helper.make_node("ReduceMax", ["image"], ["most"], axes=[2, 3, 4], keepdims=0),
        helper.make_node("Concat", ["mean", "most"], ["embedding"], axis=1),
    ]
    network = graph(nodes, {"image": 5}, {"embedding": 2})
    write_task_model(tmp_path / "models" / "look", TABLES, {"model.onnx": network})
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "data"\n[models]\npaths = ["models"]\n[work]\ndevice = "cpu"\n')
    settings = load_settings(config)
    settings.node.data_dir.mkdir()
    migrate(settings.database_url, None)
    engine = open_database(settings.database_url)
    with engine.connect() as connection:
        for study, brightness in (("1.1", 0), ("1.2", 5000), ("1.3", 30)):
            analyse(connection, settings, study, brightness)
    engine.dispose()
    arguments = ["similar", "1.1", "--json", "--config", str(config)]
    ended = CliRunner().invoke(build_app(arguments), arguments)
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert [each["study_instance_uid"] for each in found] == ["1.3", "1.2"]
    assert found[0]["similarity"] > 0.99 > found[1]["similarity"]
