"""Templates of ORU messages: which segments are written, and what stands in their fields, kept as data."""

import string
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from node.errors import Permanent

STANDARD = Path(__file__).parent / "oru_templates" / "standard.toml"

Each = Literal["once", "measurement", "finding", "likelihood", "location", "qualifier", "impression", "document"]
Values = Mapping[str, str | float]

_ORDER = frozenset(
    {
        "patient_id",
        "patient_name",
        "birth_date",
        "sex",
        "accession_number",
        "placer_order_number",
        "filler_order_number",
        "study_instance_uid",
        "study_date",
        "study_time",
        "study_description",
        "observed_at",
        "reported_at",
        "sent_at",
        "model",
        "model_identifier",
        "model_version",
        "device_uid",
        "priority",
        "number",
    }
)
_CODED = frozenset({"concept", "concept_code", "concept_text", "tracking", "flag", "site", "laterality", "presence"})
NAMES: Mapping[Each, frozenset[str]] = {
    "once": _ORDER,
    "measurement": _ORDER | _CODED | {"value", "unit", "unit_code"},
    "finding": _ORDER | _CODED,
    "likelihood": _ORDER | _CODED | {"value", "unit", "unit_code", "operating_point"},
    "location": _ORDER | _CODED | {"answer", "answer_code", "answer_text"},
    "qualifier": _ORDER | _CODED | {"answer", "answer_code", "answer_text"},
    "impression": _ORDER | {"line", "line_number"},
    "document": _ORDER | {"base64"},
}
"""Names that may stand in the fields of a segment."""

NUMBERS = frozenset({"value", "operating_point", "number", "line_number"})
"""Those of them that take a format, such as ``{value:.1f}``."""


class SegmentTemplate(BaseModel):
    """One `[[segment]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9]{2}$")]
    each: Each = "once"
    code: tuple[str, ...] = ()
    when: Literal["always", "critical"] = "always"
    skip: bool = False
    fields: dict[Annotated[int, Field(ge=1, le=99)], str] = {}

    @field_validator("name")
    @classmethod
    def _is_not_the_header(cls, name: str) -> str:
        if name == "MSH":
            raise ValueError("MSH is written by the node: leave it out")
        return name

    def takes(self, values: Values) -> bool:
        """Whether this entry is for an item with these values."""
        return not self.code or values.get("concept_code") in self.code

    def fill(self, values: Values) -> str:
        """The segment, ended by a carriage return."""
        last = max(self.fields, default=0)
        filled = [_fill(self.fields.get(number, ""), values) for number in range(1, last + 1)]
        return "|".join([self.name, *filled]).rstrip("|") + "\r"


class OruTemplate(BaseModel):
    """A whole template file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deletes: bool = True
    """Whether observations of an earlier result that the next one does not make are sent as deleted."""
    segment: tuple[SegmentTemplate, ...] = Field(min_length=1)

    def wants(self, each: Each) -> bool:
        """Whether any segment is written for items of this kind."""
        return any(entry.each == each and not entry.skip for entry in self.segment)

    def groups(self) -> Iterable[Sequence[SegmentTemplate]]:
        """Entries in their order; alternatives for the same items together."""
        group: list[SegmentTemplate] = []
        for entry in self.segment:
            if group and (entry.each == "once" or entry.each != group[-1].each):
                yield group
                group = []
            group.append(entry)
        yield group


def load_template(path: Path | None) -> OruTemplate:
    """The template in a file, or the standard one.

    Raises
    ------
    Permanent
        The file cannot be read or used; the message says which entry is wrong, and what may stand there.
    """
    where = path or STANDARD
    try:
        template = OruTemplate.model_validate(tomllib.loads(where.read_text(encoding="utf-8")))
    except OSError as error:
        raise Permanent(f"template {where} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Permanent(f"template {where} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise Permanent(f"template {where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for position, entry in enumerate(template.segment):
        for number, text in entry.fields.items():
            if problem := _problem(text, NAMES[entry.each]):
                raise Permanent(f"template {where}: segment.{position} ({entry.name}), field {number}: {problem}")
    return template


def _problem(text: str, names: frozenset[str]) -> str:
    """Why this text of a field cannot be filled; empty when it can."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        return str(error)
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in names or conversion:
            return f"{{{name}}} is no name here; known are {', '.join(sorted(names))}"
        try:
            format(1.0 if name in NUMBERS else "", form or "")
        except ValueError:
            return f"{{{name}:{form}}} has a format that does not fit"
    return ""


def _fill(text: str, values: Values) -> str:
    """The text with its names filled in."""
    filled = []
    for literal, name, form, _ in string.Formatter().parse(text):
        filled.append(literal)
        if name is not None:
            value = values[name]
            filled.append(format(value, form or "") if isinstance(value, str) else _number(value, form or ".9g"))
    return "".join(filled)


def _number(value: float, form: str) -> str:
    """A number without a format has nine digits at most. NM knows no exponent (HL7 2.A.46): only a format that asks for
    one gets it."""
    text = format(value, form)
    return format(Decimal(text), "f") if "e" in text and form.endswith("g") else text
