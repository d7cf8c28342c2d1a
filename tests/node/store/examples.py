"""Rows for tests, with everything given that a test does not care about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from node.store.catalogue import ReceivedInstance, store_instances
from node.store.decisions import Decision
from node.store.tables import DecisionOutcome

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    """`NOW` plus this many seconds."""
    return NOW + timedelta(seconds=seconds)


def received(number: int = 1, *, series: str = "1.2.3", study: str = "1.2", **changes: Any) -> ReceivedInstance:
    """An instance with UIDs of its own for each (series, number)."""
    return replace(
        ReceivedInstance(
            sop_instance_uid=f"{series}.{number}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
            series_instance_uid=series,
            study_instance_uid=study,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            path=f"instances/{series}.{number}.dcm",
            size_bytes=1000 + number,
            digest=f"{number:064x}",
            received_at=later(number),
            calling_ae_title="MODALITY",
            called_ae_title="OVERREAD",
            series_header={"Modality": "MR", "Rows": 32},
            geometry={"ImagePositionPatient": [0.0, 0.0, float(number)]},
            pixel_offset=700,
            pixel_length=2048,
        ),
        **changes,
    )


def add_study(connection: Connection, study: str = "1.2") -> str:
    """A study with one instance, for rows that refer to a study."""
    store_instances(connection, [received(series=f"{study}.3", study=study)], later(30))
    return study


def decided(outcome: DecisionOutcome, code: str, model: str = "brain", seconds: float = 0) -> Decision:
    """An answer for study 1.2."""
    return Decision("1.2", "mr-brain", model, outcome, code, f"because {code}", later(seconds))
