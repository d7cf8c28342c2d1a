"""When may a series be taken for whole? Pure: evidence and settings in, a deadline out.

The deadline is a column (`series.settle_at`), so that a restart forgets nothing and fires nothing early.
"""

from datetime import datetime, timedelta

from node.settings import SettleSettings


def deadline_after_image(received_at: datetime, settle: SettleSettings) -> datetime:
    """Deadline after an image of a series arrived and its association is still open."""
    return received_at + timedelta(seconds=settle.quiet_seconds)


def deadline_after_release(released_at: datetime, settle: SettleSettings) -> datetime:
    """Deadline after the association that sent the series was released: the sender has said that it is done."""
    return released_at + timedelta(seconds=settle.released_quiet_seconds)
