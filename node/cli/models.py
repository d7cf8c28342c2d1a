"""`overread models`: what models there are, and whether one is right."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from node.cli.shared import ConfigOption, JsonOption, console, print_json, read_settings
from node.infer import Registry, check_model

models = typer.Typer(help="The models of this node.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(models, name="models")


@models.command("list")
def list_models(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """List the installed models, and what is wrong with folders that were refused."""
    registry = Registry(read_settings(config).models.paths)
    found = [
        {
            "identifier": model.identifier,
            "name": model.manifest.model.name,
            "version": model.manifest.model.version,
            "maker": model.manifest.model.maker,
            "licence": model.manifest.model.licence,
            "clinical_use": model.manifest.model.clinical_use,
            "digest": model.digest,
            "folder": str(model.folder),
        }
        for model in registry.models()
    ]
    if json_output:
        print_json({"models": found, "problems": registry.problems})
        return
    table = Table()
    for column in ("identifier", "name", "version", "maker", "licence", "digest"):
        table.add_column(column)
    for model in found:
        table.add_row(
            *(
                str(model[key])[:12] if key == "digest" else str(model[key])
                for key in ("identifier", "name", "version", "maker", "licence", "digest")
            )
        )
    console.print(table)
    for problem in registry.problems:
        console.print(f"refused: {problem}", style="red", markup=False, highlight=False)


@models.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A model folder: model.toml, *.onnx, CARD.md, example/.")],
    json_output: JsonOption = False,
) -> None:
    """Check a model folder: manifest, hashes, the network's inputs and outputs, and its example if it has one."""
    problems = check_model(folder)
    if json_output:
        print_json({"folder": str(folder), "problems": problems})
    elif problems:
        for problem in problems:
            console.print(problem, style="red", markup=False, highlight=False)
    else:
        console.print(f"{folder}: good", highlight=False)
    raise typer.Exit(1 if problems else 0)
