"""First tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=True, comment="null when nothing was kept"),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
    )
    op.create_table(
        "study",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("first_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_study")),
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("route", sa.String(length=64), nullable=False),
        sa.Column(
            "model",
            sa.String(length=128),
            nullable=False,
            comment="model identifier; empty when no route or model applied",
        ),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.CheckConstraint("outcome IN ('QUEUED', 'NOT_ANALYSED', 'NOT_WANTED')", name=op.f("ck_decision_outcome")),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_decision_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
        sa.UniqueConstraint("study_instance_uid", "route", "model", name="uq_decision_question"),
    )
    op.create_index(op.f("ix_decision_study_instance_uid"), "decision", ["study_instance_uid"], unique=False)
    op.create_table(
        "result",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "folder",
            sa.Text(),
            nullable=False,
            comment="relative to data_dir; holds the Result and the rendered objects",
        ),
        sa.Column(
            "summary",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="findings as shown by `overread jobs show`",
        ),
        sa.Column("timings", sa.JSON(none_as_null=True), nullable=False, comment="seconds per stage"),
        sa.CheckConstraint("state IN ('CURRENT', 'SUPERSEDED')", name=op.f("ck_result_state")),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_result_revision")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_result_job_id"), use_alter=True),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_result_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result")),
        sa.UniqueConstraint("job_id", name=op.f("uq_result_job_id")),
    )
    op.create_index(op.f("ix_result_study_instance_uid"), "result", ["study_instance_uid"], unique=False)
    op.create_index(
        "uq_result_current",
        "result",
        ["study_instance_uid", "model"],
        unique=True,
        sqlite_where=sa.text("state = 'CURRENT'"),
        postgresql_where=sa.text("state = 'CURRENT'"),
    )
    op.create_table(
        "series",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "settle_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="deadline: when the series settles if nothing more comes",
        ),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("called_ae_title", sa.String(length=16), nullable=False),
        sa.Column(
            "header",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="attributes that selection looks at, by keyword; no patient identity",
        ),
        sa.CheckConstraint("state IN ('RECEIVING', 'SETTLED')", name=op.f("ck_series_state")),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_series_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", name=op.f("pk_series")),
    )
    op.create_index("ix_series_settle", "series", ["state", "settle_at"], unique=False)
    op.create_index(op.f("ix_series_study_instance_uid"), "series", ["study_instance_uid"], unique=False)
    op.create_table(
        "instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "sha256",
            sa.String(length=64),
            nullable=False,
            comment="of the encoded data set, without the Part 10 header",
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "geometry",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="rows, columns, position, orientation, spacing, number of frames; null when absent",
        ),
        sa.Column(
            "pixel_offset",
            sa.BigInteger(),
            nullable=True,
            comment="byte offset of the Pixel Data value in the file; null when unknown",
        ),
        sa.Column(
            "pixel_length",
            sa.BigInteger(),
            nullable=True,
            comment="bytes of the Pixel Data value; null when undefined length or unknown",
        ),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"],
            ["series.series_instance_uid"],
            name=op.f("fk_instance_series_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_instance")),
    )
    op.create_index(op.f("ix_instance_series_instance_uid"), "instance", ["series_instance_uid"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False, comment="0 stat, 1 routine, 2 low"),
        sa.Column(
            "claim_order_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="enqueued, plus the ageing interval times the lane",
        ),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="attempts started; a release gives one back"),
        sa.Column("maximum_attempts", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=True, comment="who holds the lease"),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "cancel_requested",
            sa.Boolean(),
            nullable=False,
            comment="somebody asked the running worker to stop",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("route", sa.String(length=64), nullable=True),
        sa.Column("model", sa.String(length=128), nullable=True),
        sa.Column("model_digest", sa.String(length=64), nullable=True),
        sa.Column(
            "input_digest",
            sa.String(length=64),
            nullable=True,
            comment="of the chosen instances; names the input set",
        ),
        sa.Column(
            "inputs",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="model input name to list of SOP Instance UIDs",
        ),
        sa.Column(
            "destinations",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="names of the destinations of the route",
        ),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("result_id", sa.Integer(), nullable=True),
        sa.Column("destination", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "(kind = 'INFER' AND model IS NOT NULL AND model_digest IS NOT NULL AND input_digest IS NOT NULL"
            " AND inputs IS NOT NULL AND destinations IS NOT NULL AND revision IS NOT NULL AND revision >= 1)"
            " OR (kind = 'DELIVER' AND result_id IS NOT NULL AND destination IS NOT NULL)",
            name=op.f("ck_job_kind_has_columns"),
        ),
        sa.CheckConstraint("(state = 'RUNNING') = (worker IS NOT NULL)", name=op.f("ck_job_running_has_worker")),
        sa.CheckConstraint("NOT cancel_requested OR state = 'RUNNING'", name=op.f("ck_job_cancel_while_running")),
        sa.CheckConstraint("kind IN ('INFER', 'DELIVER')", name=op.f("ck_job_kind")),
        sa.CheckConstraint("state <> 'QUEUED' OR attempt < maximum_attempts", name=op.f("ck_job_queued_can_run")),
        sa.CheckConstraint(
            "state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')", name=op.f("ck_job_state")
        ),
        sa.CheckConstraint("(worker IS NULL) = (lease_expires_at IS NULL)", name=op.f("ck_job_lease_has_worker")),
        sa.CheckConstraint(
            "attempt >= 0 AND attempt <= maximum_attempts AND maximum_attempts >= 1",
            name=op.f("ck_job_attempts"),
        ),
        sa.CheckConstraint("priority IN (0, 1, 2)", name=op.f("ck_job_priority")),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_job_result_id")),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_job_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("result_id", "destination", name="uq_job_deliver"),
        sa.UniqueConstraint("study_instance_uid", "model", "model_digest", "input_digest", name="uq_job_infer"),
        sa.UniqueConstraint("study_instance_uid", "model", "revision", name="uq_job_revision"),
    )
    op.create_index("ix_job_claim", "job", ["kind", "state", "claim_order_at"], unique=False)
    op.create_index("ix_job_lease", "job", ["state", "lease_expires_at"], unique=False)
    op.create_index(op.f("ix_job_study_instance_uid"), "job", ["study_instance_uid"], unique=False)
    op.create_table(
        "result_object",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False, comment="segmentation, report, ..."),
        sa.Column(
            "position",
            sa.Integer(),
            nullable=False,
            comment="order of delivery: what is referred to goes first",
        ),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_result_object_result_id")),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_result_object")),
    )
    op.create_index(op.f("ix_result_object_result_id"), "result_object", ["result_id"], unique=False)
    op.create_table(
        "delivery_status",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False, comment="DIMSE status of the last attempt"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_delivery_status_job_id")),
        sa.PrimaryKeyConstraint("job_id", "sop_instance_uid", name=op.f("pk_delivery_status")),
    )
    op.create_table(
        "job_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True, comment="null when the job was created"),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=True),
        sa.Column("message", sa.Text(), nullable=True, comment="error or reason; never patient data"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_event_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_event")),
    )
    op.create_index(op.f("ix_job_event_job_id"), "job_event", ["job_id"], unique=False)
    if op.get_bind().dialect.supports_alter:  # SQLite has this foreign key in its table already
        op.create_foreign_key(op.f("fk_result_job_id"), "result", "job", ["job_id"], ["id"])
