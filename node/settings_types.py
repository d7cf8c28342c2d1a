"""What every part of the settings is made of: the base of its tables, and its narrow types."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

AeTitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]+$")
]
"""Application Entity title (PS3.5 Table 6.2-1): 1 to 16 characters, no backslash, no control character."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Name of a route or destination: letters, digits, dot, dash and underscore, at most 64."""

Port = Annotated[int, Field(ge=1, le=65535)]
Priority = Literal["stat", "routine", "low"]


class Section(BaseModel):
    """A table of the configuration file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
