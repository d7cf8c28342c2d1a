"""HL7 v2.5.1 ORU^R01 of a statement, and what its acknowledgement means. Pure."""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from unicodedata import category

from pydicom.sr.coding import Code

from dicom_sr.findings import Finding
from node.deliver.oru_template import Each, OruTemplate, Values
from node.deliver.statement import FINDING_SITE, LATERALITY, NO_UNITS, PRESENCE, Order, Statement

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
_SYSTEMS = {"SCT": "SCT", "DCM": "DCM", "LN": "LN", "UCUM": "UCUM"}
"""HL7 table 0396 for DICOM coding scheme designators; all others are local."""
_ACKNOWLEDGEMENT_CODES = frozenset({"AA", "AE", "AR", "CA", "CE", "CR"})
CRITICALLY_ABNORMAL = "AA"
"""Abnormal flag (HL7 table 0078)."""
_DELETED = "D"


@dataclass(frozen=True)
class Names:
    """Who writes to whom: MSH-3 to MSH-6."""

    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str


def encode_oru(
    statement: Statement, names: Names, template: OruTemplate, now: datetime, earlier: Sequence[Statement] = ()
) -> str:
    """The message; segments end with a carriage return. Its control ID is the same whenever it is sent again.

    Observations of `earlier` statements, which this one replaces, are deleted where it does not make them (OBX-11 D,
    HL7 table 0085): a receiver takes those of the same OBX-3 and OBX-4 for newer ones, and would keep the others.
    """
    head = [
        "MSH",
        "^~\\&",
        _text(names.sending_application),
        _text(names.sending_facility),
        _text(names.receiving_application),
        _text(names.receiving_facility),
        _time(now),
        "",
        "ORU^R01^ORU_R01",
        control_id(statement),
        "P",
        "2.5.1",
        *[""] * 5,
        "UNICODE UTF-8",
    ]
    segments = list(_segments(statement, template, now))
    replaced = [segment for one in earlier for segment in _segments(one, template, now)]
    _insert_behind_observations(segments, _deletions(segments, replaced))
    return "|".join(head) + "\r" + "".join(segments)


def control_id(statement: Statement) -> str:
    """MSH-10: at most 20 characters, one for each statement."""
    return statement.identifier.rpartition(".")[2][-20:]


def _segments(statement: Statement, template: OruTemplate, now: datetime) -> Iterator[str]:
    shared = _shared_values(statement, now)
    numbers: dict[str, int] = {}
    for group in template.groups():
        for item in _items(statement, group[0].each):
            entry = next((one for one in group if one.takes(item)), None)
            if entry is None or entry.skip or (entry.when == "critical" and not statement.is_critical):
                continue
            numbers[entry.name] = numbers.get(entry.name, 0) + 1
            yield entry.fill({**shared, **item, "number": numbers[entry.name]})


def _deletions(segments: Sequence[str], replaced: Sequence[str]) -> Iterator[str]:
    """What deletes each observation that was made by segments that are replaced, and is not made any more."""
    observations = _observations(segments)
    made, number = {_identity(row) for row in observations}, len(observations)
    for row in _observations(replaced):
        identity = _identity(row)
        if row[3] and identity not in made:
            made.add(identity)
            number += 1
            yield "|".join(["OBX", str(number), *row[2:5], *[""] * 6, _DELETED]) + "\r"


def _observations(segments: Sequence[str]) -> list[list[str]]:
    """The fields of each OBX as far as OBX-4, at least."""
    rows = [segment.rstrip("\r").split("|") for segment in segments]
    return [row + [""] * (5 - len(row)) for row in rows if row[0] == "OBX"]


def _identity(row: Sequence[str]) -> tuple[str, str, str]:
    """What tells an observation of a report from the others: code and system of OBX-3, whatever its text, and OBX-4."""
    code, _, system = [*row[3].split("^"), "", ""][:3]
    return code, system, row[4]


def _insert_behind_observations(segments: list[str], more: Iterable[str]) -> None:
    """At the end where there are none."""
    last = max((at for at, segment in enumerate(segments) if segment.startswith("OBX|")), default=len(segments) - 1)
    segments[last + 1 : last + 1] = more


def _shared_values(statement: Statement, now: datetime) -> Values:
    """What may stand in every segment."""
    order, algorithm = statement.order, statement.algorithm
    return {
        **{name: _text(value) for name, value in vars(order).items()},
        "patient_name": _person(order.patient_name),
        "birth_date": _date(order.birth_date),
        "sex": order.sex if order.sex in ("M", "F", "O") else "",
        "filler_order_number": _text(_filler(order)),
        "observed_at": _observed(order) or _time(statement.created_at),
        "reported_at": _time(statement.created_at),
        "sent_at": _time(now),
        "model": _text(algorithm.name),
        "model_identifier": _text(algorithm.identifier),
        "model_version": _text(algorithm.version),
        "device_uid": statement.device_uid,
        "priority": "S" if statement.is_critical else "R",
    }


def _items(statement: Statement, each: Each) -> Iterator[Values]:
    """The values of each item that a segment is written for."""
    match each:
        case "once":
            yield {}
        case "impression":
            for number, line in enumerate(statement.impression, 1):
                yield {"line": _text(line), "line_number": number}
        case "document":
            for content in statement.documents:
                yield {"base64": b64encode(content).decode("ascii")}
        case _:
            for finding in statement.findings:
                yield from _items_of_finding(finding, each)


def _items_of_finding(finding: Finding, each: Each) -> Iterator[Values]:
    shared: dict[str, str | float] = {
        "tracking": _text(finding.tracking_identifier),
        "flag": CRITICALLY_ABNORMAL if finding.is_alarm else "",
        "site": _coded(finding.finding_site),
        "laterality": _coded(finding.laterality),
        "presence": _coded(PRESENCE[finding.presence]),
    }
    match each:
        case "finding":
            yield {**shared, **_concept(finding.finding)}
        case "measurement":
            for one in finding.measurements:
                yield {**shared, **_concept(one.concept), **_unit(one.unit), "value": float(one.value)}
        case "likelihood" if finding.likelihood is not None:
            score = finding.likelihood
            point = "" if score.operating_point is None else float(score.operating_point)
            values = {**shared, **_concept(score.meaning), **_unit(NO_UNITS), "value": float(score.value)}
            yield {**values, "operating_point": point}
        case "location":
            for concept, place in ((FINDING_SITE, finding.finding_site), (LATERALITY, finding.laterality)):
                if place is not None:
                    yield {**shared, **_concept(concept), **_answer(place)}
        case "qualifier":
            for qualifier in finding.qualifiers:
                yield {**shared, **_concept(qualifier.concept), **_answer(qualifier.value)}


@dataclass(frozen=True)
class Acknowledgement:
    """MSA-1 and MSA-2 of an answer."""

    code: str
    control_id: str

    @property
    def is_taken(self) -> bool:
        return self.code in ("AA", "CA")

    @property
    def is_rejected(self) -> bool:
        """The receiver will not take it as it is; an error (AE, CE) may pass."""
        return self.code in ("AR", "CR")


def read_acknowledgement(content: bytes) -> Acknowledgement | None:
    """The MSA segment of a message; None when it has none with a code of HL7 table 0008. Texts may quote a patient:
    they are not read."""
    for segment in content.decode("utf-8", "replace").replace("\n", "\r").split("\r"):
        fields = segment.strip().split("|")
        if fields[0] == "MSA" and len(fields) >= 3 and fields[1] in _ACKNOWLEDGEMENT_CODES:
            return Acknowledgement(fields[1], fields[2])
    return None


def _filler(order: Order) -> str:
    """OBR-3 is required in ORU: without a filler order number the accession number stands for it."""
    return order.filler_order_number or order.accession_number or order.study_instance_uid


def _concept(code: Code) -> dict[str, str | float]:
    return {"concept": _coded(code), "concept_code": _text(code.value), "concept_text": _text(code.meaning)}


def _answer(code: Code) -> dict[str, str | float]:
    return {"answer": _coded(code), "answer_code": _text(code.value), "answer_text": _text(code.meaning)}


def _unit(code: Code) -> dict[str, str | float]:
    return {"unit": _coded(code), "unit_code": _text(code.value)}


def _coded(code: Code | None) -> str:
    """A coded element: code, text, system."""
    if code is None:
        return ""
    return f"{_text(code.value)}^{_text(code.meaning)}^{_SYSTEMS.get(code.scheme_designator, 'L')}"


def _text(value: str) -> str:
    """Escaped (HL7 2.7); control characters, which end segments and blocks, as blanks."""
    return "".join(_ESCAPES.get(each, " " if category(each) == "Cc" else each) for each in value)


def _person(name: str) -> str:
    """XPN of a PN (PS3.5 6.2.1.1), of its first component group that is not empty: HL7 has suffix before prefix."""
    group = next((each for each in name.split("=") if each.strip("^ ")), "")
    family, given, middle, prefix, suffix = ([_text(part.strip()) for part in group.split("^")] + [""] * 5)[:5]
    return "^".join((family, given, middle, suffix, prefix)).rstrip("^")


def _date(value: str) -> str:
    """A DA of eight digits; what else stands there is no date for HL7."""
    return value if len(value) == 8 and value.isascii() and value.isdigit() else ""


def _observed(order: Order) -> str:
    """Date and time of the study as far as they are valid."""
    date, time = _date(order.study_date), order.study_time.partition(".")[0]
    is_time = len(time) in (2, 4, 6) and time.isascii() and time.isdigit()
    return date + time if date and is_time else date


def _time(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S%z")
