"""Studies, series, instances and what was set aside: what has arrived.

Every function takes an open `Connection` and leaves committing to its caller; times are arguments.
Functions that write want a connection of `write_transaction`.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    Connection,
    Row,
    Table,
    bindparam,
    func,
    insert,
    literal,
    literal_column,
    select,
    union_all,
    update,
)

from node.errors import Permanent
from node.store.database import insert_for
from node.store.tables import (
    DecisionOutcome,
    SeriesState,
    UtcDateTime,
    decision,
    instance,
    quarantine,
    series,
    series_release,
    study,
)

StoreOutcome = Literal["stored", "duplicate", "conflict"]

_CHUNK = 500  # values in one IN list: below the limit of every database


@dataclass(frozen=True)
class ReceivedInstance:
    """One SOP instance whose file is in place (`path` is relative to data_dir), about to be acknowledged.

    `series_header` and `geometry` hold attributes by keyword, JSON-safe, without patient identity. `digest`
    is of the encoded data set without the Part 10 header. `pixel_offset` and `pixel_length` are bytes in
    the file. `patient_key` is a keyed hash (`node.store.patients`), `study_date_time` is `YYYYMMDDHHMMSS`.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    digest: str
    received_at: datetime
    calling_ae_title: str
    called_ae_title: str
    series_header: Mapping[str, Any]
    geometry: Mapping[str, Any] | None = None
    pixel_offset: int | None = None
    pixel_length: int | None = None
    patient_key: str | None = None
    study_date_time: str | None = None

    def placed(self, path: str, received_at: datetime) -> "ReceivedInstance":
        """The same with its file in this place; `dataclasses.replace` costs more than writing the row."""
        made = object.__new__(ReceivedInstance)
        vars(made).update(vars(self), path=path, received_at=received_at)
        return made


@dataclass(frozen=True)
class StoredInstance:
    """A row of `instance`."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    digest: str
    received_at: datetime
    geometry: Mapping[str, Any] | None
    pixel_offset: int | None
    pixel_length: int | None


@dataclass(frozen=True)
class StoredSeries:
    """A row of `series` with its instances, in the order of their arrival."""

    series_instance_uid: str
    study_instance_uid: str
    state: SeriesState
    settle_at: datetime
    last_received_at: datetime
    calling_ae_title: str
    called_ae_title: str
    header: Mapping[str, Any]
    instances: tuple[StoredInstance, ...]


@dataclass(frozen=True)
class Quarantined:
    """Something that arrived and could not be taken. `path` is relative to data_dir; None when nothing was
    kept."""

    at: datetime
    code: str
    message: str
    path: str | None = None
    sop_instance_uid: str | None = None
    calling_ae_title: str | None = None


def store_instances(
    connection: Connection, received: Sequence[ReceivedInstance], settle_at: datetime
) -> list[StoreOutcome]:
    """T1: make instances known, in order; the answer for each is in the same place.

    stored     a new row; its series is RECEIVING (again) until `settle_at`.
    duplicate  the same content is known under this SOP Instance UID: nothing is changed.
    conflict   other content is known under it, or its series is known in another study: nothing is changed.
    """
    known, study_of = _known(connection, received)
    known_series = frozenset(study_of)
    outcomes: list[StoreOutcome] = []
    fresh: list[ReceivedInstance] = []
    for one in received:
        outcome = _outcome(one, known, study_of)
        outcomes.append(outcome)
        if outcome == "stored":
            known[one.sop_instance_uid] = one.digest
            study_of[one.series_instance_uid] = one.study_instance_uid
            fresh.append(one)
    if fresh:
        _touch_studies(connection, fresh, {study_of[uid] for uid in known_series})
        _touch_series(connection, fresh, settle_at, known_series)
        connection.execute(_INSERT_INSTANCE, [_instance_values(one) for one in fresh])
    return outcomes


def hold_study(connection: Connection, study_instance_uid: str) -> None:
    """Let nothing be added to a study before this transaction ends, so that what is read now stays true.

    `store_instances` writes the row of the study first and so waits for it. (SQLite has one writer anyway.)
    """
    mine = study.c.study_instance_uid == study_instance_uid
    connection.execute(select(study.c.study_instance_uid).where(mine).with_for_update())


def release_series(
    connection: Connection,
    series_instance_uids: Iterable[str],
    settle_at: datetime,
    released_at: datetime | None = None,
) -> None:
    """The association that sent these series was released: keep when, and bring their deadlines forward, never back."""
    for uids in _chunks(series_instance_uids):
        if released_at is not None:
            receiving = select(series.c.series_instance_uid, literal(released_at, UtcDateTime())).where(
                series.c.series_instance_uid.in_(uids), series.c.state == SeriesState.RECEIVING
            )
            connection.execute(insert(series_release).from_select(["series_instance_uid", "released_at"], receiving))
        connection.execute(
            update(series)
            .where(
                series.c.series_instance_uid.in_(uids),
                series.c.state == SeriesState.RECEIVING,
                series.c.settle_at > settle_at,
            )
            .values(settle_at=settle_at)
        )


def due_studies(connection: Connection, now: datetime) -> list[str]:
    """Studies whose last RECEIVING series has reached its deadline, longest waiting first."""
    deadline = func.max(series.c.settle_at)
    return list(
        connection.scalars(
            select(series.c.study_instance_uid)
            .where(series.c.state == SeriesState.RECEIVING)
            .group_by(series.c.study_instance_uid)
            .having(deadline <= now)
            .order_by(deadline, series.c.study_instance_uid)
        )
    )


def next_settle_at(connection: Connection) -> datetime | None:
    """When the next study will be due if nothing more arrives; None when none is being received."""
    deadline = func.max(series.c.settle_at).label("deadline")
    return connection.scalar(
        select(deadline)
        .where(series.c.state == SeriesState.RECEIVING)
        .group_by(series.c.study_instance_uid)
        .order_by(deadline)
        .limit(1)
    )


def settle_study(connection: Connection, study_instance_uid: str, now: datetime) -> int:
    """T2: mark the due series of a study SETTLED; how many there were."""
    return connection.execute(
        update(series)
        .where(
            series.c.study_instance_uid == study_instance_uid,
            series.c.state == SeriesState.RECEIVING,
            series.c.settle_at <= now,
        )
        .values(state=SeriesState.SETTLED)
    ).rowcount


def study_series(connection: Connection, study_instance_uid: str) -> list[StoredSeries]:
    """All series of a study with their instances, by Series Instance UID; empty for an unknown study."""
    rows = connection.execute(
        select(series).where(series.c.study_instance_uid == study_instance_uid).order_by(series.c.series_instance_uid)
    ).all()
    members: dict[str, list[StoredInstance]] = {row.series_instance_uid: [] for row in rows}
    for row in connection.execute(
        select(instance)
        .join(series)
        .where(series.c.study_instance_uid == study_instance_uid)
        .order_by(instance.c.received_at, instance.c.sop_instance_uid)
    ):
        members[row.series_instance_uid].append(StoredInstance(**row._mapping))
    return [_stored_series(row, members[row.series_instance_uid]) for row in rows]


def studies_since(connection: Connection, begin: datetime) -> list[str]:
    """Studies of which an image came since then, oldest first."""
    return list(
        connection.scalars(
            select(study.c.study_instance_uid)
            .where(study.c.last_received_at >= begin)
            .order_by(study.c.last_received_at, study.c.study_instance_uid)
        )
    )


def instances(connection: Connection, sop_instance_uids: Sequence[str]) -> list[StoredInstance]:
    """Instances in the order asked for; `Permanent` when one is not stored (any more)."""
    found: dict[str, StoredInstance] = {}
    for uids in _chunks(sop_instance_uids):
        for row in connection.execute(select(instance).where(instance.c.sop_instance_uid.in_(uids))):
            found[row.sop_instance_uid] = StoredInstance(**row._mapping)
    missing = [uid for uid in sop_instance_uids if uid not in found]
    if missing:
        raise Permanent(f"{len(missing)} of {len(found) + len(missing)} instances are not stored: {missing[0]}, ...")
    return [found[uid] for uid in sop_instance_uids]


def record_quarantine(connection: Connection, item: Quarantined) -> None:
    """Make visible that something could not be taken."""
    connection.execute(insert(quarantine).values(**vars(item)))


def recent_quarantine(connection: Connection, limit: int = 20) -> list[Quarantined]:
    """What was set aside last, newest first."""
    columns = [column for column in quarantine.c if column.name != "id"]
    rows = connection.execute(select(*columns).order_by(quarantine.c.id.desc()).limit(limit))
    return [Quarantined(**row._mapping) for row in rows]


@dataclass(frozen=True)
class Holdings:
    """How much is stored: rows, bytes of instances, and what was set aside."""

    studies: int
    series_receiving: int
    series_settled: int
    instances: int
    instance_bytes: int
    quarantined: int
    not_analysed: int


def holdings(connection: Connection) -> Holdings:
    """Count what is stored."""
    counts = connection.execute(select(series.c.state, func.count()).group_by(series.c.state))
    by_state: dict[str, int] = dict(counts.all())
    held = connection.execute(
        select(
            func.count().label("number"), func.coalesce(func.sum(instance.c.size_bytes), 0).label("bytes")
        ).select_from(instance)
    ).one()
    not_analysed = decision.c.outcome == DecisionOutcome.NOT_ANALYSED
    return Holdings(
        studies=connection.scalar(select(func.count()).select_from(study)) or 0,
        series_receiving=by_state.get(SeriesState.RECEIVING, 0),
        series_settled=by_state.get(SeriesState.SETTLED, 0),
        instances=held.number,
        instance_bytes=int(held.bytes),
        quarantined=connection.scalar(select(func.count()).select_from(quarantine)) or 0,
        not_analysed=connection.scalar(select(func.count()).select_from(decision).where(not_analysed)) or 0,
    )


def _outcome(one: ReceivedInstance, known: Mapping[str, str], study_of: Mapping[str, str]) -> StoreOutcome:
    digest = known.get(one.sop_instance_uid)
    if digest is not None:
        return "duplicate" if digest == one.digest else "conflict"
    if study_of.get(one.series_instance_uid, one.study_instance_uid) != one.study_instance_uid:
        return "conflict"
    return "stored"


# These run for every group of objects that arrives, and are built once: building one costs more than running it.
_SELECT_KNOWN = union_all(
    select(literal_column("1"), instance.c.sop_instance_uid, instance.c.digest).where(
        instance.c.sop_instance_uid.in_(bindparam("images", expanding=True))
    ),
    select(literal_column("0"), series.c.series_instance_uid, series.c.study_instance_uid).where(
        series.c.series_instance_uid.in_(bindparam("series", expanding=True))
    ),
)
_INSERT_INSTANCE = insert(instance)
_INSTANCE_COLUMNS = [column.name for column in instance.c]
_RESUME_SERIES = (
    update(series)
    .where(series.c.series_instance_uid == bindparam("known_series"))
    .values({name: bindparam(name) for name in ("state", "settle_at", "last_received_at")})
)
_TOUCH_STUDY = (
    update(study)
    .where(study.c.study_instance_uid == bindparam("known_study"))
    .values(last_received_at=bindparam("last_received_at"))
)


@cache
def _upsert(dialect_name: str, table: Table, key: str, moving: tuple[str, ...]) -> Any:
    """INSERT of a whole row that changes the `moving` columns where the key is known."""
    statement = insert_for(dialect_name, table)
    return statement.on_conflict_do_update(
        index_elements=[key], set_={name: statement.excluded[name] for name in moving}
    )


def _known(connection: Connection, received: Sequence[ReceivedInstance]) -> tuple[dict[str, str], dict[str, str]]:
    """What is known of them: digests by SOP Instance UID, and studies by Series Instance UID. One statement asks for
    both: PostgreSQL is a journey away."""
    digests: dict[str, str] = {}
    studies: dict[str, str] = {}
    for start in range(0, len(received), _CHUNK // 2):  # two lists
        some = received[start : start + _CHUNK // 2]
        uids = {
            "images": [one.sop_instance_uid for one in some],
            "series": list({one.series_instance_uid for one in some}),
        }
        for is_image, uid, value in connection.execute(_SELECT_KNOWN, uids).all():
            (digests if is_image else studies)[uid] = value
    return digests, studies


def _touch_studies(connection: Connection, fresh: Sequence[ReceivedInstance], known: Container[str]) -> None:
    statement = _upsert(connection.dialect.name, study, "study_instance_uid", ("last_received_at",))
    for uid, first in {one.study_instance_uid: one for one in reversed(fresh)}.items():
        times = [one.received_at for one in fresh if one.study_instance_uid == uid]
        if uid in known:
            connection.execute(_TOUCH_STUDY, {"known_study": uid, "last_received_at": max(times)})
            continue
        row = {
            "study_instance_uid": uid,
            "first_received_at": min(times),
            "last_received_at": max(times),
            "patient_key": first.patient_key,
            "study_date_time": first.study_date_time,
            "lane": None,
        }
        connection.execute(statement, row)


def _touch_series(
    connection: Connection, fresh: Sequence[ReceivedInstance], settle_at: datetime, known: Container[str]
) -> None:
    """Series that are known get a new deadline only; the header of the first instance that came stays."""
    first: dict[str, ReceivedInstance] = {}
    for one in fresh:
        first.setdefault(one.series_instance_uid, one)
    moving = ("state", "settle_at", "last_received_at")
    for uid, one in first.items():
        last = max(other.received_at for other in fresh if other.series_instance_uid == uid)
        row = {"state": SeriesState.RECEIVING, "settle_at": settle_at, "last_received_at": last}
        if uid in known:
            connection.execute(_RESUME_SERIES, {"known_series": uid, **row})
            continue
        row |= {
            "series_instance_uid": uid,
            "study_instance_uid": one.study_instance_uid,
            "calling_ae_title": one.calling_ae_title,
            "called_ae_title": one.called_ae_title,
            "header": dict(one.series_header),
        }
        connection.execute(_upsert(connection.dialect.name, series, "series_instance_uid", moving), row)


def _instance_values(one: ReceivedInstance) -> dict[str, Any]:
    values = vars(one)
    return {name: values[name] for name in _INSTANCE_COLUMNS}


def _stored_series(row: Row[Any], members: list[StoredInstance]) -> StoredSeries:
    values = dict(row._mapping)
    values["state"] = SeriesState(values["state"])
    return StoredSeries(**values, instances=tuple(members))


def _chunks(uids: Iterable[str]) -> Iterator[list[str]]:
    unique = list(dict.fromkeys(uids))
    for start in range(0, len(unique), _CHUNK):
        yield unique[start : start + _CHUNK]
