"""Media types: of what is sent (Content-Type, RFC 9110 8.3) and of what may be answered (Accept, 12.5.1). Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TYPE = re.compile(rf"\s*({_TOKEN}/{_TOKEN})\s*")
_PARAMETER = re.compile(rf';\s*(?:({_TOKEN})\s*=\s*("(?:[^"\\]|\\.)*"|[^;"]*))?\s*')


@dataclass(frozen=True)
class MediaType:
    """Type in lower case, and parameters by lower-case name."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_media_type(text: str) -> MediaType | None:
    """A media type with its parameters, quoted or not; None for anything else."""
    head = _TYPE.match(text)
    if head is None:
        return None
    parameters: dict[str, str] = {}
    position = head.end()
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if found is None:
            return None
        position = found.end()
        name, value = found.groups()
        if name is not None:
            plain = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value.strip()
            parameters.setdefault(name.lower(), plain)
    return MediaType(head.group(1).lower(), parameters)


def accepts(header: str, names: Iterable[str]) -> bool:
    """Whether an Accept header takes one of these media types; an empty one takes all."""
    if not header.strip():
        return True
    weights: dict[str, float] = {}
    for part in header.split(","):
        media_type = parse_media_type(part)
        if media_type is not None:
            weights[media_type.name] = _weight(media_type.parameters.get("q", "1"))
    return any(
        next((weights[key] for key in (name, name.split("/")[0] + "/*", "*/*") if key in weights), 0.0) > 0
        for name in names
    )


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
