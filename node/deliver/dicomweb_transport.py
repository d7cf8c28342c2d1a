"""Results to a DICOMweb server: STOW-RS; QIDO-RS to see whether it has what it took."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import httpx
from pydicom import dcmread

from node.deliver import stow
from node.deliver.dimse import StoreOutcome, describe_status, store_outcome
from node.deliver.forms import Forms
from node.deliver.http import LONGEST_ANSWER_BYTES, HttpPeer
from node.deliver.rerender import sent_files
from node.deliver.transport import Check, NeverTaken, NotTaken, Parcel, Receipt, accepted_objects
from node.destination_settings import DicomwebDestination
from node.errors import Permanent, Transient
from node.store.deliveries import AcceptedObject, Delivery
from node.store.results import ResultObject

_MOST_TIMES_LONGER = 50


class DicomwebTransport:
    """One STOW-RS request with all objects of a result, in order."""

    def __init__(self, forms: Forms, destination: DicomwebDestination, timeout_seconds: float, data_dir: Path) -> None:
        self._forms = forms
        self._peer = HttpPeer(destination, timeout_seconds)
        self._bytes_per_second = 1000 * destination.maximum_kilobytes_per_second
        self._data_dir = data_dir

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        return self._forms.deliver(
            parcel, lambda form, _: self._send_form(replace(parcel, result=form.of(parcel.result)), check)
        )

    def send_alone(self, path: Path) -> None:
        """STOW-RS of one object that belongs to no result; raises `Transient` or `Permanent` unless it is taken."""
        answer, read = self._post([path], lambda: None)
        reasons = sorted(describe_status(reason) for reason in read.failed.values()) if read else []
        if reasons or answer.status_code not in (200, 202):
            problem = self._peer.problem(answer, "STOW-RS", {})
            raise NeverTaken(f"{problem} ({', '.join(reasons)})") if reasons else problem

    def _send_form(self, parcel: Parcel, check: Check) -> Receipt:
        paths = parcel.existing_paths()
        _, read = self._post(paths, check)
        if read is None or not (read.stored or read.failed):  # it stored everything, and does not say what
            return Receipt(accepted_objects(parcel), {one.sop_instance_uid: 0 for one in parcel.objects})
        return self._receipt(parcel, paths, read)

    def _post(self, paths: Sequence[Path], check: Check) -> tuple[httpx.Response, stow.StowAnswer | None]:
        """STOW-RS, and what it says of each object; raises unless that is an answer to it."""
        boundary = uuid4().hex
        headers = {
            "Content-Type": stow.MULTIPART.format(boundary=boundary),
            "Content-Length": str(stow.body_bytes(paths, boundary)),
            "Accept": stow.DICOM_JSON,
        }
        answer = self._peer.request(
            "POST",
            "/studies",
            headers=headers,
            make_content=lambda: stow.paced(stow.body(paths, boundary, check), self._bytes_per_second, check),
        )
        read = stow.read_answer(answer.content)
        if answer.status_code != 200 and (read is None or not (read.stored or read.failed)):
            raise self._peer.problem(answer, "STOW-RS", {})
        if read is None and answer.content and not stow.is_dicom_xml(answer.headers.get("Content-Type", "")):
            raise NotTaken(
                f"{self._peer.describe()} answered something that is no answer to STOW-RS: check url, and whether "
                "something before it asks to sign in"
            )
        return answer, read

    def probe(self) -> None:
        self._peer.request("GET", "/studies", headers={"Accept": stow.DICOM_JSON}, params={"limit": "1"})

    def keeps(self, delivery: Delivery, check: Callable[[], None]) -> set[str]:
        """The SOP Instance UIDs that WADO-RS gives back with the content that was sent.

        Raises
        ------
        Transient
            It could not be asked.
        Permanent
            The server has another object under one of our UIDs.
        """
        files = sent_files(self._forms.engine, self._data_dir, delivery)
        others = [one for one in delivery.objects if all(one != there for there, _ in files)]  # a rejection note
        kept = self.has(replace(delivery, objects=tuple(others)), check)
        for one, path in files:
            check()
            there = self._retrieve(delivery.study_instance_uid, one, path)
            if there is None:
                continue
            if not _is_same(there, path):
                raise Permanent(
                    f"{self._peer.describe()} gives back another content under {one.sop_instance_uid} than it was "
                    "sent: find out who changes objects there"
                )
            kept.add(one.sop_instance_uid)
        return kept

    def has(self, delivery: Delivery, check: Callable[[], None]) -> set[str]:
        """The SOP Instance UIDs that QIDO-RS finds; `Transient` where it could not be asked."""
        found = set()
        for one in delivery.objects:
            check()
            path = f"/studies/{delivery.study_instance_uid}/series/{one.series_instance_uid}/instances"
            params = {"SOPInstanceUID": one.sop_instance_uid}
            answer = self._peer.request("GET", path, headers={"Accept": stow.DICOM_JSON}, params=params)
            if answer.status_code in (204, 404):
                continue
            matches = stow.read_matches(answer.content) if answer.status_code == 200 else None
            if matches is None:
                raise Transient(f"{self._peer.describe()} answered HTTP {answer.status_code} and no list to QIDO-RS")
            found |= matches & {one.sop_instance_uid}
        return found

    def _receipt(self, parcel: Parcel, paths: Sequence[Path], read: stow.StowAnswer) -> Receipt:
        """All taken, or the error for the first that is not."""
        statuses = {**read.stored, **read.failed}
        warnings = {uid: describe_status(reason) for uid, reason in read.stored.items() if reason}
        for one, path in zip(parcel.objects, paths, strict=True):
            uid = one.sop_instance_uid
            if uid in read.stored:
                continue
            reason = read.failed.get(uid)
            if reason in stow.ALREADY_THERE:
                warnings[uid] = self._compare(parcel, one, path, statuses)
                continue
            said = f"{self._peer.describe()} does not take {uid}: "
            if reason is None:
                raise NotTaken(f"{said}it is not named in the answer", statuses)
            said += describe_status(reason)
            if store_outcome(reason) is StoreOutcome.REFUSED:
                raise NeverTaken(f"{said}; its log says more about this UID", statuses)
            raise NotTaken(said, statuses)
        return Receipt(accepted_objects(parcel), statuses, warnings)

    def _compare(self, parcel: Parcel, one: ResultObject, path: Path, statuses: dict[str, int]) -> str:
        """What is there under this UID must be what we have; returns what the log is to say."""
        place = AcceptedObject(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid)
        try:
            there = self._retrieve(parcel.result.study_instance_uid, place, path)
        except (Transient, Permanent):
            there = None
        if there is None:
            return "was there already, and cannot be read back to compare"
        if not _is_same(there, path):
            raise NeverTaken(
                f"{self._peer.describe()} has another object under our UID {one.sop_instance_uid}: delete it there, "
                "then retry the job",
                statuses,
            )
        return "was there already, with the same content"

    def _retrieve(self, study_instance_uid: str, one: AcceptedObject, sent: Path) -> bytes | None:
        """An instance by WADO-RS; None when the server has it not. Raises `Transient` or `Permanent` when it was not
        told. It may be longer than what was `sent`, where the server keeps it in another transfer syntax."""
        path = f"/studies/{study_instance_uid}/series/{one.series_instance_uid}/instances/{one.sop_instance_uid}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        longest = max(LONGEST_ANSWER_BYTES, _MOST_TIMES_LONGER * sent.stat().st_size)
        answer = self._peer.request("GET", path, headers={"Accept": accept}, longest_bytes=longest)
        if answer.status_code in (204, 404, 410):
            return None
        start, end = answer.content.find(b"\r\n\r\n"), answer.content.rfind(b"\r\n--")
        if answer.status_code != 200 or not 0 <= start < end:
            raise Transient(f"{self._peer.describe()} answered HTTP {answer.status_code} and no object to WADO-RS")
        return answer.content[start + 4 : end]


def _is_same(content: bytes, sent: Path) -> bool:
    """Whether these bytes are the object in a file, in whatever transfer syntax."""
    ours = dcmread(sent)
    try:
        return bool(dcmread(BytesIO(content)) == ours)
    except Exception:  # pydicom raises anything for bytes that are no DICOM file
        return False
