"""What arrived and what was made of it: studies, series, instances, counts, settlements, decisions, quarantine."""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from node.store.tables.columns import Json, UtcDateTime, metadata, one_of


class SeriesState(StrEnum):
    """RECEIVING: images may still come, `settle_at` is the deadline. SETTLED: whole, as far as evidence
    says; an image that comes later brings it back to RECEIVING."""

    RECEIVING = "RECEIVING"
    SETTLED = "SETTLED"


class DecisionOutcome(StrEnum):
    """QUEUED: a job was made. NOT_ANALYSED: wanted, and could not be taken. NOT_WANTED: no route or model
    applied."""

    QUEUED = "QUEUED"
    NOT_ANALYSED = "NOT_ANALYSED"
    NOT_WANTED = "NOT_WANTED"


study = Table(
    "study",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("patient_key", String(64), index=True, comment="salted hash of Patient ID and its issuer; null: no ID"),
    Column("study_date_time", String(14), comment="YYYYMMDDHHMMSS as the images say it; null: no Study Date"),
    Column("lane", Integer, comment="to which a critical finding raised the work of the study; null: not raised"),
    CheckConstraint("lane IN (0, 1, 2)", name="lane"),
)

# `header` is what selection needs of the first instance that came.
series = Table(
    "series",
    metadata,
    Column("series_instance_uid", String(64), primary_key=True),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column(
        "settle_at",
        UtcDateTime,
        nullable=False,
        comment="deadline: when the series settles if nothing more comes",
    ),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("called_ae_title", String(16), nullable=False),
    Column(
        "header",
        Json,
        nullable=False,
        comment="attributes that selection looks at, by keyword; no patient identity",
    ),
    CheckConstraint(one_of(SeriesState), name="state"),
    Index("ix_series_settle", "state", "settle_at"),
)

# An association that had sent images of a series was released.
series_release = Table(
    "series_release",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "series_instance_uid",
        String(64),
        ForeignKey("series.series_instance_uid"),
        nullable=False,
        index=True,
    ),
    Column("released_at", UtcDateTime, nullable=False),
)

# What an archive last counted of a study that is being received.
study_count = Table(
    "study_count",
    metadata,
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), primary_key=True),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("counts", Json, nullable=False, comment="images by Series Instance UID"),
    Column("trust", String(8), nullable=False),
)

# By which evidence a study settled last, and how its sender behaved: what the next studies are judged by.
settlement = Table(
    "settlement",
    metadata,
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), primary_key=True),
    Column("settled_at", UtcDateTime, nullable=False),
    Column("settled_by", String(32), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("resumed_seconds", Float, nullable=False, comment="longest gap between a release and the next image"),
    Index("ix_settlement_sender", "calling_ae_title", "settled_at"),
)

# One row per acknowledged SOP instance (T1).
instance = Table(
    "instance",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column(
        "series_instance_uid",
        String(64),
        ForeignKey("series.series_instance_uid"),
        nullable=False,
        index=True,
    ),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", String(72), nullable=False, comment="BLAKE3 of the encoded data set, without the Part 10 header"),
    Column("received_at", UtcDateTime, nullable=False),
    Column(
        "geometry",
        Json,
        comment="rows, columns, position, orientation, spacing, number of frames; null when absent",
    ),
    Column(
        "pixel_offset",
        BigInteger,
        comment="byte offset of the Pixel Data value in the file; null when unknown",
    ),
    Column(
        "pixel_length",
        BigInteger,
        comment="bytes of the Pixel Data value; null when undefined length or unknown",
    ),
)

# Instances whose files were deleted when nothing needed them any more: what a study had, and when it went.
expired_instance = Table(
    "expired_instance",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column(
        "series_instance_uid",
        String(64),
        ForeignKey("series.series_instance_uid"),
        nullable=False,
        index=True,
    ),
    Column("expired_at", UtcDateTime, nullable=False),
)

# What arrived and could not be taken: kept in quarantine/ where an operator can see it.
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("code", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("path", Text, comment="null when nothing was kept"),
    Column("sop_instance_uid", String(64)),
    Column("calling_ae_title", String(16)),
)

# Why a study did or did not lead to work: one row per question asked at settling, the last answer wins.
decision = Table(
    "decision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("study_instance_uid", String(64), ForeignKey("study.study_instance_uid"), nullable=False, index=True),
    Column("route", String(64), nullable=False),
    Column("model", String(128), nullable=False, comment="model identifier; empty when no route or model applied"),
    Column("outcome", String(16), nullable=False),
    Column("code", String(64), nullable=False),
    Column("message", Text, nullable=False),
    UniqueConstraint("study_instance_uid", "route", "model", name="uq_decision_question"),
    CheckConstraint(one_of(DecisionOutcome, "outcome"), name="outcome"),
)
