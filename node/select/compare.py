"""What two sets of rules make of the same study, and where they differ. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from node.select.decide import ModelTrace, RouteTrace, StudyTrace, of_the_study, wanted_digest
from node.select.priority import lane_of


@dataclass(frozen=True)
class Answer:
    """What happens with one model: the code and sentence, the series chosen, lane, destinations, and by which routes.

    `input_digest` names the images; it is empty where nothing is run.
    """

    code: str
    message: str
    series: tuple[str, ...]
    input_digest: str
    priority: str
    destinations: tuple[str, ...]
    routes: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A model whose answer differs; None: no route wants it for this study."""

    model: str
    before: Answer | None
    after: Answer | None


def answers_of(trace: StudyTrace) -> dict[str, Answer]:
    """The answer for each model that a route wants; routes that want the same work are one answer."""
    found: dict[str, Answer] = {}
    for route in trace.routes:
        for model in route.models:
            answer = _answer(route, model)
            known = found.get(model.model)
            found[model.model] = _merged(known, answer) if known else answer
    return found


def compare(before: Mapping[str, Answer], after: Mapping[str, Answer]) -> list[Change]:
    """The models whose work, priority or destinations would change, by name. The names of routes do not count."""
    changes = []
    for model in sorted({*before, *after}):
        one, other = before.get(model), after.get(model)
        if one is None or other is None or replace(one, routes=(), message="") != replace(other, routes=(), message=""):
            changes.append(Change(model, one, other))
    return changes


def _answer(route: RouteTrace, model: ModelTrace) -> Answer:
    chosen = [choice.chosen for choice in model.choices if choice.chosen] if model.wanted_and_possible else []
    return Answer(
        code=model.code,
        message=model.message,
        series=tuple(each.series_instance_uid for each in chosen),
        input_digest=wanted_digest(model) if model.wanted_and_possible else "",
        priority=lane_of(route.route, of_the_study(model)).name.lower(),
        destinations=tuple(sorted(route.route.destinations)),
        routes=(route.route.name,),
    )


def _merged(known: Answer, other: Answer) -> Answer:
    """Two routes that want the same model: the one that is possible counts, with the destinations of both."""
    better, worse = (known, other) if known.code == "chosen" or other.code != "chosen" else (other, known)
    if worse.code != better.code:
        return replace(better, routes=(*known.routes, *other.routes))
    lanes = ("stat", "routine", "low")
    return replace(
        better,
        priority=min((known.priority, other.priority), key=lanes.index),
        destinations=tuple(sorted({*known.destinations, *other.destinations})),
        routes=(*known.routes, *other.routes),
    )
