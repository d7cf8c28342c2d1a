"""Drafts of `model.toml`: text that a data scientist finishes, with a comment on what is to be looked at. Pure."""

import colorsys
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.infer.label_files import NamedLabel
from node.infer.proposals import Proposal, propose

COLOURS = (
    (220, 60, 60),
    (70, 150, 255),
    (90, 200, 90),
    (240, 180, 40),
    (170, 90, 220),
    (60, 200, 200),
    (240, 120, 170),
    (150, 110, 70),
)


@dataclass(frozen=True)
class Draft:
    """A manifest to be finished.

    Parameters
    ----------
    text : str
        Of `model.toml`; passes the checks of the format.
    open_questions : tuple of str
        What could not be known, in words; each has a comment in the text, too.
    """

    text: str
    open_questions: tuple[str, ...]


@dataclass(frozen=True)
class Identity:
    """`[model]` of a draft; what is empty is asked for."""

    identifier: str
    name: str
    version: str = "0.1.0"
    maker: str = ""
    licence: str = ""
    intended_use: str = ""
    limits: tuple[str, ...] = ()


def slug(name: str) -> str:
    """A machine name made of a name."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "model"


def sha256_of(content: bytes) -> str:
    """As `[files]` wants it."""
    return hashlib.sha256(content).hexdigest()


def value(given: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(given, Mapping):
        return "{ " + ", ".join(f"{key} = {value(each)}" for key, each in given.items()) + " }"
    if isinstance(given, list | tuple):
        return "[" + ", ".join(value(each) for each in given) + "]"
    return json.dumps(given, ensure_ascii=False)


def table(name: str, entries: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """A table with its comments above it; entries that are None are left out."""
    lines = [f"# {comment}" for comment in comments]
    lines.append(name)
    lines += [f"{key} = {value(each)}" for key, each in entries.items() if each is not None]
    return "\n".join(lines) + "\n"


def head(identity: Identity, files: Mapping[str, str]) -> tuple[str, list[str]]:
    """`version`, `[model]` and `[files]`, and what of it is to be said yet."""
    questions = [
        f"model.{field}: {what}"
        for field, what in (
            ("maker", "who made it"),
            ("licence", "the licence of the weights, an SPDX expression where there is one"),
            ("intended_use", "what it is for, in one sentence; it is written into every object"),
        )
        if not getattr(identity, field)
    ]
    entries = {
        "identifier": identity.identifier,
        "name": identity.name,
        "version": identity.version,
        "maker": identity.maker or "unknown",
        "licence": identity.licence or "unknown",
        "intended_use": identity.intended_use or "Not said yet. Not for clinical use.",
        "limits": list(identity.limits) or None,
        "regulatory_status": "none: research use only",
    }
    hashes = {json.dumps(name): digest for name, digest in files.items()}
    comments = [f"To be said: {question}." for question in questions]
    text = "version = 1\n\n" + table("[model]", entries, comments) + "\n" + table("[files]", hashes)
    return text, questions


def local_code(name: str) -> dict[str, str]:
    """A code of one's own for a name, to be replaced by SNOMED CT."""
    code = re.sub(r"[^A-Z0-9]+", "", name.upper())[:16] or "THING"
    return {"value": code, "scheme": "99LOCAL", "meaning": name[:64]}


def colour(place: int) -> tuple[int, int, int]:
    """A colour for each place, unlike its neighbours': hues by the golden section once the named ones are used up."""
    if place < len(COLOURS):
        return COLOURS[place]
    shade = (0.95, 0.7, 0.85)[place % 3]
    red, green, blue = colorsys.hsv_to_rgb(place * 0.618034 % 1, (0.75, 0.55, 0.95)[place // 3 % 3], shade)
    return round(255 * red), round(255 * green), round(255 * blue)


def label_tables(labels: Sequence[NamedLabel]) -> str:
    """`[[outputs.labels]]`, with a volume each. Codes that are not given are proposed by the name, or local."""
    parts = []
    local: dict[str, dict[str, str]] = {}
    for place, label in enumerate(labels):
        said = propose(label.name)
        entries: dict[str, Any] = {"name": label.name[:64], "channels": list(label.channels)}
        entries["type"] = label.type or said.type or _own_code(said, place, local)
        if label.laterality or (said.laterality and not label.type):
            entries["laterality"] = label.laterality or said.laterality
        entries["rgb"] = list(label.rgb or colour(place))
        parts.append(table("[[outputs.labels]]", entries))
    parts += [table("[[outputs.measurements]]", {"kind": "volume", "labels": [each.name[:64]]}) for each in labels]
    return "\n".join(parts)


def _own_code(said: Proposal, place: int, local: dict[str, dict[str, str]]) -> dict[str, str]:
    """A local code; names may differ in what a code has no room for, and the sides of a pair share theirs."""
    if said.rest not in local:
        code = local_code(said.rest)
        if code["value"] in {each["value"] for each in local.values()}:
            code["value"] = f"{code['value'][:12]}{place + 1}"
        local[said.rest] = code
    return local[said.rest]


def code_question(labels: Sequence[NamedLabel]) -> str:
    """What is to be looked at of the codes of labels."""
    given = sum(each.type is not None for each in labels)
    proposed = sum(each.type is None and propose(each.name).type is not None for each in labels)
    parts = [f"{proposed} proposed by their names from CID 7192 and 7140 (to be looked at)"] if proposed else []
    if len(labels) > given + proposed:
        parts.append(f"{len(labels) - given - proposed} local ones, to be replaced by SNOMED CT where it has one")
    return f"outputs.labels: codes of {len(labels)} labels: {', '.join(parts)}" if parts else ""


def card(identity: Identity, questions: Sequence[str]) -> str:
    """A `CARD.md` to be filled in."""
    listed = "".join(f"- {question}\n" for question in questions)
    return (
        f"# {identity.name}\n\nWhat it does, and for whom: {identity.intended_use or 'not said yet'}.\n\n"
        "## Data\n\nWhat it was trained on, and what it was never shown.\n\n"
        "## Quality\n\nFigures with their data set, and where it was seen to fail.\n\n"
        + (f"## Open\n\n{listed}" if listed else "")
    )
