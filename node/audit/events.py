"""What this node reports, as audit events (PS3.15 A.5.3). Pure."""

import os
import socket
from collections import Counter
from collections.abc import Iterable

from pydicom.sr.coding import Code

from node.audit.message import Action, AuditEvent, InvolvedObject, Outcome, Participant

APPLICATION_ACTIVITY = Code("110100", "DCM", "Application Activity")
BEGIN_TRANSFERRING = Code("110102", "DCM", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DCM", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DCM", "DICOM Instances Transferred")
SECURITY_ALERT = Code("110113", "DCM", "Security Alert")
CRITICAL_NOTICE = Code("critical-notice", "99OVERREAD", "Critical result notice")
"""PS3.15 has no event for it."""

APPLICATION_START = Code("110120", "DCM", "Application Start")
APPLICATION_STOP = Code("110121", "DCM", "Application Stop")
NODE_AUTHENTICATION = Code("110126", "DCM", "Node Authentication")
USE_OF_RESTRICTED_FUNCTION = Code("110132", "DCM", "Use of Restricted Function")

APPLICATION = Code("110150", "DCM", "Application")
DESTINATION_ROLE = Code("110152", "DCM", "Destination Role ID")
SOURCE_ROLE = Code("110153", "DCM", "Source Role ID")
PERSON_ROLE = Code("humanuser", "99OVERREAD", "Human user")

STUDY = Code("110180", "DCM", "Study Instance UID")
NODE_ID = Code("110182", "DCM", "Node ID")
PATIENT = Code("2", "RFC-3881", "Patient Number")
REFERENCE = Code("notice", "99OVERREAD", "Reference of a notice")

_REPORT, _SECURITY_RESOURCE, _PATIENT, _JOB = "3", "13", "1", "20"


def this_node(ae_title: str, *, role: Code, is_requestor: bool = False) -> Participant:
    """This process, as a participant."""
    return Participant(f"{socket.gethostname()} {os.getpid()}", role, is_requestor, ae_title, socket.gethostname())


def application_activity(ae_title: str, process: str, *, starts: bool) -> AuditEvent:
    """A process of the node starts or stops."""
    return AuditEvent(
        APPLICATION_ACTIVITY,
        Action.EXECUTE,
        (this_node(ae_title, role=APPLICATION),),
        (_process(process),),
        (APPLICATION_START if starts else APPLICATION_STOP,),
    )


def instances_received(
    ae_title: str,
    peer: str,
    address: str,
    study_instance_uid: str,
    sop_class_uids: Iterable[str],
    *,
    whole: bool = True,
) -> AuditEvent:
    """A peer stored instances of one study here, in one association or request."""
    return AuditEvent(
        INSTANCES_TRANSFERRED,
        Action.CREATE,
        (
            Participant(peer or address, SOURCE_ROLE, True, peer, address),
            this_node(ae_title, role=DESTINATION_ROLE),
        ),
        (study(study_instance_uid, sop_class_uids),),
        outcome=Outcome.SUCCESS if whole else Outcome.MINOR_FAILURE,
        description="" if whole else "not every instance was taken, or the association was aborted",
    )


def instances_sent(
    ae_title: str,
    destination: str,
    peer: str,
    address: str,
    study_instance_uid: str,
    sop_class_uids: Iterable[str],
    *,
    begins: bool,
    problem: str = "",
    is_fetched: bool = False,
) -> AuditEvent:
    """This node begins to send the instances of a result, or has sent them, or could not; or the peer fetches them."""
    return AuditEvent(
        BEGIN_TRANSFERRING if begins else INSTANCES_TRANSFERRED,
        Action.EXECUTE if begins else Action.READ,
        (
            this_node(ae_title, role=SOURCE_ROLE, is_requestor=not is_fetched),
            Participant(peer or destination, DESTINATION_ROLE, is_fetched, peer, address),
        ),
        (study(study_instance_uid, sop_class_uids),),
        outcome=Outcome.SERIOUS_FAILURE if problem else Outcome.SUCCESS,
        description=problem,
    )


def instances_used(ae_title: str, model: str, study_instance_uid: str, sop_class_uids: Iterable[str]) -> AuditEvent:
    """A model read the instances of a study."""
    return AuditEvent(
        INSTANCES_ACCESSED,
        Action.READ,
        (this_node(ae_title, role=APPLICATION, is_requestor=True),),
        (study(study_instance_uid, sop_class_uids, (("model", model),)),),
    )


def security_alert(
    ae_title: str, peer: str, address: str, what: str, *, kind: Code = NODE_AUTHENTICATION
) -> AuditEvent:
    """Somebody was turned away: unknown AE title, TLS or bearer token that fails, a link that is not ours."""
    return AuditEvent(
        SECURITY_ALERT,
        Action.EXECUTE,
        (
            this_node(ae_title, role=APPLICATION, is_requestor=True),
            Participant(peer or address or "unknown", SOURCE_ROLE, False, peer, address),
        ),
        (
            InvolvedObject(
                peer or address or "unknown",
                NODE_ID,
                "peer",
                role=_SECURITY_RESOURCE,
                details=(("Alert Description", what),),
            ),
        ),
        (kind,),
        Outcome.MINOR_FAILURE,
    )


def critical_notice(ae_title: str, step: str, reference: str, study_instance_uid: str, who: str) -> AuditEvent:
    """A step of a notice of a critical result; `who` is a recipient, or the person that acknowledged."""
    person = (Participant(who, PERSON_ROLE, step == "ACKNOWLEDGED"),) if who else ()
    return AuditEvent(
        CRITICAL_NOTICE,
        Action.EXECUTE,
        (this_node(ae_title, role=APPLICATION, is_requestor=step != "ACKNOWLEDGED"), *person),
        (
            InvolvedObject(reference, REFERENCE, "notice", details=(("step", step),)),
            study(study_instance_uid, ()),
        ),
        outcome=Outcome.MINOR_FAILURE if step in ("NOT_TOLD", "UNANSWERED") else Outcome.SUCCESS,
    )


def study(
    study_instance_uid: str, sop_class_uids: Iterable[str], details: tuple[tuple[str, str], ...] = ()
) -> InvolvedObject:
    """A study as participant object, with the number of instances of each SOP class."""
    counted = tuple(sorted(Counter(sop_class_uids).items()))
    return InvolvedObject(study_instance_uid, STUDY, "study", role=_REPORT, details=details, instances=counted)


def patient(patient_id: str) -> InvolvedObject:
    """The patient as participant object; only where the configuration wants it."""
    return InvolvedObject(patient_id, PATIENT, "patient", type_code="1", role=_PATIENT)


def _process(name: str) -> InvolvedObject:
    return InvolvedObject(name, NODE_ID, "process", role=_JOB)
