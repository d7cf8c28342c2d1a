"""Deliveries as audit messages: one when the first attempt begins, one when the result has arrived or never will."""

from urllib.parse import urlsplit

from node.audit.events import instances_sent
from node.audit.trail import AnyTrail
from node.destination_settings import HttpDestination
from node.errors import Permanent
from node.settings import AnyDestination
from node.store.results import StoredResult


class DeliveryWitness:
    """Writes what leaves the node into the audit trail."""

    def __init__(self, trail: AnyTrail, ae_title: str) -> None:
        self._trail = trail
        self._ae_title = ae_title

    def begins(self, destination: AnyDestination, result: StoredResult) -> None:
        """The first attempt begins."""
        self._record(destination, result, begins=True)

    def ended(self, destination: AnyDestination, result: StoredResult, error: Exception | None) -> None:
        """It arrived, or it is given up."""
        self._record(destination, result, begins=False, problem=str(error) if isinstance(error, Permanent) else "")

    def _record(self, destination: AnyDestination, result: StoredResult, *, begins: bool, problem: str = "") -> None:
        event = instances_sent(
            self._ae_title,
            destination.name,
            getattr(destination, "ae_title", ""),
            address_of(destination),
            result.study_instance_uid,
            [one.sop_class_uid for one in result.objects],
            begins=begins,
            problem=problem,
        )
        self._trail.record(event)


def address_of(destination: AnyDestination) -> str:
    """Host of a destination; empty for one that has none."""
    if isinstance(destination, HttpDestination):
        return urlsplit(destination.url).hostname or ""
    return str(getattr(destination, "host", ""))
