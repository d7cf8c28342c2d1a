"""Settling by evidence: releases, the archive's counts, and by what a study settled."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "series_release",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"],
            ["series.series_instance_uid"],
            name=op.f("fk_series_release_series_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series_release")),
    )
    op.create_index(
        op.f("ix_series_release_series_instance_uid"), "series_release", ["series_instance_uid"], unique=False
    )
    op.create_table(
        "study_count",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False, comment="images by Series Instance UID"),
        sa.Column("trust", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_study_count_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_study_count")),
    )
    op.create_table(
        "settlement",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_by", sa.String(length=32), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column(
            "resumed_seconds",
            sa.Float(),
            nullable=False,
            comment="longest gap between a release and the next image",
        ),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_settlement_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_settlement")),
    )
    op.create_index("ix_settlement_sender", "settlement", ["calling_ae_title", "settled_at"], unique=False)
