"""A job that ran on less than was asked for says so where operators look; one whose GPU failed ends its worker."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import Engine

from node.infer.pool import Key
from node.infer.session import DeviceLost, Session, open_session
from node.installed_models import installed_models
from node.jobs import queue
from node.jobs.job import Job
from node.settings import load_settings
from node.store.catalogue import store_instances
from node.store.database import migrate, open_database
from node.work import InferHandler
from tests.models import threshold_network, write_model
from tests.node.jobs.examples import INFER, LEASE_SECONDS, order
from tests.node.store.examples import NOW, later, received
from tests.phantoms import write_series

HEARTBEAT: Any = SimpleNamespace(check=lambda: None)


@pytest.fixture
def claimed(tmp_path: Path) -> tuple[Engine, InferHandler, Job, Session]:
    """A received series with its claimed job, the handler for it, and the session that it will use."""
    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "data"\n[models]\npaths = ["models"]\n')
    settings = load_settings(config)
    settings.node.data_dir.mkdir()
    migrate(settings.database_url, None)
    engine = open_database(settings.database_url)
    paths = write_series(settings.node.data_dir / "1.1", study_instance_uid="1.1", series_instance_uid="1.1.3")
    images = [
        received(
            number,
            series="1.1.3",
            study="1.1",
            sop_instance_uid=str(dcmread(path, stop_before_pixels=True).SOPInstanceUID),
            path=str(path.relative_to(settings.node.data_dir)),
            geometry=None,
            pixel_offset=None,
            pixel_length=None,
        )
        for number, path in enumerate(paths)
    ]
    registry = installed_models(settings)
    model = registry.get("ball")
    with engine.connect() as connection:
        store_instances(connection, images, later(30))
        wanted = {"image": [image.sop_instance_uid for image in images]}
        made = order("1.1", model="ball", model_digest=model.digest, inputs=wanted, destinations=[])
        queue.enqueue_infer(connection, made, NOW)
        job = queue.claim(connection, INFER, "w1", LEASE_SECONDS, NOW)
        connection.commit()
    assert job is not None
    names = {"input_names": ["image"], "output_names": ["logits"]}
    session = open_session("ball", model.verify()["model.onnx"], **names, device="cpu", threads=0)
    return engine, InferHandler(engine, settings, registry, lambda: NOW), job, session


def warm(handler: InferHandler, session: Any) -> None:
    """Let the handler find this session open."""
    handler._registry.pool.sessions(Key("ball", "prefer-gpu", 0), lambda: {"model.onnx": session})


def test_a_fall_back_to_the_cpu_is_a_reservation_of_the_job(claimed) -> None:
    engine, handler, job, session = claimed
    warm(handler, replace(session, degraded=True))
    with engine.connect() as connection:
        said = handler(job, HEARTBEAT)(connection, job)
    assert said == "Computed on the CPU, because the GPU that was asked for could not be used."
    assert not handler.device_lost
    engine.dispose()


def test_what_ran_as_asked_has_no_reservation(claimed) -> None:
    engine, handler, job, session = claimed
    warm(handler, session)
    with engine.connect() as connection:
        assert handler(job, HEARTBEAT)(connection, job) is None
    engine.dispose()


def test_a_gpu_that_failed_is_told_to_who_ends_the_process(claimed) -> None:
    engine, handler, job, session = claimed

    class Lost:
        """A session whose GPU failed."""

        provider, degraded = session.provider, False

        @staticmethod
        def run(*_: object, **__: object) -> None:
            raise DeviceLost("model ball: CUDAExecutionProvider failed")

    warm(handler, Lost())
    with pytest.raises(DeviceLost):
        handler(job, HEARTBEAT)
    assert handler.device_lost
    engine.dispose()
