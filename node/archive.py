"""Asking an archive how many images a study has: C-FIND (PS3.4 C.4.1) or QIDO-RS (PS3.18 10.6).

The counts come from Number of Series Related Instances (0020,1209). Both ask at the series level, in one request.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from node.errors import Transient
from node.settings import CountingArchive

NOT_FORWARDED = frozenset({"SR", "PR", "KO", "SEG", "RTSTRUCT", "REG", "DOC", "AU"})
"""Modalities that an archive makes of its own or that forwarding rules leave out: not waited for."""
_PENDING = (0xFF00, 0xFF01)

AskCounts = Callable[[CountingArchive, str, str], dict[str, int]]
"""(archive, our AE title, Study Instance UID) to images by Series Instance UID; raises `Transient`."""


def ask_counts(archive: CountingArchive, calling_ae_title: str, study_instance_uid: str) -> dict[str, int]:
    """Images of each series that the archive holds of the study; a series that it does not count is left out.

    Raises
    ------
    Transient
        It cannot be reached, refuses, or answers nonsense.
    """
    if archive.kind == "dicomweb":
        return _counts_of(_by_qido(archive, study_instance_uid))
    return _counts_of(_by_find(archive, calling_ae_title, study_instance_uid))


def _counts_of(rows: list[tuple[str, str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for uid, modality, number in rows:
        if uid and modality not in NOT_FORWARDED and str(number or "").isdigit() and int(number) > 0:
            found[uid] = int(number)
    return found


def _by_find(archive: CountingArchive, calling_ae_title: str, study_instance_uid: str) -> list[tuple[str, str, Any]]:
    # Slow to import, and needed only where an archive is asked by C-FIND.
    from pynetdicom import AE
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

    question = Dataset()
    question.QueryRetrieveLevel = "SERIES"
    question.StudyInstanceUID = study_instance_uid
    question.SeriesInstanceUID = ""
    question.Modality = ""
    question.NumberOfSeriesRelatedInstances = None
    entity = AE(ae_title=calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = (
        archive.timeout_seconds
    )
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind, ImplicitVRLittleEndian)
    association = entity.associate(archive.host, archive.port, ae_title=archive.ae_title)
    if not association.is_established:
        raise Transient(f"archive {archive.name}: no association for C-FIND")
    rows = []
    try:
        for status, row in association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind):
            code = status.get("Status")
            if code in _PENDING and row is not None:
                rows.append(
                    (str(row.get("SeriesInstanceUID", "")), str(row.get("Modality", "")), row.get((0x0020, 0x1209)))
                )
            elif code != 0x0000:
                raise Transient(f"archive {archive.name}: C-FIND ended with {code}")
    finally:
        association.release()
    return [(uid, modality, element.value if element is not None else None) for uid, modality, element in rows]


def _by_qido(archive: CountingArchive, study_instance_uid: str) -> list[tuple[str, str, Any]]:
    url = f"{archive.url.rstrip('/')}/studies/{urllib.parse.quote(study_instance_uid)}/series?includefield=00201209"
    request = urllib.request.Request(url, headers={"Accept": "application/dicom+json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=archive.timeout_seconds) as answer:
            found = json.loads(answer.read() or b"[]")
    except (OSError, ValueError) as error:
        raise Transient(f"archive {archive.name}: QIDO-RS failed ({type(error).__name__})") from None
    if not isinstance(found, list):
        raise Transient(f"archive {archive.name}: QIDO-RS did not answer a list")
    return [(str(_first(row, "0020000E")), str(_first(row, "00080060")), _first(row, "00201209")) for row in found]


def _first(row: Mapping[str, Any], tag: str) -> Any:
    values = row.get(tag, {}).get("Value") or [""]
    return values[0]
