"""Files and folders that a configuration names: whether they are there, before anything is started."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from node.errors import Permanent
from node.settings import Settings

_FILES = ("tls_certificate", "tls_key", "tls_client_authorities", "template")


def unusable_files(settings: Settings) -> list[str]:
    """What the configuration names and this process cannot read, each with its key.

    Folders of models and profiles are not looked at: the registry says what is wrong with the first, and of the second
    none need be there.
    """
    data_dir = settings.node.data_dir
    reasons = [("node.data_dir", data_dir, _why_no_home(data_dir))]
    reasons += [(key, path, _why_not(path, key)) for key, path in _named(settings, "")]
    return [f"{key}: {path}: {reason}" for key, path, reason in reasons if reason is not None]


def make_home(data_dir: Path) -> None:
    """Make the folder of a node's data, for its user only.

    Raises
    ------
    Permanent
        It cannot be, or this user may not write there.
    """
    reason = _why_no_home(data_dir)
    try:
        if reason is None:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made ({error.strerror})"
    if reason is not None:
        raise Permanent(f"node.data_dir: {data_dir}: {reason}: name a folder that the user of the node may write to")


def _why_no_home(data_dir: Path) -> str | None:
    """Why a folder cannot be made or written to; None where nothing speaks against it."""
    there = next(each for each in (data_dir, *data_dir.parents) if os.access(each, os.F_OK))
    if not there.is_dir():
        return f"{there} is no folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"this user may not write to {there}"


def _named(section: BaseModel, where: str) -> Iterator[tuple[str, Path]]:
    """Every key below `section` that names a file or folder, as it stands in the configuration, with the path."""
    for field, value in section:
        key = f"{where}{field}"
        if isinstance(value, BaseModel):
            yield from _named(value, f"{key}.")
        elif isinstance(value, tuple):
            for number, each in enumerate(value):
                if isinstance(each, BaseModel):
                    yield from _named(each, f"{key}.{getattr(each, 'name', None) or number}.")
        elif value and (field.endswith("_file") or field == "folder" or field in _FILES):
            yield key, Path(value)


def _why_not(path: Path, key: str) -> str | None:
    if key.endswith(".folder"):
        return None if path.is_dir() else "found no such folder"
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
