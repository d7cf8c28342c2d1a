"""Studies that platforms asked for: every statement that changes one.

Functions that write take a connection of `write_transaction`; times are arguments. A change names the state that it was
decided on, so that of two processes only one makes it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Connection, Row, func, insert, select, update

from node.store.tables import RequestState
from node.store.tables import process_request as table


@dataclass(frozen=True)
class ProcessRequest:
    """A row of `process_request`."""

    request_id: str
    client: str
    study_instance_uid: str
    source: str | None
    state: RequestState
    asked_at: datetime
    due_at: datetime | None
    tries: int
    reason: str | None
    told_at: datetime | None


def request_id_of(client: str, study_instance_uid: str) -> str:
    """The same for the same client and study."""
    return str(uuid5(NAMESPACE_URL, f"overread/process/{client}/{study_instance_uid}"))


def ask(
    connection: Connection, client: str, study_instance_uid: str, source: str | None, now: datetime
) -> ProcessRequest:
    """A client asks for a study. Asking again begins anew, but for what is being fetched already."""
    request_id = request_id_of(client, study_instance_uid)
    known = get_request(connection, request_id)
    if known is not None and known.state is RequestState.FETCHING:
        return known
    values: dict[str, Any] = {
        "source": source,
        "state": RequestState.FETCHING if source else RequestState.ACCEPTED,
        "asked_at": now,
        "due_at": now,
        "tries": 0,
        "reason": None,
        "told_at": None,
    }
    if known is None:
        key = {"id": request_id, "client": client, "study_instance_uid": study_instance_uid}
        connection.execute(insert(table).values(**key, **values))
    else:
        connection.execute(update(table).where(table.c.id == request_id).values(**values))
    made = get_request(connection, request_id)
    if made is None:
        raise RuntimeError("a request that was written is there")
    return made


def get_request(connection: Connection, request_id: str) -> ProcessRequest | None:
    """The request with this identifier."""
    row = connection.execute(select(table).where(table.c.id == request_id)).one_or_none()
    return _request(row) if row else None


def claim_requests(
    connection: Connection,
    states: Collection[RequestState],
    now: datetime,
    until: datetime,
    limit: int,
    client: str | None = None,
) -> list[ProcessRequest]:
    """Requests that are due, each given to one caller: others see them again at `until`."""
    due = (
        select(table)
        .where(table.c.state.in_(states), table.c.due_at <= now)
        .order_by(table.c.due_at, table.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if client is not None:
        due = due.where(table.c.client == client)
    rows = connection.execute(due).all()
    connection.execute(update(table).where(table.c.id.in_([row.id for row in rows])).values(due_at=until))
    return [_request(row) for row in rows]


def next_due_at(connection: Connection, states: Collection[RequestState], client: str | None = None) -> datetime | None:
    """When the next of them is due."""
    soonest = select(func.min(table.c.due_at)).where(table.c.state.in_(states))
    if client is not None:
        soonest = soonest.where(table.c.client == client)
    return connection.scalar(soonest)


def change_request(connection: Connection, known: ProcessRequest, **values: Any) -> bool:
    """Change a request that is still as it was when it was claimed; False if it was asked for anew meanwhile."""
    changed = connection.execute(
        update(table)
        .where(
            table.c.id == known.request_id,
            table.c.state == known.state,
            table.c.asked_at == known.asked_at,
            table.c.tries == known.tries,
        )
        .values(**values)
    )
    return changed.rowcount == 1


def count_fetching(connection: Connection) -> int:
    """How many studies wait to be brought."""
    return connection.scalar(select(func.count()).select_from(table).where(table.c.state == RequestState.FETCHING)) or 0


def _request(row: Row[Any]) -> ProcessRequest:
    values = dict(row._mapping)
    return ProcessRequest(request_id=values.pop("id"), state=RequestState(values.pop("state")), **values)
