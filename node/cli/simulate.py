"""`overread simulate`: what new rules would have done with the studies that were received."""

from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.shared import (
    JsonOption,
    console,
    opened_database,
    parse_span,
    print_json,
    read_settings,
    utc_now,
)
from node.infer import Registry
from node.infer.manifest import Manifest
from node.priors import priors_if_wanted
from node.private_attributes import with_private
from node.select.compare import Answer, Change, answers_of, compare
from node.select.decide import decide
from node.settings import Settings, load_settings
from node.store import catalogue
from node.store.database import read_transaction


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(simulate)


def simulate(
    new: Annotated[Path, typer.Option("--config", "-c", help="The configuration with the new rules.", exists=True)],
    since: Annotated[str, typer.Option("--since", metavar="7d|12h|30m", help="How far back studies are taken.")] = "7d",
    running: Annotated[
        Path | None,
        typer.Option(
            "--running", envvar="OVERREAD_CONFIG", help="Configuration of the running node; default: config/node.toml."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Run the rules of another configuration over stored headers, and print what would change. Changes nothing.

    Studies and their images are those of the running node; both its rules and the new ones are applied to them now.
    """
    before_settings, after_settings = read_settings(running), load_settings(new)
    begin = utc_now() - parse_span(since)
    before_manifests, after_manifests = _manifests(before_settings), _manifests(after_settings)
    studies, unchanged, deleted = 0, 0, 0
    changes: list[tuple[str, list[Change]]] = []
    with opened_database(before_settings) as engine:
        with read_transaction(engine) as connection:
            found = catalogue.studies_since(connection, begin)
        for study_instance_uid in found:
            routes = (*before_settings.routes, *after_settings.routes)
            with read_transaction(engine) as connection:
                series = catalogue.study_series(connection, study_instance_uid)
                priors = priors_if_wanted(
                    connection, study_instance_uid, routes, {**before_manifests, **after_manifests}
                )
            if not any(each.instances for each in series):
                deleted += 1
                continue
            known = with_private(series, routes, before_settings.node.data_dir)
            before = answers_of(decide(known, before_settings.routes, before_manifests, priors))
            after = answers_of(decide(known, after_settings.routes, after_manifests, priors))
            studies += 1
            differing = compare(before, after)
            unchanged += not differing
            if differing:
                changes.append((study_instance_uid, differing))
    if json_output:
        print_json(
            {
                "since": begin,
                "studies": studies,
                "unchanged": unchanged,
                "images_deleted": deleted,
                "changes": [
                    {"study_instance_uid": uid, "changes": [_plain(each) for each in differing]}
                    for uid, differing in changes
                ],
            }
        )
        return
    for study_instance_uid, differing in changes:
        console.print(f"study {study_instance_uid}", markup=False, highlight=False)
        for each in differing:
            console.print(f"  {_described(each)}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{studies} studies since {begin:%Y-%m-%d %H:%M} UTC: {unchanged} as before, {len(changes)} would change"
        + (f"; of {deleted} more the images were deleted" if deleted else ""),
        highlight=False,
    )


def _manifests(settings: Settings) -> dict[str, Manifest]:
    registry = Registry(settings.models.paths, trusted_keys=settings.models.trusted_keys)
    return {each.identifier: each.manifest for each in registry.models()}


def _described(change: Change) -> str:
    return f"model {change.model}: {_sentence(change.before)}  ->  {_sentence(change.after)}"


def _sentence(answer: Answer | None) -> str:
    if answer is None:
        return "not wanted"
    where = f" to {', '.join(answer.destinations)}" if answer.destinations else ""
    return f"{answer.code} ({answer.message}), {answer.priority}{where}, by {', '.join(answer.routes)}"


def _plain(change: Change) -> dict[str, Any]:
    return {
        "model": change.model,
        "before": vars(change.before) if change.before else None,
        "after": vars(change.after) if change.after else None,
    }
