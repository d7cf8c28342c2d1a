"""A Storage SCP that misbehaves on schedule: refuses, answers given statuses, stalls, hangs up, is away."""

import socket
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import Verification

from tests.counterparts import LOOPBACK, PATIENCE, free_port

STORAGE_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "LABELMAP": "1.2.840.10008.5.1.4.1.1.66.7",
    "ENHANCED_SR": "1.2.840.10008.5.1.4.1.1.88.22",
    "COMPREHENSIVE_SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "COMPREHENSIVE_3D_SR": "1.2.840.10008.5.1.4.1.1.88.34",
    "KEY_OBJECTS": "1.2.840.10008.5.1.4.1.1.88.59",
}


@dataclass(frozen=True)
class Answer:
    """Take the object if the status is a success or a warning, and answer this DIMSE status."""

    status: int


@dataclass(frozen=True)
class Drop:
    """Cut the connection once this many bytes of the association were read."""

    after_bytes: int


@dataclass(frozen=True)
class Abort:
    """Send A-ABORT instead of a response."""


@dataclass(frozen=True)
class Stall:
    """Answer nothing until `FaultyArchive.resume` is called, then 0x0000."""


@dataclass(frozen=True)
class Reject:
    """Reject the association (PS3.8 Table 9-21); defaults: called AE title not recognised."""

    result: int = 1
    source: int = 1
    reason: int = 7


Fault = Answer | Drop | Abort | Stall | Reject


@dataclass(frozen=True)
class Received:
    """One object that was taken, byte for byte."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    association: int
    data_set: bytes


class FaultyArchive:
    """Storage SCP on a free loopback port; each C-STORE (or association, for `Reject`) uses up one fault.

    With an empty schedule it is a good archive. `stop` and `start` make it leave and return on its port, which nobody
    else takes meanwhile. Of associations at the same time any may be the one that meets a fault.
    """

    def __init__(
        self,
        faults: Iterable[Fault] = (),
        *,
        refuse: Iterable[str] = (),
        ae_title: str = "FAULTY",
        check: bool = False,
    ) -> None:
        self.faults = deque(faults)
        self.received: list[Received] = []
        self.associations = 0
        self.ae_title = ae_title
        self.changed = threading.Condition()
        self._schedule = threading.Lock()
        self.stalled = threading.Event()
        self._resume = threading.Event()
        self._refuse = set(refuse)
        self._check_called_ae_title = check
        self._server: Any = None
        self.port = 0

    def __enter__(self) -> "FaultyArchive":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self.stop()

    def start(self) -> None:
        application = AE(ae_title=self.ae_title)
        application.require_called_aet = self._check_called_ae_title
        application.maximum_pdu_size = 16384
        application.network_timeout = application.dimse_timeout = 120
        application.add_supported_context(Verification)
        for name, uid in STORAGE_CLASSES.items():
            if name not in self._refuse and uid not in self._refuse:
                application.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
        handlers = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_DATA_RECV, self._on_bytes),
            (evt.EVT_C_STORE, self._on_store),
        ]
        self.port = self.port or free_port()  # which no connection of others is given while the archive is away
        self._server = application.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def resume(self) -> None:
        """Let stalled requests go on."""
        self._resume.set()

    def wait_for(self, count: int, seconds: float = 20.0) -> list[Received]:
        """What was received, once it is `count` objects; the test fails after `seconds` of a quiet machine."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.received) >= count, seconds * PATIENCE), (
                f"after {seconds:g} s the archive has {len(self.received)} of {count} objects"
            )
            return list(self.received)

    def _on_requested(self, event: Any) -> None:
        self.associations += 1
        event.assoc.bytes_read = 0
        event.assoc.is_dropped = False
        event.assoc.number = self.associations
        if isinstance(fault := self._next(Reject), Reject):
            event.assoc.acse.send_reject(fault.result, fault.source, fault.reason)
            event.assoc.is_rejected = True
            event.assoc.kill()

    def _on_bytes(self, event: Any) -> None:
        if not hasattr(event.assoc, "bytes_read"):
            return
        event.assoc.bytes_read += len(event.data)
        with self._schedule:
            fault = self.faults[0] if self.faults else None
            if not isinstance(fault, Drop) or event.assoc.bytes_read <= fault.after_bytes:
                return
            self.faults.popleft()
            event.assoc.is_dropped = True
        event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)

    def _on_store(self, event: Any) -> int:
        if event.assoc.is_dropped:  # what had arrived before the line was cut is still read
            return 0xC000
        fault = self._next(Answer, Abort, Stall) or Answer(0x0000)
        if isinstance(fault, Abort):
            event.assoc.abort()
            return 0xC000
        if isinstance(fault, Stall):
            self.stalled.set()
            self._resume.wait()
            fault = Answer(0x0000)
        assert isinstance(fault, Answer)
        if fault.status == 0 or 0xB000 <= fault.status < 0xC000:
            self._keep(event)
        return fault.status

    def _next(self, *kinds: type[Fault]) -> Fault | None:
        """Take the next fault from the schedule, if it is of one of these kinds."""
        with self._schedule:
            if self.faults and isinstance(self.faults[0], kinds):
                return self.faults.popleft()
        return None

    def _keep(self, event: Any) -> None:
        received = Received(
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
            sop_class_uid=str(event.request.AffectedSOPClassUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae_title=event.assoc.requestor.ae_title,
            association=event.assoc.number,
            data_set=event.encoded_dataset(include_meta=False),
        )
        with self.changed:
            self.received.append(received)
            self.changed.notify_all()
