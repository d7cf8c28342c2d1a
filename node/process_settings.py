"""`[process]`: studies that a platform asks this node to process, by `POST /process`."""

from pathlib import Path

from pydantic import Field, model_validator

from node.destination_settings import OAuth2, Tls, absolute_paths
from node.settings_types import AeTitle, Name, Section


class ProcessSource(Section):
    """`[[process.sources]]`: where the images of a study may be brought from; requests name it and give no address."""

    name: Name = Field(description="Unique name, by which requests name it.")
    url: str = Field(
        "", pattern=r"^(https?://.+)?$", description="Root of a DICOMweb service: studies come by WADO-RS from there."
    )
    folder: Path | None = Field(
        None, description="Or a folder, which has the images of a study in `<Study Instance UID>/`."
    )
    bearer_token_file: Path | None = Field(
        None, description="File that holds a bearer token for `url`; read again for each request."
    )
    oauth2: OAuth2 | None = Field(None, description="Tokens for `url` by client credentials instead of a fixed one.")
    tls: Tls | None = Field(None, description="Authorities to trust and a client certificate, if not the usual ones.")

    @model_validator(mode="after")
    def _is_one_place(self) -> "ProcessSource":
        if bool(self.url) == (self.folder is not None):
            raise ValueError("give url or folder, and not both")
        if self.bearer_token_file is not None and self.oauth2 is not None:
            raise ValueError("bearer_token_file and oauth2 exclude each other: give one")
        return self


class ProcessSettings(Section):
    """`[process]`: requests of platforms (docs/platforms.md), served by the HTTP server of `[web]`."""

    enabled: bool = Field(False, description="Whether `POST /process` and `GET /status` are served.")
    clients: tuple[AeTitle, ...] = Field((), description="Clients of `web.clients` that may ask; empty means all.")
    sources: tuple[ProcessSource, ...] = Field((), description="Where images may be brought from.")
    image_wait_minutes: float = Field(
        60, gt=0, description="A request for a study of which no image has come so long after it has failed."
    )
    maximum_tries: int = Field(20, ge=1, description="How often is tried to bring a study from its source.")
    maximum_fetching: int = Field(
        1000, ge=1, description="Studies that may wait to be brought; further requests are answered 503."
    )

    @model_validator(mode="after")
    def _sources_differ(self) -> "ProcessSettings":
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name: rename one")
        return self

    def source(self, name: str) -> ProcessSource | None:
        """The source of this name; None when it is not configured (any more)."""
        return next((source for source in self.sources if source.name == name), None)

    def with_absolute_paths(self, base: Path) -> "ProcessSettings":
        """The same with its files made absolute against the folder of the configuration file."""
        return self.model_copy(update={"sources": tuple(absolute_paths(source, base) for source in self.sources)})
