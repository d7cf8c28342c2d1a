"""Do the conditions of a route hold for a series? Pure: every answer says what was wanted and what was found."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from node.select.stack import Stack, stack_of
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
    allowed, said = _alternatives(tuple(wanted))
    met = not allowed.isdisjoint([value.strip().casefold() for value in values])
    return Condition(name, said, _shown(values), met)


def none_of(name: str, unwanted: Sequence[str], found: Any) -> Condition:
    """Met when no value of `found` equals one of `unwanted` (case and outer blanks do not count)."""
    values = [str(value) for value in _as_list(found)]
    banned, said = _alternatives(tuple(unwanted))
    met = banned.isdisjoint([value.strip().casefold() for value in values])
    return Condition(name, f"not {said}", _shown(values), met)


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
    wanted = _interval(lowest, highest, unit)
    if found is None:
        return Condition(name, wanted, "unknown", False)
    met = (lowest is None or found >= lowest) and (highest is None or found <= highest)
    return Condition(name, wanted, f"{found:g}" + (f" {unit}" if unit else ""), met)


# The same few conditions are asked of every series: what depends on them alone is worked out once.


@lru_cache(maxsize=1024)
def _alternatives(wanted: tuple[str, ...]) -> tuple[frozenset[str], str]:
    """Values as they are compared, and as a sentence says them."""
    return frozenset(value.strip().casefold() for value in wanted), " or ".join(wanted)


@lru_cache(maxsize=1024)
def _interval(lowest: float | None, highest: float | None, unit: str) -> str:
    parts = [
        f"at least {lowest:g}" if lowest is not None else "",
        f"at most {highest:g}" if highest is not None else "",
    ]
    return " and ".join(part for part in parts if part) + (f" {unit}" if unit else "")


def check_match(match: Match, series: StoredSeries, stack: Stack | None = None) -> tuple[Condition, ...]:
    """The conditions of a route for one series, only those that the route states."""
    header = series.header
    stack = stack or stack_of(series)
    conditions: list[Condition] = []
    for name, wanted, found in (
        ("calling AE title", match.calling_ae_title, series.calling_ae_title),
        ("called AE title", match.called_ae_title, series.called_ae_title),
        ("Modality", match.modality, header.get("Modality")),
        ("SOP Class", match.sop_class_uid, header.get("SOPClassUID")),
        ("Body Part Examined", match.body_part_examined, header.get("BodyPartExamined")),
        ("Patient's Sex", match.patient_sex, header.get("PatientSex")),
    ):
        if wanted:
            conditions.append(one_of(name, wanted, found))
    for name, expression, keyword in (
        ("Manufacturer", match.manufacturer, "Manufacturer"),
        ("Manufacturer's Model Name", match.manufacturer_model_name, "ManufacturerModelName"),
        ("Series Description", match.series_description, "SeriesDescription"),
        ("Study Description", match.study_description, "StudyDescription"),
        ("Protocol Name", match.protocol_name, "ProtocolName"),
    ):
        if expression:
            conditions.append(matching(name, expression, header.get(keyword)))
    conditions += _check_numbers(match, series, stack)
    if match.time_of_day:
        conditions.append(_time_of_day(match.time_of_day, match.time_zone, series.last_received_at))
    for name, expression in match.private.items():
        conditions.append(matching(name, expression, header.get("Private", {}).get(name)))
    return (*conditions, *_check_nested(match, series, stack))


def _check_numbers(match: Match, series: StoredSeries, stack: Stack) -> list[Condition]:
    """The conditions that are bounds."""
    conditions = []
    lowest_count = match.minimum_instances if match.minimum_instances > 1 else None
    for name, lowest, highest, found, unit in (
        ("instances", lowest_count, match.maximum_instances, len(series.instances), ""),
        (
            "age",
            match.minimum_age_years,
            match.maximum_age_years,
            age_years(series.header.get("PatientAge")),
            "years",
        ),
        (
            "distance of slices",
            match.minimum_slice_spacing_mm,
            match.maximum_slice_spacing_mm,
            stack.slice_spacing_mm,
            "mm",
        ),
        (
            "Slice Thickness",
            match.minimum_slice_thickness_mm,
            match.maximum_slice_thickness_mm,
            stack.slice_thickness_mm,
            "mm",
        ),
    ):
        if lowest is not None or highest is not None:
            conditions.append(within(name, lowest, highest, found, unit))
    return conditions


def _check_nested(match: Match, series: StoredSeries, stack: Stack) -> list[Condition]:
    """The conditions in `all`, `any` and `not`."""
    conditions = [condition for inner in match.all for condition in check_match(inner, series, stack)]
    if match.any:
        tried = [check_match(inner, series, stack) for inner in match.any]
        wanted = " or ".join(f"({_wanted(each)})" for each in tried)
        conditions.append(Condition("any", wanted, _found(tried), any(all_met(each) for each in tried)))
    for inner in match.none:
        tried = [check_match(inner, series, stack)]
        conditions.append(Condition("not", f"not ({_wanted(tried[0])})", _found(tried), not all_met(tried[0])))
    return conditions


def _wanted(conditions: Sequence[Condition]) -> str:
    return " and ".join(f"{each.name} {each.wanted}" for each in conditions) or "anything"


def _found(tried: Sequence[Sequence[Condition]]) -> str:
    facts = dict.fromkeys(f"{each.name} {each.found}" for conditions in tried for each in conditions)
    return ", ".join(facts) or "anything"


def _time_of_day(wanted: str, time_zone: str, at: datetime) -> Condition:
    """Met when the local time lies in `HH:MM-HH:MM`; the end is not part of it, and it may pass midnight."""
    start, end = wanted.split("-")
    found = at.astimezone(ZoneInfo(time_zone)).strftime("%H:%M")
    met = start <= found < end if start <= end else found >= start or found < end
    return Condition("time of day", f"{wanted} {time_zone}", found, met)


def age_years(age: Any) -> float | None:
    """Patient's Age (0010,1010), VR AS, in years; None when it is no age."""
    found = re.fullmatch(r"(\d{3})([DWMY])", str(age or "").strip().upper())
    if not found:
        return None
    return int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[found[2]]


def all_met(conditions: Iterable[Condition]) -> bool:
    """Whether every condition holds; no condition at all holds for everything."""
    return all(condition.met for condition in conditions)


def _as_list(found: Any) -> list[Any]:
    if found is None:
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _shown(values: list[str]) -> str:
    return "\\".join(values) if values else "absent"
