"""`overread run`, its parts `listen`, `work`, `deliver` and `web`, and `check-config`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from node import service
from node.cli.shared import ConfigOption, JsonOption, console, print_json, read_settings
from node.logs import configure_logs
from node.select.overlap import route_warnings, unused_tables
from node.settings import SettingsError, load_settings

LifeLine = Annotated[bool, typer.Option("--life-line", hidden=True, help="Stop when standard input ends.")]

WorkerNumber = Annotated[int, typer.Option(min=0, help="Which of work.gpus is this worker's: this one, in turn.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(run)
    app.command()(listen)
    app.command()(work)
    app.command()(deliver)
    app.command()(web)
    app.command("check-config")(check_config)


def run(config: ConfigOption = None) -> None:
    """Start the whole node in the foreground; SIGTERM or Ctrl-C stops it cleanly within 10 s."""
    settings = read_settings(config)
    configure_logs(settings.log.style, settings.log.level)
    raise typer.Exit(service.run_node(settings, config))


def listen(config: ConfigOption = None, life_line: LifeLine = False) -> None:
    """Receive only: the DICOM listener."""
    settings = read_settings(config)
    configure_logs(settings.log.style, settings.log.level)
    service.run_listener(settings, life_line=life_line)


def work(config: ConfigOption = None, number: WorkerNumber = 0, life_line: LifeLine = False) -> None:
    """Analyse only: settle studies, choose models and series, run inference."""
    settings = read_settings(config)
    configure_logs(settings.log.style, settings.log.level)
    service.run_worker(settings, number=number, life_line=life_line)


def deliver(config: ConfigOption = None, life_line: LifeLine = False) -> None:
    """Deliver only: send results to their destinations."""
    settings = read_settings(config)
    configure_logs(settings.log.style, settings.log.level)
    service.run_deliverer(settings, life_line=life_line)


def web(config: ConfigOption = None, life_line: LifeLine = False) -> None:
    """HTTP only: STOW-RS, and what else [web] serves: figures, acknowledging notices, requests of platforms."""
    settings = read_settings(config)
    configure_logs(settings.log.style, settings.log.level)
    service.run_web(settings, life_line=life_line)


def check_config(
    file: Annotated[Path, typer.Argument(help="The configuration file to check.")],
    json_output: JsonOption = False,
) -> None:
    """Check a configuration file and the models it names, without starting anything."""
    try:
        settings = load_settings(file)
    except SettingsError as error:
        if not json_output:
            raise
        print_json({"file": str(file), "problems": str(error).splitlines(), "warnings": []})
        raise typer.Exit(2) from None
    problems = service.check_settings(settings, str(file))
    dimse = settings.dimse
    ours = settings.node.ae_title if dimse.require_called_ae_title else ""
    warnings = [
        *route_warnings(settings.routes, dimse.allowed_calling_ae_titles, ours),
        *unused_tables(settings.routes, [each.name for each in settings.destinations]),
    ]
    if json_output:
        print_json({"file": str(file), "problems": problems, "warnings": warnings})
        raise typer.Exit(2 if problems else 0)
    for warning in warnings:
        console.print(f"{file}: warning: {warning}", style="yellow", highlight=False, markup=False)
    if problems:
        for problem in problems:
            console.print(problem, style="red", highlight=False, markup=False)
    else:
        routes, destinations = (_counted(getattr(settings, table), table) for table in ("routes", "destinations"))
        console.print(f"{file}: good: {routes}, {destinations}", highlight=False)
    raise typer.Exit(2 if problems else 0)


def _counted(tables: Sequence[object], name: str) -> str:
    return f"{len(tables)} {name.removesuffix('s') if len(tables) == 1 else name}"
