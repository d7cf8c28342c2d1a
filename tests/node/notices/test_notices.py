"""Critical results told to people: a real mail server, webhooks, and a clock of the test's own."""

import hashlib
import hmac
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from structlog.testing import capture_logs

from node.notice_settings import NoticeSettings, Recipient
from node.notices.desk import acknowledge
from node.notices.links import LinkRefused, make_link, read_link
from node.store.database import read_transaction
from node.store.notices import list_notices
from node.store.results import get_result
from node.store.tables import NoticeState
from tests.certificates import make_authority
from tests.counterparts import LOOPBACK, free_port
from tests.http_stub import HttpStub
from tests.node.deliver.conftest import Node
from tests.node.notices.conftest import HEMORRHAGE, MailServer, Ward, by_mail, ward_of

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_first_recipient_is_told_and_nobody_else_once_they_acknowledge(ward: Ward, mail_server: MailServer):
    ward.node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after()
    assert mail_server.to() == ["first@example.org"]
    ward.after(9)
    acknowledge(ward.node.engine, ward.notice().reference.lower(), "Dr. A", ward.now, lambda *step: None)
    ward.after(60)
    assert mail_server.to() == ["first@example.org"]
    assert ward.notice().state is NoticeState.ACKNOWLEDGED
    assert ward.history() == [("RAISED", None), ("TOLD", "first"), ("ACKNOWLEDGED", "Dr. A")]


def test_who_does_not_answer_is_followed_by_the_next_and_then_everybody_again(ward: Ward, mail_server: MailServer):
    ward.node.add_result("pacs", critical=[HEMORRHAGE])
    for minutes in (0, 9.9, 0.2, 9.9, 0.2, 10.1, 10.1, 60):
        ward.after(minutes)
    assert mail_server.to() == [f"{name}@example.org" for name in ("first", "second", "first", "second")]
    assert ward.notice().state is NoticeState.UNANSWERED
    told = ["ESCALATED", "TOLD"]
    assert [event for event, _ in ward.steps] == ["TOLD", *told * 3, "ESCALATED", "UNANSWERED"]
    assert [event for event, _ in ward.history()][1:] == [event for event, _ in ward.steps]
    assert [str(mail["Subject"]).endswith("(again)") for mail in mail_server.mails] == [False, False, True, True]


def test_result_without_critical_finding_tells_nobody(ward: Ward, mail_server: MailServer):
    ward.node.add_result("pacs")
    ward.after()
    assert mail_server.mails == []


def test_notice_says_nothing_but_its_reference_and_the_study_unless_asked(ward: Ward, mail_server: MailServer):
    (job,) = ward.node.add_result("pacs", critical=[HEMORRHAGE])
    with capture_logs() as lines:
        ward.after()
    (mail,) = mail_server.mails
    assert str(mail["Subject"]) == f"Critical AI result {ward.notice().reference}"
    assert job.study_instance_uid in mail_server.texts[0] and "not verified by a physician" in mail_server.texts[0]
    for telling in ("canary", HEMORRHAGE.lower(), "brain"):
        assert telling not in (mail.as_string() + mail_server.texts[0]).lower()
    assert "canary" not in json.dumps(lines, default=str).lower()


def test_notice_says_what_is_asked_for(node: Node, mail_server: MailServer):
    say = ("patient_id", "findings", "accession_number")
    ward = ward_of(node, [by_mail("first")], smtp_port=mail_server.port, say=say)
    (job,) = node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after()
    (text,) = mail_server.texts
    assert "Patient ID: CANARY-77" in text and f"Finding: {HEMORRHAGE}" in text
    assert "Carla" not in text and job.study_instance_uid not in text and "Accession" not in text


@pytest.mark.parametrize(
    ("stored", "is_for_use"),
    [
        ('{"result": {"not_for_clinical_use": false}}', True),
        ('{"result": {"not_for_clinical_use": true}}', False),
        ("", False),
    ],
)
def test_notice_says_of_its_use_what_the_report_says(
    ward: Ward, mail_server: MailServer, stored: str, is_for_use: bool
):
    """Where the result cannot be read, the more careful words."""
    (job,) = ward.node.add_result("pacs", critical=[HEMORRHAGE])
    with read_transaction(ward.node.engine) as connection:
        folder = get_result(connection, job.result_id or 0).folder
    (ward.node.folder / folder / "result.json").write_text(stored)
    ward.after()
    standing = "Result of an AI algorithm, not verified by a physician."
    assert mail_server.texts[0].splitlines()[-1] == ("" if is_for_use else "Not for clinical use. ") + standing


def test_patient_that_cannot_be_read_does_not_stop_a_notice(node: Node, mail_server: MailServer):
    ward = ward_of(node, [by_mail("first")], smtp_port=mail_server.port, say=("patient_id",))
    node.add_result("pacs", critical=[HEMORRHAGE])
    for path in node.folder.glob("results/*/*.dcm"):
        path.write_bytes(b"")
    ward.after()
    assert "Patient" not in mail_server.texts[0]


@pytest.mark.parametrize("answer", ["451 later", "550 no such user"])
def test_recipient_who_is_refused_is_tried_again(ward: Ward, mail_server: MailServer, answer: str):
    mail_server.refuse = [answer]
    ward.node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after()
    assert mail_server.mails == [] and ward.history()[-1] == ("NOT_TOLD", "first")
    ward.after(1)
    assert mail_server.to() == ["first@example.org"]


def test_mail_server_that_is_away_passes_to_the_next_recipient_and_says_why(node: Node):
    with HttpStub(lambda request: (200, {}, b"")) as hook:
        second = Recipient(name="second", webhook=f"{hook.url}/page")
        ward = ward_of(node, [by_mail("first"), second], smtp_port=free_port())
        node.add_result("pacs", critical=[HEMORRHAGE])
        for _ in range(5):
            ward.after(1)
        assert len(hook.requests) == 1
    assert [step for step, _ in ward.history()] == ["RAISED", *["NOT_TOLD"] * 3, "ESCALATED", "TOLD"]
    with capture_logs() as lines:
        ward.after(60)
        ward.after(60)
    reasons = [line["reason"] for line in lines if line["step"] == "NOT_TOLD"]
    assert reasons and f"mail server {LOOPBACK}:" in reasons[0] and "Connection refused" in reasons[0]


def test_password_and_starttls(tmp_path: Path, node: Node):
    authority = make_authority(tmp_path / "ca")
    certificate, key = authority.issue("mail")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with MailServer(tls=context, password="right").running() as server:
        secure = {"smtp_security": "starttls", "smtp_ca_file": str(authority.ca), "smtp_port": server.port}
        login = {"smtp_user": "node", "smtp_password_file": str(password)}
        ward = ward_of(node, [by_mail("first")], **secure, **login)
        node.add_result("pacs", critical=[HEMORRHAGE])
        ward.after()
        assert server.mails == [] and ward.history()[-1] == ("NOT_TOLD", "first")
        password.write_text("right\n")
        ward.after(1)
        assert server.to() == ["first@example.org"]


def test_mail_server_without_starttls_gets_no_mail(node: Node, mail_server: MailServer):
    ward = ward_of(node, [by_mail("first")], smtp_port=mail_server.port, smtp_security="starttls")
    node.add_result("pacs", critical=[HEMORRHAGE])
    with capture_logs() as lines:
        ward.after()
    assert mail_server.mails == []
    assert "offers no STARTTLS" in lines[0]["reason"]


def test_webhook_is_signed_and_may_acknowledge_at_once(node: Node):
    with HttpStub(lambda request: (200, {}, b'{"acknowledged_by": "pager 7"}')) as hook:
        recipient = Recipient(name="pager", webhook=f"{hook.url}/page")
        ward = ward_of(node, [recipient, by_mail("second")], smtp_port=1)
        (job,) = node.add_result("pacs", critical=[HEMORRHAGE])
        ward.after()
        ward.after(60)
        (request,) = hook.requests
    told = json.loads(request.content)
    assert told["study_instance_uid"] == job.study_instance_uid and told["reference"] == ward.notice().reference
    assert set(told) == {"event", "reference", "again", "acknowledge_url", "caution", "study_instance_uid"}
    timestamp, digest = (part.split("=")[1] for part in request.headers["X-Overread-Signature"].split(","))
    assert hmac.new(b"s3cret", f"{timestamp}.".encode() + request.content, hashlib.sha256).hexdigest() == digest
    assert ward.notice().acknowledged_by == "pager 7"


def test_restart_goes_on_where_it_was_and_tells_nobody_twice(ward: Ward, mail_server: MailServer):
    ward.node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after(desk=ward.desk())
    ward.after(5, desk=ward.desk())
    assert mail_server.to() == ["first@example.org"]
    ward.after(6, desk=ward.desk())
    assert mail_server.to() == ["first@example.org", "second@example.org"]


def test_crash_between_telling_and_noting_tells_once_more_under_the_same_message_id(
    ward: Ward, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
):
    ward.node.add_result("pacs", critical=[HEMORRHAGE])
    dying = ward.desk()
    monkeypatch.setattr(dying, "_note", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dying.step()
    ward.after(1)
    assert len(mail_server.mails) == 1, "the lease of the dead desk holds"
    ward.after(2)
    first, again = mail_server.mails
    assert first["Message-ID"] == again["Message-ID"] and ward.history()[1:] == [("TOLD", "first")]


def test_next_revision_with_the_same_findings_is_the_same_notice(ward: Ward, mail_server: MailServer):
    (job,) = ward.node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after()
    ward.node.add_result("pacs", study=job.study_instance_uid, digest="d2", critical=[HEMORRHAGE])
    ward.after(1)
    assert len(mail_server.mails) == 1 and ward.notice().result_id == 2


def test_notice_of_findings_that_a_later_result_does_not_have_is_withdrawn(ward: Ward, mail_server: MailServer):
    (job,) = ward.node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after()
    ward.node.add_result("pacs", study=job.study_instance_uid, digest="d2")
    ward.after(60)
    assert len(mail_server.mails) == 1
    assert ward.notice().state is NoticeState.WITHDRAWN and ward.history()[-1][0] == "WITHDRAWN"


def test_other_findings_are_another_notice(ward: Ward, mail_server: MailServer):
    (job,) = ward.node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after()
    ward.node.add_result("pacs", study=job.study_instance_uid, digest="d2", critical=[HEMORRHAGE, "Fracture"])
    ward.after(1)
    assert len(mail_server.mails) == 2
    with read_transaction(ward.node.engine) as connection:
        states = [one.state for one in list_notices(connection)]
    assert states == [NoticeState.OPEN, NoticeState.WITHDRAWN]


def test_mail_carries_a_link_that_names_notice_and_recipient(node: Node, mail_server: MailServer):
    url = "https://node.example.org/notices/acknowledge"
    ward = ward_of(node, [by_mail("first")], smtp_port=mail_server.port, acknowledge_url=url)
    node.add_result("pacs", critical=[HEMORRHAGE])
    ward.after()
    (link,) = [word for word in mail_server.texts[0].split() if word.startswith(url)]
    query = dict(parse_qsl(urlsplit(link).query))
    assert read_link(query, b"s3cret", ward.now) == (ward.notice().reference, "first")


def test_link_that_cannot_be_signed_is_left_out_and_the_mail_goes(node: Node, mail_server: MailServer):
    url = "https://node.example.org/notices/acknowledge"
    ward = ward_of(node, [by_mail("first")], smtp_port=mail_server.port, acknowledge_url=url)
    (node.folder / "secret").write_text("\n")
    node.add_result("pacs", critical=[HEMORRHAGE])
    with capture_logs() as lines:
        ward.after()
    assert len(mail_server.mails) == 1 and url not in mail_server.texts[0]
    said = [line["error"] for line in lines if line["event"] == "notice_without_link"]
    assert said and "secret is empty" in said[0]


@pytest.mark.parametrize("changed", ["notice", "by", "until", "signature"])
def test_link_that_was_changed_is_refused(changed: str):
    link = make_link("https://x/y", b"secret", "AB12", "first", NOW + timedelta(hours=1))
    query = dict(parse_qsl(urlsplit(link).query))
    assert read_link(query, b"secret", NOW) == ("AB12", "first")
    for value in ("", "9999999999", "é"):
        with pytest.raises(LinkRefused, match="not one of this node"):
            read_link({**query, changed: value}, b"secret", NOW)
    with pytest.raises(LinkRefused, match="has ended"):
        read_link(query, b"secret", NOW + timedelta(hours=2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"recipients": [{"name": "a"}]}, "either mail or webhook"),
        ({"recipients": [{"name": "a", "mail": "a@b"}]}, "needs smtp_host"),
        ({"recipients": [{"name": "a", "webhook": "http://b"}]}, "needs secret_file"),
        ({"recipients": [{"name": "a", "mail": "a@b"}] * 2, "smtp_host": "m", "mail_from": "n@b"}, "the same name"),
        ({"smtp_user": "me"}, "belong together"),
        ({"acknowledge_url": "https://node"}, "needs secret_file"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict, words: str):
    with pytest.raises(ValueError, match=words):
        NoticeSettings.model_validate(given)
