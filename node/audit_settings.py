"""`[audit]`: the audit trail (DICOM PS3.15 A.5), into a file and to a collector."""

from typing import Literal

from pydantic import Field

from node.destination_settings import Tls
from node.settings_types import Port, Section


class AuditSettings(Section):
    """`[audit]`: who sent and got what, as DICOM audit messages."""

    enabled: bool = Field(True, description="Keep the audit trail, in `audit/` below data_dir.")
    sync: Literal["message", "none"] = Field(
        "message",
        description="`message`: each message is on disk before the node goes on; `none` leaves that to the system.",
    )
    patient: bool = Field(
        False,
        description="Name the Patient ID in messages about instances, as PS3.15 wants; false: studies by UID only.",
    )
    source_id: str = Field("", description="Audit Source ID; empty means the AE title of the node.")
    enterprise_site_id: str = Field("", description="Audit Enterprise Site ID, if the site has one.")
    collector_host: str = Field("", description="Syslog collector (RFC 5424 over TLS, RFC 5425); empty: none.")
    collector_port: Port = Field(6514, description="Its TCP port.")
    collector_tls: Tls = Field(Tls(), description="Authorities to trust and our client certificate, for the collector.")
    retry_seconds: float = Field(
        30, gt=0, description="Wait before the collector is tried again; messages stay in the file meanwhile."
    )
