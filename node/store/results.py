"""Results of inference, the objects rendered from them, and what destinations answered (T4, T5).

Per study and model there is at most one CURRENT result, which the database enforces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from node.errors import Permanent
from node.store.database import insert_on_conflict
from node.store.tables import ResultState, delivery_status, result, result_object

STATEMENT = "not-analysed"
"""Role of the object that says why a study was not analysed."""


@dataclass(frozen=True)
class ResultObject:
    """A rendered SOP instance. `position` is the order of delivery: what is referred to goes first."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    role: str
    position: int
    path: str
    sha256: str


@dataclass(frozen=True)
class NewResult:
    """What one inference made, before it is recorded. `folder` and the paths are relative to data_dir.

    `summary` is what people are shown of the findings; `timings` are seconds per stage. Both are JSON.
    """

    job_id: int
    study_instance_uid: str
    model: str
    model_digest: str
    revision: int
    created_at: datetime
    folder: str
    summary: Any
    timings: Mapping[str, float]
    objects: tuple[ResultObject, ...]


@dataclass(frozen=True)
class StoredResult(NewResult):
    """A row of `result` with its objects in the order of delivery; `expired_at` is when its files were deleted."""

    result_id: int
    state: ResultState
    expired_at: datetime | None = None

    @property
    def is_statement(self) -> bool:
        """Whether it only says why the study was not analysed."""
        return bool(self.objects) and all(one.role == STATEMENT for one in self.objects)

    def is_replaced_by(self, revision: int) -> bool:
        """Whether a result of this revision replaces it: a later one does, a statement any, as of a job tried again."""
        return self.revision < revision or self.is_statement


@dataclass(frozen=True)
class RecordedResult:
    """What `record_result` did: a result that is not current came after a later revision."""

    result_id: int
    is_current: bool
    superseded: tuple[int, ...]


def record_result(connection: Connection, new: NewResult) -> RecordedResult:
    """Keep a result and its objects; it replaces the results of earlier revisions of this study and model.

    When a later revision is current already, the new one is kept as SUPERSEDED.
    """
    result_id = hold_result(connection, new)
    return promote_result(connection, result_id, new)


def hold_result(connection: Connection, new: NewResult) -> int:
    """Keep a result and its objects as HELD: it replaces nothing yet."""
    values = {name: value for name, value in vars(new).items() if name != "objects"}
    result_id: int = connection.execute(
        insert(result).values(**values, state=ResultState.HELD).returning(result.c.id)
    ).scalar_one()
    if new.objects:
        rows = [{**vars(one), "result_id": result_id} for one in new.objects]
        connection.execute(insert(result_object), rows)
    return result_id


def promote_result(connection: Connection, result_id: int, new: NewResult) -> RecordedResult:
    """Let a held result take effect: as the current one, or as SUPERSEDED where a later revision is current already."""
    current = current_result(connection, new.study_instance_uid, new.model)
    is_current = current is None or current.revision <= new.revision or current.is_statement
    superseded = supersede(connection, new.study_instance_uid, new.model) if is_current else ()
    state = ResultState.CURRENT if is_current else ResultState.SUPERSEDED
    connection.execute(update(result).where(result.c.id == result_id).values(state=state))
    return RecordedResult(result_id, is_current, superseded)


def withdraw_results(connection: Connection, job_ids: Sequence[int]) -> int:
    """The held results of these jobs are not wanted; how many there were."""
    return connection.execute(
        update(result)
        .where(result.c.job_id.in_(job_ids), result.c.state == ResultState.HELD)
        .values(state=ResultState.WITHDRAWN)
    ).rowcount


def supersede(connection: Connection, study_instance_uid: str, model: str) -> tuple[int, ...]:
    """Mark the current result SUPERSEDED; which results that changed (one or none)."""
    return tuple(
        connection.scalars(
            update(result)
            .where(
                result.c.study_instance_uid == study_instance_uid,
                result.c.model == model,
                result.c.state == ResultState.CURRENT,
            )
            .values(state=ResultState.SUPERSEDED)
            .returning(result.c.id)
        )
    )


def current_result(connection: Connection, study_instance_uid: str, model: str) -> StoredResult | None:
    """The result that holds now."""
    row = connection.execute(
        select(result).where(
            result.c.study_instance_uid == study_instance_uid,
            result.c.model == model,
            result.c.state == ResultState.CURRENT,
        )
    ).one_or_none()
    return _stored(connection, row) if row else None


def get_result(connection: Connection, result_id: int) -> StoredResult:
    """The result with this number; `Permanent` when there is none."""
    row = connection.execute(select(result).where(result.c.id == result_id)).one_or_none()
    if row is None:
        raise Permanent(f"there is no result {result_id}")
    return _stored(connection, row)


def result_of_job(connection: Connection, job_id: int) -> StoredResult | None:
    """What an inference job made."""
    row = connection.execute(select(result).where(result.c.job_id == job_id)).one_or_none()
    return _stored(connection, row) if row else None


def results_of_study(connection: Connection, study_instance_uid: str) -> list[StoredResult]:
    """All results of a study, also superseded ones, by model and revision."""
    rows = connection.execute(
        select(result)
        .where(result.c.study_instance_uid == study_instance_uid)
        .order_by(result.c.model, result.c.revision, result.c.id)
    ).all()
    return [_stored(connection, row) for row in rows]


def record_delivery_status(connection: Connection, job_id: int, statuses: Mapping[str, int], at: datetime) -> None:
    """T5: what the destination answered for each SOP Instance UID; the last answer wins."""
    for sop_instance_uid, status in statuses.items():
        connection.execute(
            insert_on_conflict(connection, delivery_status)
            .values(job_id=job_id, sop_instance_uid=sop_instance_uid, status=status, at=at)
            .on_conflict_do_update(index_elements=["job_id", "sop_instance_uid"], set_={"status": status, "at": at})
        )


def delivery_statuses(connection: Connection, job_id: int) -> dict[str, int]:
    """The last answers of the destination, by SOP Instance UID."""
    rows = connection.execute(
        select(delivery_status.c.sop_instance_uid, delivery_status.c.status)
        .where(delivery_status.c.job_id == job_id)
        .order_by(delivery_status.c.sop_instance_uid)
    )
    return {row.sop_instance_uid: row.status for row in rows}


def _stored(connection: Connection, row: Row[Any]) -> StoredResult:
    values = dict(row._mapping)
    values["result_id"] = values.pop("id")
    values["state"] = ResultState(values["state"])
    columns = [column for column in result_object.c if column.name != "result_id"]
    members = connection.execute(
        select(*columns).where(result_object.c.result_id == row.id).order_by(result_object.c.position)
    )
    return StoredResult(**values, objects=tuple(ResultObject(**member._mapping) for member in members))
