"""Instances whose files were deleted when nothing needed them any more: what is remembered of them."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from node.store.tables import expired_instance, instance, series


@dataclass(frozen=True)
class Expired:
    """Deleted images of a study that have not come again, and when the last one went."""

    instances: int = 0
    last_at: datetime | None = None


def expired_of_study(connection: Connection, study_instance_uid: str) -> Expired:
    """What was deleted of a study and is not here again."""
    number, last_at = connection.execute(
        select(func.count(), func.max(expired_instance.c.expired_at))
        .select_from(expired_instance.join(series))
        .outerjoin(instance, instance.c.sop_instance_uid == expired_instance.c.sop_instance_uid)
        .where(series.c.study_instance_uid == study_instance_uid, instance.c.sop_instance_uid.is_(None))
    ).one()
    return Expired(number, last_at)
