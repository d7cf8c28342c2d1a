"""A job as the database holds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Row

from node.errors import OverreadError, Permanent
from node.store.tables import JobKind, JobState, Priority


class LeaseLost(OverreadError):
    """This worker does not hold this attempt any more; nothing was changed."""


class JobNotFound(Permanent):
    """There is no job with this number."""


@dataclass(frozen=True)
class Job:
    """A row of `job`. The columns after `last_error` are None where they belong to the other kind."""

    job_id: int
    kind: JobKind
    state: JobState
    priority: Priority
    claim_order_at: datetime
    run_after: datetime
    critical: bool
    held: bool
    attempt: int
    maximum_attempts: int
    worker: str | None
    lease_expires_at: datetime | None
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    study_instance_uid: str
    last_error: str | None
    route: str | None
    model: str | None
    model_digest: str | None
    input_digest: str | None
    inputs: Mapping[str, Sequence[str]] | None
    destinations: Sequence[str] | None
    revision: int | None
    speculative: bool
    saved_seconds: float | None
    refusal_code: str | None
    refusal_text: str | None
    result_id: int | None
    destination: str | None


@dataclass(frozen=True)
class InferOrder:
    """What an inference job is to do. `inputs` maps input names of the model to SOP Instance UIDs.

    `input_digest` names the set of chosen instances; `destinations` are where the result goes. A `speculative` one is
    begun before the study is whole (`node.jobs.speculation`). One with a `refusal` (code and sentence) only says why
    the study is not analysed (`node.statements`); its inputs are images that were looked at.
    """

    study_instance_uid: str
    route: str
    model: str
    model_digest: str
    input_digest: str
    inputs: Mapping[str, Sequence[str]]
    destinations: Sequence[str]
    priority: Priority
    maximum_attempts: int
    speculative: bool = False
    refusal: tuple[str, str] | None = None


@dataclass(frozen=True)
class Lane:
    """Which deliveries a worker takes: those to the destination `only`, or to all that are not in `without`.

    A worker of its own for each destination keeps one that is down from delaying the others; one that takes only
    critical ones keeps those from waiting for what is being sent.
    """

    only: str | None = None
    without: frozenset[str] = frozenset()
    only_critical: bool = False


EVERY_DESTINATION = Lane()


class HeartbeatReply(Enum):
    """HELD: go on. CANCEL: somebody wants the job to stop. LOST: the job is not this worker's any more."""

    HELD = "HELD"
    CANCEL = "CANCEL"
    LOST = "LOST"


def to_job(row: Row[Any]) -> Job:
    """A row that holds all columns of `job`."""
    values = dict(row._mapping)
    values["job_id"] = values.pop("id")
    values["kind"] = JobKind(values["kind"])
    values["state"] = JobState(values["state"])
    values["priority"] = Priority(values["priority"])
    return Job(**values)
