"""What the columns of all tables share: names of constraints, times in UTC, JSON, and states as CHECK constraints."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, MetaData, TypeDecorator

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; naive values are refused. SQLite keeps it as text that sorts in time order."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was given; times are aware and UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class EncodedJson(dict[str, Any]):
    """A JSON object that brings its text along, which is made where nobody waits for it."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        super().__init__(value)
        self.text = json.dumps(value)


Json = JSON(none_as_null=True)
"""JSON; None is NULL and not the JSON word ``null``."""


def one_of(states: type[StrEnum], column: str = "state") -> str:
    """The condition that a column holds one of these states."""
    return f"{column} IN ({', '.join(repr(state.value) for state in states)})"
