"""What a request says: the JSON of `POST /process`. Pure.

Nothing of a request is quoted in an answer or a log line: it may hold what it should not.
"""

import json
from dataclasses import dataclass
from typing import Any

from node.process_settings import ProcessSettings
from node.receive.admission import is_uid
from node.web.reception import RequestRefused

LONGEST_BYTES = 16384
_KEYS = ("study_instance_uid", "source")


@dataclass(frozen=True)
class Asked:
    """A study, and where its images are to be brought from; None: they are here, or come by themselves."""

    study_instance_uid: str
    source: str | None = None


def read_asked(content: bytes, settings: ProcessSettings) -> Asked:
    """The request in a body. Raises `RequestRefused` (400)."""
    try:
        read: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise RequestRefused(400, "not-json", "the body is not JSON") from None
    if not isinstance(read, dict):
        raise RequestRefused(400, "not-an-object", "the body is no JSON object")
    if set(read) - set(_KEYS):
        raise RequestRefused(400, "unknown-key", f"the body has a key that is not known; known are {', '.join(_KEYS)}")
    study = read.get("study_instance_uid")
    if not isinstance(study, str) or not is_uid(study):
        raise RequestRefused(400, "study-instance-uid", "study_instance_uid is missing or no UID")
    source = read.get("source")
    if source is not None and (not isinstance(source, str) or settings.source(source) is None):
        known = ", ".join(one.name for one in settings.sources) or "none"
        raise RequestRefused(400, "unknown-source", f"source is no entry of process.sources; known are {known}")
    return Asked(study, source)
