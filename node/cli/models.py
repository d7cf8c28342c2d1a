"""`overread models`: what models there are, whether one is right, and new ones."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table

from node.cli.shared import DEFAULT_CONFIG, ConfigOption, JsonOption, console, print_json, read_settings
from node.errors import Permanent
from node.infer import Model, Registry, check_model, load_manifest
from node.infer.describe import describe
from node.infer.draft import Draft
from node.infer.importers import import_monai
from node.infer.label_files import read_labels
from node.infer.nnunet import import_nnunet
from node.infer.scaffold import new_folder
from node.infer.signature import SIGNATURE_FILE, check_signature, make_keys, read_keys, sign

models = typer.Typer(help="The models of this node.", no_args_is_help=True)
importing = typer.Typer(help="Make a model folder of what another tool left behind.", no_args_is_help=True)
models.add_typer(importing, name="import")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(models, name="models")


@models.command("list")
def list_models(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """List the installed models, and what is wrong with folders that were refused."""
    settings = read_settings(config).models
    registry = Registry(settings.paths, trusted_keys=settings.trusted_keys)
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


ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER|NAME", help="A model folder (model.toml, *.onnx, CARD.md, example/), or an installed model."
    ),
]


@models.command()
def check(model: ModelArgument, config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Check a model folder: manifest, hashes, the network's inputs and outputs, and its example if it has one."""
    folder = _folder_of(model, config)
    problems = check_model(folder)
    if json_output:
        print_json({"folder": str(folder), "problems": problems})
    elif problems:
        for problem in problems:
            console.print(problem, style="red", markup=False, highlight=False)
    else:
        console.print(f"{folder}: good", highlight=False)
    raise typer.Exit(1 if problems else 0)


FolderArgument = Annotated[Path, typer.Argument(help="A model folder: model.toml, *.onnx, CARD.md, example/.")]
NewFolderArgument = Annotated[
    Path, typer.Argument(help="The model folder to be made; its name becomes the identifier.")
]


def _folder_of(model: Path, config: Path | None) -> Path:
    """The folder that was given, or that of the installed model that was named."""
    if model.exists() or len(model.parts) > 1:
        return model
    if config is None and not DEFAULT_CONFIG.exists():
        raise Permanent(f"{model}: found no such folder here, nor a configuration that says which models are installed")
    settings = read_settings(config).models
    installed = {each.identifier: each.folder for each in Registry(settings.paths).models()}
    if str(model) not in installed:
        known = ", ".join(sorted(installed)) or "none"
        raise Permanent(f"{model}: found neither a folder here nor an installed model of this name; known are {known}")
    return installed[str(model)]


@models.command()
def new(
    folder: NewFolderArgument,
    network: Annotated[Path, typer.Option("--onnx", help="The network.", exists=True, dir_okay=False)],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="What the channels mean: names, and colours and codes if it has them (JSON, CSV, a colour table).",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Make a model folder from an ONNX file: tensors and shapes are read from it, the rest is marked to be said."""
    _tell(folder, new_folder(folder, network, read_labels(labels) if labels else ()))


@importing.command("monai")
def monai(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder, with an ONNX file in it.", file_okay=False)],
    folder: NewFolderArgument,
) -> None:
    """From a MONAI bundle: metadata.json and the network as ONNX. Its configs can contain code and are never read."""
    _tell(folder, import_monai(bundle, folder))


@importing.command("nnunet")
def nnunet(
    results: Annotated[Path, typer.Argument(help="Folder with plans.json, dataset.json, ONNX files.", file_okay=False)],
    folder: NewFolderArgument,
    configuration: Annotated[str, typer.Option("--configuration", help="Which of the plans' configurations.")] = (
        "3d_fullres"
    ),
    previous: Annotated[
        Path | None,
        typer.Option(
            help="For a cascade: the folder of the configuration before; else looked for beside RESULTS.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
) -> None:
    """From nnU-Net (version 2): plans.json, dataset.json, and the network of each fold as ONNX."""
    _tell(folder, import_nnunet(results, folder, configuration, previous))


def _tell(folder: Path, made: Draft) -> None:
    console.print(f"{folder} was made. To be looked at:", highlight=False)
    for question in made.open_questions:
        console.print(f"  - {question}", markup=False, highlight=False)
    problems = check_model(folder)
    for problem in problems:
        console.print(problem, style="red", markup=False, highlight=False)
    if problems:
        raise typer.Exit(1)
    console.print("models check: good", highlight=False)


@models.command()
def show(model: ModelArgument, config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Show what a model takes, does and gives, as its manifest says it."""
    manifest = load_manifest(_folder_of(model, config))
    if json_output:
        print_json({"digest": manifest.digest, "manifest": manifest.model_dump(mode="json")})
        return
    console.print(Markdown(describe(manifest)))


@models.command()
def card(
    model: ModelArgument,
    config: ConfigOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write Markdown into this file instead.")] = None,
) -> None:
    """The model card: CARD.md with what the manifest says, on the terminal or as Markdown."""
    folder = _folder_of(model, config)
    manifest = load_manifest(folder)
    path = folder / "CARD.md"
    words = path.read_text(encoding="utf-8") if path.is_file() else ""
    text = f"{words.rstrip()}\n\n{describe(manifest, 2)}".lstrip()
    if out is None:
        console.print(Markdown(text))
    else:
        out.write_text(text, encoding="utf-8")
        console.print(f"{out} was written", highlight=False)


@models.command("keys")
def keys(path: Annotated[Path, typer.Argument(help="File for the private key; the public one gets .pub.")]) -> None:
    """Make a pair of keys for signing models."""
    public = make_keys(path)
    console.print(f"{path} (keep it secret) and {public} were written", highlight=False)


@models.command("sign")
def sign_model(
    folder: FolderArgument,
    key: Annotated[Path, typer.Option("--key", help="Private key (Ed25519, PEM).", exists=True, dir_okay=False)],
) -> None:
    """Sign a model: model.sig beside the manifest, which names the hash of every file."""
    problems = check_model(folder)
    if problems:
        raise Permanent("\n".join(problems))
    sign(folder, load_manifest(folder).digest, key)
    console.print(f"{folder / SIGNATURE_FILE} was written", highlight=False)


@models.command("verify")
def verify_model(
    folder: FolderArgument,
    key: Annotated[list[Path], typer.Option("--key", help="Public key that is trusted (Ed25519, PEM).", exists=True)],
) -> None:
    """Say whether a model is signed by one of these keys and no byte of it was changed since."""
    manifest = load_manifest(folder)
    check_signature(folder, manifest.digest, read_keys(key))
    Model(folder, manifest).verify()
    console.print(f"{folder}: signed, and unchanged", highlight=False)
