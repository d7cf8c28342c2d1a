"""The `overread` command.

Exit codes: 0 done; 1 tried and failed (a peer refused, a model does not pass, a job is not there); 2 the command line
or the configuration is wrong; 3 the images cannot be analysed; 130 interrupted.
"""

import atexit
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from node import __version__
from node.cli.examples import add_examples
from node.cli.shared import console_error
from node.errors import NotAnalysed, OverreadError
from node.settings import SettingsError

COMMANDS = {
    "run": "run",
    "listen": "run",
    "work": "run",
    "deliver": "run",
    "web": "run",
    "check-config": "run",
    "process": "files",
    "explain": "explain",
    "simulate": "simulate",
    "decide": "decide",
    "retention": "retention",
    "send": "network",
    "echo": "network",
    "status": "inspect",
    "jobs": "inspect",
    "deliveries": "deliveries",
    "destinations": "deliveries",
    "notices": "notices",
    "audit": "audit",
    "models": "models",
    "render": "render",
    "similar": "similar",
    "demo": "demo",
}
"""File of this package that holds each command. Only that one is imported, since they need very different libraries."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"overread {__version__}")
        raise typer.Exit


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The command line, with the command that `arguments` name, or with all of them when they name none."""
    app = typer.Typer(
        name="overread",
        help="AI node for radiology: receives studies, runs models, sends back Segmentations and Structured Reports.",
        epilog="Exit codes: 0 done, 1 tried and failed, 2 wrong command line or configuration, 3 images cannot be "
        "analysed, 130 interrupted.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_overread)
    wanted = COMMANDS.get(arguments[0]) if arguments else None
    for name in [wanted] if wanted else dict.fromkeys(COMMANDS.values()):
        importlib.import_module(f"node.cli.{name}").register(app)
    add_examples(app)
    return app


def _overread(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Show the version and exit.", callback=_show_version)
    ] = False,
) -> None:
    """Keeps `overread COMMAND` a group of commands, also when only one of them was imported."""


def main() -> None:
    """Run the command; failures we know become one clear line and an exit code, never a traceback."""
    try:
        _run()
    except SystemExit as ending:
        if isinstance(ending.code, int):
            atexit.register(_end, ending.code)
        raise


def _end(status: int) -> None:
    """End the process without taking the interpreter apart, which with all our libraries lasts as long as many a
    command, and on a busy machine longer than a service has to stop. Everything is closed by now, threads have ended.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads any more: the interpreter says so
        return
    os._exit(status)


def _run() -> None:
    try:
        build_app(sys.argv[1:])()
    except SettingsError as error:
        console_error(str(error))
        sys.exit(2)
    except NotAnalysed as error:
        console_error(f"not analysed ({error.code}): {error}")
        sys.exit(3)
    except OverreadError as error:
        console_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (said := _said_by_database(error)) is None:
            raise
        console_error(said)
        sys.exit(1)


def _said_by_database(error: Exception) -> str | None:
    """For people, that the database does not answer; None for any other error, which is a defect of ours."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    if not isinstance(error, DBAPIError) or (error.statement is not None and not isinstance(error, OperationalError)):
        return None
    reason = next(iter(str(error.orig).splitlines()), type(error).__name__)
    return f"the database cannot be used ({reason}): is its server running, and node.database_url right?"
