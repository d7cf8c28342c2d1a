"""A Result on disk: `result.json` beside `labels.npz`, read back exactly as it was, to be rendered again.

The JSON is written last: a folder without it holds no Result.
"""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from zipfile import BadZipFile

import numpy as np
from pydicom.sr.coding import Code

from dicom_sr.errors import ArchiveError
from dicom_sr.findings import Result

FORMAT_VERSION = 1
RESULT_FILE = "result.json"
LABELS_FILE = "labels.npz"


def save_result(result: Result, folder: Path) -> None:
    """Write a Result into a folder, which is made if need be; an earlier one in it is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    if result.labels is not None:
        with (folder / f"{LABELS_FILE}.part").open("wb") as file:
            np.savez_compressed(file, labels=result.labels)
        (folder / f"{LABELS_FILE}.part").replace(folder / LABELS_FILE)
    tree = {"format_version": FORMAT_VERSION, "result": _to_tree(result)}
    partial = folder / f"{RESULT_FILE}.part"
    partial.write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(folder / RESULT_FILE)


def load_result(folder: Path) -> Result:
    """The Result that `save_result` wrote, its `labels` read-only, or `ArchiveError`."""
    try:
        stored = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        if stored["format_version"] != FORMAT_VERSION:
            found = stored["format_version"]
            raise ArchiveError(f"{folder.name}: result of format version {found}, expected {FORMAT_VERSION}")
        tree = stored["result"]
        tree["labels"] = _load_labels(folder) if tree["labels"] else None
        result: Result = _from_tree(Result, tree)
    except (OSError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise ArchiveError(f"{folder.name}: holds no complete result: {type(error).__name__}") from error
    return result


def _load_labels(folder: Path) -> np.ndarray:
    with np.load(folder / LABELS_FILE, allow_pickle=False) as arrays:
        labels: np.ndarray = arrays["labels"]
    labels.setflags(write=False)
    return labels


def _to_tree(value: Any) -> Any:
    """Plain JSON values; of the label volume only that there is one."""
    if isinstance(value, Code):
        return list(value)
    if is_dataclass(value):
        return {item.name: _to_tree(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_to_tree(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return True
    return value


def _from_tree(kind: Any, tree: Any) -> Any:
    """The value of a type from what `_to_tree` made of it."""
    if tree is None or isinstance(tree, np.ndarray):
        return tree
    for known, read in _READERS.items():
        if kind is known:
            return read(tree)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _from_tree(hints[name], item) for name, item in tree.items()})  # type: ignore[operator]
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_from_tree(arguments[0], item) for item in tree)
        return tuple(_from_tree(argument, item) for argument, item in zip(arguments, tree, strict=True))
    if arguments:  # a union with None
        return _from_tree(next(argument for argument in arguments if argument is not type(None)), tree)
    return kind(tree)


_READERS: dict[Any, Callable[[Any], Any]] = {Code: lambda tree: Code(*tree), datetime: datetime.fromisoformat}
