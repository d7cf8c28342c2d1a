"""What follows from asking a destination whether it still has what it accepted. Pure: decides only.

- It has everything: CONFIRMED.
- It lacks something and says so for certain (a storage commitment report, or C-FIND without a match when asked for the
  third time or later, and the time before: archives index late): LOST, and everything is sent again.
- It was not reached, did not report, or failed in another way: asked again, each time later, at most `MOST_CHECKS`
  times.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from node.store.deliveries import Delivery

MOST_CHECKS = 60
FIND_TRIES = 3
LONGEST_WAIT_SECONDS = 3600.0

NO_SUCH_INSTANCE = 0x0112
_NOT_FOUND = "read-back: the archive does not find"


@dataclass(frozen=True)
class Confirmed:
    """The destination has every object."""


@dataclass(frozen=True)
class Lost:
    """The destination accepted objects that it does not have."""

    message: str


@dataclass(frozen=True)
class Unknown:
    """Ask again after `wait_seconds`; None: it is no use."""

    message: str
    wait_seconds: float | None


Verdict = Confirmed | Lost | Unknown


def judge_report(delivery: Delivery, committed: Iterable[str], failed: Mapping[str, int], first_wait: float) -> Verdict:
    """The verdict on a storage commitment report (PS3.4 J.3.3): UIDs committed to, failure reasons of the others."""
    ours = [one.sop_instance_uid for one in delivery.objects]
    kept = set(committed)
    missing = [uid for uid in ours if failed.get(uid) == NO_SUCH_INSTANCE]
    if missing:
        return Lost(f"storage commitment: the archive accepted and does not have {', '.join(missing)}")
    if all(uid in kept for uid in ours):
        return Confirmed()
    said = "; ".join(
        f"{uid}: {describe_failure(failed[uid]) if uid in failed else 'not named in the report'}"
        for uid in ours
        if uid not in kept
    )
    return unknown(delivery, f"storage commitment is not given: {said}", first_wait)


def judge_find(delivery: Delivery, found: Iterable[str], first_wait: float) -> Verdict:
    """The verdict on a read-back: the UIDs that a query found."""
    there = set(found)
    missing = [one.sop_instance_uid for one in delivery.objects if one.sop_instance_uid not in there]
    if not missing:
        return Confirmed()
    was_missing = (delivery.last_error or "").startswith(_NOT_FOUND)  # and not merely out of reach
    if was_missing and delivery.checks + 1 >= FIND_TRIES:
        return Lost(f"read-back: the archive accepted and does not find {', '.join(missing)}")
    return unknown(delivery, f"{_NOT_FOUND} {', '.join(missing)} yet", first_wait)


def unknown(delivery: Delivery, message: str, first_wait: float) -> Unknown:
    """Ask again: each wait is four times the last, up to an hour."""
    if delivery.checks + 1 >= MOST_CHECKS:
        return Unknown(f"{message}; asked {delivery.checks + 1} times, and not again", None)
    wait = max(first_wait, 0.2) * 4.0 ** min(delivery.checks + 1, 20)
    return Unknown(message, min(wait, LONGEST_WAIT_SECONDS))


def describe_failure(reason: int) -> str:
    """Failure Reason (0008,1197) of a storage commitment report (PS3.3 C.14.1.1)."""
    words = {
        0x0110: "processing failure",
        NO_SUCH_INSTANCE: "no such object instance",
        0x0119: "class and instance conflict",
        0x0122: "SOP class not supported for commitment",
        0x0131: "duplicate transaction UID",
        0x0213: "resource limitation",
    }
    return f"0x{reason:04X} ({words.get(reason, 'reason unknown to the standard')})"
