"""Studies that platforms ask for, and when the files of a result were deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "process_request",
        sa.Column("id", sa.String(length=36), nullable=False, comment="derived from client and study"),
        sa.Column("client", sa.String(length=16), nullable=False, comment="AE title of who asked"),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column(
            "source",
            sa.String(length=64),
            nullable=True,
            comment="name of the source to bring images from; null: they come by themselves",
        ),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when to try next: to fetch, or to tell that it failed; null: nothing to do",
        ),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True, comment="why it failed, or is tried again; never patient data"),
        sa.Column(
            "told_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the platform acknowledged that it failed",
        ),
        sa.CheckConstraint("state IN ('FETCHING', 'ACCEPTED', 'FAILED')", name=op.f("ck_process_request_state")),
        sa.CheckConstraint(
            "state <> 'FETCHING' OR source IS NOT NULL", name=op.f("ck_process_request_fetching_has_source")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_process_request")),
        sa.UniqueConstraint("client", "study_instance_uid", name="uq_process_request_study"),
    )
    op.create_index("ix_process_request_due", "process_request", ["state", "due_at"], unique=False)
    op.create_index(
        op.f("ix_process_request_study_instance_uid"), "process_request", ["study_instance_uid"], unique=False
    )
    op.add_column(
        "result",
        sa.Column(
            "expired_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when its files were deleted; null: they are here",
        ),
    )
