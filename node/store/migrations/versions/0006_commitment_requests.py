"""Requests for storage commitment, until their reports are taken."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "commitment_request",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "objects", sa.JSON(), nullable=False, comment="pairs of SOP Class UID and SOP Instance UID, as requested"
        ),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="times that the report could not be handed over"),
        sa.Column(
            "report_after",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when to report; null when nothing is owed",
        ),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True, comment="why it is not reported; never patient data"),
        sa.CheckConstraint("state IN ('PENDING', 'REPORTED', 'ABANDONED')", name=op.f("ck_commitment_request_state")),
        sa.CheckConstraint(
            "(state = 'PENDING') = (report_after IS NOT NULL)", name=op.f("ck_commitment_request_report_after")
        ),
        sa.CheckConstraint(
            "(state = 'REPORTED') = (reported_at IS NOT NULL)", name=op.f("ck_commitment_request_reported_at")
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_commitment_request_attempts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_request")),
        sa.UniqueConstraint("calling_ae_title", "transaction_uid", name=op.f("uq_commitment_request_transaction")),
    )
    op.create_index(op.f("ix_commitment_request_report_after"), "commitment_request", ["report_after"], unique=False)
