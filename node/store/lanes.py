"""The lane to which a critical finding raised the work of a study."""

from sqlalchemy import Connection, select

from node.store.tables import Priority, study


def raised_lane(connection: Connection, study_instance_uid: str) -> Priority | None:
    """The lane that further jobs of the study are given at least; None when nothing raised it."""
    lane = connection.scalar(select(study.c.lane).where(study.c.study_instance_uid == study_instance_uid))
    return None if lane is None else Priority(lane)
