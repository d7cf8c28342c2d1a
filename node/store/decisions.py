"""Why a study did or did not lead to work: one answer for each question asked at settling.

Every function takes an open `Connection` and leaves committing to its caller; times are arguments.
Functions that write want a connection of `write_transaction`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from node.store.database import insert_on_conflict
from node.store.tables import DecisionOutcome, decision


@dataclass(frozen=True)
class Decision:
    """Why a study did or did not lead to work: the answer for one route and model (empty: none applied)."""

    study_instance_uid: str
    route: str
    model: str
    outcome: DecisionOutcome
    code: str
    message: str
    at: datetime


def record_decisions(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Keep why, one answer for each study, route and model: the last one wins."""
    for one in decisions:
        upsert = insert_on_conflict(connection, decision).values(**vars(one))
        connection.execute(
            upsert.on_conflict_do_update(
                index_elements=["study_instance_uid", "route", "model"],
                set_={name: upsert.excluded[name] for name in ("outcome", "code", "message", "at")},
            )
        )


def record_for_model(connection: Connection, one: Decision) -> None:
    """Keep an answer for all routes that wanted this model for the study."""
    mine = (decision.c.study_instance_uid == one.study_instance_uid, decision.c.model == one.model)
    routes = connection.scalars(select(decision.c.route).where(*mine)).all()
    record_decisions(connection, [replace(one, route=route) for route in {*routes, one.route}])


def forget_decisions(connection: Connection, study_instance_uid: str) -> None:
    """Drop the answers of an earlier settling, before those of a new one are recorded."""
    connection.execute(delete(decision).where(decision.c.study_instance_uid == study_instance_uid))


def decisions_of_study(connection: Connection, study_instance_uid: str) -> list[Decision]:
    """The answers for a study, by route and model."""
    rows = connection.execute(
        select(decision)
        .where(decision.c.study_instance_uid == study_instance_uid)
        .order_by(decision.c.route, decision.c.model)
    )
    return [_decision(row) for row in rows]


def not_analysed_of_study(connection: Connection, study_instance_uid: str) -> list[Decision]:
    """Those of the answers for a study that say why it could not be analysed."""
    found = decisions_of_study(connection, study_instance_uid)
    return [each for each in found if each.outcome is DecisionOutcome.NOT_ANALYSED]


def refusals_since(connection: Connection, since: datetime) -> list[Decision]:
    """Answers from then on that say why a study could not be analysed, oldest first."""
    rows = connection.execute(
        select(decision)
        .where(decision.c.outcome == DecisionOutcome.NOT_ANALYSED, decision.c.at >= since)
        .order_by(decision.c.at, decision.c.id)
    )
    return [_decision(row) for row in rows]


def recent_decisions(
    connection: Connection, outcome: DecisionOutcome = DecisionOutcome.NOT_ANALYSED, limit: int = 20
) -> list[Decision]:
    """The newest answers with this outcome, newest first: what `overread status` shows."""
    rows = connection.execute(
        select(decision)
        .where(decision.c.outcome == outcome)
        .order_by(decision.c.at.desc(), decision.c.id.desc())
        .limit(limit)
    )
    return [_decision(row) for row in rows]


def _decision(row: Row[Any]) -> Decision:
    values = dict(row._mapping)
    del values["id"]
    values["outcome"] = DecisionOutcome(values["outcome"])
    return Decision(**values)
