"""Work begun before a study is whole, earlier studies of a patient, and images deleted after their time."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("study") as study:
        study.add_column(
            sa.Column(
                "patient_key",
                sa.String(length=64),
                nullable=True,
                comment="salted hash of Patient ID and its issuer; null: no ID",
            )
        )
        study.add_column(
            sa.Column(
                "study_date_time",
                sa.String(length=14),
                nullable=True,
                comment="YYYYMMDDHHMMSS as the images say it; null: no Study Date",
            )
        )
        study.add_column(
            sa.Column(
                "lane",
                sa.Integer(),
                nullable=True,
                comment="to which a critical finding raised the work of the study; null: not raised",
            )
        )
        study.create_check_constraint(op.f("ck_study_lane"), "lane IN (0, 1, 2)")
    op.create_index(op.f("ix_study_patient_key"), "study", ["patient_key"], unique=False)
    op.add_column(
        "job",
        sa.Column(
            "speculative",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="begun before the study was whole; its result is HELD",
        ),
    )
    op.add_column(
        "job",
        sa.Column(
            "saved_seconds",
            sa.Float(),
            nullable=True,
            comment="how much earlier it could be delivered, since it was begun early",
        ),
    )
    with op.batch_alter_table("result") as result:
        result.drop_constraint(op.f("ck_result_state"), type_="check")
        result.create_check_constraint(
            op.f("ck_result_state"), "state IN ('HELD', 'CURRENT', 'SUPERSEDED', 'WITHDRAWN')"
        )
    op.create_table(
        "expired_instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("expired_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"],
            ["series.series_instance_uid"],
            name=op.f("fk_expired_instance_series_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_expired_instance")),
    )
    op.create_index(
        op.f("ix_expired_instance_series_instance_uid"), "expired_instance", ["series_instance_uid"], unique=False
    )
