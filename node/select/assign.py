"""Gives several inputs a candidate each, no candidate twice, the best first. Pure.

The input with the fewest candidates chooses first, and takes the best one that leaves something for all others.
"""

from collections.abc import Mapping, Sequence

Offers = Mapping[str, Sequence[int]]
"""For each input the candidates that fit it, by number, the best first."""


def assign(required: Offers, optional: Offers | None = None) -> dict[str, int]:
    """A candidate for each input, as far as there are any.

    All required inputs are fed if that is possible at all, and then optional ones from what is left. Where it is not
    possible, those are fed that can be, so that people see which input lacks something.
    """
    chosen = _assign(_fillable(required))
    taken = set(chosen.values())
    left = {name: [one for one in offers if one not in taken] for name, offers in (optional or {}).items()}
    return {**chosen, **_assign(_fillable(left))}


def can_feed(offers: Offers) -> bool:
    """Whether every input can have a candidate of its own."""
    return len(_fillable(offers)) == len(offers)


def _assign(offers: Offers) -> dict[str, int]:
    """Of offers that can all be met."""
    chosen: dict[str, int] = {}
    waiting = sorted(offers, key=lambda name: len(offers[name]))
    while waiting:
        name = waiting.pop(0)
        for candidate in offers[name]:
            if candidate in chosen.values():
                continue
            taken = {*chosen.values(), candidate}
            if can_feed({each: [one for one in offers[each] if one not in taken] for each in waiting}):
                chosen[name] = candidate
                break
    return chosen


def _fillable(offers: Offers) -> Offers:
    """The most inputs that can have a candidate of their own, by augmenting paths."""
    owner: dict[int, str] = {}

    def place(name: str, seen: set[int]) -> bool:
        for candidate in offers[name]:
            if candidate in seen:
                continue
            seen.add(candidate)
            if candidate not in owner or place(owner[candidate], seen):
                owner[candidate] = name
                return True
        return False

    placed = [name for name in sorted(offers, key=lambda name: len(offers[name])) if place(name, set())]
    return {name: offers[name] for name in placed}
