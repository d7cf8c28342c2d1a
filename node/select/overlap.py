"""What is odd about the routes of a configuration: those that nothing can reach, and those that do the same. Pure.

All routes that match apply, so an order never hides one. A route is unreachable when its conditions contradict each
other, or the listener would refuse its sender. Two routes overlap when one series can meet both and they share a model:
the work is done once, for the destinations of both.

Regular expressions are not compared: two of them are taken to be able to hold together.
"""

from collections.abc import Iterator, Sequence

from node.route_settings import Match, Route

_LISTS = ("calling_ae_title", "called_ae_title", "modality", "sop_class_uid", "body_part_examined", "patient_sex")
_RANGES = ("instances", "age_years", "slice_spacing_mm", "slice_thickness_mm")


def route_warnings(
    routes: Sequence[Route], allowed_calling_ae_titles: Sequence[str] = (), our_ae_title: str = ""
) -> list[str]:
    """One sentence for each route that cannot apply, and for each pair that overlaps.

    `allowed_calling_ae_titles` are those that may associate (empty: all); `our_ae_title` is the only one that may be
    called (empty: any).
    """
    found = []
    reachable = []
    for route in routes:
        reasons = [*_contradictions(route.match), *_refused(route.match, allowed_calling_ae_titles, our_ae_title)]
        found += [f"routes.{route.name}: unreachable: {reason}" for reason in reasons]
        if not reasons:
            reachable.append(route)
    for number, one in enumerate(reachable):
        for other in reachable[number + 1 :]:
            shared = sorted(set(one.models) & set(other.models))
            if shared and not list(_contradictions_between([one.match, other.match])):
                found.append(
                    f"routes.{one.name} and routes.{other.name} overlap: a series can meet both, and both run "
                    f"{', '.join(shared)}; it is run once, for the destinations of both"
                )
    return found


def unused_tables(routes: Sequence[Route], destinations: Sequence[str]) -> list[str]:
    """One sentence for each destination that no route sends to, and one where nothing is analysed at all."""
    wanted = {name for route in routes for name in route.destinations}
    found = [
        f"destinations.{name}: no route sends its results there: add {name!r} to destinations of a route"
        for name in destinations
        if name not in wanted
    ]
    return found if routes else ["no [[routes]]: nothing that is received is analysed", *found]


def _contradictions(match: Match) -> list[str]:
    """Why no series can meet these conditions; empty when nothing says so."""
    reasons = list(_contradictions_between([match, *match.all]))
    for number, inner in enumerate(match.any):
        inner_reasons = list(_contradictions_between([match, *match.all, inner]))
        if not inner_reasons:
            break
        if number == len(match.any) - 1:
            reasons.append(f"none of its `any` can hold: {inner_reasons[0]}")
    for inner in match.none:
        stated = inner.model_dump(exclude_defaults=True)
        mine = match.model_dump(exclude_defaults=True)
        if all(_implies(mine.get(key), value, key) for key, value in stated.items()):
            reasons.append("its `not` excludes everything that its other conditions let through")
    return reasons


def _implies(mine: object, excluded: object, key: str) -> bool:
    """Whether what a match states about a key lies within what is excluded."""
    if mine is None:
        return False
    if key in _LISTS and isinstance(mine, tuple) and isinstance(excluded, tuple):
        return _folded(mine) <= _folded(excluded)
    return mine == excluded


def _contradictions_between(matches: Sequence[Match]) -> Iterator[str]:
    for key in _LISTS:
        stated = [getattr(match, key) for match in matches if getattr(match, key)]
        if stated and not set.intersection(*(_folded(values) for values in stated)):
            yield f"{key} cannot be {' and '.join(' or '.join(values) for values in stated)}"
    for key in _RANGES:
        lowest = max((value for match in matches if (value := getattr(match, f"minimum_{key}")) is not None), default=0)
        highest = min(
            (value for match in matches if (value := getattr(match, f"maximum_{key}")) is not None), default=None
        )
        if highest is not None and lowest > highest:
            yield f"minimum_{key} is {lowest:g} and maximum_{key} is {highest:g}"


def _refused(match: Match, allowed: Sequence[str], our_ae_title: str) -> Iterator[str]:
    if match.calling_ae_title and allowed and not _folded(match.calling_ae_title) & _folded(allowed):
        yield "none of its calling AE titles may associate (dimse.allowed_calling_ae_titles)"
    if match.called_ae_title and our_ae_title and our_ae_title.casefold() not in _folded(match.called_ae_title):
        yield f"only {our_ae_title} may be called (dimse.require_called_ae_title)"


def _folded(values: Sequence[str]) -> set[str]:
    return {value.strip().casefold() for value in values}
