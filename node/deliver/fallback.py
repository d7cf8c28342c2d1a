"""What a destination refuses, and what it gets instead. Pure: decides only.

Objects: the fallback order of its profile (`DestinationProfile.without`). Transfer syntaxes: compressed pixels as
Explicit VR Little Endian, and that as Implicit VR Little Endian. What was refused is remembered, and tried again after
a day.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
REMEMBERED = timedelta(days=1)
_TRANSFER_SYNTAX_NOT_SUPPORTED = 4
_SOP_CLASS_NOT_SUPPORTED = 0x0122


@dataclass(frozen=True)
class Refusals:
    """SOP classes that a destination refuses, and (SOP class, transfer syntax) pairs; since when."""

    classes: Mapping[str, datetime] = field(default_factory=dict)
    syntaxes: Mapping[tuple[str, str], datetime] = field(default_factory=dict)

    def after(self, refused: Mapping[tuple[str, str], int], now: datetime) -> "Refusals":
        """With the refused contexts of a negotiation: results (PS3.8 Table 9-18) by SOP class and transfer syntax."""
        classes, syntaxes = dict(self.classes), dict(self.syntaxes)
        for (sop_class, syntax), result in refused.items():
            if result == _TRANSFER_SYNTAX_NOT_SUPPORTED and syntax != IMPLICIT_VR_LITTLE_ENDIAN:
                syntaxes[sop_class, syntax] = now
            else:
                classes[sop_class] = now
        return Refusals(classes, syntaxes)

    def after_status(self, sop_class: str, now: datetime) -> "Refusals":
        """With a SOP class that was refused by the status of C-STORE, or by the failure reason of STOW-RS."""
        return Refusals({**self.classes, sop_class: now}, self.syntaxes)

    def adds_to(self, other: "Refusals") -> bool:
        """Whether this says anything that `other` does not."""
        return not (self.classes.keys() <= other.classes.keys() and self.syntaxes.keys() <= other.syntaxes.keys())

    def syntax_for(self, sop_class: str, syntax: str) -> str:
        """The first transfer syntax that is not refused for an object of this class that is kept in `syntax`."""
        chain = list(_chain(syntax))
        return next((one for one in chain if (sop_class, one) not in self.syntaxes), chain[-1])

    def remembered(self) -> dict[str, str]:
        """As JSON of `destination_state.learned`."""
        return {
            **{f"class {uid}": since.isoformat() for uid, since in self.classes.items()},
            **{f"syntax {uid} {syntax}": since.isoformat() for (uid, syntax), since in self.syntaxes.items()},
        }


def recall(learned: Mapping[str, str], now: datetime) -> Refusals:
    """What was learned within the last day."""
    classes: dict[str, datetime] = {}
    syntaxes: dict[tuple[str, str], datetime] = {}
    for key, since in learned.items():
        match key.split():
            case ["class", uid] if now - datetime.fromisoformat(since) <= REMEMBERED:
                classes[uid] = datetime.fromisoformat(since)
            case ["syntax", uid, syntax] if now - datetime.fromisoformat(since) <= REMEMBERED:
                syntaxes[uid, syntax] = datetime.fromisoformat(since)
    return Refusals(classes, syntaxes)


def is_class_refused(status: int) -> bool:
    """Whether a status of C-STORE says that objects of this SOP class are not taken (PS3.4 Table B.2-1): SOP class not
    supported, or data set does not match SOP class."""
    return status == _SOP_CLASS_NOT_SUPPORTED or status & 0xFF00 == 0xA900


def _chain(syntax: str) -> Iterator[str]:
    yield syntax
    if syntax not in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        yield EXPLICIT_VR_LITTLE_ENDIAN
    if syntax != IMPLICIT_VR_LITTLE_ENDIAN:
        yield IMPLICIT_VR_LITTLE_ENDIAN
