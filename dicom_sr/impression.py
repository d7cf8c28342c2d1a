"""A draft impression in plain English from the findings of a Result, by sentences kept as data.

It says nothing that is not in the findings, and says that it is a draft. What a model wrote itself (`Result.text`) is
never part of it.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.findings import Finding, Likelihood, Measurement, Presence, Result

ENGLISH = Path(__file__).parent / "phrases" / "impression_en.toml"
STRUCTURES = (codes.ANATOMICAL_STRUCTURE.value, codes.TISSUE.value)
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@cache
def english_phrases() -> Mapping[str, Any]:
    """The sentences that come with this library."""
    return tomllib.loads(ENGLISH.read_text(encoding="utf-8"))


def draft_impression(result: Result, phrases: Mapping[str, Any] | None = None) -> str:
    """The whole draft: a heading that says what it is, and a line for each finding, critical ones first."""
    phrases = phrases or english_phrases()
    algorithm = f"{result.algorithm.name} {result.algorithm.version}"
    ordered = sorted(result.findings, key=lambda finding: not finding.is_alarm)
    lines = [sentence(finding, result, phrases) for finding in ordered] or [phrases["nothing"]]
    return "\n".join([phrases["heading"].format(algorithm=algorithm), *lines])


def sentence(finding: Finding, result: Result, phrases: Mapping[str, Any] | None = None) -> str:
    """One finding as a sentence."""
    phrases = phrases or english_phrases()
    own = phrases["findings"].get(_key(finding.finding), {})
    kind = finding.presence.value
    if finding.presence is Presence.PRESENT and _is_structure(finding, result) and finding.likelihood is None:
        kind = "structure"
    name = phrases["names"].get(_key(finding.finding), finding.finding.meaning)
    side = finding.laterality.meaning.lower() if finding.laterality else ""
    site = finding.finding_site.meaning.lower() if finding.finding_site else ""
    if finding.finding_site and _key(finding.finding_site) == _key(finding.finding) and kind != "structure":
        site = ""
    if side and not finding.finding_site and kind != "structure":
        name = f"{name} ({side})"
    values = {
        "finding": name if kind != "absent" else name[:1].lower() + name[1:],
        "side": side,
        "site": f"{side} {site}".strip() if site else "",
        "numbers": ", ".join(number(measurement, phrases) for measurement in finding.measurements),
        "likelihood": likelihood_words(finding.likelihood, phrases) if finding.likelihood else "",
        "comparison": "; ".join(filter(None, (comparison(each, phrases) for each in finding.measurements))),
    }
    template = own.get(kind, phrases["sentences"][kind])
    if kind == "structure" and not values["numbers"]:
        template = phrases["sentences"]["present"]
    filled = _fill(template, values)
    return filled + (phrases["sentences"]["critical"] if finding.is_alarm else "")


def likelihood_words(likelihood: Likelihood, phrases: Mapping[str, Any] | None = None) -> str:
    """A likelihood by band and number: `likely, certainty of finding 62 %`."""
    phrases = phrases or english_phrases()
    percent = 100 * likelihood.value
    words = next(band["words"] for band in phrases["likelihood"] if percent < band["below"])
    meaning = " ".join(word if word.isupper() else word.lower() for word in likelihood.meaning.meaning.split())
    return f"{words}, {meaning} {_digits(percent)} %"


def number(measurement: Measurement, phrases: Mapping[str, Any] | None = None) -> str:
    """A measurement with its name and unit, three digits."""
    phrases = phrases or english_phrases()
    name = phrases["names"].get(_key(measurement.concept), measurement.concept.meaning)
    unit = "" if measurement.unit.value == codes.NO_UNITS.value else f" {measurement.unit.value}"
    return f"{name} {_digits(measurement.value)}{unit}"


def comparison(measurement: Measurement, phrases: Mapping[str, Any] | None = None) -> str:
    """How a measurement has changed since the earlier study, if it is known."""
    phrases = phrases or english_phrases()
    prior = measurement.prior
    if prior is None:
        return ""
    words = phrases["comparison"]
    difference = measurement.value - prior.value
    change = 100 * difference / abs(prior.value) if prior.value else None
    if not difference or (change is not None and abs(change) < words["unchanged_percent"]):
        kind = "unchanged"
    else:
        kind = "larger" if difference > 0 else "smaller"
    filled: str = words[kind].format(
        name=phrases["names"].get(_key(measurement.concept), measurement.concept.meaning),
        date=prior.study_date.isoformat(),
        before=f"{_digits(prior.value)} {measurement.unit.value}",
        change=f"{change:+.0f} %" if change is not None else f"{difference:+.3g} {measurement.unit.value}",
    )
    return filled


def _is_structure(finding: Finding, result: Result) -> bool:
    """Whether its segment is a normal structure, of which a volume is told, and not something that was found."""
    return any(
        segment.number == finding.segment_number and segment.category.value in STRUCTURES for segment in result.segments
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its slots filled; optional parts whose slots are empty are left out."""

    def optional(match: re.Match[str]) -> str:
        part = match.group(1)
        return part if all(values[slot] for slot in _SLOT.findall(part)) else ""

    return _OPTIONAL.sub(optional, template).format_map(values)


def _digits(value: float) -> str:
    """Three significant digits without an exponent; whole numbers from 100 on."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return f"{value:.6f}".rstrip("0").rstrip(".") if "e" in text else text


def _key(code: Code) -> str:
    return f"{code.scheme_designator} {code.value}"
