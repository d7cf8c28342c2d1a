"""`overread process` and `overread explain`: studies in files, or received ones, and the reasoning about them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.tree import Tree
from sqlalchemy import Connection

from dicom_sr.profile import CONSERVATIVE
from node import evidence
from node.cli.shared import ConfigOption, JsonOption, console, opened_database, print_json, read_settings
from node.errors import NotAnalysed, Permanent
from node.infer import Model, Registry
from node.logs import configure_logs
from node.pipeline import Analysis, AnalysisRequest, run_analysis
from node.private_attributes import with_private
from node.select.choose import input_digest
from node.select.decide import ModelTrace, StudyTrace, as_plain, decide
from node.select.rules import Condition
from node.settings import Route, Settings
from node.settle import weigh_study
from node.store import catalogue
from node.store.catalogue import StoredSeries
from node.store.database import read_transaction
from node.study_files import read_study_files

PathsArgument = Annotated[list[Path], typer.Argument(help="DICOM files or folders of them.", exists=True)]


_WIDE = 400  # columns, where no terminal says how wide it is


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(process)
    app.command()(explain)


def process(
    paths: PathsArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results: one folder per study and model.")],
    model: Annotated[str | None, typer.Option("--model", help="Run this model, whatever the routes say.")] = None,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Analyse DICOM files without any network: write every result object and a PNG preview, print the findings."""
    settings = read_settings(config)
    configure_logs("text", "warning")
    registry = Registry(settings.models.paths)
    found = read_study_files(paths)
    for path, reason in found.skipped:
        console.print(f"skipped {path}: {reason}", style="yellow", markup=False, highlight=False)
    if not found.studies:
        raise NotAnalysed("not-dicom", f"none of the {len(found.skipped)} files is a DICOM instance that can be used")
    done, refusals = [], []
    for study_instance_uid, series in found.studies.items():
        for name, trace in _wanted(settings, registry, series, model):
            if not trace.wanted_and_possible:
                refusals.append(NotAnalysed(trace.code, f"study {study_instance_uid}, model {name}: {trace.message}"))
                continue
            folder = out / study_instance_uid / name
            try:
                analysis = _analyse(settings, registry.get(name), trace, folder, quiet=json_output)
            except NotAnalysed as reason:
                refusals.append(NotAnalysed(reason.code, f"study {study_instance_uid}, model {name}: {reason}"))
                continue
            done.append(
                {
                    "study_instance_uid": study_instance_uid,
                    "model": name,
                    "folder": str(folder),
                    "analysis": analysis,
                }
            )
    _report(done, refusals, json_output)
    if refusals:
        raise typer.Exit(3)


def explain(
    target: Annotated[str, typer.Argument(metavar="PATH|STUDY_UID", help="DICOM files, or a study that was received.")],
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say which route, which model and which series apply to a study, and for each "no" why."""
    settings = read_settings(config)
    manifests = {each.identifier: each.manifest for each in Registry(settings.models.paths).models()}
    recorded: list[catalogue.Decision] = []
    settling = ""
    if Path(target).exists():
        studies: dict[str, Sequence[StoredSeries]] = dict(read_study_files([Path(target)]).studies)
        if not studies:
            raise NotAnalysed("not-dicom", f"{target}: no DICOM instance that can be used")
    else:
        with opened_database(settings) as engine, read_transaction(engine) as connection:
            studies = {target: catalogue.study_series(connection, target)}
            recorded = catalogue.decisions_of_study(connection, target)
            settling = _settling(connection, target, settings)
        if not studies[target]:
            raise Permanent(f"{target}: neither a file here nor a study that was received")
    traces = {
        uid: decide(with_private(series, settings.routes, settings.node.data_dir), settings.routes, manifests)
        for uid, series in studies.items()
    }
    if json_output:
        print_json(
            [
                {
                    "study_instance_uid": uid,
                    "routes": as_plain(trace),
                    "recorded": [vars(each) for each in recorded],
                    "settling": settling,
                }
                for uid, trace in traces.items()
            ]
        )
        return
    for uid, trace in traces.items():
        _print_trace(uid, trace)
    if settling:
        console.print(settling, markup=False, highlight=False, soft_wrap=True)
    for each in recorded:
        console.print(
            f"recorded {each.at:%Y-%m-%d %H:%M:%S}: route {each.route or '-'}, model {each.model or '-'}: "
            f"{each.outcome}: {each.code}: {each.message}",
            markup=False,
            highlight=False,
        )


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


def _wanted(
    settings: Settings, registry: Registry, series: Sequence[StoredSeries], model: str | None
) -> list[tuple[str, ModelTrace]]:
    """The models to run on a study: the one asked for, or those of the routes that want it."""
    manifests = {each.identifier: each.manifest for each in registry.models()}
    if model is not None:
        registry.get(model)
        routes: Sequence[Route] = (Route(name="command-line", models=(model,)),)
    else:
        routes = settings.routes
    trace = decide(with_private(series, routes, settings.node.data_dir), routes, manifests)
    wanted = {each.model: each for route in trace.routes for each in route.models}
    if not wanted:
        study = series[0].study_instance_uid
        return [
            (
                "-",
                ModelTrace(
                    "-",
                    "no-route",
                    f"no route wants study {study}: overread explain says why, or name a --model",
                ),
            )
        ]
    return list(wanted.items())


def _analyse(settings: Settings, model: Model, trace: ModelTrace, folder: Path, *, quiet: bool) -> Analysis:
    request = AnalysisRequest(
        paths=tuple(Path(each.path) for choice in trace.choices if choice.chosen for each in choice.chosen.instances),
        input_digest=input_digest(trace.choices),
        revision=1,
        created_at=datetime.now(UTC),
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(f"{model.identifier}: load", total=1.0)
        return run_analysis(
            request,
            model,
            folder,
            device=settings.work.device,
            threads=settings.work.intra_op_threads,
            profile=CONSERVATIVE,
            progress=lambda stage, share: progress.update(
                task, description=f"{model.identifier}: {stage}", completed=share
            ),
        )


def _report(done: list[dict[str, Any]], refusals: list[NotAnalysed], json_output: bool) -> None:
    if json_output:
        results = [
            {
                **{key: value for key, value in each.items() if key != "analysis"},
                "findings": each["analysis"].summary,
                "objects": [vars(written) for written in each["analysis"].objects],
                "remarks": each["analysis"].result.remarks,
                "seconds": each["analysis"].timings,
            }
            for each in done
        ]
        refused = [{"code": each.code, "message": str(each)} for each in refusals]
        print_json({"results": results, "not_analysed": refused})
        return
    for each in done:
        analysis: Analysis = each["analysis"]
        console.print(f"\n{each['model']} on study {each['study_instance_uid']}", style="bold", highlight=False)
        for finding in analysis.summary:
            numbers = ", ".join(f"{m['name']} {m['value']:.2f} {m['unit']}" for m in finding["measurements"])
            console.print(f"  {finding['label']}: {numbers}", markup=False, highlight=False)
        for remark in analysis.result.remarks:
            console.print(f"  remark: {remark}", markup=False, highlight=False)
        for name in (*(written.file_name for written in analysis.objects), "preview.png"):
            console.print(f"  {Path(each['folder']) / name}", markup=False, highlight=False, soft_wrap=True)
    for refusal in refusals:
        console.print(f"not analysed ({refusal.code}): {refusal}", style="red", markup=False, highlight=False)


def _print_trace(study_instance_uid: str, trace: StudyTrace) -> None:
    names = {each.series_instance_uid: _series_name(each) for each in trace.series}
    tree = Tree(f"study {study_instance_uid}: {len(trace.series)} series", highlight=False)
    for route in trace.routes:
        branch = tree.add(f"route {route.route.name}: {'wants it' if route.wants else 'does not want it'}")
        for verdict in route.verdicts:
            leaf = branch.add(
                f"{names[verdict.series_instance_uid]}: {'matches' if verdict.matches else 'does not match'}"
            )
            _add_conditions(leaf, verdict.conditions)
        for model in route.models:
            model_branch = branch.add(f"model {model.model}: {model.code}: {model.message}")
            for choice in model.choices:
                for judged in choice.verdicts:
                    part = f", part {judged.part}" if judged.part else ""
                    word = (
                        "chosen"
                        if judged.is_chosen
                        else "fits, another is better"
                        if judged.eligible
                        else "does not fit"
                    )
                    name = f"{names[judged.series_instance_uid]}{part}"
                    leaf = model_branch.add(f"{choice.input_name}: {word}: {name}: {judged.rank}")
                    _add_conditions(leaf, judged.conditions)
    if not trace.routes:
        tree.add("the configuration has no routes")
    wide = console if console.is_terminal else Console(width=_WIDE)
    wide.print(tree, markup=False)


def _series_name(series: StoredSeries) -> str:
    """What an operator knows a series by: its number and description, then its UID."""
    header = series.header
    number = f" {header['SeriesNumber']}" if "SeriesNumber" in header else ""
    description = f" {header['SeriesDescription']!r}" if "SeriesDescription" in header else ""
    return f"series{number}{description} ({header.get('Modality', '?')}, {series.series_instance_uid})"


def _add_conditions(leaf: Tree, conditions: Sequence[Condition]) -> None:
    for each in conditions:
        leaf.add(f"{'yes' if each.met else 'NO '} {each.name}: wanted {each.wanted}, found {each.found}")
