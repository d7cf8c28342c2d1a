"""The tables, with their invariants as constraints. Migrations in `migrations/` create exactly these.

Times are aware and UTC. Paths are relative to `data_dir`. Columns named `*_uid` hold DICOM UIDs.
"""

from node.store.tables.columns import Json, UtcDateTime, metadata
from node.store.tables.deliveries import (
    CommitmentState,
    DeliveryState,
    commitment_request,
    delivery,
    delivery_status,
    destination_state,
)
from node.store.tables.images import (
    DecisionOutcome,
    SeriesState,
    decision,
    expired_instance,
    instance,
    quarantine,
    series,
    series_release,
    settlement,
    study,
    study_count,
)
from node.store.tables.notices import NoticeState, notice, notice_event
from node.store.tables.requests import RequestState, process_request
from node.store.tables.work import (
    JobKind,
    JobState,
    Priority,
    ResultState,
    embedding,
    job,
    job_event,
    result,
    result_object,
)

__all__ = [
    "CommitmentState",
    "DecisionOutcome",
    "DeliveryState",
    "JobKind",
    "JobState",
    "Json",
    "NoticeState",
    "Priority",
    "RequestState",
    "ResultState",
    "SeriesState",
    "UtcDateTime",
    "commitment_request",
    "decision",
    "delivery",
    "delivery_status",
    "destination_state",
    "embedding",
    "expired_instance",
    "instance",
    "job",
    "job_event",
    "metadata",
    "notice",
    "notice_event",
    "process_request",
    "quarantine",
    "result",
    "result_object",
    "series",
    "series_release",
    "settlement",
    "study",
    "study_count",
]
