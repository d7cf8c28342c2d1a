"""Vectors of studies, by which those that look alike are found."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "embedding",
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False, comment="of the model's output"),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column(
            "model_digest",
            sa.String(length=64),
            nullable=False,
            comment="vectors of another one cannot be compared",
        ),
        sa.Column(
            "vector", sa.LargeBinary(), nullable=False, comment="float32, little endian, of length 1 (Euclidean)"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_embedding_result_id")),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_embedding_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("result_id", "name", name=op.f("pk_embedding")),
    )
    op.create_index(op.f("ix_embedding_study_instance_uid"), "embedding", ["study_instance_uid"], unique=False)
    op.create_index("ix_embedding_kind", "embedding", ["model_digest", "name"], unique=False)
