"""The lane of a job: the route's, or a higher one that the order asks for. Pure."""

from collections.abc import Sequence

from node.route_settings import Route
from node.store.catalogue import StoredSeries
from node.store.tables import Priority

ORDERED = {
    "STAT": Priority.STAT,
    "HIGH": Priority.STAT,
    "ROUTINE": Priority.ROUTINE,
    "MEDIUM": Priority.ROUTINE,
    "LOW": Priority.LOW,
}
"""Requested Procedure Priority (0040,1003), PS3.3 C.4.11."""


def lane_of(route: Route, chosen: Sequence[StoredSeries]) -> Priority:
    """The higher of the route's priority and the one that the images carry; what is not defined does not count.

    `chosen` are series of the study itself: how urgent an earlier one was says nothing now.
    """
    found = [ORDERED.get(str(each.header.get("RequestedProcedurePriority", "")).strip().upper()) for each in chosen]
    return min([Priority[route.priority.upper()], *(one for one in found if one is not None)])
