"""Structured logs: an event name plus fields, one JSON object a line (or readable text on a terminal).

UIDs, AE titles, counts and timings are allowed. Patient data never is: no name, number, date, description or pixel
may be given as a field, and exceptions are logged by class and by messages of `node.errors` only.
"""

import logging
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

import structlog

from node.errors import OverreadError


def configure_logs(style: Literal["json", "text"] = "json", level: str = "info") -> None:
    """Send structured log lines to standard error; silence libraries that would print patient data."""
    for_people = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if style == "json" else for_people
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # pydicom, pynetdicom and highdicom log values of the data sets they meet: keep them out of every stream.
    # They warn of values too, in whatever thread: all warnings go to a logger that is silent.
    logging.captureWarnings(True)
    for library in ("pydicom", "pynetdicom", "highdicom", "pylibjpeg", "py.warnings"):
        logger = logging.getLogger(library)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


def get_logger(room: str) -> Any:
    """A logger whose lines carry the name of their room."""
    return structlog.get_logger().bind(room=room)


def describe_error(error: BaseException) -> str:
    """What may be logged of an exception: our own messages in full, of any other its class and where it was raised.

    A message of a library may quote a data element, so it stays out.
    """
    name = type(error).__name__
    if isinstance(error, OverreadError):
        return f"{name}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{name} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else name
