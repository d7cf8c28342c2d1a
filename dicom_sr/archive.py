"""A Result on disk: `result.json` beside `arrays.npz`, read back exactly as it was, to be rendered again.

The JSON is written last: a folder without it holds no Result.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from zipfile import BadZipFile

import numpy as np
from pydicom.sr.coding import Code

from dicom_sr.errors import ArchiveError
from dicom_sr.findings import Result

FORMAT_VERSION = 2
RESULT_FILE = "result.json"
ARRAYS_FILE = "arrays.npz"


def save_result(result: Result, folder: Path) -> None:
    """Write a Result into a folder, which is made if need be; an earlier one in it is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    tree = {"format_version": FORMAT_VERSION, "result": _to_tree(result, arrays)}
    if arrays:
        with (folder / f"{ARRAYS_FILE}.part").open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        (folder / f"{ARRAYS_FILE}.part").replace(folder / ARRAYS_FILE)
    partial = folder / f"{RESULT_FILE}.part"
    partial.write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(folder / RESULT_FILE)


def load_result(folder: Path) -> Result:
    """The Result that `save_result` wrote, its arrays read-only, or `ArchiveError`."""
    try:
        stored = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        if stored["format_version"] != FORMAT_VERSION:
            found = stored["format_version"]
            raise ArchiveError(f"{folder.name}: result of format version {found}, expected {FORMAT_VERSION}")
        result: Result = _from_tree(Result, stored["result"], _load_arrays(folder))
    except (OSError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise ArchiveError(f"{folder.name}: holds no complete result: {type(error).__name__}") from error
    return result


def _load_arrays(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / ARRAYS_FILE).exists():
        return {}
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as stored:
        arrays: dict[str, np.ndarray] = {name: stored[name] for name in stored.files}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def _to_tree(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Plain JSON values; an array goes into `arrays` and leaves its name."""
    if isinstance(value, Code):
        return list(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        tree = {item.name: _to_tree(getattr(value, item.name), arrays) for item in fields(value)}
        return {"is": type(value).__name__, **tree}
    if isinstance(value, tuple):
        return [_to_tree(item, arrays) for item in value]
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        arrays[name] = value
        return name
    return value


def _from_tree(kind: Any, tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value of a type from what `_to_tree` made of it."""
    if tree is None:
        return None
    if kind is np.ndarray:
        return arrays[tree]
    for known, read in _READERS.items():
        if kind is known:
            return read(tree)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(tree)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        values = {name: _from_tree(hints[name], item, arrays) for name, item in tree.items() if name != "is"}
        return kind(**values)  # type: ignore[operator]
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_from_tree(arguments[0], item, arrays) for item in tree)
        return tuple(_from_tree(argument, item, arrays) for argument, item in zip(arguments, tree, strict=True))
    if arguments:  # a union: of dataclasses, told apart by their names, or with None
        options = [option for option in arguments if option is not type(None)]
        named = [option for option in options if isinstance(tree, dict) and option.__name__ == tree["is"]]
        return _from_tree((named or options)[0], tree, arrays)
    return kind(tree)


_READERS: dict[Any, Callable[[Any], Any]] = {
    Code: lambda tree: Code(*tree),
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
}
