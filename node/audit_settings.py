"""`[audit]`: the audit trail (DICOM PS3.15 A.5), into a file and to a collector."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

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
    collector_ca_file: str = Field(
        "", description="Certificates of the authorities to trust (PEM); empty: those of the system."
    )
    collector_certificate_file: str = Field("", description="Our client certificate with its chain (PEM).")
    collector_key_file: str = Field("", description="Key of our client certificate (PEM, without passphrase).")
    collector_server_name: str = Field(
        "", description="Name that the collector's certificate must be for; empty: collector_host."
    )
    retry_seconds: float = Field(
        30, gt=0, description="Wait before the collector is tried again; messages stay in the file meanwhile."
    )

    @model_validator(mode="after")
    def _certificate_has_key(self) -> "AuditSettings":
        if bool(self.collector_certificate_file) != bool(self.collector_key_file):
            raise ValueError(
                "audit.collector_certificate_file and audit.collector_key_file belong together: give both or none"
            )
        return self

    @property
    def collector_tls(self) -> Tls:
        """How the connection to the collector is secured."""
        return Tls(
            ca_file=_path(self.collector_ca_file),
            certificate_file=_path(self.collector_certificate_file),
            key_file=_path(self.collector_key_file),
            server_name=self.collector_server_name,
        )

    def with_absolute_paths(self, base: Path) -> "AuditSettings":
        """The same with every file made absolute against a folder."""
        names = ("collector_ca_file", "collector_certificate_file", "collector_key_file")
        files = {name: str((base / getattr(self, name)).resolve()) for name in names if getattr(self, name)}
        return self.model_copy(update=files)


def _path(file: str) -> Path | None:
    return Path(file) if file else None
