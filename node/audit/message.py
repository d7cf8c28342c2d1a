"""A DICOM audit message (PS3.15 A.5.1) in XML. Pure.

Elements and attributes in the order of the standard's schema. Text that came from outside (an AE title, a reason)
stands in attributes, escaped, or base64 encoded in details, so that it cannot change the structure.
"""

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from xml.etree import ElementTree

from pydicom.sr.coding import Code


class Action(Enum):
    """Event Action Code."""

    CREATE = "C"
    READ = "R"
    EXECUTE = "E"


class Outcome(Enum):
    """Event Outcome Indicator."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"
    MAJOR_FAILURE = "12"


@dataclass(frozen=True)
class Participant:
    """Active Participant: who took part.

    Parameters
    ----------
    user_id : str
        AE title, host and process, or the name of a person.
    role : Code
        CID 402.
    is_requestor : bool
    ae_title : str
        Also written as Alternative User ID.
    address : str
        IP address or machine name, where it came over the network.
    """

    user_id: str
    role: Code
    is_requestor: bool = False
    ae_title: str = ""
    address: str = ""


@dataclass(frozen=True)
class InvolvedObject:
    """Participant Object: what it was about.

    Parameters
    ----------
    identifier : str
        Participant Object ID.
    kind : Code
        CID 404.
    name : str
        Required by the schema; says nothing that `identifier` does not.
    type_code, role : str
        Participant Object Type Code and its role, A.5.1.2.2.
    details : tuple of (str, str)
        Further values by name.
    instances : tuple of (str, int)
        Number of instances by SOP Class UID.
    """

    identifier: str
    kind: Code
    name: str
    type_code: str = "2"
    role: str = ""
    details: tuple[tuple[str, str], ...] = ()
    instances: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class AuditEvent:
    """What happened; `description` says why it failed."""

    event: Code
    action: Action
    participants: tuple[Participant, ...]
    objects: tuple[InvolvedObject, ...] = ()
    types: tuple[Code, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    description: str = ""


@dataclass(frozen=True)
class Source:
    """Audit Source Identification: this node."""

    source_id: str
    enterprise_site_id: str = ""


_APPLICATION_SERVER = "4"
_IP_ADDRESS, _MACHINE_NAME = "2", "1"


def encode_message(event: AuditEvent, source: Source, at: datetime) -> str:
    """The message on one line, without XML declaration; `at` is aware."""
    root = ElementTree.Element("AuditMessage")
    head = ElementTree.SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action.value,
        EventDateTime=at.astimezone(UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=event.outcome.value,
    )
    _coded(head, "EventID", event.event)
    for kind in event.types:
        _coded(head, "EventTypeCode", kind)
    if event.description:
        ElementTree.SubElement(head, "EventOutcomeDescription").text = _printable(event.description)
    for participant in event.participants:
        _add_participant(root, participant)
    who = {"AuditEnterpriseSiteID": source.enterprise_site_id} if source.enterprise_site_id else {}
    who["AuditSourceID"] = source.source_id
    origin = ElementTree.SubElement(
        root, "AuditSourceIdentification", {name: _printable(value) for name, value in who.items()}
    )
    ElementTree.SubElement(origin, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    for one in event.objects:
        _add_object(root, one)
    return ElementTree.tostring(root, encoding="unicode")


def _add_participant(root: ElementTree.Element, participant: Participant) -> None:
    attributes = {"UserID": _printable(participant.user_id)}
    if participant.ae_title:
        attributes["AlternativeUserID"] = f"AETITLE={_printable(participant.ae_title)}"
    attributes["UserIsRequestor"] = "true" if participant.is_requestor else "false"
    if participant.address:
        is_number = participant.address.replace(".", "").isdigit() or ":" in participant.address
        attributes["NetworkAccessPointID"] = _printable(participant.address)
        attributes["NetworkAccessPointTypeCode"] = _IP_ADDRESS if is_number else _MACHINE_NAME
    _coded(ElementTree.SubElement(root, "ActiveParticipant", attributes), "RoleIDCode", participant.role)


def _add_object(root: ElementTree.Element, one: InvolvedObject) -> None:
    attributes = {"ParticipantObjectID": _printable(one.identifier), "ParticipantObjectTypeCode": one.type_code}
    if one.role:
        attributes["ParticipantObjectTypeCodeRole"] = one.role
    element = ElementTree.SubElement(root, "ParticipantObjectIdentification", attributes)
    _coded(element, "ParticipantObjectIDTypeCode", one.kind)
    ElementTree.SubElement(element, "ParticipantObjectName").text = _printable(one.name)
    for name, value in one.details:
        encoded = b64encode(value.encode("utf-8")).decode("ascii")
        ElementTree.SubElement(element, "ParticipantObjectDetail", type=name, value=encoded)
    if one.instances:
        description = ElementTree.SubElement(element, "ParticipantObjectDescription")
        for sop_class_uid, number in one.instances:
            ElementTree.SubElement(description, "SOPClass", UID=sop_class_uid, NumberOfInstances=str(number))


def _coded(parent: ElementTree.Element, name: str, code: Code) -> None:
    attributes = {"csd-code": code.value, "codeSystemName": code.scheme_designator, "originalText": code.meaning}
    ElementTree.SubElement(parent, name, attributes)


def _printable(text: str) -> str:
    """Without control characters, which XML cannot hold and a line must not."""
    return "".join(character if character.isprintable() else " " for character in text)
