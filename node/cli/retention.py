"""`overread retention`: which images and results may be deleted, and deleting them."""

from typing import Annotated

import typer

from node import retention
from node.cli.shared import ConfigOption, JsonOption, console, opened_database, print_json, read_settings, utc_now
from node.logs import configure_logs
from node.store.expiry import StudyHoldings


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command(name="retention")(show_and_sweep)


def show_and_sweep(
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Delete images and results whose time is over (retention_hours of routes, else `retention`), as the node does."""
    settings = read_settings(config)
    configure_logs("text", "warning")
    now = utc_now()
    with opened_database(settings) as engine:
        due = retention.find_due(engine, settings, now)
        swept = None if dry_run else retention.sweep(engine, settings, now)
    if json_output:
        print_json(
            {
                "due": [vars(each) for each in due.studies],
                "needed": [vars(each) for each in due.needed],
                "quarantined": due.quarantined,
                "results": [vars(each) for each in due.results],
                "deleted": vars(swept) if swept else None,
            }
        )
        return
    for each in due.studies:
        _line("due", each, "")
    for each in due.needed:
        _line("kept", each, f", {each.open_jobs} jobs or deliveries need it")
    if swept is None:
        size = sum(each.size_bytes for each in due.studies) / 1e6
        images = sum(each.images for each in due.studies)
        console.print(
            f"would delete {images} images ({size:.0f} MB) of {len(due.studies)} studies, "
            f"the files of {len(due.results)} results, and {due.quarantined} objects in quarantine",
            highlight=False,
        )
        return
    console.print(
        f"deleted {swept.images} images ({swept.size_bytes / 1e6:.0f} MB) of {swept.studies} studies, "
        f"the files of {swept.results} results, {swept.quarantined} objects in quarantine, "
        f"{swept.orphans} files that nothing knew",
        highlight=False,
    )


def _line(word: str, held: StudyHoldings, more: str) -> None:
    routes = ", ".join(held.routes) or "none"
    console.print(
        f"{word} {held.study_instance_uid}: {held.images} images, {held.size_bytes / 1e6:.0f} MB, idle since "
        f"{held.idle_since:%Y-%m-%d %H:%M} UTC, routes: {routes}{more}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
