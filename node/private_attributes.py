"""Private attributes that routes ask for: read from the first image of each series, only when a route names any."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from node.route_settings import Match, Route
from node.store.catalogue import StoredSeries

_NAME = re.compile(r"(?P<creator>.+) \((?P<group>[0-9A-Fa-f]{4}),(?P<element>[0-9A-Fa-f]{2})\)")


def names_wanted(routes: Sequence[Route]) -> set[str]:
    """The private attributes that the conditions of the routes name, `CREATOR (gggg,ee)`."""
    return {name for route in routes for match in _all_matches(route.match) for name in match.private}


def with_private(series: Sequence[StoredSeries], routes: Sequence[Route], data_dir: Path) -> list[StoredSeries]:
    """The series with the values of the private attributes that routes name, as `Private` in their headers.

    A file that cannot be read gives no values: its conditions are then not met, and say "absent".
    """
    names = sorted(names_wanted(routes))
    if not names:
        return list(series)
    return [
        replace(each, header={**each.header, "Private": _read(data_dir / each.instances[0].path, names)})
        if each.instances
        else each
        for each in series
    ]


def _all_matches(match: Match) -> Iterator[Match]:
    yield match
    for inner in (*match.all, *match.any, *match.none):
        yield from _all_matches(inner)


def _read(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    try:
        dataset = dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError, ValueError):
        return {}
    return {name: values for name in names if (values := _values(dataset, name))}


def _values(dataset: Dataset, name: str) -> list[str]:
    """The values of one private attribute (PS3.5 7.8.1), each as text; empty when it is absent."""
    found = _NAME.fullmatch(name)
    if found is None:
        return []
    try:
        element = dataset.private_block(int(found["group"], 16), found["creator"])[int(found["element"], 16)]
    except (KeyError, ValueError):
        return []
    value = element.value
    if isinstance(value, bytes):
        value = value.decode("latin-1").strip("\0 ")
    return [str(one) for one in (value if not isinstance(value, str) and hasattr(value, "__iter__") else [value])]
