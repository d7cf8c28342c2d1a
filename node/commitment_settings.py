"""`[commitment]`: storage commitment for those who send to us."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from node.destination_settings import Destination, Tls, absolute_paths
from node.settings_types import AeTitle, Port, Section


class Requester(Section):
    """`[[commitment.requesters]]`: who may ask whether we keep what it sent, and where the report goes."""

    ae_title: AeTitle = Field(description="AE title of the requester: calling when it asks, called when we report.")
    host: str = Field("", description="Host name or address to report to.")
    port: Port = Field(104, description="Its TCP port.")
    report: Literal["new-association", "same-association"] = Field(
        "new-association",
        description="Where the report goes. `same-association`: to the one of the request, and to a new one where that "
        "ended before and `host` is given.",
    )
    tls: Tls | None = Field(None, description="TLS for a new association, with a client certificate if wanted.")

    @model_validator(mode="after")
    def _can_be_reached(self) -> "Requester":
        if self.report == "new-association" and not self.host:
            raise ValueError("host is missing: a report on a new association needs an address")
        return self

    @property
    def destination(self) -> Destination | None:
        """Where to associate to; None without an address."""
        if not self.host:
            return None
        name = "requester-" + "".join(c if c.isalnum() else "-" for c in self.ae_title)
        return Destination(name=name, ae_title=self.ae_title, host=self.host, port=self.port, tls=self.tls)


class CommitmentSettings(Section):
    """`[commitment]`: storage commitment for those who send to us."""

    requesters: tuple[Requester, ...] = Field(
        (), description="Who may ask; DICOM destinations of the same AE title may, too."
    )
    first_retry_seconds: float = Field(
        10, gt=0, description="Wait before a report that could not be handed over is tried again; doubles each time."
    )
    longest_retry_seconds: float = Field(3600, gt=0, description="Longest wait between tries.")
    give_up_hours: float = Field(
        72, gt=0, description="A report that could not be handed over for this long is given up."
    )
    timeout_seconds: float = Field(
        30, gt=0, description="Longest wait for the requester while a report is handed over."
    )

    def with_absolute_paths(self, base: Path) -> "CommitmentSettings":
        """The same with its files made absolute against the folder of the configuration file."""
        made = tuple(absolute_paths(requester, base) for requester in self.requesters)
        return self.model_copy(update={"requesters": made})
