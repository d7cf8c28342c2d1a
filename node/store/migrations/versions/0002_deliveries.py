"""Confirmation of deliveries, and what is known of destinations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "delivery",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "delivered_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="last time that all objects were accepted",
        ),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("objects", sa.JSON(none_as_null=True), nullable=False, comment="UIDs of what was accepted, in order"),
        sa.Column(
            "transaction_uid",
            sa.String(length=64),
            nullable=True,
            comment="of the last storage commitment request",
        ),
        sa.Column(
            "check_after",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when to ask; null when there is nothing more to ask",
        ),
        sa.Column("checks", sa.Integer(), nullable=False, comment="times asked since it was delivered"),
        sa.Column("resends", sa.Integer(), nullable=False, comment="times it was lost and sent again"),
        sa.Column("last_error", sa.Text(), nullable=True, comment="why it is not confirmed; never patient data"),
        sa.CheckConstraint("state IN ('DELIVERED', 'CONFIRMED', 'LOST')", name=op.f("ck_delivery_state")),
        sa.CheckConstraint("(state = 'CONFIRMED') = (confirmed_at IS NOT NULL)", name=op.f("ck_delivery_confirmed_at")),
        sa.CheckConstraint(
            "state = 'DELIVERED' OR check_after IS NULL", name=op.f("ck_delivery_only_delivered_is_checked")
        ),
        sa.CheckConstraint("checks >= 0 AND resends >= 0", name=op.f("ck_delivery_counts")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_delivery_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_delivery_transaction_uid")),
    )
    op.create_index("ix_delivery_check", "delivery", ["destination", "check_after"], unique=False)
    op.create_table(
        "destination_state",
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column(
            "held_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="an operator holds its outbox since then; null when it flows",
        ),
        sa.Column("failures", sa.Integer(), nullable=False, comment="attempts in a row that did not reach it"),
        sa.Column(
            "closed_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="circuit breaker: nothing is tried before; null when it flows",
        ),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True, comment="never patient data"),
        sa.Column("learned", sa.JSON(none_as_null=True), nullable=False, comment="what it refused, and since when"),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_destination_state_failures")),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_destination_state")),
    )
