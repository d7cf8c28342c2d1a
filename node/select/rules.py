"""Do the conditions of a route hold for a series? Pure: every answer says what was wanted and what was found."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from node.settings import Match
from node.store.catalogue import StoredSeries


@dataclass(frozen=True)
class Condition:
    """One condition asked of a series: what was wanted, what was found, and whether it is met."""

    name: str
    wanted: str
    found: str
    met: bool


def one_of(name: str, wanted: Sequence[str], found: Any) -> Condition:
    """Met when `found`, or any of its values, equals one of `wanted` (case and outer blanks do not count)."""
    values = [str(value) for value in _as_list(found)]
    allowed = {value.strip().casefold() for value in wanted}
    met = any(value.strip().casefold() in allowed for value in values)
    return Condition(name, " or ".join(wanted), _shown(values), met)


def none_of(name: str, unwanted: Sequence[str], found: Any) -> Condition:
    """Met when no value of `found` equals one of `unwanted` (case and outer blanks do not count)."""
    values = [str(value) for value in _as_list(found)]
    banned = {value.strip().casefold() for value in unwanted}
    met = not any(value.strip().casefold() in banned for value in values)
    return Condition(name, f"not {' or '.join(unwanted)}", _shown(values), met)


def matching(name: str, expression: str, found: Any) -> Condition:
    """Met when the regular expression is found in any value, whatever its case."""
    values = [str(value) for value in _as_list(found)]
    met = any(re.search(expression, value, re.IGNORECASE) for value in values)
    return Condition(name, f"text with {expression!r}", _shown(values), met)


def not_matching(name: str, expression: str, found: Any) -> Condition:
    """Met when the regular expression is found in no value, whatever its case."""
    condition = matching(name, expression, found)
    return Condition(name, f"no text with {expression!r}", condition.found, not condition.met)


def within(name: str, lowest: float | None, highest: float | None, found: float | None, unit: str = "") -> Condition:
    """Met when `found` is known and lies in the closed interval; a bound of None is open."""
    parts = [
        f"at least {lowest:g}" if lowest is not None else "",
        f"at most {highest:g}" if highest is not None else "",
    ]
    wanted = " and ".join(part for part in parts if part) + (f" {unit}" if unit else "")
    if found is None:
        return Condition(name, wanted, "unknown", False)
    met = (lowest is None or found >= lowest) and (highest is None or found <= highest)
    return Condition(name, wanted, f"{found:g}" + (f" {unit}" if unit else ""), met)


def check_match(match: Match, series: StoredSeries) -> tuple[Condition, ...]:
    """The conditions of a route for one series, only those that the route states."""
    header = series.header
    conditions: list[Condition] = []
    for name, wanted, found in (
        ("calling AE title", match.calling_ae_title, series.calling_ae_title),
        ("called AE title", match.called_ae_title, series.called_ae_title),
        ("Modality", match.modality, header.get("Modality")),
        ("SOP Class", match.sop_class_uid, header.get("SOPClassUID")),
        ("Body Part Examined", match.body_part_examined, header.get("BodyPartExamined")),
    ):
        if wanted:
            conditions.append(one_of(name, wanted, found))
    for name, expression, keyword in (
        ("Manufacturer", match.manufacturer, "Manufacturer"),
        ("Series Description", match.series_description, "SeriesDescription"),
        ("Study Description", match.study_description, "StudyDescription"),
        ("Protocol Name", match.protocol_name, "ProtocolName"),
    ):
        if expression:
            conditions.append(matching(name, expression, header.get(keyword)))
    if match.minimum_instances > 1:
        conditions.append(within("instances", match.minimum_instances, None, len(series.instances)))
    return tuple(conditions)


def all_met(conditions: Iterable[Condition]) -> bool:
    """Whether every condition holds; no condition at all holds for everything."""
    return all(condition.met for condition in conditions)


def _as_list(found: Any) -> list[Any]:
    if found is None:
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _shown(values: list[str]) -> str:
    return "\\".join(values) if values else "absent"
