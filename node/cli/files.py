"""`overread process`: studies in files analysed without a node."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_sr.profile import CONSERVATIVE
from node.cli.shared import (
    DEFAULT_CONFIG,
    NO_GPU,
    NO_GPU_FIX,
    ConfigOption,
    JsonOption,
    console,
    console_note,
    print_json,
    read_settings,
    said_of,
)
from node.errors import NotAnalysed, Permanent
from node.infer import Model, Registry
from node.infer.manifest import FILE_NAME
from node.installed_models import installed_models
from node.logs import configure_logs
from node.pipeline import Analysis, AnalysisRequest, InputImages, run_analysis
from node.private_attributes import with_private
from node.select.candidates import Priors
from node.select.choose import input_digest
from node.select.decide import ModelTrace, decide
from node.settings import Route, Settings, load_settings
from node.store.catalogue import StoredSeries
from node.study_files import read_study_files

_SHOWN = 10
PathsArgument = Annotated[list[Path], typer.Argument(help="DICOM files or folders of them.", exists=True)]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(process)


def process(
    paths: PathsArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results: one folder per study and model.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|FOLDER",
            help="Run this model, whatever the routes say: an installed one, or a model folder.",
        ),
    ] = None,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Analyse DICOM files without any network: write every result object and a PNG preview, print the findings."""
    configure_logs("text", "warning")
    settings, registry, model = _models(config, model)
    found = read_study_files(paths)
    for path, reason in found.skipped[:_SHOWN]:
        console_note(f"skipped {path}: {reason}")
    if len(found.skipped) > _SHOWN:
        console_note(f"... and {len(found.skipped) - _SHOWN} more files skipped")
    if not found.studies:
        raise NotAnalysed("not-dicom", f"none of the {len(found.skipped)} files is a DICOM instance that can be used")
    done, refusals = [], []
    for study_instance_uid, series in found.studies.items():
        for name, trace in _wanted(settings, registry, series, found.priors_of(study_instance_uid), model):
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


def _models(config: Path | None, model: str | None) -> tuple[Settings, Registry, str | None]:
    """The installed models, or the one whose folder was named: then there need be no configuration."""
    if model is None or not (Path(model) / FILE_NAME).is_file():
        settings = read_settings(config)
        return settings, installed_models(settings), model
    settings = read_settings(config) if config or DEFAULT_CONFIG.exists() else load_settings()
    models = settings.models.model_copy(update={"paths": (Path(model),)})
    registry = installed_models(settings.model_copy(update={"models": models}))
    if registry.problems:
        raise Permanent("; ".join(registry.problems))
    return settings, registry, registry.models()[0].identifier


def _wanted(
    settings: Settings, registry: Registry, series: Sequence[StoredSeries], priors: Priors, model: str | None
) -> list[tuple[str, ModelTrace]]:
    """The models to run on a study: the one asked for, or those of the routes that want it."""
    manifests = {each.identifier: each.manifest for each in registry.models()}
    if model is not None:
        registry.get(model)
        routes: Sequence[Route] = (Route(name="command-line", models=(model,)),)
    else:
        routes = settings.routes
    trace = decide(with_private(series, routes, settings.node.data_dir), routes, manifests, priors)
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
        inputs={
            choice.input_name: InputImages(tuple(Path(each.path) for each in choice.chosen.instances))
            for choice in trace.choices
            if choice.chosen
        },
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
            console.print(f"  {finding['label']}: {said_of(finding)}", markup=False, highlight=False)
        for remark in analysis.result.remarks:
            console.print(f"  remark: {remark}", markup=False, highlight=False)
        if any(NO_GPU in remark for remark in analysis.result.remarks):
            console_note(NO_GPU_FIX)
        for name in (*(written.file_name for written in analysis.objects), "preview.png"):
            console.print(f"  {Path(each['folder']) / name}", markup=False, highlight=False, soft_wrap=True)
    for refusal in refusals:
        console.print(f"not analysed ({refusal.code}): {refusal}", style="red", markup=False, highlight=False)
