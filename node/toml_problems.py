"""Problems that pydantic finds in a TOML file, in our words: field, found, expected. Pure."""

import difflib
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

_WANTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text, in quotes",
}
"""What is wanted where a value is of another type."""


class MisplacedValue(ValueError):
    """A value that does not go with another one: which, as a path from where the validator stands; the message is a
    sentence of its own."""

    def __init__(self, path: tuple[str | int, ...], text: str) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `path` is where in the file, `field` the same in words."""

    path: tuple[str | int, ...]
    field: str
    text: str


def explain_problems(model: type[BaseModel], error: ValidationError, *, says_expected: bool = True) -> list[Problem]:
    """Every problem once, in the order of the file; those that only follow from others are left out.

    `says_expected`: validators of the model say what they expect; otherwise what is wrong, in a sentence.
    """
    found = error.errors()
    problems = [_explain(model, problem, says_expected) for problem in found if not _follows(problem, found)]
    return list({(each.field, each.text): each for each in problems}.values())


def _follows(problem: Any, problems: Sequence[Any]) -> bool:
    """Whether a list is too short only because of items of it that have problems of their own."""
    place = problem["loc"]
    return problem["type"] == "too_short" and any(
        other is not problem and len(other["loc"]) > len(place) and other["loc"][: len(place)] == place
        for other in problems
    )


def _explain(model: type[BaseModel], problem: Any, says_expected: bool) -> Problem:
    path, parent = _walk(model, problem["loc"])
    found, kind, context = problem.get("input"), problem["type"], problem.get("ctx", {})
    field = in_words(path)
    match kind:
        case "extra_forbidden":
            return Problem(path, field, _unknown(str(path[-1]), list(parent.model_fields) if parent else []))
        case "missing":
            return Problem(path, field, "found nothing, expected a value")
        case "value_error" if not says_expected:
            path = (*path, *getattr(context.get("error"), "path", ()))
            return Problem(path, in_words(path), problem["msg"].removeprefix("Value error, "))
        case "value_error":
            text = problem["msg"].removeprefix("Value error, ")
            if ": found " in text:
                field, text = text.split(": ", 1)
                return Problem(_as_path(field), field, text)
            return Problem(path, field, f"found {shown(found)}, expected {text}")
        case "literal_error":
            return Problem(path, field, f"found {shown(found)}, expected {context['expected']}")
        case "union_tag_invalid" | "union_tag_not_found":
            key = context["discriminator"].strip("'")
            tag = found.get(key) if isinstance(found, dict) else None
            tags = ", ".join(repr(each) for each in _tags_at(model, problem["loc"]))
            return Problem((*path, key), f"{field}.{key}", f"found {shown(tag)}, expected one of {tags}")
        case "unknown_kind":
            kinds = ", ".join(_tags_at(model, problem["loc"]))
            return Problem(
                (*path, "kind"), f"{field}.kind", f"found {shown(found.get('kind'))}, expected one of {kinds}"
            )
        case "string_pattern_mismatch":
            return Problem(path, field, f"found {shown(found)}, expected text matching {context['pattern']}")
        case _:
            wanted = problem["msg"].removeprefix("Input should be ")
            wanted = re.sub(r"^(Value|String|Tuple) should have ", "", wanted)
            wanted = _WANTED.get(kind) or f"{wanted[0].lower()}{wanted[1:]}"
            wanted = f"a list: [{shown(found)}]" if kind == "tuple_type" else wanted.partition(" after validation")[0]
            return Problem(path, field, f"found {shown(found)}, expected {wanted}")


def _unknown(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    perhaps = f" (did you mean {near[0]}?)" if near else ""
    return f"found an unknown key{perhaps}, expected one of: {', '.join(known) or 'none'}"


def in_words(path: Sequence[str | int]) -> str:
    """``labels[2].rgb``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(whole file)"


def _as_path(field: str) -> tuple[str | int, ...]:
    parts = field.replace("[", ".[").split(".")
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)


def shown(value: Any) -> str:
    """A value of the file, shortened."""
    text = "nothing" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _walk(model: type[BaseModel], location: Sequence[Any]) -> tuple[tuple[str | int, ...], type[BaseModel] | None]:
    """The path in the file, without pydantic's names of union members; and the table that the last key belongs to."""
    path: list[str | int] = []
    kind: Any = model
    parent: type[BaseModel] | None = None
    for part in location:
        kind = _plain(kind)
        if _is_union(kind):
            kind = _member(kind, str(part))
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            path.append(part)
            parent = kind
            found = kind.model_fields.get(part)
            kind = _annotation(found) if found else None
        else:
            path.append(part)
            arguments = get_args(kind)
            kind = arguments[-1 if get_origin(kind) is dict else 0] if arguments else None
    return tuple(path), parent


def _tags_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    kind: Any = model
    for part in location:
        kind = _plain(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = _annotation(kind.model_fields[part])
        else:
            kind = _member(kind, str(part)) if _is_union(kind) else get_args(kind)[0]
    return [tag for member in get_args(_plain(kind)) for tag in _tags_of(member)]


def _annotation(field: FieldInfo) -> Any:
    """The type of a field with what pydantic took off it."""
    if field.metadata or field.discriminator:
        return typing.Annotated[field.annotation, *(field.metadata or [field.discriminator])]
    return field.annotation


def _plain(kind: Any) -> Any:
    """Without Annotated and without None."""
    while get_origin(kind) is typing.Annotated:
        kind = get_args(kind)[0]
    if _is_union(kind):
        options = [option for option in get_args(kind) if option is not type(None)]
        if len(options) == 1:
            return _plain(options[0])
    return kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, types.UnionType)


def _member(kind: Any, name: str) -> Any:
    """The member of a union that pydantic calls `name`."""
    for option in get_args(kind):
        plain = _plain(option)
        if name in _tags_of(option) or name == getattr(plain, "__name__", "") or name.startswith(f"{_base(plain)}["):
            return option
    return None


def _base(kind: Any) -> str:
    return getattr(get_origin(kind) or kind, "__name__", "")


def _tags_of(option: Any) -> list[str]:
    """Names of a member of a discriminated union: its Tag, or the values of its literals."""
    tags = [each.tag for each in get_args(option)[1:] if isinstance(each, Tag)] if get_args(option) else []
    plain = _plain(option)
    if not tags and isinstance(plain, type) and issubclass(plain, BaseModel):
        literals = [
            field.annotation for field in plain.model_fields.values() if get_origin(field.annotation) is typing.Literal
        ]
        tags = [
            value for each in literals if len(get_args(each)) == 1 for value in get_args(each) if isinstance(value, str)
        ]
    return tags
