"""The desk: tells people of critical results, one after the other, until somebody acknowledges.

Every step stands in the database, so that a restart goes on where it was; a crash between telling and noting it tells
the same recipient once more, never none.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from pydicom import dcmread
from sqlalchemy import Engine

from dicom_sr.archive import RESULT_FILE
from dicom_sr.provenance import standing_of
from node.deliver.statement import read_order
from node.errors import Permanent
from node.logs import describe_error, get_logger
from node.notice_settings import Recipient
from node.notices.escalation import Escalate, GiveUp, Tell, WaitFor, decide
from node.notices.links import make_link
from node.notices.telling import signing_secret, tell
from node.notices.wording import Words
from node.rounds import Rounds, seconds_until
from node.settings import Settings
from node.store.database import read_transaction, write_transaction
from node.store.notices import (
    Notice,
    NoticeEvent,
    acknowledge_notice,
    change_notice,
    claim_notices,
    next_notice_at,
)
from node.store.results import get_result
from node.store.tables import NoticeState

Witness = Callable[[Notice, NoticeEvent, str], None]
"""Told each step after it was noted: the notice, the step, and the recipient or who acknowledged."""

_AT_ONCE = 1  # telling one may take most of the lease
_LEASE = timedelta(minutes=2)


class NoticeDesk:
    """Runs beside the lanes of the outbox; `run` works until `stop`.

    Parameters
    ----------
    now : callable
        The present moment, aware UTC.
    witness : callable
        The audit trail.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        now: Callable[[], datetime],
        witness: Witness = lambda notice, event, who: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._now = now
        self._witness = witness
        self._rounds = Rounds(self.step, self._failed, settings.deliver.poll_seconds)

    def run(self) -> None:
        """Work until `stop`."""
        self._rounds.run()

    def stop(self) -> None:
        """Tell nobody any more. Safe from any thread."""
        self._rounds.stop()

    def step(self) -> float:
        """Do what is due; seconds until there may be more."""
        now = self._now()
        with write_transaction(self._engine) as connection:
            due = claim_notices(connection, now, now + _LEASE, _AT_ONCE)
        for notice in due:
            self._attend(notice)
        with read_transaction(self._engine) as connection:
            following = next_notice_at(connection)
        return seconds_until(following, self._now(), self._settings.deliver.poll_seconds)

    def _failed(self, error: Exception) -> None:
        get_logger("notices").error("notices_failed", error=describe_error(error))

    def _attend(self, notice: Notice) -> None:
        """Take the next step of one notice."""
        settings, now = self._settings.notices, self._now()
        match decide(notice, settings, now):
            case Tell(recipient):
                self._tell(notice, recipient)
            case WaitFor(until):
                self._note(notice, None, "", due_at=until)
            case Escalate(recipient, reason):
                following = {"step": notice.step + 1, "tries": 0, "told_at": None, "due_at": now}
                self._note(notice, NoticeEvent.ESCALATED, recipient.name, reason, **following)
            case GiveUp(reason):
                self._note(notice, NoticeEvent.UNANSWERED, "", reason, state=NoticeState.UNANSWERED)

    def _tell(self, notice: Notice, recipient: Recipient) -> None:
        settings, now = self._settings.notices, self._now()
        identifier = f"{notice.reference.lower()}.{notice.step}"
        try:
            acknowledged_by = tell(settings, recipient, self._words(notice, recipient), identifier, now)
        except Exception as error:  # also one that nobody foresaw: the next recipient is told then
            after = now + timedelta(seconds=settings.retry_seconds)
            message = describe_error(error)
            self._note(notice, NoticeEvent.NOT_TOLD, recipient.name, message, tries=notice.tries + 1, due_at=after)
            return
        told = self._now()
        until = told + timedelta(minutes=recipient.wait_minutes)
        self._note(notice, NoticeEvent.TOLD, recipient.name, told_at=told, due_at=until)
        if acknowledged_by is not None:
            acknowledge(self._engine, notice.reference, acknowledged_by, self._now(), self._witness)

    def _words(self, notice: Notice, recipient: Recipient) -> Words:
        settings = self._settings.notices
        link = ""
        if settings.acknowledge_url:
            until = self._now() + timedelta(hours=settings.link_hours)
            try:
                secret = signing_secret(settings)
                link = make_link(settings.acknowledge_url, secret, notice.reference, recipient.name, until)
            except Permanent as error:  # a notice goes out without it rather than not at all
                get_logger("notices").error("notice_without_link", error=describe_error(error))
        facts = {str(name): value for name, value in self._facts(notice).items() if name in settings.say}
        standing = self._standing(notice)
        return Words(notice.reference, standing, facts, link, is_repeated=notice.step >= len(settings.recipients))

    def _standing(self, notice: Notice) -> str:
        """What may be done with the result; the most careful words where it cannot be read any more."""
        with read_transaction(self._engine) as connection:
            folder = get_result(connection, notice.result_id).folder
        try:
            stored = json.loads((self._settings.node.data_dir / folder / RESULT_FILE).read_text(encoding="utf-8"))
            return standing_of(not_for_clinical_use=stored["result"]["not_for_clinical_use"] is not False)
        except (OSError, ValueError, KeyError, TypeError):
            return standing_of(not_for_clinical_use=True)

    def _facts(self, notice: Notice) -> dict[str, str]:
        """Everything that may be said; the patient is looked up only where the configuration says so."""
        facts = {
            "study_instance_uid": notice.study_instance_uid,
            "model": notice.model,
            "findings": ", ".join(notice.findings),
        }
        wanted = any(name not in facts for name in self._settings.notices.say)
        return {**facts, **self._patient_facts(notice)} if wanted else facts

    def _patient_facts(self, notice: Notice) -> dict[str, str]:
        """Of the report, as it went to the archive; a notice goes out without them rather than not at all."""
        with read_transaction(self._engine) as connection:
            objects = get_result(connection, notice.result_id).objects
        for one in objects:
            try:
                order = read_order(dcmread(self._settings.node.data_dir / one.path, stop_before_pixels=True))
            except Exception as error:
                get_logger("notices").warning(
                    "notice_without_patient", notice=notice.reference, error=describe_error(error)
                )
                continue
            names = ("accession_number", "patient_id", "patient_name", "birth_date", "sex")
            return {name: getattr(order, name) for name in names}
        return {}

    def _note(
        self, notice: Notice, event: NoticeEvent | None, who: str, message: str | None = None, **values: Any
    ) -> None:
        with write_transaction(self._engine) as connection:
            changed = change_notice(
                connection, notice, event, self._now(), recipient=who or None, message=message, **values
            )
        if event is not None and changed:
            log_step(notice, event, who, message)
            self._witness(notice, event, who)


def acknowledge(engine: Engine, reference: str, who: str, now: datetime, witness: Witness) -> tuple[Notice, bool]:
    """Somebody says that they know; the notice, and whether nobody had said so before.

    Raises
    ------
    Permanent
        There is no such notice.
    """
    with write_transaction(engine) as connection:
        notice, first = acknowledge_notice(connection, reference, who, now)
    if first:
        log_step(notice, NoticeEvent.ACKNOWLEDGED, "", None)
        witness(notice, NoticeEvent.ACKNOWLEDGED, who)
    return notice, first


def log_step(notice: Notice, event: NoticeEvent, recipient: str, message: str | None) -> None:
    """One line for each step; who acknowledged stands in the database only."""
    log = get_logger("notices")
    write = log.error if event in (NoticeEvent.UNANSWERED, NoticeEvent.NOT_TOLD) else log.warning
    write(
        "critical_notice",
        step=str(event),
        notice=notice.reference,
        study=notice.study_instance_uid,
        recipient=recipient or None,
        reason=message,
    )
