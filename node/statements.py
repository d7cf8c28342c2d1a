"""Studies that were wanted and could not be analysed, said to the destinations that want to know.

An order like any other, whose result is the statement: it is delivered, retried and replaced as results are. A study
that is analysed after all has a later revision, whose report names the statement as what it replaces. Nothing is said
of a study that has a result of the model, nor while one is being made.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, func, select

from node.destination_settings import ObjectDestination
from node.infer.manifest import Manifest
from node.jobs.job import InferOrder, Job
from node.jobs.queue import enqueue_infer, find_infer
from node.settings import Settings
from node.store import catalogue
from node.store.decisions import Decision, refusals_since
from node.store.results import current_result
from node.store.tables import JobKind, JobState, Priority
from node.store.tables import job as job_table

MOST_SERIES = 50
"""So many series of a study are named in a statement, by one image each."""
LOOKED_AT = "looked-at"
"""Name of the one input of such an order."""


def are_wanted(settings: Settings) -> bool:
    """Whether any destination wants statements."""
    return any(_wants(each) for each in settings.destinations)


def refusals_to_state(
    connection: Connection, settings: Settings, manifests: Mapping[str, Manifest], since: datetime
) -> list[Decision]:
    """Refusals from `since` on of which somebody wants to know, and which are not stated yet.

    A model that is not installed any more says nothing: there is nobody whose statement it would be.
    """
    return [
        refusal
        for refusal in refusals_since(connection, since)
        if refusal.model in manifests and _order(connection, refusal, settings, manifests) is not None
    ]


def order_statement(
    connection: Connection, refusal: Decision, settings: Settings, manifests: Mapping[str, Manifest], now: datetime
) -> Job | None:
    """The job that states a refusal; None when there is nothing to state any more, or it was ordered meanwhile."""
    catalogue.hold_study(connection, refusal.study_instance_uid)
    order = _order(connection, refusal, settings, manifests)
    return None if order is None else enqueue_infer(connection, order, now)


def _wants(destination: object) -> bool:
    return isinstance(destination, ObjectDestination) and destination.send_not_analysed


def _destinations_of(refusal: Decision, settings: Settings) -> tuple[str, ...]:
    """Those of the route that want statements."""
    wanting = {each.name for each in settings.destinations if _wants(each)}
    routed = (name for route in settings.routes if route.name == refusal.route for name in route.destinations)
    return tuple(name for name in routed if name in wanting)


def _is_done_otherwise(connection: Connection, refusal: Decision) -> bool:
    """Whether there is a result of the model, or work on one."""
    current = current_result(connection, refusal.study_instance_uid, refusal.model)
    if current is not None and not current.is_statement:
        return True
    unfinished = select(func.count()).where(
        job_table.c.kind == JobKind.INFER,
        job_table.c.study_instance_uid == refusal.study_instance_uid,
        job_table.c.model == refusal.model,
        job_table.c.state.in_((JobState.QUEUED, JobState.RUNNING)),
    )
    return bool(connection.scalar(unfinished))


def _order(
    connection: Connection, refusal: Decision, settings: Settings, manifests: Mapping[str, Manifest]
) -> InferOrder | None:
    """None where nobody wants it, it is ordered already or needless, or no image of the study is here any more."""
    destinations = _destinations_of(refusal, settings)
    if not destinations or _is_done_otherwise(connection, refusal):
        return None
    series = catalogue.study_series(connection, refusal.study_instance_uid)
    images = [each.instances[0].sop_instance_uid for each in series[:MOST_SERIES] if each.instances]
    named = chr(0x1F).join(("not-analysed", refusal.code, refusal.message))
    order = InferOrder(
        study_instance_uid=refusal.study_instance_uid,
        route=refusal.route,
        model=refusal.model,
        model_digest=manifests[refusal.model].digest,
        input_digest=hashlib.sha256(named.encode()).hexdigest(),
        inputs={LOOKED_AT: images},
        destinations=destinations,
        priority=Priority.LOW,
        maximum_attempts=settings.work.maximum_attempts,
        refusal=(refusal.code, refusal.message),
    )
    return order if images and find_infer(connection, order) is None else None
