"""Critical results of which somebody is to be told, and every step of telling them."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, String, Table, Text

from node.store.tables.columns import Json, UtcDateTime, metadata, one_of


class NoticeState(StrEnum):
    """OPEN: somebody is to be told, and is told again or another one after them, until somebody says they know.
    ACKNOWLEDGED: somebody did. UNANSWERED: everybody was told as often as configured, and nobody did. WITHDRAWN: a
    later result no longer says it."""

    OPEN = "OPEN"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    UNANSWERED = "UNANSWERED"
    WITHDRAWN = "WITHDRAWN"


# A critical result of which somebody is to be told: one row for the same findings of a model in a study.
notice = Table(
    "notice",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("reference", String(32), nullable=False, unique=True, comment="what the notice is called towards people"),
    Column("result_id", Integer, ForeignKey("result.id"), nullable=False, index=True),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False),
    Column("model", String(128), nullable=False),
    Column("findings", Json, nullable=False, comment="names of the critical findings, sorted"),
    Column("state", String(16), nullable=False),
    Column("raised_at", UtcDateTime, nullable=False),
    Column("step", Integer, nullable=False, comment="how many recipients had their time"),
    Column("tries", Integer, nullable=False, comment="times that the recipient of this step could not be told"),
    Column("told_at", UtcDateTime, comment="when the recipient of this step was told; null when not yet"),
    Column("due_at", UtcDateTime, comment="when to act next; null when there is nothing more to do"),
    Column("acknowledged_at", UtcDateTime),
    Column("acknowledged_by", String(128)),
    CheckConstraint(one_of(NoticeState), name="state"),
    CheckConstraint("(state = 'ACKNOWLEDGED') = (acknowledged_at IS NOT NULL)", name="acknowledged_at"),
    CheckConstraint("state = 'OPEN' OR due_at IS NULL", name="only_open_is_due"),
    CheckConstraint("step >= 0 AND tries >= 0", name="counts"),
    Index("ix_notice_study", "study_instance_uid", "model"),
    Index("ix_notice_due", "due_at"),
)

# Every step of a notice, written in the same transaction.
notice_event = Table(
    "notice_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("notice_id", Integer, ForeignKey("notice.id"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("event", String(16), nullable=False),
    Column("recipient", String(128), comment="name of the recipient in the configuration, or who acknowledged"),
    Column("message", Text, comment="error or reason; never patient data"),
)
