"""`overread similar`: earlier studies that look like one."""

from typing import Annotated

import typer
from rich.table import Table

from node.cli.shared import ConfigOption, JsonOption, console, opened_database, print_json, read_settings
from node.store.database import read_transaction
from node.store.embeddings import nearest_studies


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(similar)


def similar(
    study: Annotated[str, typer.Argument(metavar="STUDY_UID", help="A study that a model with an embedding took.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 10,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """List the studies whose vectors are nearest to those of a study, by the same model and version."""
    with opened_database(read_settings(config)) as engine, read_transaction(engine) as connection:
        found = nearest_studies(connection, study, limit)
    if json_output:
        print_json([vars(each) for each in found])
        return
    table = Table()
    for column in ("study", "similarity", "model", "vector", "made"):
        table.add_column(column)
    for each in found:
        made = f"{each.created_at:%Y-%m-%d %H:%M}"
        table.add_row(each.study_instance_uid, f"{each.similarity:.4f}", each.model, each.name, made)
    console.print(table)
