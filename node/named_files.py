"""Files and folders that a configuration names: whether they are there, before anything is started."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from node.settings import Settings

_FILES = ("tls_certificate", "tls_key", "tls_client_authorities", "template")


def unusable_files(settings: Settings) -> list[str]:
    """What the configuration names and this process cannot read, each with its key.

    Folders of models and profiles are not looked at: the registry says what is wrong with the first, and of the second
    none need be there.
    """
    return [
        f"{key}: {path}: {reason}" for key, path in _named(settings, "") if (reason := _why_not(path, key)) is not None
    ]


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
