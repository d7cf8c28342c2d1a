"""`overread decide`: studies that are here, decided on again by the rules and models of now."""

from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from node import evidence
from node.cli.shared import ConfigOption, console, opened_database, parse_span, read_settings, utc_now
from node.errors import Permanent
from node.jobs.wake import Topic, Wake
from node.store import catalogue
from node.store.database import write_transaction
from node.store.expiry import expired_of_study


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("decide")(decide_again)


def decide_again(
    studies: Annotated[
        list[str] | None, typer.Argument(metavar="STUDY_UID", help="Studies that were received.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="7d|12h|30m", help="All of which images came since then instead."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Decide on studies again, after routes or models changed: what is wanted now and was not done yet is done.

    The running node does it, by the configuration that it was started with: restart it first. What was done stays as
    it is; `overread simulate` shows beforehand what will differ.
    """
    if bool(studies) == bool(since):
        raise typer.BadParameter("give Study Instance UIDs, or --since 7d")
    settings, now = read_settings(config), utc_now()
    with opened_database(settings) as engine, write_transaction(engine) as connection:
        named = studies or catalogue.studies_since(connection, now - parse_span(since or ""))
        why_not = {uid: reason for uid in named if (reason := _reopen(connection, uid, now)) is not None}
    Wake(settings.wake_folder).notify(Topic.SETTLE)
    console.print(
        f"{len(named) - len(why_not)} of {len(named)} studies are decided on again: `overread explain STUDY_UID`",
        highlight=False,
    )
    for uid, reason in why_not.items():
        console.print(f"  not {uid}: {reason}", highlight=False, soft_wrap=True)
    if studies and why_not:
        raise typer.Exit(1)


def _reopen(connection: Connection, study_instance_uid: str, now: datetime) -> str | None:
    """Why a study is not decided on again; None when it is."""
    series = catalogue.study_series(connection, study_instance_uid)
    if not series:
        raise Permanent(f"study {study_instance_uid} was not received here: `overread explain` takes files, too")
    if expired_of_study(connection, study_instance_uid).instances:
        return "its images were deleted after their time: send it again"
    if evidence.study_mark(connection, study_instance_uid).receiving:
        return "it is arriving, and is decided on when it is whole"
    catalogue.hold_study(connection, study_instance_uid)
    evidence.reopen(connection, study_instance_uid, now)
    return None
