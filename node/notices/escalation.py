"""What is to be done about a notice. Pure: decides only.

Recipients are told one after the other; each has `wait_minutes` to acknowledge before the next one is told as well. Who
cannot be told is tried again, `maximum_tries` times, and then passed over. The list is gone through `rounds` times.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from node.notice_settings import NoticeSettings, Recipient
from node.store.notices import Notice


@dataclass(frozen=True)
class Tell:
    """Tell this recipient now."""

    recipient: Recipient


@dataclass(frozen=True)
class WaitFor:
    """This recipient has until then."""

    until: datetime


@dataclass(frozen=True)
class Escalate:
    """This recipient did not answer, or could not be told: go on with the next."""

    recipient: Recipient
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """Everybody was told as often as configured."""

    reason: str


Step = Tell | WaitFor | Escalate | GiveUp


def decide(notice: Notice, settings: NoticeSettings, now: datetime) -> Step:
    """The next step of an open notice; there must be recipients."""
    recipients = settings.recipients
    if notice.step >= len(recipients) * settings.rounds:
        return GiveUp(f"nobody of {len(recipients)} recipients acknowledged in {settings.rounds} rounds")
    recipient = recipients[notice.step % len(recipients)]
    if notice.told_at is None:
        if notice.tries < settings.maximum_tries:
            return Tell(recipient)
        return Escalate(recipient, f"could not be told in {notice.tries} tries")
    until = notice.told_at + timedelta(minutes=recipient.wait_minutes)
    if now < until:
        return WaitFor(until)
    return Escalate(recipient, f"did not acknowledge within {recipient.wait_minutes:g} minutes")
