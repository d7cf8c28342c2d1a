"""`overread explain`: the reasoning about a study, received or in files; each "no" with what was wanted and found."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.tree import Tree
from sqlalchemy import Connection

from node import evidence
from node.cli.shared import ConfigOption, JsonOption, console, opened_database, print_json, read_settings
from node.errors import NotAnalysed, Permanent
from node.infer import Registry
from node.priors import priors_if_wanted
from node.private_attributes import with_private
from node.select.candidates import Priors
from node.select.choose import InputChoice, SeriesVerdict
from node.select.decide import ModelTrace, RouteTrace, StudyTrace, as_plain, decide
from node.select.rules import Condition
from node.settings import Settings
from node.settle import weigh_study
from node.store import catalogue
from node.store.catalogue import StoredSeries
from node.store.database import read_transaction
from node.store.decisions import Decision, decisions_of_study
from node.store.expiry import Expired, expired_of_study
from node.study_files import read_study_files

_WIDE = 400  # columns, where no terminal says how wide it is


@dataclass(frozen=True)
class Explained:
    """A study with its reasoning, and for a received one what was recorded of it."""

    trace: StudyTrace
    settling: str = ""
    expired: Expired = field(default_factory=Expired)
    recorded: Sequence[Decision] = ()


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(explain)


def explain(
    target: Annotated[str, typer.Argument(metavar="PATH|STUDY_UID", help="DICOM files, or a study that was received.")],
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say which route, which model and which series apply to a study, and for each "no" why."""
    settings = read_settings(config)
    registry = Registry(settings.models.paths, trusted_keys=settings.models.trusted_keys)
    manifests = {each.identifier: each.manifest for each in registry.models()}

    def reasoning(series: Sequence[StoredSeries], priors: Priors) -> StudyTrace:
        known = with_private(series, settings.routes, settings.node.data_dir)
        return decide(known, settings.routes, manifests, priors)

    explained: dict[str, Explained] = {}
    if Path(target).exists():
        files = read_study_files([Path(target)])
        if not files.studies:
            raise NotAnalysed("not-dicom", f"{target}: no DICOM instance that can be used")
        for uid, series in files.studies.items():
            explained[uid] = Explained(reasoning(series, files.priors_of(uid)))
    else:
        with opened_database(settings) as engine, read_transaction(engine) as connection:
            received = catalogue.study_series(connection, target)
            if not received:
                raise Permanent(f"{target}: neither a file here nor a study that was received")
            priors = priors_if_wanted(connection, target, settings.routes, manifests)
            explained[target] = Explained(
                reasoning(received, priors),
                _settling(connection, target, settings),
                expired_of_study(connection, target),
                decisions_of_study(connection, target),
            )
    if json_output:
        print_json([_plain(uid, each) for uid, each in explained.items()])
        return
    for uid, each in explained.items():
        _print(uid, each)


def _settling(connection: Connection, study_instance_uid: str, settings: Settings) -> str:
    """Whether a received study is whole, by which evidence, or what is waited for."""
    weighed = weigh_study(connection, study_instance_uid, settings)
    if weighed is not None:
        verdict = weighed.verdict
        return (
            f"arriving: {verdict.message}; settles at {verdict.settle_at:%Y-%m-%d %H:%M:%S} UTC ({verdict.settled_by})"
        )
    settlement = evidence.settlement_of_study(connection, study_instance_uid)
    if settlement is None:
        return ""
    return f"settled {settlement.settled_at:%Y-%m-%d %H:%M:%S} UTC by {settlement.settled_by}"


def _plain(study_instance_uid: str, explained: Explained) -> dict[str, Any]:
    return {
        "study_instance_uid": study_instance_uid,
        "routes": as_plain(explained.trace),
        "recorded": [vars(each) for each in explained.recorded],
        "settling": explained.settling,
        "images_deleted": explained.expired.instances,
    }


def _print(study_instance_uid: str, explained: Explained) -> None:
    wide = console if console.is_terminal else Console(width=_WIDE)
    wide.print(_tree(study_instance_uid, explained.trace), markup=False)
    lines = [explained.settling] if explained.settling else []
    if explained.expired.instances:
        lines.append(f"{explained.expired.instances} images were deleted by {explained.expired.last_at:%Y-%m-%d %H:%M}")
    lines += [
        f"recorded {each.at:%Y-%m-%d %H:%M:%S}: route {each.route or '-'}, model {each.model or '-'}: "
        f"{each.outcome}: {each.code}: {each.message}"
        for each in explained.recorded
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _tree(study_instance_uid: str, trace: StudyTrace) -> Tree:
    """The series with their UIDs first; further below they are called by number and description."""
    images = sum(len(each.instances) for each in trace.series)
    tree = Tree(f"study {study_instance_uid}: {len(trace.series)} series, {images} images", highlight=False)
    names = _names(trace.series)
    listed = tree.add("series here")
    for each in sorted(trace.series, key=_number):
        number = f"{len(each.instances)} image{'' if len(each.instances) == 1 else 's'}"
        modality = each.header.get("Modality", "?")
        listed.add(f"{names[each.series_instance_uid]}: {modality}, {number}, {each.series_instance_uid}")
    for route in trace.routes:
        _add_route(tree, route, names)
    if not trace.routes:
        tree.add("the configuration has no routes")
    return tree


def _add_route(tree: Tree, route: RouteTrace, names: Mapping[str, str]) -> None:
    said = "wants this study" if route.wants else "does not want this study: no series meets its conditions"
    branch = tree.add(f"route {route.route.name}: {said}")
    reasons: dict[tuple[str, ...], list[str]] = {}
    verdicts = {verdict.series_instance_uid: verdict for verdict in route.verdicts}
    for uid in names:
        reasons.setdefault(tuple(_unmet(verdicts[uid].conditions)), []).append(names[uid])
    for unmet, series in sorted(reasons.items(), key=lambda each: len(each[0]) > 0):
        listed = f"all {len(series)}" if 1 < len(series) == len(names) else ", ".join(series)
        leaf = branch.add(f"{'do not meet' if unmet else 'meet'} its conditions: {listed}")
        for line in unmet:
            leaf.add(line)
    for model in route.models:
        _add_model(branch, model, names)


def _add_model(branch: Tree, model: ModelTrace, names: Mapping[str, str]) -> None:
    said = f"runs: {model.message}" if model.wanted_and_possible else f"cannot run ({model.code}): {model.message}"
    model_branch = branch.add(f"model {model.model}: {said}")
    for choice in model.choices:
        input_branch = model_branch.add(_input_line(choice))
        for verdict in choice.verdicts:
            shown = names.get(
                verdict.series_instance_uid, f"earlier study {verdict.study_instance_uid}, {verdict.name}"
            )
            part = f", {verdict.part}" if verdict.part and verdict.series_instance_uid in names else ""
            leaf = input_branch.add(f"{_word(verdict)}: {shown}{part}{f' [{verdict.rank}]' if verdict.rank else ''}")
            if verdict.instead:
                leaf.add(verdict.instead)
            for line in _unmet(verdict.conditions):
                leaf.add(line)
            met = _met(verdict.conditions)
            if met:
                leaf.add(f"yes {met}")


def _input_line(choice: InputChoice) -> str:
    kind = f"input {choice.input_name}{' of an earlier study' if choice.is_prior else ''}"
    if choice.chosen is not None:
        return f"{kind}: {len(choice.chosen.instances)} image{'' if len(choice.chosen.instances) == 1 else 's'}"
    why = f" ({choice.nothing_because})" if choice.nothing_because else ""
    return f"{kind}: nothing, which is allowed{why}" if choice.is_optional else f"{kind}: NOTHING{why}"


def _word(verdict: SeriesVerdict) -> str:
    return "TAKEN" if verdict.is_chosen else "fits, not taken" if verdict.eligible else "does not fit"


def _names(series: Sequence[StoredSeries]) -> dict[str, str]:
    """What an operator knows each series by, in the order of their numbers: number and description; the UID too where
    another has the same.
    """
    found = {each.series_instance_uid: _name(each) for each in sorted(series, key=_number)}
    counts = Counter(found.values())
    return {uid: f"{name} ({uid})" if counts[name] > 1 else name for uid, name in found.items()}


def _name(series: StoredSeries) -> str:
    header = series.header
    number = f" {header['SeriesNumber']}" if "SeriesNumber" in header else ""
    description = f" {header['SeriesDescription']!r}" if "SeriesDescription" in header else ""
    return f"series{number}{description}"


def _number(series: StoredSeries) -> tuple[int, str]:
    return int(series.header.get("SeriesNumber") or 0), series.series_instance_uid


def _unmet(conditions: Sequence[Condition]) -> list[str]:
    """What is not met, each attribute once: two rules may refuse the same thing."""
    found = {(each.name, each.found): each for each in reversed(conditions) if not each.met}
    return [f"NO  {each.name}: wanted {each.wanted}, found {each.found}" for each in reversed(found.values())]


def _met(conditions: Sequence[Condition]) -> str:
    return "; ".join(f"{each.name} {each.found}" for each in conditions if each.met)
