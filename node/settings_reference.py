"""The settings as a page for people: `docs/settings.md` is this text, and a test compares the two.

`python -m node.settings_reference > docs/settings.md` writes it anew.
"""

import json
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from node.commitment_settings import Requester
from node.destination_settings import DESTINATION_KINDS, OAuth2, Tls
from node.notice_settings import Recipient
from node.process_settings import ProcessSource
from node.settings import CountingArchive, Match, Peer, Route, Settings
from node.web_settings import WebClient

HEADER = """# Settings

Read from a TOML file (`config/node.toml`) and from the environment: `OVERREAD_<SECTION>__<KEY>`, e.g.
`OVERREAD_DIMSE__PORT=104`; lists of tables are given there as JSON. Paths are relative to the file. Unknown keys,
wrong types and
impossible combinations are refused at start with file, key and fix. This page is made from the code: `python -m
node.settings_reference`.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    parts = [HEADER]
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            parts.append(_table(f"[{name}]", section))
    parts.append(_table("[[dimse.peers]]", Peer))
    parts.append(_table("[[web.clients]]", WebClient))
    parts.append(_table("[[commitment.requesters]]", Requester))
    parts.append(_table("[[settle.archives]]", CountingArchive))
    parts.append(_table("[[routes]]", Route))
    parts.append(_table("match of a route", Match))
    for kind, section in DESTINATION_KINDS.items():
        parts.append(_table(f'[[destinations]] of kind "{kind}"', section))
    parts.append(_table("[[notices.recipients]]", Recipient))
    parts.append(_table("[[process.sources]]", ProcessSource))
    parts.append(_table("tls of a destination", Tls))
    parts.append(_table("oauth2 of a destination", OAuth2))
    return "\n".join(parts)


def _table(title: str, section: type[BaseModel]) -> str:
    rows = [f"## {title}\n", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in section.model_fields.items():
        default = "required" if field.default is PydanticUndefined else f"`{_plain(field.default)}`"
        shown = field.alias or key
        rows.append(f"| `{shown}` | {_type(section, shown)} | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _type(section: type[BaseModel], key: str) -> str:
    whole = section.model_json_schema()
    schema = whole.get("$defs", {}).get(section.__name__, whole)["properties"][key]
    schema = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "$ref")
    return {"array": "list", "object": "table", "$ref": "table"}.get(kind, kind)


def _plain(value: Any) -> str:
    return "{}" if isinstance(value, BaseModel) else json.dumps(to_jsonable_python(value))


if __name__ == "__main__":
    print(reference(), end="")
