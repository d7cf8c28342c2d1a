"""Jobs that say why a study is not analysed."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "job",
        sa.Column(
            "refusal_code",
            sa.String(length=64),
            nullable=True,
            comment="why the study is not analysed: the job only says so; null: it does it",
        ),
    )
    op.add_column("job", sa.Column("refusal_text", sa.Text(), nullable=True, comment="the same in a sentence"))
