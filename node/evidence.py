"""The edge of `node.select.completeness`: the evidence about a study as rows say it, and what settling writes back.

Functions take an open connection; those that write want one of `write_transaction`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select, update

from node.select.completeness import (
    ArchiveCount,
    PastStudy,
    SeriesEvidence,
    StudyEvidence,
    Trust,
    longest_gap,
    longest_gap_after,
)
from node.select.stack import shape_of
from node.store.catalogue import StoredSeries
from node.store.database import insert_on_conflict
from node.store.tables import (
    SeriesState,
    instance,
    job,
    result_object,
    series,
    series_release,
    settlement,
    study_count,
)


@dataclass(frozen=True)
class StudyMark:
    """Tells whether a study is as it was read: anything that arrives or is released changes it."""

    instances: int
    receiving: int
    releases: int
    counted_at: datetime | None


@dataclass(frozen=True)
class Settlement:
    """By which evidence a study settled, and its longest gap between a release and the next image."""

    settled_at: datetime
    settled_by: str
    calling_ae_title: str
    resumed_seconds: float


@dataclass(frozen=True)
class Receiving:
    """A study with series that are RECEIVING, as far as asking the archive about it needs."""

    study_instance_uid: str
    calling_ae_titles: tuple[str, ...]
    received: Mapping[str, int]
    last_received_at: datetime
    settle_at: datetime
    count: ArchiveCount | None


def study_mark(connection: Connection, study_instance_uid: str) -> StudyMark:
    """The mark of a study now."""
    mine = series.c.study_instance_uid == study_instance_uid
    return StudyMark(
        instances=connection.scalar(select(func.count()).select_from(instance.join(series)).where(mine)) or 0,
        receiving=connection.scalar(
            select(func.count()).select_from(series).where(mine, series.c.state == SeriesState.RECEIVING)
        )
        or 0,
        releases=connection.scalar(select(func.count()).select_from(series_release.join(series)).where(mine)) or 0,
        counted_at=connection.scalar(
            select(study_count.c.asked_at).where(study_count.c.study_instance_uid == study_instance_uid)
        ),
    )


def evidence_of(
    connection: Connection,
    stored: Sequence[StoredSeries],
    count: ArchiveCount | None,
    limit_seconds: float,
) -> StudyEvidence:
    """The evidence about a study whose series were read in the same transaction; at least one is RECEIVING."""
    study_instance_uid = stored[0].study_instance_uid
    releases = releases_of_study(connection, study_instance_uid)
    receiving = [each for each in stored if each.state is SeriesState.RECEIVING]
    arrivals = [one.received_at for each in stored for one in each.instances]
    all_releases = sorted({at for found in releases.values() for at in found})
    return StudyEvidence(
        receiving={
            each.series_instance_uid: SeriesEvidence(
                received=len(each.instances),
                last_received_at=max(one.received_at for one in each.instances),
                released_at=_released_after(each, releases.get(each.series_instance_uid, [])),
                shape=shape_of([one.geometry for one in each.instances]),
                was_resumed=_was_resumed(each, releases.get(each.series_instance_uid, [])),
            )
            for each in receiving
        },
        settled={each.series_instance_uid: len(each.instances) for each in stored if each.state is SeriesState.SETTLED},
        resumed_seconds=longest_gap_after(all_releases, arrivals, limit_seconds),
        arrival_seconds=longest_gap(arrivals, limit_seconds),
        count=count,
        past=past_studies(connection, receiving[0].calling_ae_title, study_instance_uid),
    )


def _released_after(stored: StoredSeries, releases: Sequence[datetime]) -> datetime | None:
    """The last release, if it came after the last image."""
    last = max(one.received_at for one in stored.instances)
    return releases[-1] if releases and releases[-1] >= last else None


def _was_resumed(stored: StoredSeries, releases: Sequence[datetime]) -> bool:
    """Whether an image came after a release."""
    return bool(releases) and releases[0] < max(one.received_at for one in stored.instances)


def early_studies(connection: Connection) -> dict[str, Hashable]:
    """Studies that have not settled and where work may begin, or has begun, early; each with a mark of its state.

    Work may begin where no series with new images is without a release after the last of them.
    """
    receiving = series.c.state == SeriesState.RECEIVING
    released = (
        select(func.max(series_release.c.id))
        .where(
            series_release.c.series_instance_uid == series.c.series_instance_uid,
            series_release.c.released_at >= series.c.last_received_at,
        )
        .correlate(series)
        .scalar_subquery()
    )
    begun = (
        select(func.count())
        .where(job.c.study_instance_uid == series.c.study_instance_uid, job.c.speculative)
        .correlate(series)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(series.c.study_instance_uid, series.c.last_received_at, released.label("release"), begun.label("begun"))
        .where(receiving)
        .order_by(series.c.series_instance_uid)
    ).all()
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.study_instance_uid, []).append(row)
    return {
        uid: tuple((row.last_received_at, row.release) for row in members)
        for uid, members in found.items()
        if members[0].begun or all(row.release is not None for row in members)
    }


def releases_of_study(connection: Connection, study_instance_uid: str) -> dict[str, list[datetime]]:
    """When associations that had sent images of it were released, by series, in order of time."""
    found: dict[str, list[datetime]] = {}
    rows = connection.execute(
        select(series_release.c.series_instance_uid, series_release.c.released_at)
        .select_from(series_release.join(series))
        .where(series.c.study_instance_uid == study_instance_uid)
        .order_by(series_release.c.released_at)
    )
    for uid, released_at in rows:
        found.setdefault(uid, []).append(released_at)
    return found


def receiving_studies(connection: Connection) -> list[Receiving]:
    """All studies that have not settled, with what has come of each."""
    open_studies = select(series.c.study_instance_uid).where(series.c.state == SeriesState.RECEIVING)
    rows = connection.execute(
        select(
            series.c.study_instance_uid,
            series.c.series_instance_uid,
            series.c.calling_ae_title,
            series.c.state,
            series.c.settle_at,
            series.c.last_received_at,
            select(func.count())
            .where(instance.c.series_instance_uid == series.c.series_instance_uid)
            .scalar_subquery()
            .label("received"),
            study_count.c.asked_at,
            study_count.c.counts,
            study_count.c.trust,
        )
        .outerjoin(study_count, study_count.c.study_instance_uid == series.c.study_instance_uid)
        .where(series.c.study_instance_uid.in_(open_studies))
        .order_by(series.c.study_instance_uid)
    ).all()
    grouped: dict[str, list[Any]] = {}
    for row in rows:
        grouped.setdefault(row.study_instance_uid, []).append(row)
    return [
        Receiving(
            study_instance_uid=uid,
            calling_ae_titles=tuple(sorted({row.calling_ae_title for row in members})),
            received={row.series_instance_uid: row.received for row in members},
            last_received_at=max(row.last_received_at for row in members if row.state == SeriesState.RECEIVING),
            settle_at=max(row.settle_at for row in members if row.state == SeriesState.RECEIVING),
            count=_count(members[0], whole_study=True),
        )
        for uid, members in grouped.items()
    ]


def count_of_study(connection: Connection, study_instance_uid: str, whole_study: bool = True) -> ArchiveCount | None:
    """What the archive last counted."""
    row = connection.execute(
        select(study_count).where(study_count.c.study_instance_uid == study_instance_uid)
    ).one_or_none()
    return _count(row, whole_study) if row is not None else None


def record_count(connection: Connection, study_instance_uid: str, count: ArchiveCount) -> None:
    """Keep what the archive counted."""
    values = {"asked_at": count.asked_at, "counts": dict(count.counts), "trust": count.trust}
    upsert = insert_on_conflict(connection, study_count).values(study_instance_uid=study_instance_uid, **values)
    connection.execute(upsert.on_conflict_do_update(index_elements=["study_instance_uid"], set_=values))


def received_counts(connection: Connection, study_instance_uid: str) -> dict[str, int]:
    """Images here, by series."""
    rows = connection.execute(
        select(instance.c.series_instance_uid, func.count())
        .select_from(instance.join(series))
        .where(series.c.study_instance_uid == study_instance_uid)
        .group_by(instance.c.series_instance_uid)
    )
    return dict(rows.all())


def own_series(connection: Connection, series_instance_uids: list[str]) -> set[str]:
    """Those of the series that this node made: the archive counts results too."""
    return set(
        connection.scalars(
            select(result_object.c.series_instance_uid).where(
                result_object.c.series_instance_uid.in_(series_instance_uids)
            )
        )
    )


def postpone(connection: Connection, study_instance_uid: str, settle_at: datetime) -> None:
    """Give the RECEIVING series of a study another deadline, sooner or later."""
    connection.execute(
        update(series)
        .where(series.c.study_instance_uid == study_instance_uid, series.c.state == SeriesState.RECEIVING)
        .values(settle_at=settle_at)
    )


def reopen(connection: Connection, study_instance_uid: str, now: datetime) -> int:
    """Have a settled study decided on again as soon as the settler looks; how many of its series were settled."""
    return connection.execute(
        update(series)
        .where(series.c.study_instance_uid == study_instance_uid, series.c.state == SeriesState.SETTLED)
        .values(state=SeriesState.RECEIVING, settle_at=now)
    ).rowcount


def mark_settled(connection: Connection, study_instance_uid: str, settlement_of: Settlement) -> int:
    """T2: all RECEIVING series of a study are SETTLED, by this evidence; how many there were."""
    values = vars(settlement_of)
    upsert = insert_on_conflict(connection, settlement).values(study_instance_uid=study_instance_uid, **values)
    connection.execute(upsert.on_conflict_do_update(index_elements=["study_instance_uid"], set_=values))
    return connection.execute(
        update(series)
        .where(series.c.study_instance_uid == study_instance_uid, series.c.state == SeriesState.RECEIVING)
        .values(state=SeriesState.SETTLED)
    ).rowcount


def settlement_of_study(connection: Connection, study_instance_uid: str) -> Settlement | None:
    """By what a study settled last; None when it has not."""
    columns = [column for column in settlement.c if column.name != "study_instance_uid"]
    row = connection.execute(
        select(*columns).where(settlement.c.study_instance_uid == study_instance_uid)
    ).one_or_none()
    return Settlement(**row._mapping) if row is not None else None


def past_studies(connection: Connection, calling_ae_title: str, but_not: str, limit: int = 20) -> list[PastStudy]:
    """How the last other studies of a sender went, newest first: from what was found when they settled."""
    rows = connection.execute(
        select(settlement.c.resumed_seconds, settlement.c.settled_by)
        .where(settlement.c.calling_ae_title == calling_ae_title, settlement.c.study_instance_uid != but_not)
        .order_by(settlement.c.settled_at.desc())
        .limit(limit)
    )
    return [PastStudy(float(gap), settled_by) for gap, settled_by in rows]


def _count(row: Any, whole_study: bool) -> ArchiveCount | None:
    if row.asked_at is None:
        return None
    return ArchiveCount(row.asked_at, row.counts, Trust(row.trust), whole_study)
