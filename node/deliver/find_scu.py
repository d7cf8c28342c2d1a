"""Read-back by C-FIND (PS3.4 Annex C): does the archive find what it took?"""

from collections.abc import Sequence

from pydicom import Dataset

from node.deliver.association import associate, describe
from node.deliver.data_set import IMPLICIT_VR_LITTLE_ENDIAN, decode, encode_implicit
from node.deliver.line import Check, Patience
from node.deliver.upper_layer import propose
from node.errors import Permanent, Transient
from node.settings import Destination
from node.store.deliveries import AcceptedObject

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def find_objects(
    destination: Destination,
    calling_ae_title: str,
    study_instance_uid: str,
    objects: Sequence[AcceptedObject],
    timeout_seconds: float,
    check: Check,
) -> set[str]:
    """The SOP Instance UIDs that the archive finds, asked one by one in one association.

    Raises
    ------
    Transient
        Not reached, or a query failed.
    Permanent
        The archive has no Study Root C-FIND.
    """
    context = (STUDY_ROOT_FIND, IMPLICIT_VR_LITTLE_ENDIAN)
    found: set[str] = set()
    with associate(destination, calling_ae_title, propose([context]), Patience(timeout_seconds, check)) as association:
        if association.refused:
            raise Permanent(
                f"{describe(destination)} refuses queries (C-FIND): allow them there for {calling_ae_title!r}, "
                'or set confirm = "storage-commitment" for this destination'
            )
        for one in objects:
            status, matches = association.find(*context, encode_implicit(_identifier(study_instance_uid, one)))
            if status != 0:
                raise Transient(f"{describe(destination)} answered 0x{status:04X} to a query")
            if any(_uid_of(match) == one.sop_instance_uid for match in matches):
                found.add(one.sop_instance_uid)
    return found


def _identifier(study_instance_uid: str, one: AcceptedObject) -> Dataset:
    """IMAGE level with all unique keys above it (PS3.4 C.4.1.2.1)."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = one.series_instance_uid
    identifier.SOPInstanceUID = one.sop_instance_uid
    return identifier


def _uid_of(match: bytes) -> str:
    try:
        return str(decode(match).get("SOPInstanceUID", ""))
    except Exception:  # pydicom raises anything for bytes that are no data set; then it is no match
        return ""
