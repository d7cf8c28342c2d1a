"""Critical results and their notices; deliveries held one by one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATES = "state IN ('OPEN', 'ACKNOWLEDGED', 'UNANSWERED', 'WITHDRAWN')"


def upgrade() -> None:
    for name, comment in (
        ("critical", "delivered ahead of everything"),
        ("held", "an operator keeps it from being claimed"),
    ):
        column: sa.Column[bool] = sa.Column(
            name, sa.Boolean(), nullable=False, server_default=sa.false(), comment=comment
        )
        op.add_column("job", column)
    op.create_table(
        "notice",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "reference", sa.String(length=32), nullable=False, comment="what the notice is called towards people"
        ),
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False, comment="names of the critical findings, sorted"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("raised_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False, comment="how many recipients had their time"),
        sa.Column(
            "tries", sa.Integer(), nullable=False, comment="times that the recipient of this step could not be told"
        ),
        sa.Column(
            "told_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the recipient of this step was told; null when not yet",
        ),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when to act next; null when there is nothing more to do",
        ),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.String(length=128), nullable=True),
        sa.CheckConstraint(_STATES, name=op.f("ck_notice_state")),
        sa.CheckConstraint(
            "(state = 'ACKNOWLEDGED') = (acknowledged_at IS NOT NULL)", name=op.f("ck_notice_acknowledged_at")
        ),
        sa.CheckConstraint("state = 'OPEN' OR due_at IS NULL", name=op.f("ck_notice_only_open_is_due")),
        sa.CheckConstraint("step >= 0 AND tries >= 0", name=op.f("ck_notice_counts")),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_notice_result_id")),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_notice_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
        sa.UniqueConstraint("reference", name=op.f("uq_notice_reference")),
    )
    op.create_index(op.f("ix_notice_result_id"), "notice", ["result_id"], unique=False)
    op.create_index("ix_notice_study", "notice", ["study_instance_uid", "model"], unique=False)
    op.create_index("ix_notice_due", "notice", ["due_at"], unique=False)
    op.create_table(
        "notice_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("notice_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column(
            "recipient",
            sa.String(length=128),
            nullable=True,
            comment="name of the recipient in the configuration, or who acknowledged",
        ),
        sa.Column("message", sa.Text(), nullable=True, comment="error or reason; never patient data"),
        sa.ForeignKeyConstraint(["notice_id"], ["notice.id"], name=op.f("fk_notice_event_notice_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice_event")),
    )
    op.create_index(op.f("ix_notice_event_notice_id"), "notice_event", ["notice_id"], unique=False)
