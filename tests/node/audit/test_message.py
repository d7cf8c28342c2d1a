"""Audit messages against the schema of PS3.15 A.5.1."""

from base64 import b64decode
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from node.audit import events
from node.audit.message import AuditEvent, Source, encode_message

SCHEMA = etree.RelaxNG(etree.parse(str(Path(__file__).with_name("audit_message.rng"))))
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
SEG, CT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.2"
EVENTS = {
    "start": events.application_activity("NODE", "listen", starts=True),
    "stop": events.application_activity("NODE", "listen", starts=False),
    "received": events.instances_received("NODE", "CT1", "10.1.2.3", "1.2.3", [CT] * 300),
    "received in part": events.instances_received("NODE", "CT1", "10.1.2.3", "1.2.3", [CT], whole=False),
    "begin": events.instances_sent("NODE", "pacs", "PACS", "pacs.example.org", "1.2.3", [SEG], begins=True),
    "sent": events.instances_sent("NODE", "pacs", "PACS", "fe80::1", "1.2.3", [SEG, SEG], begins=False),
    "not sent": events.instances_sent("NODE", "hook", "", "", "1.2.3", [], begins=False, problem="refused"),
    "used": events.instances_used("NODE", "brain-ventricles", "1.2.3", [CT]),
    "alert": events.security_alert("NODE", "EVIL", "10.9.9.9", "calling AE title is not known"),
    "alert of nobody": events.security_alert("NODE", "", "", "token", kind=events.USE_OF_RESTRICTED_FUNCTION),
    "told": events.critical_notice("NODE", "TOLD", "AB12", "1.2.3", "on-call"),
    "unanswered": events.critical_notice("NODE", "UNANSWERED", "AB12", "1.2.3", ""),
}


def read(event: AuditEvent, source: Source = Source("NODE", "Hospital")) -> etree._Element:
    message = etree.fromstring(encode_message(event, source, NOW))
    SCHEMA.assertValid(message)
    return message


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
def test_every_event_is_valid_by_the_schema(event: AuditEvent):
    message = read(event)
    assert message.find("EventIdentification").get("EventDateTime") == "2030-01-02T01:04:05.000+00:00"
    read(event, Source("NODE"))


def test_received_study_is_one_message_with_the_number_of_its_instances():
    message = read(EVENTS["received"])
    assert message.find(".//EventID").get("csd-code") == "110104"
    source, destination = message.findall("ActiveParticipant")
    assert (source.get("UserID"), source.get("AlternativeUserID")) == ("CT1", "AETITLE=CT1")
    assert (source.get("NetworkAccessPointID"), source.get("NetworkAccessPointTypeCode")) == ("10.1.2.3", "2")
    assert [one.find("RoleIDCode").get("csd-code") for one in (source, destination)] == ["110153", "110152"]
    study = message.find("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert dict(study.find(".//SOPClass").attrib) == {"UID": CT, "NumberOfInstances": "300"}


def test_failures_say_so():
    outcome = {
        name: read(event).find("EventIdentification").get("EventOutcomeIndicator") for name, event in EVENTS.items()
    }
    assert outcome["received in part"] == "4" and outcome["not sent"] == "8" and outcome["unanswered"] == "4"
    assert outcome["sent"] == outcome["told"] == "0"
    assert read(EVENTS["not sent"]).findtext(".//EventOutcomeDescription") == "refused"


def test_security_alert_says_what_happened():
    detail = read(EVENTS["alert"]).find(".//ParticipantObjectDetail")
    assert b64decode(detail.get("value")).decode() == "calling AE title is not known"


@given(st.text(max_size=40))
def test_text_from_outside_cannot_change_the_structure(text: str):
    event = events.instances_received("NODE", text, text, "1.2.3", [CT])
    alert = events.security_alert("NODE", text, text, text)
    for one in (event, alert):
        encoded = encode_message(one, Source(text or "x"), NOW)
        assert "\n" not in encoded and "\r" not in encoded
        SCHEMA.assertValid(etree.fromstring(encoded))
