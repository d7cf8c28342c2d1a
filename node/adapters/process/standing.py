"""How a request stands: queued, running, done or failed, and why. Pure but for `read_facts`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, select

from dicom_sr.profile import Role
from node.jobs.history import list_jobs
from node.jobs.job import Job
from node.store.decisions import Decision, decisions_of_study
from node.store.requests import ProcessRequest
from node.store.results import StoredResult, results_of_study
from node.store.tables import JobKind, JobState, RequestState, ResultState, SeriesState, series

_MOST_JOBS = 1000


class Progress(StrEnum):
    """QUEUED: images are still to come or to be brought, or work waits. RUNNING: a model works. DONE: all that was
    wanted has ended, and there is a result. FAILED: it has ended, and there is none."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Facts:
    """What is known of a study: states of its series, inference jobs, results that hold, deliveries, decisions."""

    series: Sequence[SeriesState]
    jobs: Sequence[Job]
    results: Sequence[StoredResult]
    deliveries: Sequence[Job]
    decisions: Sequence[Decision]


@dataclass(frozen=True)
class Standing:
    """Where a request is; `reasons` say why it waits, failed, or is done in part only."""

    progress: Progress
    reasons: tuple[str, ...] = ()


def read_facts(connection: Connection, study_instance_uid: str) -> Facts:
    """What the database knows of a study."""
    states = connection.scalars(select(series.c.state).where(series.c.study_instance_uid == study_instance_uid))
    jobs = list_jobs(connection, study_instance_uid=study_instance_uid, limit=_MOST_JOBS)
    results = results_of_study(connection, study_instance_uid)
    return Facts(
        series=[SeriesState(state) for state in states],
        jobs=[job for job in jobs if job.kind is JobKind.INFER],
        results=[one for one in results if one.state is ResultState.CURRENT and not _only_says_why_not(one)],
        deliveries=[job for job in jobs if job.kind is JobKind.DELIVER],
        decisions=decisions_of_study(connection, study_instance_uid),
    )


def _only_says_why_not(result: StoredResult) -> bool:
    """Whether a result says only why the study was not analysed."""
    return bool(result.objects) and all(one.role == Role.NOT_ANALYSED.value for one in result.objects)


def judge(request: ProcessRequest, facts: Facts, now: datetime, image_wait_minutes: float) -> Standing:
    """How a request stands."""
    if request.state is RequestState.FAILED:
        return Standing(Progress.FAILED, _said(request.reason))
    if request.state is RequestState.FETCHING:
        return Standing(Progress.QUEUED, ("the images are being brought", *_said(request.reason)))
    if not facts.series:
        if request.asked_at + timedelta(minutes=image_wait_minutes) <= now:
            return Standing(Progress.FAILED, (f"no image of the study came within {image_wait_minutes:g} minutes",))
        return Standing(Progress.QUEUED, ("no image of the study has come yet",))
    if SeriesState.RECEIVING in facts.series:
        return Standing(Progress.QUEUED, ("images of the study are arriving",))
    return _judge_settled(request, facts)


def _judge_settled(request: ProcessRequest, facts: Facts) -> Standing:
    """The study is whole: its jobs and the decisions about it say the rest."""
    states = [job.state for job in facts.jobs]
    if JobState.RUNNING in states:
        return Standing(Progress.RUNNING)
    if JobState.QUEUED in states:
        return Standing(Progress.QUEUED)
    latest = {job.model: job for job in sorted(facts.jobs, key=lambda job: job.job_id)}
    ended = [job for job in latest.values() if job.state in (JobState.FAILED, JobState.CANCELLED)]
    reasons = tuple(f"{job.model}: {job.last_error or job.state.lower()}" for job in ended)
    if facts.results:
        return Standing(Progress.DONE, (*_said(request.reason), *reasons))
    if not reasons:
        reasons = tuple(dict.fromkeys(f"{one.code}: {one.message}" for one in facts.decisions))
    return Standing(Progress.FAILED, reasons or ("no model was asked to process the study",))


def _said(reason: str | None) -> tuple[str, ...]:
    return (reason,) if reason else ()
