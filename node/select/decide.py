"""From the series of a study to the work that is wanted, with the whole reasoning kept. Pure.

Every route is tried. A route wants a study when at least one series meets its conditions. A model with one input from
the study chooses among just those series; a model with several chooses among all series of the study, since a route
cannot describe all of them at once.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from node.infer.manifest import Manifest
from node.select.candidates import Priors
from node.select.choose import InputChoice, Ranked, SeriesVerdict, choose_among, input_digest, is_fed, ranked_of
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


def decide(
    series: Sequence[StoredSeries],
    routes: Sequence[Route],
    manifests: Mapping[str, Manifest],
    priors: Priors = Priors(),
) -> StudyTrace:
    """Try every route on the series of a study.

    Parameters
    ----------
    manifests : mapping
        By model identifier, of the models that can be used; a route may name one that is not there.
    priors : Priors
        The patient's earlier studies, for models that compare.
    """
    ranked = ranked_of(series)
    whole = [each.candidate for each in ranked if not each.candidate.part]
    stacks = {each.series.series_instance_uid: each.stack for each in whole}
    stacks.update(
        {each.series_instance_uid: stack_of(each) for each in series if each.series_instance_uid not in stacks}
    )
    asked = _Asked(ranked, manifests, priors, {})
    return StudyTrace(tuple(series), tuple(_try_route(route, series, stacks, asked) for route in routes))


def comparing_models(routes: Sequence[Route], manifests: Mapping[str, Manifest]) -> frozenset[str]:
    """The models of the routes that take something of an earlier study."""
    named = {name for route in routes for name in route.models if name in manifests}
    return frozenset(
        name for name in named if any(each.requires.timepoint == "prior" for each in manifests[name].inputs)
    )


def of_the_study(trace: ModelTrace) -> list[StoredSeries]:
    """The series that were chosen, without those of earlier studies."""
    return [choice.chosen for choice in trace.choices if choice.chosen and not choice.is_prior]


def wanted_digest(trace: ModelTrace) -> str:
    """The digest of the input set that a model was given."""
    return input_digest(trace.choices)


@dataclass(frozen=True)
class _Asked:
    """What models are asked about, and the answers so far, by model and the series that it may choose among."""

    ranked: Sequence[Ranked]
    manifests: Mapping[str, Manifest]
    priors: Priors
    answers: dict[tuple[str, Set[str]], ModelTrace]


def _try_route(route: Route, series: Sequence[StoredSeries], stacks: Mapping[str, Stack], asked: _Asked) -> RouteTrace:
    verdicts = tuple(
        RouteVerdict(each.series_instance_uid, check_match(route.match, each, stacks[each.series_instance_uid]))
        for each in series
    )
    matching = frozenset(verdict.series_instance_uid for verdict in verdicts if verdict.matches)
    if not matching:
        return RouteTrace(route, verdicts, ())
    return RouteTrace(route, verdicts, tuple(_ask_model(name, matching, asked) for name in route.models))


def _ask_model(name: str, matching: Set[str], asked: _Asked) -> ModelTrace:
    manifest = asked.manifests.get(name)
    if manifest is None:
        return ModelTrace(
            name, "model-unavailable", f"model {name} is not installed or was refused: overread models list"
        )
    if sum(each.requires.timepoint == "current" for each in manifest.inputs) > 1:
        matching = frozenset()  # it chooses among all
    if (name, matching) not in asked.answers:
        asked.answers[name, matching] = _try_model(name, manifest, matching, asked)
    return asked.answers[name, matching]


def _try_model(name: str, manifest: Manifest, matching: Set[str], asked: _Asked) -> ModelTrace:
    """`matching` are the series to choose among; empty: all."""
    among = [each for each in asked.ranked if not matching or each.candidate.series.series_instance_uid in matching]
    choices = choose_among(manifest, among, asked.priors)
    lacking = [choice for choice in choices if not is_fed(choice)]
    if lacking:
        code = "prior-missing" if all(choice.is_prior for choice in lacking) else "input-missing"
        return ModelTrace(name, code, "; ".join(_why_not(choice, choices) for choice in lacking), choices)
    return ModelTrace(name, "chosen", ", ".join(_found(choice) for choice in choices), choices)


def _found(choice: InputChoice) -> str:
    if choice.chosen is None:
        return f"nothing for {choice.input_name}, which is optional"
    number = len(choice.chosen.instances)
    return f"{number} image{'' if number == 1 else 's'} for {choice.input_name}"


def _why_not(choice: InputChoice, choices: Sequence[InputChoice]) -> str:
    """The candidate that came nearest and what it lacked, rather one that feeds no other input."""
    if not choice.verdicts:
        return f"nothing for {choice.input_name}: {choice.nothing_because or 'no series to choose among'}"
    feeding = {each.name for one in choices for each in one.verdicts if each.is_chosen}
    nearest = min(choice.verdicts, key=lambda each: (sum(not one.met for one in each.conditions), each.name in feeding))
    number = len(choice.verdicts)
    what = f"none of {number} candidates fits" if number > 1 and not nearest.eligible else "nothing for"
    return f"{what} {choice.input_name} (nearest {nearest.name}: {_lacks(nearest)})"


def _lacks(verdict: SeriesVerdict) -> str:
    unmet = "; ".join(f"{c.name}: wanted {c.wanted}, found {c.found}" for c in verdict.conditions if not c.met)
    return unmet or f"fits, but {verdict.instead or 'another input lacks something'}"


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
                            "optional": choice.is_optional,
                            "timepoint": "prior" if choice.is_prior else "current",
                            "nothing_because": choice.nothing_because,
                            "candidates": [
                                {
                                    "study_instance_uid": verdict.study_instance_uid,
                                    "series_instance_uid": verdict.series_instance_uid,
                                    "part": verdict.part,
                                    "eligible": verdict.eligible,
                                    "chosen": verdict.is_chosen,
                                    "instead": verdict.instead,
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
