"""An archive that answers questions about what it keeps, and loses some of what it accepts.

C-STORE, C-FIND and storage commitment on a free loopback port; the report of a commitment comes on the same association
or on a new one to the node. Every `lose_every`-th C-STORE is answered 0x0000 and forgotten, every `stall_every`-th one
answered late, at every `die_every`-th one the archive dies and comes back; classes in `refuse` it does not take.
"""

import socket
import threading
import time
from contextlib import suppress
from typing import Any, Literal

from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from tests.counterparts import LOOPBACK, PATIENCE, free_port
from tests.faulty_archive import STORAGE_CLASSES


class LosingArchive:
    """Keeps UIDs only; `kept` counts how often each arrived and was not lost."""

    def __init__(
        self,
        lose_every: int = 0,
        *,
        report: Literal["same", "new", "never"] = "same",
        report_to: tuple[str, int] = ("OVERREAD", 0),
        services: tuple[str, ...] = ("find", "commitment"),
        refuse: tuple[str, ...] = (),
        stall_every: int = 0,
        stall_seconds: float = 5,
        die_every: int = 0,
    ) -> None:
        self.lose_every = lose_every
        self.report = report
        self.report_to = report_to
        self.services = services
        self.refuse = refuse
        self.stall_every = stall_every
        self.stall_seconds = stall_seconds
        self.die_every = die_every
        self.stalls = 0
        self.deaths = 0
        self.kept: dict[str, int] = {}
        self.lost: list[str] = []
        self.stores = 0
        self.requests: list[str] = []
        self.report_statuses: list[int] = []
        self.port = 0
        self._lock = threading.Lock()
        self._life = threading.Lock()
        self._closing = threading.Event()
        self._server: Any = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "LosingArchive":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(20 * PATIENCE)
        self._server.shutdown()

    def _start(self) -> None:
        application = AE(ae_title="LOSING")
        application.maximum_associations = 50
        application.add_supported_context(Verification)
        for name, uid in STORAGE_CLASSES.items():
            if name not in self.refuse:
                application.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
        if "find" in self.services:
            application.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if "commitment" in self.services:
            application.add_supported_context(StorageCommitmentPushModel)
        handlers = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_N_ACTION, self._on_action),
        ]
        self.port = self.port or free_port()  # which no connection of others is given while the archive is away
        self._server = application.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)

    def _die(self) -> None:
        """Cut all connections, listen no more, and come back a little later on the same port."""
        with self._life:
            if self._closing.is_set():
                return
            for association in self._server.active_associations:
                with suppress(OSError, AttributeError):  # it has ended by itself; its socket is None then
                    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
            self._server.shutdown()
            self._closing.wait(0.5)
            self._start()

    def _on_store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self.stores += 1
            number = self.stores
            if self.lose_every and number % self.lose_every == 0:
                self.lost.append(uid)
            else:
                self.kept[uid] = self.kept.get(uid, 0) + 1
        if self.stall_every and number % self.stall_every == 0:
            self.stalls += 1
            self._closing.wait(self.stall_seconds)
        if self.die_every and number % self.die_every == 0:
            self.deaths += 1
            thread = threading.Thread(target=self._die)
            self._threads.append(thread)
            thread.start()
        return 0x0000

    def _on_find(self, event: Any) -> Any:
        wanted = str(event.identifier.SOPInstanceUID)
        if wanted in self.kept:
            match = Dataset()
            match.QueryRetrieveLevel, match.SOPInstanceUID = "IMAGE", wanted
            yield 0xFF00, match
        yield 0x0000, None

    def _on_action(self, event: Any) -> Any:
        asked = event.action_information
        self.requests.append(str(asked.TransactionUID))
        if self.report != "never":
            send = self._report_same if self.report == "same" else self._report_new
            thread = threading.Thread(target=send, args=(event.assoc, self._judge(asked)))
            self._threads.append(thread)
            thread.start()
        return 0x0000, None

    def _judge(self, asked: Dataset) -> Dataset:
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        kept = [item for item in asked.ReferencedSOPSequence if str(item.ReferencedSOPInstanceUID) in self.kept]
        missing = [item for item in asked.ReferencedSOPSequence if item not in kept]
        for item in missing:
            item.FailureReason = 0x0112
        if kept:
            report.ReferencedSOPSequence = kept
        if missing:
            report.FailedSOPSequence = missing
        return report

    def _report_same(self, association: Any, report: Dataset) -> None:
        time.sleep(0.1)  # after the response to the request, mostly: it may come before
        self._send_report(association, report)

    def _report_new(self, _: Any, report: Dataset) -> None:
        application = AE(ae_title="LOSING")
        application.add_requested_context(StorageCommitmentPushModel)
        title, port = self.report_to
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = application.associate(LOOPBACK, port, ae_title=title, ext_neg=[role])
        if association.is_established:
            self._send_report(association, report)
            association.release()

    def _send_report(self, association: Any, report: Dataset) -> None:
        event_type = 2 if "FailedSOPSequence" in report else 1
        try:
            status, _ = association.send_n_event_report(
                report, event_type, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
            )
        except RuntimeError:  # whoever asked is gone
            return
        self.report_statuses.append(status.get("Status", -1) if status else -1)
