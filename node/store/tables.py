"""The tables, with their invariants as constraints. Migrations in `migrations/` create exactly these.

Times are aware and UTC. Paths are relative to `data_dir`. Columns named `*_uid` hold DICOM UIDs.
"""

from datetime import UTC, datetime
from enum import IntEnum, StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; naive values are refused. SQLite keeps it as text that sorts in time order."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was given; times are aware and UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = JSON(none_as_null=True)
"""JSON; None is NULL and not the JSON word ``null``."""


class SeriesState(StrEnum):
    """RECEIVING: images may still come, `settle_at` is the deadline. SETTLED: whole, as far as evidence
    says; an image that comes later brings it back to RECEIVING."""

    RECEIVING = "RECEIVING"
    SETTLED = "SETTLED"


class JobKind(StrEnum):
    """INFER: run a model on an input set. DELIVER: send one result to one destination."""

    INFER = "INFER"
    DELIVER = "DELIVER"


class JobState(StrEnum):
    """QUEUED: waits for `run_after` and a worker. RUNNING: leased by `worker`. SUCCEEDED, FAILED (dead
    letter: attempts used up or a permanent error) and CANCELLED are final until an operator requeues."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Priority(IntEnum):
    """Lanes, served in this order; `Priority[route.priority.upper()]` is the lane of a route. A job that
    waits long draws level with the lane above it (`job.claim_order_at`)."""

    STAT = 0
    ROUTINE = 1
    LOW = 2


class DecisionOutcome(StrEnum):
    """QUEUED: a job was made. NOT_ANALYSED: wanted, and could not be taken. NOT_WANTED: no route or model
    applied."""

    QUEUED = "QUEUED"
    NOT_ANALYSED = "NOT_ANALYSED"
    NOT_WANTED = "NOT_WANTED"


class ResultState(StrEnum):
    """HELD: made before its study was whole; delivered nowhere until it is. CURRENT: what holds now. SUPERSEDED: a
    later revision replaced it. WITHDRAWN: was HELD, and the whole study asked for something else."""

    HELD = "HELD"
    CURRENT = "CURRENT"
    SUPERSEDED = "SUPERSEDED"
    WITHDRAWN = "WITHDRAWN"


def _one_of(states: type[StrEnum], column: str = "state") -> str:
    return f"{column} IN ({', '.join(repr(state.value) for state in states)})"


study = Table(
    "study",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("patient_key", String(64), index=True, comment="salted hash of Patient ID and its issuer; null: no ID"),
    Column("study_date_time", String(14), comment="YYYYMMDDHHMMSS as the images say it; null: no Study Date"),
    Column("lane", Integer, comment="to which a critical finding raised the work of the study; null: not raised"),
    CheckConstraint("lane IN (0, 1, 2)", name="lane"),
)

# `header` is what selection needs of the first instance that came.
series = Table(
    "series",
    metadata,
    Column("series_instance_uid", String(64), primary_key=True),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column(
        "settle_at",
        UtcDateTime,
        nullable=False,
        comment="deadline: when the series settles if nothing more comes",
    ),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("called_ae_title", String(16), nullable=False),
    Column(
        "header",
        Json,
        nullable=False,
        comment="attributes that selection looks at, by keyword; no patient identity",
    ),
    CheckConstraint(_one_of(SeriesState), name="state"),
    Index("ix_series_settle", "state", "settle_at"),
)

# An association that had sent images of a series was released.
series_release = Table(
    "series_release",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "series_instance_uid",
        String(64),
        ForeignKey("series.series_instance_uid"),
        nullable=False,
        index=True,
    ),
    Column("released_at", UtcDateTime, nullable=False),
)

# What an archive last counted of a study that is being received.
study_count = Table(
    "study_count",
    metadata,
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), primary_key=True),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("counts", Json, nullable=False, comment="images by Series Instance UID"),
    Column("trust", String(8), nullable=False),
)

# By which evidence a study settled last, and how its sender behaved: what the next studies are judged by.
settlement = Table(
    "settlement",
    metadata,
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), primary_key=True),
    Column("settled_at", UtcDateTime, nullable=False),
    Column("settled_by", String(32), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("resumed_seconds", Float, nullable=False, comment="longest gap between a release and the next image"),
    Index("ix_settlement_sender", "calling_ae_title", "settled_at"),
)

# One row per acknowledged SOP instance (T1).
instance = Table(
    "instance",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column(
        "series_instance_uid",
        String(64),
        ForeignKey("series.series_instance_uid"),
        nullable=False,
        index=True,
    ),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False, comment="of the encoded data set, without the Part 10 header"),
    Column("received_at", UtcDateTime, nullable=False),
    Column(
        "geometry",
        Json,
        comment="rows, columns, position, orientation, spacing, number of frames; null when absent",
    ),
    Column(
        "pixel_offset",
        BigInteger,
        comment="byte offset of the Pixel Data value in the file; null when unknown",
    ),
    Column(
        "pixel_length",
        BigInteger,
        comment="bytes of the Pixel Data value; null when undefined length or unknown",
    ),
)

# Instances whose files were deleted when nothing needed them any more: what a study had, and when it went.
expired_instance = Table(
    "expired_instance",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column(
        "series_instance_uid",
        String(64),
        ForeignKey("series.series_instance_uid"),
        nullable=False,
        index=True,
    ),
    Column("expired_at", UtcDateTime, nullable=False),
)

# What arrived and could not be taken: kept in quarantine/ where an operator can see it.
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("code", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("path", Text, comment="null when nothing was kept"),
    Column("sop_instance_uid", String(64)),
    Column("calling_ae_title", String(16)),
)

# Why a study did or did not lead to work: one row per question asked at settling, the last answer wins.
decision = Table(
    "decision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False, index=True),
    Column("route", String(64), nullable=False),
    Column("model", String(128), nullable=False, comment="model identifier; empty when no route or model applied"),
    Column("outcome", String(16), nullable=False),
    Column("code", String(64), nullable=False),
    Column("message", Text, nullable=False),
    UniqueConstraint("study_instance_uid", "route", "model", name="uq_decision_question"),
    CheckConstraint(_one_of(DecisionOutcome, "outcome"), name="outcome"),
)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False, comment="0 stat, 1 routine, 2 low"),
    Column(
        "claim_order_at",
        UtcDateTime,
        nullable=False,
        comment="enqueued, plus the ageing interval times the lane",
    ),
    Column("run_after", UtcDateTime, nullable=False),
    Column("critical", Boolean, nullable=False, server_default=false(), comment="delivered ahead of everything"),
    Column("held", Boolean, nullable=False, server_default=false(), comment="an operator keeps it from being claimed"),
    Column("attempt", Integer, nullable=False, comment="attempts started; a release gives one back"),
    Column("maximum_attempts", Integer, nullable=False),
    Column("worker", String(128), comment="who holds the lease"),
    Column("lease_expires_at", UtcDateTime),
    Column("cancel_requested", Boolean, nullable=False, comment="somebody asked the running worker to stop"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False, index=True),
    Column("last_error", Text),
    # INFER
    Column("route", String(64)),
    Column("model", String(128)),
    Column("model_digest", String(64)),
    Column("input_digest", String(64), comment="of the chosen instances; names the input set"),
    Column("inputs", Json, comment="model input name to list of SOP Instance UIDs"),
    Column("destinations", Json, comment="names of the destinations of the route"),
    Column("revision", Integer),
    Column(
        "speculative",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="begun before the study was whole; its result is HELD",
    ),
    Column("saved_seconds", Float, comment="how much earlier it could be delivered, since it was begun early"),
    # DELIVER
    Column("result_id", Integer, ForeignKey("result.id")),
    Column("destination", String(64)),
    CheckConstraint(_one_of(JobKind, "kind"), name="kind"),
    CheckConstraint(_one_of(JobState), name="state"),
    CheckConstraint("(state = 'RUNNING') = (worker IS NOT NULL)", name="running_has_worker"),
    CheckConstraint("(worker IS NULL) = (lease_expires_at IS NULL)", name="lease_has_worker"),
    CheckConstraint("NOT cancel_requested OR state = 'RUNNING'", name="cancel_while_running"),
    CheckConstraint("attempt >= 0 AND attempt <= maximum_attempts AND maximum_attempts >= 1", name="attempts"),
    CheckConstraint("state <> 'QUEUED' OR attempt < maximum_attempts", name="queued_can_run"),
    CheckConstraint("priority IN (0, 1, 2)", name="priority"),
    CheckConstraint(
        "(kind = 'INFER' AND model IS NOT NULL AND model_digest IS NOT NULL AND input_digest IS NOT NULL"
        " AND inputs IS NOT NULL AND destinations IS NOT NULL AND revision IS NOT NULL AND revision >= 1)"
        " OR (kind = 'DELIVER' AND result_id IS NOT NULL AND destination IS NOT NULL)",
        name="kind_has_columns",
    ),
    # NULL differs from NULL in a UNIQUE constraint, so these bind only the kind that fills the columns.
    UniqueConstraint("study_instance_uid", "model", "model_digest", "input_digest", name="uq_job_infer"),
    UniqueConstraint("study_instance_uid", "model", "revision", name="uq_job_revision"),
    UniqueConstraint("result_id", "destination", name="uq_job_deliver"),
    Index("ix_job_claim", "kind", "state", "claim_order_at"),
    Index("ix_job_lease", "state", "lease_expires_at"),
)

# The history of each job: one row per transition, written in the same transaction.
job_event = Table(
    "job_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, ForeignKey("job.id"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("event", String(16), nullable=False),
    Column("from_state", String(16), comment="null when the job was created"),
    Column("to_state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", String(128)),
    Column("message", Text, comment="error or reason; never patient data"),
)

result = Table(
    "result",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, ForeignKey("job.id", use_alter=True), nullable=False, unique=True),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False, index=True),
    Column("model", String(128), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column(
        "folder",
        Text,
        nullable=False,
        comment="relative to data_dir; holds the Result and the rendered objects",
    ),
    Column("summary", Json, nullable=False, comment="findings as shown by `overread jobs show`"),
    Column("timings", Json, nullable=False, comment="seconds per stage"),
    CheckConstraint(_one_of(ResultState), name="state"),
    CheckConstraint("revision >= 1", name="revision"),
    Index(
        "uq_result_current",
        "study_instance_uid",
        "model",
        unique=True,
        sqlite_where=text("state = 'CURRENT'"),
        postgresql_where=text("state = 'CURRENT'"),
    ),
)

result_object = Table(
    "result_object",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("result_id", Integer, ForeignKey("result.id"), nullable=False, index=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("role", String(32), nullable=False, comment="segmentation, report, ..."),
    Column("position", Integer, nullable=False, comment="order of delivery: what is referred to goes first"),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
)

# What a destination answered for each object (T5).
delivery_status = Table(
    "delivery_status",
    metadata,
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("status", Integer, nullable=False, comment="DIMSE status of the last attempt"),
    Column("at", UtcDateTime, nullable=False),
)


class DeliveryState(StrEnum):
    """DELIVERED: the destination answered that it took every object. CONFIRMED: asked again later, it says that it has
    them. LOST: it took them and does not have them; the job sends them again. One that is not asked stays DELIVERED."""

    DELIVERED = "DELIVERED"
    CONFIRMED = "CONFIRMED"
    LOST = "LOST"


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
    CheckConstraint(_one_of(DeliveryState), name="state"),
    CheckConstraint("(state = 'CONFIRMED') = (confirmed_at IS NOT NULL)", name="confirmed_at"),
    CheckConstraint("state = 'DELIVERED' OR check_after IS NULL", name="only_delivered_is_checked"),
    CheckConstraint("checks >= 0 AND resends >= 0", name="counts"),
    Index("ix_delivery_check", "destination", "check_after"),
)


class CommitmentState(StrEnum):
    """PENDING: a report is owed. REPORTED: the requester took it. ABANDONED: it could not be reached for too long."""

    PENDING = "PENDING"
    REPORTED = "REPORTED"
    ABANDONED = "ABANDONED"


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
    CheckConstraint(_one_of(CommitmentState), name="state"),
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
    CheckConstraint(_one_of(NoticeState), name="state"),
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

# A vector that a model made of a study, by which studies that look alike are found.
embedding = Table(
    "embedding",
    metadata,
    Column("result_id", Integer, ForeignKey("result.id"), primary_key=True),
    Column("name", String(64), primary_key=True, comment="of the model's output"),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False, index=True),
    Column("model", String(128), nullable=False),
    Column("model_digest", String(64), nullable=False, comment="vectors of another one cannot be compared"),
    Column("vector", LargeBinary, nullable=False, comment="float32, little endian, of length 1 (Euclidean)"),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_embedding_kind", "model_digest", "name"),
)
