"""`[retention]`: how long images are kept when nothing needs them any more."""

from pydantic import Field

from node.settings_types import Section


class RetentionSettings(Section):
    """`[retention]`: what is deleted, and when. Nothing is while a job or a delivery needs it."""

    images_hours: float = Field(
        168,
        ge=0,
        description="Images are deleted so long after the last of their study came and its last job ended; 0: never. "
        "A route may want them longer (`retention_hours`).",
    )
    results_hours: float = Field(
        720,
        ge=0,
        description="The files of a result are deleted so long after its last delivery ended and was confirmed where "
        "that is asked; 0: never. A longer `retention_hours` of its route counts instead.",
    )
    quarantine_hours: float = Field(
        720, ge=0, description="What could not be taken is deleted from quarantine so long after it came; 0: never."
    )
    sweep_seconds: float = Field(
        600, gt=0, description="How often is looked for what may be deleted; put off while inference works."
    )
