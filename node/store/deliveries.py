"""What became of deliveries (accepted, confirmed, lost), and what is known of destinations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, select, update

from node.store.database import insert_on_conflict
from node.store.tables import DeliveryState, JobKind, JobState, delivery, delivery_status, destination_state, job


@dataclass(frozen=True)
class AcceptedObject:
    """UIDs of an object that a destination accepted."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class Delivery:
    """A row of `delivery`, with the study it belongs to."""

    job_id: int
    destination: str
    state: DeliveryState
    delivered_at: datetime
    confirmed_at: datetime | None
    objects: tuple[AcceptedObject, ...]
    transaction_uid: str | None
    check_after: datetime | None
    checks: int
    resends: int
    last_error: str | None
    study_instance_uid: str


@dataclass(frozen=True)
class DestinationState:
    """A row of `destination_state`; its defaults are those of a destination of which nothing is known yet."""

    destination: str
    held_at: datetime | None = None
    failures: int = 0
    closed_until: datetime | None = None
    last_success_at: datetime | None = None
    last_error_at: datetime | None = None
    last_error: str | None = None
    learned: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Backlog:
    """What waits for a destination: how many jobs, since when the oldest, how many failed and are lost."""

    destination: str
    waiting: int
    oldest_at: datetime | None
    failed: int


def record_delivered(
    connection: Connection,
    job_id: int,
    destination: str,
    objects: Sequence[AcceptedObject],
    now: datetime,
    check_after: datetime | None,
) -> None:
    """T5: all objects were accepted. `check_after` is when to ask whether they are kept; None is never."""
    values: dict[str, Any] = {
        "destination": destination,
        "state": DeliveryState.DELIVERED,
        "delivered_at": now,
        "confirmed_at": None,
        "objects": [vars(one) for one in objects],
        "transaction_uid": None,
        "check_after": check_after,
        "checks": 0,
        "last_error": None,
    }
    connection.execute(
        insert_on_conflict(connection, delivery)
        .values(job_id=job_id, resends=0, **values)
        .on_conflict_do_update(index_elements=["job_id"], set_=values)
    )


def claim_checks(
    connection: Connection, destination: str, now: datetime, until: datetime, limit: int
) -> list[Delivery]:
    """Deliveries that are due to be asked about, each given to one caller: others see them again at `until`."""
    due = connection.scalars(
        select(delivery.c.job_id)
        .where(delivery.c.destination == destination, delivery.c.check_after <= now)
        .order_by(delivery.c.check_after)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    connection.execute(update(delivery).where(delivery.c.job_id.in_(due)).values(check_after=until))
    return [one for one in (get_delivery(connection, job_id) for job_id in due) if one is not None]


def next_check_at(connection: Connection, destination: str) -> datetime | None:
    """When the next delivery to this destination is to be asked about."""
    return connection.scalar(select(func.min(delivery.c.check_after)).where(delivery.c.destination == destination))


def get_delivery(connection: Connection, job_id: int) -> Delivery | None:
    """What became of this job, if it was ever accepted."""
    row = connection.execute(_WITH_STUDY.where(delivery.c.job_id == job_id)).one_or_none()
    return _delivery(row) if row else None


def delivery_of_transaction(connection: Connection, transaction_uid: str) -> Delivery | None:
    """The delivery that a storage commitment was last requested for under this UID."""
    row = connection.execute(_WITH_STUDY.where(delivery.c.transaction_uid == transaction_uid)).one_or_none()
    return _delivery(row) if row else None


def deliveries_with_object(connection: Connection, sop_instance_uid: str) -> list[Delivery]:
    """Every delivery in which a destination answered something for this object."""
    jobs = select(delivery_status.c.job_id).where(delivery_status.c.sop_instance_uid == sop_instance_uid)
    return [_delivery(row) for row in connection.execute(_WITH_STUDY.where(delivery.c.job_id.in_(jobs)))]


def deliveries_of(connection: Connection, job_ids: Sequence[int]) -> dict[int, Delivery]:
    """The same for many jobs, by job."""
    rows = connection.execute(_WITH_STUDY.where(delivery.c.job_id.in_(job_ids)))
    return {row.job_id: _delivery(row) for row in rows}


def begin_transaction_uid(connection: Connection, job_id: int, transaction_uid: str) -> None:
    """Storage commitment is about to be requested under this UID; the report may come at any time after."""
    connection.execute(update(delivery).where(delivery.c.job_id == job_id).values(transaction_uid=transaction_uid))


def record_confirmed(connection: Connection, one: Delivery, now: datetime) -> bool:
    """The destination says that it keeps every object; False when the delivery has changed since `one` was read."""
    return _change(connection, one, state=DeliveryState.CONFIRMED, confirmed_at=now, check_after=None, last_error=None)


def record_lost(connection: Connection, one: Delivery, message: str) -> bool:
    """The destination accepted it and does not have it; False when the delivery has changed since `one` was read."""
    return _change(
        connection,
        one,
        state=DeliveryState.LOST,
        check_after=None,
        resends=one.resends + 1,
        last_error=message,
    )


def record_unconfirmed(connection: Connection, one: Delivery, message: str, check_after: datetime | None) -> bool:
    """Asked, and still not known; None: ask no more."""
    return _change(connection, one, checks=one.checks + 1, check_after=check_after, last_error=message)


def get_destination_state(connection: Connection, destination: str) -> DestinationState:
    """What is known of a destination beyond its configuration."""
    row = connection.execute(
        select(destination_state).where(destination_state.c.destination == destination)
    ).one_or_none()
    return DestinationState(**row._mapping) if row else DestinationState(destination)


def record_reached(connection: Connection, destination: str, now: datetime) -> bool:
    """It works; True when it did not before, and what waits for it should not wait longer."""
    before = get_destination_state(connection, destination)
    if before.last_success_at is None or before.failures:
        _update_state(connection, before, failures=0, closed_until=None, last_success_at=now)
    else:
        _update_state(connection, before, last_success_at=now)
    return before.failures > 0


def record_unreached(
    connection: Connection, destination: str, now: datetime, error: str, closed_until: datetime | None
) -> None:
    """It was not reached. `closed_until`: try nothing before."""
    before = get_destination_state(connection, destination)
    _update_state(
        connection,
        before,
        failures=before.failures + 1,
        closed_until=closed_until,
        last_error_at=now,
        last_error=error,
    )


def hold(connection: Connection, destination: str, now: datetime) -> None:
    """Send nothing to it until `release`; what is being sent is finished."""
    before = get_destination_state(connection, destination)
    _update_state(connection, before, held_at=before.held_at or now)


def release(connection: Connection, destination: str) -> None:
    """End a `hold`, and do not wait for a circuit breaker either."""
    _update_state(connection, get_destination_state(connection, destination), held_at=None, closed_until=None)


def learn(connection: Connection, destination: str, learned: Mapping[str, str]) -> None:
    """Replace what was learned of it by refusals."""
    _update_state(connection, get_destination_state(connection, destination), learned=dict(learned))


def bring_forward(connection: Connection, destination: str, now: datetime) -> int:
    """Let waiting deliveries to it run now rather than when their backoff ends; how many there were."""
    waiting = and_(
        job.c.kind == JobKind.DELIVER,
        job.c.state == JobState.QUEUED,
        job.c.destination == destination,
        job.c.run_after > now,
    )
    return connection.execute(update(job).where(waiting).values(run_after=now)).rowcount


def backlogs(connection: Connection) -> dict[str, Backlog]:
    """What waits for each destination that has or had deliveries."""
    rows = connection.execute(
        select(job.c.destination, job.c.state, func.count().label("number"), func.min(job.c.created_at).label("oldest"))
        .where(job.c.kind == JobKind.DELIVER)
        .group_by(job.c.destination, job.c.state)
    ).all()
    found: dict[str, Backlog] = {}
    for name in {row.destination for row in rows}:
        mine = [row for row in rows if row.destination == name]
        waiting = [row for row in mine if row.state in (JobState.QUEUED, JobState.RUNNING)]
        found[name] = Backlog(
            destination=name,
            waiting=sum(row.number for row in waiting),
            oldest_at=min((row.oldest for row in waiting), default=None),
            failed=sum(row.number for row in mine if row.state == JobState.FAILED),
        )
    return found


def confirmation_counts(connection: Connection) -> dict[tuple[str, DeliveryState], int]:
    """How many deliveries are in each state, by destination."""
    rows = connection.execute(
        select(delivery.c.destination, delivery.c.state, func.count()).group_by(
            delivery.c.destination, delivery.c.state
        )
    )
    return {(name, DeliveryState(state)): number for name, state, number in rows}


_WITH_STUDY = select(delivery, job.c.study_instance_uid).join(job, job.c.id == delivery.c.job_id)


def _change(connection: Connection, one: Delivery, **values: Any) -> bool:
    """Change a delivery that is still as it was when it was read."""
    changed = connection.execute(
        update(delivery)
        .where(
            delivery.c.job_id == one.job_id,
            delivery.c.state == one.state,
            delivery.c.delivered_at == one.delivered_at,
            delivery.c.checks == one.checks,
        )
        .values(**values)
    )
    return changed.rowcount == 1


def _update_state(connection: Connection, before: DestinationState, **values: Any) -> None:
    """Change what is given; the rest stays as others may have written it meanwhile."""
    new = {"learned": {}, "failures": 0, **values}
    connection.execute(
        insert_on_conflict(connection, destination_state)
        .values(destination=before.destination, **new)
        .on_conflict_do_update(index_elements=["destination"], set_=values)
    )


def _delivery(row: Row[Any]) -> Delivery:
    values = dict(row._mapping)
    values["state"] = DeliveryState(values["state"])
    values["objects"] = tuple(AcceptedObject(**one) for one in values["objects"])
    return Delivery(**values)
