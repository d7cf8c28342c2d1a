"""What the tables of `model.toml` are built from: constrained texts and numbers, and coded concepts."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydicom.sr.coding import Code

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
]
Orientation = Annotated[str, StringConstraints(pattern=r"^[LRPASI]{3}$")]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Size = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(ge=0, lt=1)]
Byte = Annotated[int, Field(ge=0, le=255)]


class Section(BaseModel):
    """A table of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Coded(Section):
    """A coded concept (PS3.3 8.8): value, scheme designator and meaning."""

    value: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16)] = Field(
        description="Code Value, e.g. 12738006."
    )
    scheme: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16)] = Field(
        "SCT", description="Coding Scheme Designator: SCT, DCM, UCUM, LN, or one of your own that begins with 99."
    )
    meaning: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)] = Field(
        description="Code Meaning, as read by people."
    )

    @property
    def code(self) -> Code:
        """As pydicom has it."""
        return Code(self.value, self.scheme, self.meaning)
