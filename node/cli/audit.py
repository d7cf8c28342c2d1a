"""`overread audit`: whether the audit trail is whole, and how far the collector has it."""

import typer

from node.audit import FOLDER
from node.audit.trail import last_line, verify
from node.cli.shared import ConfigOption, JsonOption, console, print_json, read_settings
from node.errors import Permanent

audit = typer.Typer(help="The audit trail (DICOM audit messages).", no_args_is_help=True)

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(audit, name="audit")


@audit.command("verify")
def verify_trail(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Check that every line of the trail follows the one before as it was written."""
    from node.audit.forward import lines_after, read_cursor

    settings = read_settings(config)
    folder = settings.node.data_dir / FOLDER
    if last_line(folder) is None:
        raise Permanent(f"there is no audit trail in {folder}: has the node run, with audit.enabled?")
    intact, damages = verify(folder)
    waiting = None
    if settings.audit.collector_host:
        waiting = sum(1 for line, _ in lines_after(folder, read_cursor(folder)) if line is not None)
    if json_output:
        print_json({"intact": intact, "damages": [vars(one) for one in damages], "waiting_for_collector": waiting})
    else:
        console.print(f"{intact} messages follow each other as they were written", highlight=False)
        for one in damages[:_SHOWN]:
            console.print(f"{one.file} line {one.line}: {one.reason}", highlight=False)
        if waiting is not None:
            console.print(f"{waiting} messages wait for the collector", highlight=False)
    if damages:
        raise typer.Exit(1)
