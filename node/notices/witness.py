"""Steps of notices as audit messages."""

from node.audit.events import critical_notice
from node.audit.trail import AnyTrail
from node.notices.desk import Witness
from node.store.notices import Notice, NoticeEvent


def witness_of(trail: AnyTrail, ae_title: str) -> Witness:
    """Writes each step into the audit trail."""

    def witness(notice: Notice, event: NoticeEvent, who: str) -> None:
        trail.record(critical_notice(ae_title, event.value, notice.reference, notice.study_instance_uid, who))

    return witness
