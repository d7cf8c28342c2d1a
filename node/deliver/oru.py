"""HL7 v2.5.1 ORU^R01 of a statement, and what its acknowledgement means. Pure.

MSH PID ORC OBR, then one OBX for each measurement (NM, UCUM units, preliminary) and one for each line of the
impression.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from node.deliver.statement import Order, Statement

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}


@dataclass(frozen=True)
class Names:
    """Who writes to whom (MSH-3 to MSH-6), and observation identifiers (OBX-3) that the site maps, by code value."""

    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    observation_identifiers: Mapping[str, str]
    universal_service_identifier: str


def encode_oru(statement: Statement, names: Names, now: datetime) -> str:
    """The message; segments end with a carriage return. Its control ID is the same whenever it is sent again."""
    order = statement.order
    segments = [
        _segment(
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
        ),
        _pid(order),
        _segment("ORC", "RE", _text(order.placer_order_number), _text(_filler(order))),
        _obr(statement, names),
        *_observations(statement, names),
    ]
    return "".join(segments)


def control_id(statement: Statement) -> str:
    """MSH-10: at most 20 characters, one for each statement."""
    return statement.identifier.rpartition(".")[2][-20:]


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
    """The MSA segment of a message; None when it has none. Texts may quote a patient: they are not read."""
    for segment in content.decode("utf-8", "replace").replace("\n", "\r").split("\r"):
        fields = segment.strip().split("|")
        if fields[0] == "MSA" and len(fields) >= 3:
            return Acknowledgement(fields[1], fields[2])
    return None


def _pid(order: Order) -> str:
    family, *given = [_text(part) for part in order.patient_name.split("=")[0].split("^")]
    name = "^".join([family, *given]).rstrip("^")
    sex = order.sex if order.sex in ("M", "F", "O") else ""
    return _segment("PID", "1", "", f"{_text(order.patient_id)}^^^^PI", "", name, "", order.birth_date, sex)


def _obr(statement: Statement, names: Names) -> str:
    order = statement.order
    service = names.universal_service_identifier or f"AI^{_text(statement.algorithm.name)}^L"
    observed = order.study_date + order.study_time.partition(".")[0] if order.study_date else ""
    fields = [""] * 25
    fields[0], fields[1], fields[2], fields[3] = "1", _text(order.placer_order_number), _text(_filler(order)), service
    fields[6] = observed or _time(statement.created_at)
    fields[17] = _text(order.accession_number)
    fields[21], fields[24] = _time(statement.created_at), "P"
    return _segment("OBR", *fields)


def _observations(statement: Statement, names: Names) -> list[str]:
    rows = []
    for finding in statement.findings:
        for measurement in finding.measurements:
            concept = measurement.concept
            usual = f"{_text(concept.value)}^{_text(concept.meaning)}^{_scheme(concept.scheme_designator)}"
            named = names.observation_identifiers.get(concept.value, usual)
            unit = f"{_text(measurement.unit.value)}^{_text(measurement.unit.meaning)}^UCUM"
            rows.append(("NM", named, _text(finding.tracking_identifier), f"{measurement.value:.9g}", unit))
    rows += [("TX", "19005-8^Impression^LN", str(n), _text(line), "") for n, line in enumerate(statement.impression, 1)]
    when = _time(statement.created_at)
    who = f"{_text(statement.algorithm.identifier)}^{_text(statement.algorithm.version)}"
    return [
        _segment("OBX", str(number), kind, name, sub, value, unit, "", "", "", "", "P", "", "", when, "", "", "", who)
        for number, (kind, name, sub, value, unit) in enumerate(rows, 1)
    ]


def _filler(order: Order) -> str:
    """OBR-3 is required in ORU: without a filler order number the accession number stands for it."""
    return order.filler_order_number or order.accession_number or order.study_instance_uid


def _scheme(designator: str) -> str:
    """HL7 table 0396 for a DICOM coding scheme designator."""
    return {"SCT": "SCT", "DCM": "DCM", "LN": "LN", "UCUM": "UCUM"}.get(designator, "L")


def _segment(*fields: str) -> str:
    return "|".join(fields).rstrip("|") + "\r"


def _text(value: str) -> str:
    """Escaped (HL7 2.7), and without what would end a segment."""
    escaped = "".join(_ESCAPES.get(character, character) for character in value)
    return escaped.replace("\r", " ").replace("\n", " ")


def _time(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S%z")
