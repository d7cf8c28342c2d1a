"""Links by which a recipient acknowledges: signed, bound to one notice and one recipient, and with an end. Pure.

``<acknowledge_url>?notice=<reference>&by=<recipient>&until=<seconds>&signature=<HMAC-SHA256>``. Opening a link must
change nothing (mail scanners open links): the page asks, and its button acknowledges.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from node.errors import Permanent


class LinkRefused(Permanent):
    """The link is not one of ours, or has ended."""


def make_link(url: str, secret: bytes, reference: str, recipient: str, until: datetime) -> str:
    """The link for this notice and recipient."""
    ends = str(int(until.timestamp()))
    signed = {"notice": reference, "by": recipient, "until": ends}
    query = urlencode({**signed, "signature": _signature(secret, reference, recipient, ends)})
    return f"{url}{'&' if '?' in url else '?'}{query}"


def read_link(query: Mapping[str, str], secret: bytes, now: datetime) -> tuple[str, str]:
    """Reference and recipient of a link's query.

    Raises
    ------
    LinkRefused
        Wrong signature, or the link has ended.
    """
    reference, recipient, ends, signature = (query.get(key, "") for key in ("notice", "by", "until", "signature"))
    expected = _signature(secret, reference, recipient, ends)
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise LinkRefused("this link is not one of this node: use the one in the notice, whole")
    if not ends.isdigit() or datetime.fromtimestamp(int(ends), UTC) < now:
        raise LinkRefused("this link has ended: use `overread notices acknowledge` on the node")
    return reference, recipient


def _signature(secret: bytes, reference: str, recipient: str, ends: str) -> str:
    return hmac.new(secret, f"{reference}\n{recipient}\n{ends}".encode(), hashlib.sha256).hexdigest()
