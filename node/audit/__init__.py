"""The audit trail: who sent and got what, as DICOM audit messages (PS3.15 A.5).

`message` and `events` say what is written, `trail` keeps it on disk, `forward` brings it to a syslog collector.
"""

from collections.abc import Callable

from node.audit.message import Source
from node.audit.trail import AnyTrail, NoTrail, Trail
from node.settings import Settings

FOLDER = "audit"


def open_trail(
    settings: Settings, process: str = "overread", find_patient: Callable[[str], str] | None = None
) -> AnyTrail:
    """The trail of this node. `find_patient` is used only where `audit.patient` says so."""
    audit = settings.audit
    if not audit.enabled:
        return NoTrail()
    source = Source(audit.source_id or settings.node.ae_title, audit.enterprise_site_id)
    return Trail(
        settings.node.data_dir / FOLDER,
        source,
        process,
        sync=audit.sync,
        find_patient=find_patient if audit.patient else None,
    )
