"""`overread notices`: critical results that somebody was told of, and who says that they know."""

from typing import Annotated

import typer
from rich.table import Table

from node.audit import open_trail
from node.cli.shared import ConfigOption, JsonOption, console, opened_database, print_json, read_settings, utc_now
from node.notices.desk import acknowledge as acknowledge_notice
from node.notices.witness import witness_of
from node.store import notices as store
from node.store.database import read_transaction
from node.store.tables import NoticeState

notices = typer.Typer(help="Critical results that people are told of.", no_args_is_help=True)

ReferenceArgument = Annotated[str, typer.Argument(metavar="REFERENCE", help="Reference of the notice.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(notices, name="notices")


@notices.command("list")
def list_notices(
    config: ConfigOption = None,
    state: Annotated[NoticeState | None, typer.Option(help="Only notices in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 30,
    json_output: JsonOption = False,
) -> None:
    """List notices of critical results, newest first: who knows, and who does not answer."""
    settings = read_settings(config)
    with opened_database(settings) as engine, read_transaction(engine) as connection:
        found = store.list_notices(connection, state, limit)
    if json_output:
        print_json([vars(one) for one in found])
        return
    table = Table()
    for column in ("reference", "state", "raised", "result", "study", "acknowledged by", "recipients told"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(
            one.reference,
            one.state.value,
            f"{one.raised_at:%Y-%m-%d %H:%M:%S}",
            str(one.result_id),
            one.study_instance_uid,
            one.acknowledged_by or "",
            str(one.step + (one.told_at is not None)),
        )
    console.print(table)
    if not settings.notices.recipients and any(one.state is NoticeState.OPEN for one in found):
        _say("nobody is told: name people in [[notices.recipients]]")


@notices.command()
def show(reference: ReferenceArgument, config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Show one notice with every step."""
    with opened_database(read_settings(config)) as engine, read_transaction(engine) as connection:
        one = store.get_notice(connection, reference)
        lines = store.notice_history(connection, one.notice_id)
    if json_output:
        print_json({**vars(one), "history": [vars(line) for line in lines]})
        return
    _say(f"{one.reference}: {one.state.value}, result {one.result_id} of model {one.model}: {', '.join(one.findings)}")
    _say(f"  study {one.study_instance_uid}")
    for line in lines:
        details = " ".join(part for part in (line.recipient, f"({line.message})" if line.message else "") if part)
        _say(f"  {line.at:%Y-%m-%d %H:%M:%S} {line.event.value:<12} {details}")


@notices.command()
def acknowledge(
    reference: ReferenceArgument,
    who: Annotated[str, typer.Option("--by", metavar="NAME", help="Who knows of the result.", prompt=True)],
    config: ConfigOption = None,
) -> None:
    """Say that somebody knows of a critical result; nobody else is told then."""
    settings = read_settings(config)
    witness = witness_of(open_trail(settings), settings.node.ae_title)
    with opened_database(settings) as engine:
        one, first = acknowledge_notice(engine, reference, who, utc_now(), witness)
    if first:
        _say(f"{one.reference} is acknowledged by {one.acknowledged_by}")
    else:
        _say(f"{one.reference} was acknowledged by {one.acknowledged_by} already")


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
