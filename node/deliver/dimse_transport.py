"""Results to a DICOM archive: C-STORE, and C-ECHO to see whether it is there."""

from collections.abc import Sequence
from pathlib import Path

from node.deliver.dimse import StoreOutcome, describe_status
from node.deliver.echo import echo
from node.deliver.part10 import NotPart10
from node.deliver.storage_scu import StoreAnswer, send, statuses_of
from node.deliver.transport import Check, Parcel, Receipt, accepted_objects
from node.errors import Permanent, Transient
from node.settings import Destination
from node.store.results import ResultObject

_PROBE_SECONDS = 5.0


class DimseTransport:
    """C-STORE of all objects of a result, in order, in one association."""

    def __init__(self, destination: Destination, calling_ae_title: str, timeout_seconds: float) -> None:
        self._destination = destination
        self._calling_ae_title = calling_ae_title
        self._timeout_seconds = timeout_seconds

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        objects = parcel.result.objects
        answers = self._send(parcel, objects, parcel.paths, check)
        return Receipt(
            objects=accepted_objects(parcel),
            statuses=statuses_of(answers),
            warnings={
                answer.sop_instance_uid: describe_status(answer.status)
                for answer in answers
                if answer.outcome is StoreOutcome.DELIVERED_WITH_WARNING
            },
        )

    def probe(self) -> None:
        try:
            echo(self._destination, self._calling_ae_title, min(self._timeout_seconds, _PROBE_SECONDS))
        except Permanent:  # it is there; what it does not like of us the deliveries will say
            return

    def _send(
        self, parcel: Parcel, objects: Sequence[ResultObject], paths: Sequence[Path], check: Check
    ) -> list[StoreAnswer]:
        number = parcel.result.result_id
        try:
            return send(self._destination, self._calling_ae_title, paths, self._timeout_seconds, check=check)
        except FileNotFoundError:
            lost = _first_missing(objects, paths)
            raise Permanent(
                f"object {lost} of result {number} is not on disk: restore data_dir, then retry the job"
            ) from None
        except NotPart10 as error:
            raise Permanent(f"an object of result {number} {error}: restore data_dir, then retry the job") from None
        except OSError as error:
            raise Transient(f"result {number} cannot be read ({error.strerror})") from None


def _first_missing(objects: Sequence[ResultObject], paths: Sequence[Path]) -> str:
    missing = [one.sop_instance_uid for one, path in zip(objects, paths, strict=True) if not path.exists()]
    return missing[0] if missing else "(unknown)"
