"""A node whose notices go to a real mail server, on a clock of the test's own."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from node.notice_settings import NoticeSettings, Recipient
from node.notices.desk import NoticeDesk
from node.settings import Settings
from node.store.database import read_transaction
from node.store.notices import Notice, NoticeEvent, list_notices, notice_history
from tests.counterparts import LOOPBACK, free_port
from tests.node.deliver.conftest import Node, node, real  # noqa: F401

HEMORRHAGE = "Intracranial hemorrhage"


@dataclass
class MailServer:
    """aiosmtpd on loopback: the mails that it took. `refuse` are answers to the next RCPT commands instead of 250."""

    refuse: list[str] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    password: str = ""
    mails: list[Message] = field(default_factory=list)
    port: int = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.refuse:
            return self.refuse.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        known = isinstance(data, LoginPassword) and data.password.decode() == self.password
        return AuthResult(success=known, handled=known)

    def to(self) -> list[str]:
        return [str(mail["To"]) for mail in self.mails]

    @property
    def texts(self) -> list[str]:
        return [bytes(mail.get_payload(decode=True)).decode() for mail in self.mails]

    @contextmanager
    def running(self) -> Iterator["MailServer"]:
        self.port = free_port()
        more: dict[str, Any] = {"tls_context": self.tls, "require_starttls": True} if self.tls else {}
        if self.password:
            more |= {"authenticator": self.authenticate, "auth_required": True, "auth_require_tls": bool(self.tls)}
        controller = Controller(self, hostname=LOOPBACK, port=self.port, ready_timeout=30, **more)
        controller.start()
        try:
            yield self
        finally:
            controller.stop()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer().running() as server:
        yield server


@dataclass
class Ward:
    """People to tell, and a desk that tells them."""

    node: Node
    settings: Settings
    # after all that a test does now, however slow the machine is
    now: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(hours=1))
    steps: list[tuple[str, str]] = field(default_factory=list)

    def desk(self) -> NoticeDesk:
        def witness(notice: Notice, event: NoticeEvent, who: str) -> None:
            self.steps.append((event.value, who))

        return NoticeDesk(self.node.engine, self.settings, lambda: self.now, witness)

    def after(self, minutes: float = 0, *, desk: NoticeDesk | None = None) -> None:
        """What the desk does until nothing is due, this much later."""
        self.now += timedelta(minutes=minutes)
        at_work = desk or self.desk()
        for _ in range(20):
            at_work.step()

    def notice(self) -> Notice:
        with read_transaction(self.node.engine) as connection:
            (found,) = list_notices(connection)
        return found

    def history(self) -> list[tuple[str, str | None]]:
        with read_transaction(self.node.engine) as connection:
            return [(line.event.value, line.recipient) for line in notice_history(connection, self.notice().notice_id)]


def ward_of(site: Node, recipients: list[Recipient], **more: Any) -> Ward:
    secret = site.folder / "secret"
    secret.write_text("s3cret\n")
    given = {
        "smtp_host": LOOPBACK,
        "smtp_security": "none",
        "mail_from": "node@example.org",
        "secret_file": str(secret),
    }
    notices = NoticeSettings(recipients=tuple(recipients), **{**given, **more})
    return Ward(site, site.settings().model_copy(update={"notices": notices}))


def by_mail(name: str, minutes: float = 10) -> Recipient:
    return Recipient(name=name, mail=f"{name}@example.org", wait_minutes=minutes)


@pytest.fixture
def ward(node: Node, mail_server: MailServer) -> Ward:  # noqa: F811 (the fixture above)
    """Two people, told by mail, ten minutes each, gone through twice."""
    return ward_of(node, [by_mail("first"), by_mail("second")], smtp_port=mail_server.port, rounds=2)
