"""What was asked of the node by a platform: studies to process."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Column, Index, Integer, String, Table, Text, UniqueConstraint

from node.store.tables.columns import UtcDateTime, metadata, one_of


class RequestState(StrEnum):
    """FETCHING: the images are to be brought from `source`. ACCEPTED: they are here, or come by themselves. FAILED:
    they could not be had."""

    FETCHING = "FETCHING"
    ACCEPTED = "ACCEPTED"
    FAILED = "FAILED"


# A study that a platform wants processed; one for each client and study, however often it asks.
process_request = Table(
    "process_request",
    metadata,
    Column("id", String(36), primary_key=True, comment="derived from client and study"),
    Column("client", String(16), nullable=False, comment="AE title of who asked"),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("source", String(64), comment="name of the source to bring images from; null: they come by themselves"),
    Column("state", String(16), nullable=False),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime, comment="when to try next: to fetch, or to tell that it failed; null: nothing to do"),
    Column("tries", Integer, nullable=False),
    Column("reason", Text, comment="why it failed, or is tried again; never patient data"),
    Column("told_at", UtcDateTime, comment="when the platform acknowledged that it failed"),
    CheckConstraint(one_of(RequestState), name="state"),
    CheckConstraint("state <> 'FETCHING' OR source IS NOT NULL", name="fetching_has_source"),
    UniqueConstraint("client", "study_instance_uid", name="uq_process_request_study"),
    Index("ix_process_request_due", "state", "due_at"),
)
