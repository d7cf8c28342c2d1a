"""From the reasoning about a study to what is asked of the queue and what is kept of it. Pure."""

from collections.abc import Container, Mapping
from dataclasses import replace
from datetime import datetime

from node.infer.manifest import Manifest
from node.jobs.job import InferOrder
from node.select.decide import ModelTrace, RouteTrace, StudyTrace, of_the_study, wanted_digest
from node.select.priority import lane_of
from node.store.decisions import Decision
from node.store.tables import DecisionOutcome, Priority


def orders_of(
    trace: StudyTrace,
    manifests: Mapping[str, Manifest],
    maximum_attempts: int,
    raised_to: Priority | None = None,
    *,
    speculative: bool = False,
) -> dict[tuple[str, str], InferOrder]:
    """One order for each model and input set, by these, for the destinations and the highest lane of all its routes.

    `raised_to` is the lane to which a critical finding raised the work of the study.
    """
    found: dict[tuple[str, str], InferOrder] = {}
    for route in trace.routes:
        for model in route.models:
            if not model.wanted_and_possible:
                continue
            order = _order(trace.series[0].study_instance_uid, route, model, manifests[model.model], maximum_attempts)
            if raised_to is not None:
                order = replace(order, priority=min(order.priority, raised_to))
            order = replace(order, speculative=speculative)
            key = (order.model, order.input_digest)
            found[key] = _merged(found[key], order) if key in found else order
    return found


def only_from(trace: StudyTrace, series_instance_uids: Container[str]) -> StudyTrace:
    """The reasoning without the models that were given anything of the study but these series."""
    return replace(
        trace,
        routes=tuple(
            replace(
                route,
                models=tuple(
                    model
                    for model in route.models
                    if all(each.series_instance_uid in series_instance_uids for each in of_the_study(model))
                ),
            )
            for route in trace.routes
        ),
    )


def refuse_all(trace: StudyTrace, code: str, message: str) -> StudyTrace:
    """The same reasoning with every model refused for one reason."""
    return replace(
        trace,
        routes=tuple(
            replace(
                route, models=tuple(replace(model, code=code, message=message, choices=()) for model in route.models)
            )
            for route in trace.routes
        ),
    )


def decisions_of(study_instance_uid: str, trace: StudyTrace, now: datetime) -> list[Decision]:
    """What is kept of a trace: one answer per route and model; the rest can be computed again."""
    answers = []
    for route in trace.routes:
        if not route.wants:
            message = f"none of {len(route.verdicts)} series meets the conditions of the route"
            answers.append((route.route.name, "", DecisionOutcome.NOT_WANTED, "no-series-matches", message))
        for model in route.models:
            outcome = DecisionOutcome.QUEUED if model.wanted_and_possible else DecisionOutcome.NOT_ANALYSED
            answers.append((route.route.name, model.model, outcome, model.code, model.message))
    if not trace.routes:
        answers.append(("", "", DecisionOutcome.NOT_WANTED, "no-route", "the configuration has no routes"))
    return [
        Decision(study_instance_uid, route, model, outcome, code, message, now)
        for route, model, outcome, code, message in answers
    ]


def _order(
    study_instance_uid: str, route: RouteTrace, model: ModelTrace, manifest: Manifest, maximum_attempts: int
) -> InferOrder:
    return InferOrder(
        study_instance_uid=study_instance_uid,
        route=route.route.name,
        model=model.model,
        model_digest=manifest.digest,
        input_digest=wanted_digest(model),
        inputs={
            choice.input_name: [each.sop_instance_uid for each in choice.chosen.instances]
            for choice in model.choices
            if choice.chosen
        },
        destinations=route.route.destinations,
        priority=lane_of(route.route, of_the_study(model)),
        maximum_attempts=maximum_attempts,
    )


def _merged(one: InferOrder, other: InferOrder) -> InferOrder:
    destinations = tuple(dict.fromkeys([*one.destinations, *other.destinations]))
    return replace(one, destinations=destinations, priority=min(one.priority, other.priority))
