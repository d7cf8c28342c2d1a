"""`[notices]`: who is told of critical results, in which order, and what they are told."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from node.destination_settings import Tls, absolute_paths
from node.settings_types import Name, Port, Section

NoticeField = Literal[
    "study_instance_uid",
    "model",
    "findings",
    "accession_number",
    "patient_id",
    "patient_name",
    "birth_date",
    "sex",
]


class Recipient(Section):
    """`[[notices.recipients]]`: somebody who is told of critical results, and the next one when they do not answer."""

    name: Name = Field(description="Unique name.")
    mail: str = Field("", pattern=r"^$|^[^\s@]+@[^\s@]+$", description="Mail address, or give `webhook`.")
    webhook: str = Field("", pattern=r"^$|^https?://", description="URL that is told by signed JSON, or give `mail`.")
    bearer_token_file: Path | None = Field(
        None, description="File that holds a bearer token for the webhook; read again for each request."
    )
    tls: Tls | None = Field(None, description="Of the webhook: authorities to trust and a client certificate.")
    wait_minutes: float = Field(10, gt=0, description="Time to acknowledge before the next recipient is told.")

    @model_validator(mode="after")
    def _one_way(self) -> "Recipient":
        if bool(self.mail) == bool(self.webhook):
            raise ValueError("give either mail or webhook")
        return self


class NoticeSettings(Section):
    """`[notices]`: critical results are told to people as well; without recipients to nobody."""

    recipients: tuple[Recipient, ...] = Field((), description="Who is told, in this order.")
    say: tuple[NoticeField, ...] = Field(
        ("study_instance_uid",),
        description="What a notice says beside its reference; name nothing of the patient that the way it goes may not "
        "carry.",
    )
    rounds: int = Field(
        3, ge=1, le=100, description="How often the list of recipients is gone through before it is given up."
    )
    retry_seconds: float = Field(30, gt=0, description="Wait before a recipient who could not be told is told again.")
    maximum_tries: int = Field(3, ge=1, description="Tries to tell a recipient before the next one is told.")
    secret_file: str = Field(
        "", description="File that holds the secret by which links and webhooks are signed; needed for both."
    )
    acknowledge_url: str = Field(
        "",
        pattern=r"^$|^https?://",
        description="Where recipients reach the node's page for acknowledging, e.g. "
        "https://overread.example.org/notices/acknowledge; empty: no links.",
    )
    link_hours: float = Field(72, gt=0, description="How long a link to acknowledge works.")
    smtp_host: str = Field("", description="Mail server.")
    smtp_port: Port = Field(587, description="Its TCP port.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="STARTTLS (it must be offered), TLS from the beginning, or nothing."
    )
    smtp_ca_file: str = Field(
        "", description="Certificates of the authorities to trust (PEM); empty: those of the system."
    )
    smtp_user: str = Field("", description="User name, if the mail server wants one.")
    smtp_password_file: str = Field("", description="File that holds the password; read for each mail.")
    mail_from: str = Field("", pattern=r"^$|^[^\s@]+@[^\s@]+$", description="Sender's address.")

    @model_validator(mode="after")
    def _whole(self) -> "NoticeSettings":
        names = [one.name for one in self.recipients]
        if len(set(names)) < len(names):
            raise ValueError("two recipients have the same name: give each a name of its own")
        if any(one.mail for one in self.recipients) and not (self.smtp_host and self.mail_from):
            raise ValueError("a recipient is told by mail, which needs smtp_host and mail_from: give them")
        wants_secret = self.acknowledge_url or any(one.webhook for one in self.recipients)
        if wants_secret and not self.secret_file:
            raise ValueError("links and webhooks are signed, which needs secret_file: give it")
        if bool(self.smtp_user) != bool(self.smtp_password_file):
            raise ValueError("smtp_user and smtp_password_file belong together: give both or none")
        return self

    def with_absolute_paths(self, base: Path) -> "NoticeSettings":
        """The same with every file made absolute against a folder."""
        names = ("secret_file", "smtp_ca_file", "smtp_password_file")
        files = {name: str((base / getattr(self, name)).resolve()) for name in names if getattr(self, name)}
        recipients = tuple(absolute_paths(recipient, base) for recipient in self.recipients)
        return self.model_copy(update={**files, "recipients": recipients})
