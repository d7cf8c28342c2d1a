"""Jobs for tests, with everything given that a test does not care about."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from node.jobs.job import InferOrder, Job
from node.jobs.queue import claim, enqueue_infer
from node.store.results import NewResult, ResultObject
from node.store.tables import JobKind, Priority
from tests.node.store.examples import NOW, add_study

INFER, DELIVER = JobKind.INFER, JobKind.DELIVER
LEASE_SECONDS = 30.0


def order(study: str = "1.2", digest: str = "d1", **changes: Any) -> InferOrder:
    """An order for a study that exists."""
    values: dict[str, Any] = {
        "study_instance_uid": study,
        "route": "mr-brain",
        "model": "brain",
        "model_digest": "m1",
        "input_digest": digest,
        "inputs": {"image": [f"{study}.3.1"]},
        "destinations": ["pacs"],
        "priority": Priority.ROUTINE,
        "maximum_attempts": 3,
    }
    return InferOrder(**{**values, **changes})


def queued(connection: Connection, study: str = "1.2", now: datetime = NOW, **changes: Any) -> Job:
    """A queued inference job, with its study."""
    add_study(connection, study)
    return enqueue_infer(connection, order(study, **changes), now)


def running(connection: Connection, study: str = "1.2", worker: str = "w1", **changes: Any) -> Job:
    """A job that `worker` has just claimed."""
    queued(connection, study, **changes)
    job = claim(connection, INFER, worker, LEASE_SECONDS, NOW)
    assert job is not None
    return job


def new_result(job: Job, now: datetime = NOW) -> NewResult:
    """What an inference might have made of `job`."""
    uid = f"2.25.{job.job_id}"
    objects = (
        ResultObject(f"{uid}.1", "1.2.840.10008.5.1.4.1.1.66.4", f"{uid}.8", "segmentation", 0, "seg.dcm", "a" * 64),
        ResultObject(f"{uid}.2", "1.2.840.10008.5.1.4.1.1.88.33", f"{uid}.9", "report", 1, "sr.dcm", "b" * 64),
    )
    return NewResult(
        job_id=job.job_id,
        study_instance_uid=job.study_instance_uid,
        model=job.model or "",
        model_digest=job.model_digest or "",
        revision=job.revision or 0,
        created_at=now,
        folder=f"results/{job.job_id}",
        summary=[{"finding": "ventricles", "millilitres": 21.5}],
        timings={"load": 0.5},
        objects=objects,
    )
