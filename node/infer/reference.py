"""The format of `model.toml` in words: tables for `docs/manifest.md` and the JSON Schema, both made from the code.

``python -m node.infer.reference docs`` writes them anew; a test compares.
"""

import json
import sys
from pathlib import Path
from typing import Any

from node.infer.manifest import Manifest

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def json_schema() -> str:
    """JSON Schema of the manifest."""
    return json.dumps(Manifest.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def tables() -> str:
    """One Markdown table for each table of the manifest, in the order in which they are mentioned."""
    schema = Manifest.model_json_schema()
    definitions = schema["$defs"]
    parts, queue, done = [_table("The file", schema)], _mentioned(schema), set()
    while queue:
        name = queue.pop(0)
        if name in done:
            continue
        done.add(name)
        parts.append(_table(name, definitions[name]))
        queue = _mentioned(definitions[name]) + queue
    return "\n".join(parts)


def with_tables(text: str) -> str:
    """The document with what stands between its marks replaced."""
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{rest.split(END, 1)[1]}"


def _table(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}", "", schema["description"].split("\n\n")[0].replace("\n", " "), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for key, field in schema["properties"].items():
        default = "required" if key in required else f"`{json.dumps(field.get('default'), ensure_ascii=False)}`"
        if field.get("default") and isinstance(field["default"], dict):
            default = field["default"].get("meaning", "see its table")
        meaning = field.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {_kind(field)} | {default.replace('`null`', 'absent')} | {meaning} |")
    return "\n".join([*lines, ""])


def _kind(field: dict[str, Any]) -> str:
    """What a value looks like."""
    if "anyOf" in field:
        return " or ".join(_kind(option) for option in field["anyOf"] if option.get("type") != "null")
    if "$ref" in field:
        return "table " + field["$ref"].rsplit("/", 1)[-1]
    if "oneOf" in field:
        return "one of " + ", ".join(option["$ref"].rsplit("/", 1)[-1] for option in field["oneOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    match field.get("type"):
        case "array" if "prefixItems" in field:
            return f"{len(field['prefixItems'])} x {_kind(field['prefixItems'][0])}"
        case "array":
            return "list of " + _kind(field["items"])
        case "object":
            values = [*field.get("patternProperties", {}).values(), field.get("additionalProperties")]
            return "table of name = " + _kind(values[0])
        case "number" | "integer":
            bounds = [
                f"{sign} {field[name]:g}"
                for name, sign in (
                    ("minimum", "≥"),
                    ("exclusiveMinimum", ">"),
                    ("maximum", "≤"),
                    ("exclusiveMaximum", "<"),
                )
                if name in field
            ]
            return " ".join([field["type"], *bounds])
        case kind:
            return {"string": "text", "boolean": "true or false"}.get(str(kind), str(kind))


def _mentioned(schema: dict[str, Any]) -> list[str]:
    """Names of the tables that a table refers to, in order."""
    text = json.dumps(schema["properties"])
    return [part.split('"', 1)[0] for part in text.split("#/$defs/")[1:]]


def write(folder: Path) -> None:
    """Write the schema and the tables into the documents."""
    (folder / "manifest.schema.json").write_text(json_schema(), encoding="utf-8")
    document = folder / "manifest.md"
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
