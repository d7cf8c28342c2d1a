"""What is wrong with a configuration, for who wrote it: file, line, key, what was found and what was expected. Pure."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from node.toml_lines import find_lines
from node.toml_problems import explain_problems, in_words

_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")
_HINTS = (
    ("Invalid value", "text stands in quotes; true, false and numbers do not"),
    ("Unescaped", r"paths have / or stand in single quotes: 'C:\data'"),
    ("Expected newline or end of document", "one key on each line; numbers have a point, no comma"),
    ("Cannot declare", "this table stands twice: make one of both"),
    ("Cannot overwrite a value", "this key stands twice: remove one"),
    ("Unclosed array", "a list ends with ]"),
    (r"character '\n'", "a text ends with the quote it began with, on the same line"),
)


def explain_text(where: str, error: tomllib.TOMLDecodeError | UnicodeDecodeError) -> str:
    """Why a text is not TOML, with its line and what is usually meant."""
    if isinstance(error, UnicodeDecodeError):
        return f"{where}: is not UTF-8 (byte {error.start + 1}): save it as UTF-8"
    said = str(error)
    at = _AT.search(said)
    place = f"{where}:{at[1]}" if at else where
    hint = next((words for start, words in _HINTS if start in said), "")
    what = _AT.sub("", said) + (f" at column {at[2]}" if at else "")
    return f"{place}: is not TOML: {what}" + (f"; {hint}" if hint else "")


def explain_values(
    model: type[BaseModel], error: ValidationError, where: str, text: str, environment: Mapping[str, str]
) -> str:
    """Each value that cannot be used, on a line of its own. `environment` are variables that stand before the file."""
    tree, lines = tomllib.loads(text), find_lines(text)
    said = []
    for problem in explain_problems(model, error, says_expected=False):
        variable = _variable(problem.path, environment)
        place = f"{where}, environment variable {variable}" if variable else lines.place(where, problem.path)
        said.append(f"{place}: {in_words(_named(problem.path, tree))}: {problem.text}")
    return "\n".join(said)


def _variable(path: tuple[str | int, ...], environment: Mapping[str, str]) -> str | None:
    """The variable that gave a value."""
    names = [f"OVERREAD_{'__'.join(str(part) for part in path[:end]).upper()}" for end in range(1, len(path) + 1)]
    known = {name.upper(): name for name in environment}
    return next((known[name] for name in names if name in known), None)


def _named(path: tuple[str | int, ...], tree: Any) -> tuple[str | int, ...]:
    """The path with names of tables in place of their numbers, where they have one."""
    shown: list[str | int] = []
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            tree = None
        name = tree.get("name") if isinstance(part, int) and isinstance(tree, dict) else None
        shown.append(name if isinstance(name, str) and name else part)
    return tuple(shown)


def unknown_variables(model: type[BaseModel], environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and name no table: a key that is not known is refused with its table."""
    sections = {name.upper() for name in model.model_fields}
    named = [name for name in environment if name.upper().startswith("OVERREAD_") and "__" in name]
    return sorted(name for name in named if name.upper().removeprefix("OVERREAD_").partition("__")[0] not in sections)
