"""What became of results outside: deliveries and their confirmation, storage commitment, and the destinations."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from node.store.tables.columns import Json, UtcDateTime, metadata, one_of


class DeliveryState(StrEnum):
    """DELIVERED: the destination answered that it took every object. CONFIRMED: asked again later, it says that it has
    them. LOST: it took them and does not have them; the job sends them again. One that is not asked stays DELIVERED."""

    DELIVERED = "DELIVERED"
    CONFIRMED = "CONFIRMED"
    LOST = "LOST"


class CommitmentState(StrEnum):
    """PENDING: a report is owed. REPORTED: the requester took it. ABANDONED: it could not be reached for too long."""

    PENDING = "PENDING"
    REPORTED = "REPORTED"
    ABANDONED = "ABANDONED"


# What a destination answered for each object (T5).
delivery_status = Table(
    "delivery_status",
    metadata,
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("status", Integer, nullable=False, comment="DIMSE status of the last attempt"),
    Column("at", UtcDateTime, nullable=False),
)

# What became of a delivery after the destination took it: accepted is not kept.
delivery = Table(
    "delivery",
    metadata,
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("delivered_at", UtcDateTime, nullable=False, comment="last time that all objects were accepted"),
    Column("confirmed_at", UtcDateTime),
    Column("objects", Json, nullable=False, comment="UIDs of what was accepted, in order"),
    Column("transaction_uid", String(64), unique=True, comment="of the last storage commitment request"),
    Column("check_after", UtcDateTime, comment="when to ask; null when there is nothing more to ask"),
    Column("checks", Integer, nullable=False, comment="times asked since it was delivered"),
    Column("resends", Integer, nullable=False, comment="times it was lost and sent again"),
    Column("last_error", Text, comment="why it is not confirmed; never patient data"),
    CheckConstraint(one_of(DeliveryState), name="state"),
    CheckConstraint("(state = 'CONFIRMED') = (confirmed_at IS NOT NULL)", name="confirmed_at"),
    CheckConstraint("state = 'DELIVERED' OR check_after IS NULL", name="only_delivered_is_checked"),
    CheckConstraint("checks >= 0 AND resends >= 0", name="counts"),
    Index("ix_delivery_check", "destination", "check_after"),
)

# Requests of others that we commit to the storage of what they sent (PS3.4 Annex J), until the report is taken.
commitment_request = Table(
    "commitment_request",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("calling_ae_title", String(16), nullable=False),
    Column("transaction_uid", String(64), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("objects", Json, nullable=False, comment="pairs of SOP Class UID and SOP Instance UID, as requested"),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, comment="times that the report could not be handed over"),
    Column("report_after", UtcDateTime, comment="when to report; null when nothing is owed"),
    Column("reported_at", UtcDateTime),
    Column("last_error", Text, comment="why it is not reported; never patient data"),
    CheckConstraint(one_of(CommitmentState), name="state"),
    CheckConstraint("(state = 'PENDING') = (report_after IS NOT NULL)", name="report_after"),
    CheckConstraint("(state = 'REPORTED') = (reported_at IS NOT NULL)", name="reported_at"),
    CheckConstraint("attempts >= 0", name="attempts"),
    UniqueConstraint("calling_ae_title", "transaction_uid", name="uq_commitment_request_transaction"),
    Index("ix_commitment_request_report_after", "report_after"),
)

# What is known of a destination beyond its configuration; no row: nothing has happened yet.
destination_state = Table(
    "destination_state",
    metadata,
    Column("destination", String(64), primary_key=True),
    Column("held_at", UtcDateTime, comment="an operator holds its outbox since then; null when it flows"),
    Column("failures", Integer, nullable=False, comment="attempts in a row that did not reach it"),
    Column("closed_until", UtcDateTime, comment="circuit breaker: nothing is tried before; null when it flows"),
    Column("last_success_at", UtcDateTime),
    Column("last_error_at", UtcDateTime),
    Column("last_error", Text, comment="never patient data"),
    Column("learned", Json, nullable=False, comment="what it refused, and since when"),
    CheckConstraint("failures >= 0", name="failures"),
)
