"""Digests of stored data sets: BLAKE3. Those of SHA-256 are marked and stay, as long as their objects do."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_COMMENT = "BLAKE3 of the encoded data set, without the Part 10 header"


def upgrade() -> None:
    with op.batch_alter_table("instance") as table:
        table.alter_column(
            "sha256",
            new_column_name="digest",
            existing_type=sa.String(length=64),
            type_=sa.String(length=72),
            existing_nullable=False,
            comment=_COMMENT,
        )
    op.execute("UPDATE instance SET digest = 'sha256:' || digest")
