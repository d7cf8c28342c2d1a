"""`overread render`: a result written again in the form of a profile, for inspection."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_sr import archive, conformance
from dicom_sr.errors import EncodingError, ProfileError
from dicom_sr.findings import Result
from dicom_sr.profile import DestinationProfile
from dicom_sr.profile_files import load_profile
from dicom_sr.render import RenderedObject, file_names
from dicom_sr.render import render as render_result
from node.cli.shared import ConfigOption, JsonOption, console, opened_database, print_json, read_settings
from node.destination_profiles import profile_called
from node.errors import Permanent
from node.settings import Settings
from node.store import catalogue
from node.store.database import read_transaction
from node.study_files import walk_files


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(render)


def render(
    result: Annotated[
        str, typer.Argument(metavar="JOB|FOLDER", help="An inference job, or a folder with result.json.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the objects.")],
    profile: Annotated[str, typer.Option("--profile", help="A profile's name, or a TOML file.")] = "conservative",
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="Source images, if the node has not received them.")
    ] = None,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write the objects that a destination with this profile would get; nothing is sent or recorded."""
    settings = read_settings(config)
    chosen = _profile(profile, settings)
    folder = Path(result) if Path(result).is_dir() else settings.node.data_dir / "results" / result
    if not folder.is_dir():
        raise Permanent(
            f"{result}: neither a folder here nor an inference job whose files are in {folder.parent}; "
            "`overread jobs list --kind INFER` lists the jobs, and files are deleted after their time (docs/routing.md)"
        )
    try:
        loaded = archive.load_result(folder)
        sources = _sources(loaded, settings, images, with_pixels=chosen.needs_pixels)
        rendered = render_result(loaded, sources, chosen)
    except EncodingError as error:
        raise Permanent(str(error)) from error
    written = _write(rendered, out)
    problems = conformance.check([each.dataset for each in rendered], sources, result=loaded, profile=chosen)
    if json_output:
        print_json({"profile": chosen.name, "objects": written, "problems": [vars(each) for each in problems]})
    else:
        for each in written:
            console.print(f"{each['file']}: {each['role']}, {each['bytes']} bytes", highlight=False, soft_wrap=True)
        for problem in problems:
            console.print(f"{problem.code}: {problem.message}", style="red", highlight=False, markup=False)
    raise typer.Exit(1 if problems else 0)


def _profile(name: str, settings: Settings) -> DestinationProfile:
    if not name.endswith(".toml"):
        return profile_called(name, settings)
    try:
        return load_profile(Path(name))
    except ProfileError as error:
        raise Permanent(str(error)) from error


def _sources(result: Result, settings: Settings, images: list[Path] | None, *, with_pixels: bool) -> list[Dataset]:
    """The source images of the result, each once and in its order: from files given, or those received."""
    uids = list(dict.fromkeys(image.sop_instance_uid for image in result.source_images))
    if images:
        return _among(images, uids, with_pixels)
    with opened_database(settings) as engine, read_transaction(engine) as connection:
        stored = catalogue.instances(connection, uids)
    paths = [settings.node.data_dir / each.path for each in stored]
    return [dcmread(path, stop_before_pixels=not with_pixels) for path in paths]


def _among(images: Sequence[Path], uids: Sequence[str], with_pixels: bool) -> list[Dataset]:
    found: dict[str, Path] = {}
    for path in walk_files(images):
        try:
            found[str(dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID"))] = path
        except (InvalidDicomError, OSError):
            continue
    missing = [uid for uid in uids if uid not in found]
    if missing:
        raise Permanent(f"{len(missing)} of {len(uids)} source images are not among the files, e.g. {missing[0]}")
    return [dcmread(found[uid], stop_before_pixels=not with_pixels) for uid in uids]


def _write(rendered: Sequence[RenderedObject], out: Path) -> list[dict[str, str | int]]:
    """The objects as files named by role; a role with several objects has a number from the second on."""
    out.mkdir(parents=True, exist_ok=True)
    written: list[dict[str, str | int]] = []
    for each, name in zip(rendered, file_names(rendered), strict=True):
        content = each.to_bytes()
        (out / name).write_bytes(content)
        written.append(
            {
                "file": str(out / name),
                "role": each.role.value,
                "sop_class_uid": str(each.dataset.SOPClassUID),
                "sop_instance_uid": str(each.dataset.SOPInstanceUID),
                "bytes": len(content),
            }
        )
    return written
