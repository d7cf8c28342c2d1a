"""From the series of a study to the work that is wanted, with the whole reasoning kept. Pure.

Every route is tried. A route wants a study when at least one series meets its conditions. A model with one input
chooses among
just those series; a model with several inputs chooses among all series of the study, since a route cannot describe
all of them at once.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from node.infer.manifest import Manifest
from node.select.candidates import Candidate, candidates_of
from node.select.choose import InputChoice, choose_among, input_digest
from node.select.rules import Condition, all_met, check_match
from node.select.stack import Stack, stack_of
from node.settings import Route
from node.store.catalogue import StoredSeries


@dataclass(frozen=True)
class RouteVerdict:
    """One route asked of one series."""

    series_instance_uid: str
    conditions: tuple[Condition, ...]

    @property
    def matches(self) -> bool:
        """Whether every condition of the route holds."""
        return all_met(self.conditions)


@dataclass(frozen=True)
class ModelTrace:
    """One model of one route: what was chosen for each input, or why nothing was (code and sentence)."""

    model: str
    code: str
    message: str
    choices: tuple[InputChoice, ...] = ()

    @property
    def wanted_and_possible(self) -> bool:
        """Whether there is work to do."""
        return self.code == "chosen"


@dataclass(frozen=True)
class RouteTrace:
    """One route: the verdict on each series, and its models if it wants the study."""

    route: Route
    verdicts: tuple[RouteVerdict, ...]
    models: tuple[ModelTrace, ...]

    @property
    def wants(self) -> bool:
        """Whether any series meets the conditions."""
        return any(verdict.matches for verdict in self.verdicts)


@dataclass(frozen=True)
class StudyTrace:
    """All routes asked of one study, with the series they were asked of."""

    series: tuple[StoredSeries, ...]
    routes: tuple[RouteTrace, ...]


def decide(series: Sequence[StoredSeries], routes: Sequence[Route], manifests: Mapping[str, Manifest]) -> StudyTrace:
    """Try every route on the series of a study.

    Parameters
    ----------
    manifests : mapping
        By model identifier, of the models that can be used; a route may name one that is not there.
    """
    candidates = candidates_of(series)
    stacks = {each.series.series_instance_uid: each.stack for each in candidates if not each.part}
    stacks.update(
        {each.series_instance_uid: stack_of(each) for each in series if each.series_instance_uid not in stacks}
    )
    return StudyTrace(
        tuple(series), tuple(_try_route(route, series, stacks, candidates, manifests) for route in routes)
    )


def wanted_digest(trace: ModelTrace) -> str:
    """The digest of the input set that a model was given."""
    return input_digest(trace.choices)


def _try_route(
    route: Route,
    series: Sequence[StoredSeries],
    stacks: Mapping[str, Stack],
    candidates: Sequence[Candidate],
    manifests: Mapping[str, Manifest],
) -> RouteTrace:
    verdicts = tuple(
        RouteVerdict(each.series_instance_uid, check_match(route.match, each, stacks[each.series_instance_uid]))
        for each in series
    )
    matching = {verdict.series_instance_uid for verdict in verdicts if verdict.matches}
    if not matching:
        return RouteTrace(route, verdicts, ())
    return RouteTrace(
        route, verdicts, tuple(_try_model(name, matching, candidates, manifests) for name in route.models)
    )


def _try_model(
    name: str, matching: Set[str], candidates: Sequence[Candidate], manifests: Mapping[str, Manifest]
) -> ModelTrace:
    manifest = manifests.get(name)
    if manifest is None:
        return ModelTrace(
            name, "model-unavailable", f"model {name} is not installed or was refused: overread models list"
        )
    of_route = [each for each in candidates if each.series.series_instance_uid in matching]
    choices = choose_among(manifest, of_route if len(manifest.inputs) == 1 else candidates)
    lacking = [choice for choice in choices if choice.chosen is None]
    if lacking:
        return ModelTrace(name, "input-missing", "; ".join(_why_not(choice) for choice in lacking), choices)
    found = ", ".join(
        f"{len(choice.chosen.instances)} images for {choice.input_name}" for choice in choices if choice.chosen
    )
    return ModelTrace(name, "chosen", found, choices)


def _why_not(choice: InputChoice) -> str:
    """The series that came nearest and what it lacked."""
    if not choice.verdicts:
        return f"no series for {choice.input_name}"
    nearest = min(choice.verdicts, key=lambda verdict: sum(not condition.met for condition in verdict.conditions))
    unmet = "; ".join(f"{c.name}: wanted {c.wanted}, found {c.found}" for c in nearest.conditions if not c.met)
    number = len(choice.verdicts)
    return f"none of {number} series fits {choice.input_name} (nearest {nearest.series_instance_uid}: {unmet})"


def as_plain(trace: StudyTrace) -> list[dict[str, Any]]:
    """The trace as plain data, for `overread explain --json`."""
    return [
        {
            "route": each.route.name,
            "wants": each.wants,
            "series": [
                {
                    "series_instance_uid": v.series_instance_uid,
                    "matches": v.matches,
                    "conditions": _plain(v.conditions),
                }
                for v in each.verdicts
            ],
            "models": [
                {
                    "model": model.model,
                    "code": model.code,
                    "message": model.message,
                    "inputs": [
                        {
                            "input": choice.input_name,
                            "chosen": choice.chosen.series_instance_uid if choice.chosen else None,
                            "candidates": [
                                {
                                    "series_instance_uid": verdict.series_instance_uid,
                                    "part": verdict.part,
                                    "eligible": verdict.eligible,
                                    "chosen": verdict.is_chosen,
                                    "rank": verdict.rank,
                                    "conditions": _plain(verdict.conditions),
                                }
                                for verdict in choice.verdicts
                            ],
                        }
                        for choice in model.choices
                    ],
                }
                for model in each.models
            ],
        }
        for each in trace.routes
    ]


def _plain(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    return [vars(condition) for condition in conditions]
