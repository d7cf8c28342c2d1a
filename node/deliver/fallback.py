"""What a destination gets instead of what it refuses. Pure: decides only.

The order: Comprehensive 3D SR, Comprehensive SR, Enhanced SR; a report without its segmentation; Implicit VR Little
Endian for what is refused in Explicit VR. What was refused is remembered, and tried again after a day.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT_STORAGE = {
    "comprehensive-3d": "1.2.840.10008.5.1.4.1.1.88.34",
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
}
"""SOP Class UIDs of reports by the name of their `ReportClass`, in the order in which they are tried."""

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
REMEMBERED = timedelta(days=1)
_TRANSFER_SYNTAX_NOT_SUPPORTED = 4


@dataclass(frozen=True)
class Refusals:
    """SOP classes that a destination refuses, and those that it takes in Implicit VR only; since when."""

    classes: Mapping[str, datetime] = field(default_factory=dict)
    explicit: Mapping[str, datetime] = field(default_factory=dict)

    def after(self, refused: Mapping[tuple[str, str], int], now: datetime) -> "Refusals":
        """With the refused contexts of a negotiation: results (PS3.8 Table 9-18) by SOP class and transfer syntax."""
        classes, explicit = dict(self.classes), dict(self.explicit)
        for (sop_class, syntax), result in refused.items():
            if result == _TRANSFER_SYNTAX_NOT_SUPPORTED and syntax != IMPLICIT_VR_LITTLE_ENDIAN:
                explicit[sop_class] = now
            else:
                classes[sop_class] = now
        return Refusals(classes, explicit)

    def remembered(self) -> dict[str, str]:
        """As JSON of `destination_state.learned`."""
        return {
            **{f"refuses {uid}": since.isoformat() for uid, since in self.classes.items()},
            **{f"implicit {uid}": since.isoformat() for uid, since in self.explicit.items()},
        }


def recall(learned: Mapping[str, str], now: datetime) -> Refusals:
    """What was learned within the last day."""
    found = Refusals({}, {})
    for key, since in learned.items():
        what, _, uid = key.partition(" ")
        moment = datetime.fromisoformat(since)
        if now - moment > REMEMBERED:
            continue
        if what == "refuses":
            found = replace(found, classes={**found.classes, uid: moment})
        else:
            found = replace(found, explicit={**found.explicit, uid: moment})
    return found


@dataclass(frozen=True)
class Form:
    """How a result is written for a destination: which report class, and whether with its segmentation."""

    report: str = "comprehensive-3d"
    with_segmentation: bool = True

    @property
    def name(self) -> str:
        """Name of the profile, part of the UIDs of what is rendered; the usual form is the one on disk already."""
        if self == USUAL:
            return "conservative"
        return f"conservative-{self.report}" + ("" if self.with_segmentation else "-without-segmentation")


USUAL = Form()


def choose_form(refusals: Refusals) -> Form | None:
    """The first form that a destination with these refusals takes; None when it takes no report at all."""
    for report, uid in REPORT_STORAGE.items():
        if uid not in refusals.classes:
            return Form(report, SEGMENTATION_STORAGE not in refusals.classes)
    return None
