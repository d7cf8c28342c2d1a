"""Work and what came of it: jobs with their history, results with their objects, and embeddings."""

from enum import IntEnum, StrEnum

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from node.store.tables.columns import Json, UtcDateTime, metadata, one_of


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


class ResultState(StrEnum):
    """HELD: made before its study was whole; delivered nowhere until it is. CURRENT: what holds now. SUPERSEDED: a
    later revision replaced it. WITHDRAWN: was HELD, and the whole study asked for something else."""

    HELD = "HELD"
    CURRENT = "CURRENT"
    SUPERSEDED = "SUPERSEDED"
    WITHDRAWN = "WITHDRAWN"


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
    Column("refusal_code", String(64), comment="why the study is not analysed: the job only says so; null: it does it"),
    Column("refusal_text", Text, comment="the same in a sentence"),
    # DELIVER
    Column("result_id", Integer, ForeignKey("result.id")),
    Column("destination", String(64)),
    CheckConstraint(one_of(JobKind, "kind"), name="kind"),
    CheckConstraint(one_of(JobState), name="state"),
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
    Column("expired_at", UtcDateTime, comment="when its files were deleted; null: they are here"),
    CheckConstraint(one_of(ResultState), name="state"),
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
