"""What the outbox needs of a way to send results, whatever the kind of the destination."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from node.errors import Permanent, Transient
from node.jobs.job import Job
from node.store.deliveries import AcceptedObject
from node.store.results import ResultObject, StoredResult

Check = Callable[[], None]
"""Called again and again while waiting; raises to give up, e.g. because the process is asked to stop."""


LONGEST_RETRY_AFTER_SECONDS = 3600.0


class Unreachable(Transient):
    """The destination was not reached or took no association: what happened has nothing to do with the result.

    `retry_after_seconds` is how long it wants to be left alone, if it said so: at most `LONGEST_RETRY_AFTER_SECONDS`.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotTaken(Transient):
    """Not everything arrived, and trying again may help; `statuses` are the answers that came, by SOP Instance UID."""

    def __init__(self, message: str, statuses: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.statuses = dict(statuses or {})


class NeverTaken(Permanent):
    """The destination does not take it, and will not; `statuses` as of `NotTaken`."""

    def __init__(self, message: str, statuses: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.statuses = dict(statuses or {})


@dataclass(frozen=True)
class Parcel:
    """A result on its way: its job, its row, and the data folder that its paths are relative to.

    `further` are objects that go behind those of the result, whatever form those are sent in.
    """

    job: Job
    result: StoredResult
    data_dir: Path
    further: tuple[ResultObject, ...] = ()

    @property
    def objects(self) -> tuple[ResultObject, ...]:
        """Everything that is sent, in the order of delivery."""
        return (*self.result.objects, *self.further)

    @property
    def paths(self) -> list[Path]:
        """Files of the objects, in the order of delivery."""
        return [self.data_dir / one.path for one in self.objects]

    def existing_paths(self) -> list[Path]:
        """The same, or `Permanent` when one is not there."""
        for one, path in zip(self.objects, self.paths, strict=True):
            if not path.is_file():
                raise Permanent(
                    f"object {one.sop_instance_uid} of result {self.result.result_id} is not on disk: restore "
                    "data_dir, then retry the job"
                )
        return self.paths


@dataclass(frozen=True)
class Receipt:
    """What the destination accepted. `statuses` are DIMSE statuses (or HTTP ones) by SOP Instance UID.

    `reservation` says what the destination did not get as it was meant; operators see it with the delivery.
    """

    objects: tuple[AcceptedObject, ...]
    statuses: Mapping[str, int] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    reservation: str | None = None


def accepted_objects(parcel: Parcel) -> tuple[AcceptedObject, ...]:
    """All objects of a parcel, as those that were accepted."""
    return tuple(
        AcceptedObject(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid) for one in parcel.objects
    )


class Transport(Protocol):
    """Sends results to one destination. Shared by the threads of its lane: keeps no state but what is thread-safe."""

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        """Bring everything there; raises `Transient` or `Permanent`, and `Unreachable` when nothing was reached."""

    def probe(self) -> None:
        """Raise `Transient` unless the destination answers at all."""
