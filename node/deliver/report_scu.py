"""Storage commitment reports to those who asked for them (PS3.4 J.3.3): N-EVENT-REPORT on an association of our own, on
which we are the SCP of storage commitment."""

from collections.abc import Callable

from node.deliver.association import associate, describe
from node.deliver.data_set import IMPLICIT_VR_LITTLE_ENDIAN
from node.deliver.line import Patience
from node.deliver.upper_layer import propose
from node.errors import Permanent, Transient
from node.receive.admission import STORAGE_COMMITMENT_UID
from node.receive.commitment import STORAGE_COMMITMENT_INSTANCE, Report, ReportWay
from node.settings import Destination, Settings


class ReportScu:
    """Knows where each requester is, and brings it its reports."""

    def __init__(self, settings: Settings) -> None:
        self._calling_ae_title = settings.node.ae_title
        self._timeout_seconds = settings.commitment.timeout_seconds
        self._destinations: dict[str, Destination | None] = {
            destination.ae_title: destination
            for destination in settings.destinations
            if isinstance(destination, Destination)
        }
        self._same_association: set[str] = set()
        for requester in settings.commitment.requesters:
            self._destinations[requester.ae_title] = requester.destination
            if requester.report == "same-association":
                self._same_association.add(requester.ae_title)

    def way(self, ae_title: str) -> ReportWay | None:
        """How the requester wants its reports; None when nobody of this AE title is known."""
        if ae_title not in self._destinations:
            return None
        return ReportWay(ae_title in self._same_association)

    def send(self, ae_title: str, report: Report, check: Callable[[], None]) -> None:
        """Hand over a report.

        Raises
        ------
        Transient, Permanent
            It was not taken; the message says why.
        """
        destination = self._destinations.get(ae_title)
        if destination is None:
            raise Permanent(
                f"requester {ae_title!r} did not take the report on the association of its request, and has no host in "
                "commitment.requesters: add host and port"
            )
        context = (STORAGE_COMMITMENT_UID, IMPLICIT_VR_LITTLE_ENDIAN)
        with associate(
            destination,
            self._calling_ae_title,
            propose([context]),
            Patience(self._timeout_seconds, check),
            scp_of=[STORAGE_COMMITMENT_UID],
        ) as association:
            if association.refused:
                raise Permanent(f"{describe(destination)} takes no storage commitment reports")
            status = association.event_report(
                *context, STORAGE_COMMITMENT_INSTANCE, report.event_type, report.encode(IMPLICIT_VR_LITTLE_ENDIAN)
            )
            if status:
                raise Transient(f"{describe(destination)} answered 0x{status:04X} to the storage commitment report")
