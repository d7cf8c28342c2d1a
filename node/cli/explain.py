"""`overread explain`: the reasoning about a study, received or in files; each "no" with what was wanted and found."""

from collections.abc import Sequence
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
from node.store.expiry import Expired, expired_of_study
from node.study_files import read_study_files

_WIDE = 400  # columns, where no terminal says how wide it is


@dataclass(frozen=True)
class Explained:
    """A study with its reasoning, and for a received one what was recorded of it."""

    trace: StudyTrace
    settling: str = ""
    expired: Expired = field(default_factory=Expired)
    recorded: Sequence[catalogue.Decision] = ()


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
    manifests = {each.identifier: each.manifest for each in Registry(settings.models.paths).models()}

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
                catalogue.decisions_of_study(connection, target),
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
    names = {each.series_instance_uid: _series_name(each) for each in trace.series}
    images = sum(len(each.instances) for each in trace.series)
    tree = Tree(f"study {study_instance_uid}: {len(trace.series)} series, {images} images", highlight=False)
    for route in trace.routes:
        _add_route(tree, route, names)
    if not trace.routes:
        tree.add("the configuration has no routes")
    return tree


def _add_route(tree: Tree, route: RouteTrace, names: dict[str, str]) -> None:
    matching = sum(verdict.matches for verdict in route.verdicts)
    said = (
        f"wants this study, {matching} series match" if route.wants else "does not want this study, no series matches"
    )
    branch = tree.add(f"route {route.route.name}: {said}")
    for verdict in route.verdicts:
        word = "matches" if verdict.matches else "does not match"
        _add_conditions(branch.add(f"{names[verdict.series_instance_uid]}: {word}"), verdict.conditions)
    for model in route.models:
        _add_model(branch, model, names)


def _add_model(branch: Tree, model: ModelTrace, names: dict[str, str]) -> None:
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
            _add_conditions(leaf, verdict.conditions)


def _input_line(choice: InputChoice) -> str:
    kind = f"input {choice.input_name}{' of an earlier study' if choice.is_prior else ''}"
    if choice.chosen is not None:
        return f"{kind}: {len(choice.chosen.instances)} images"
    why = f" ({choice.nothing_because})" if choice.nothing_because else ""
    return f"{kind}: nothing, which is allowed{why}" if choice.is_optional else f"{kind}: NOTHING{why}"


def _word(verdict: SeriesVerdict) -> str:
    if verdict.is_chosen:
        return "CHOSEN"
    return f"fits, but {verdict.instead}" if verdict.eligible else "does not fit"


def _series_name(series: StoredSeries) -> str:
    """What an operator knows a series by: its number and description, then its UID."""
    header = series.header
    number = f" {header['SeriesNumber']}" if "SeriesNumber" in header else ""
    description = f" {header['SeriesDescription']!r}" if "SeriesDescription" in header else ""
    images = f"{len(series.instances)} image{'' if len(series.instances) == 1 else 's'}"
    return f"series{number}{description} ({header.get('Modality', '?')}, {images}, {series.series_instance_uid})"


def _add_conditions(leaf: Tree, conditions: Sequence[Condition]) -> None:
    """What is not met on lines of its own, and then what is met, on one line."""
    for each in conditions:
        if not each.met:
            leaf.add(f"NO  {each.name}: wanted {each.wanted}, found {each.found}")
    met = "; ".join(f"{each.name} {each.found}" for each in conditions if each.met)
    if met:
        leaf.add(f"yes {met}")
