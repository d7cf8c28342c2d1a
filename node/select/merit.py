"""What makes one candidate better than another: a documented order, the most important first. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from node.select.candidates import Candidate

_SHARP_KERNEL = re.compile(r"^(b[67-9]\d|br[67-9]\d|bl[67-9]\d|hr[67-9]\d|fc[58]\d|y[a-z]|lung|bone|edge|sharp|detail)")


@dataclass(frozen=True)
class Merit:
    """One thing that makes a candidate better: smaller values win. `say` tells people what was found."""

    name: str
    value: Callable[[Candidate], float]
    say: Callable[[Candidate], str]


def describe_rank(candidate: Candidate) -> str:
    """What `ORDER` finds in a candidate, for people."""
    return ", ".join(said for said in (merit.say(candidate) for merit in ORDER) if said)


def order_of(candidate: Candidate) -> tuple[Any, ...]:
    """Sorts candidates, the best first; the smaller Series Instance UID and then the part end a tie."""
    values = tuple(merit.value(candidate) for merit in ORDER)
    return (*values, candidate.series.series_instance_uid, candidate.part)


def why_better(better: Candidate, other: Candidate) -> str:
    """The first thing in `ORDER` in which two candidates differ, for people."""
    for merit in ORDER:
        if merit.value(better) != merit.value(other):
            found = [f"the one taken: {merit.say(better)}"] * bool(merit.say(better))
            found += [f"this one: {merit.say(other)}"] * bool(merit.say(other))
            return f"preferred is {merit.name}{' (' if found else ''}{', '.join(found)}{')' if found else ''}"
    return "it is as good as the one taken, and the smaller UID decides"


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else round(value, 2)


def _is_derived(candidate: Candidate) -> bool:
    return "DERIVED" in [str(value).upper() for value in candidate.series.header.get("ImageType") or ()]


def _kernel(candidate: Candidate) -> str:
    found = candidate.series.header.get("ConvolutionKernel") or ""
    return str(found[0] if isinstance(found, list | tuple) and found else found)


def _has_agent(candidate: Candidate) -> bool:
    return bool(candidate.series.header.get("ContrastBolusAgent"))


def _modifiers(candidate: Candidate) -> str:
    return ", ".join(candidate.series.header.get("ViewModifiers") or ())


def _is_stack(candidate: Candidate) -> bool:
    return candidate.stack.slices > 1


def _instance_number(candidate: Candidate) -> float:
    """Only of an image that stands alone: the first image of a stack says nothing about it."""
    return 0 if _is_stack(candidate) else float(candidate.series.header.get("InstanceNumber") or 0)


def _mm(value: float | None, what: str) -> str:
    return f"{value:.2f} mm {what}" if value is not None else ""


def _distance(candidate: Candidate) -> str:
    said = _mm(candidate.stack.slice_spacing_mm, "apart")
    return said or ("distance of slices unknown" if _is_stack(candidate) else "")


ORDER: tuple[Merit, ...] = (
    Merit("an original, not a derived series", _is_derived, lambda c: "derived" if _is_derived(c) else ""),
    Merit("the whole view, not a detail of it", lambda c: bool(_modifiers(c)), _modifiers),
    Merit("the smaller distance of slices", lambda c: _or_infinite(c.stack.slice_spacing_mm), _distance),
    Merit(
        "the thinner slices",
        lambda c: _or_infinite(c.stack.slice_thickness_mm),
        lambda c: _mm(c.stack.slice_thickness_mm, "thick"),
    ),
    Merit(
        "a smooth kernel, not a sharp one",
        lambda c: bool(_SHARP_KERNEL.match(_kernel(c).casefold())),
        lambda c: f"kernel {_kernel(c)}" if _kernel(c) else "",
    ),
    Merit("no contrast", _has_agent, lambda c: "contrast" if _has_agent(c) else ""),
    Merit(
        "the finer matrix",
        lambda c: _or_infinite(c.stack.pixel_spacing_mm),
        lambda c: _mm(c.stack.pixel_spacing_mm, "pixels"),
    ),
    Merit(
        "more slices",
        lambda c: -c.stack.slices,
        lambda c: f"{c.stack.slices} slices" if _is_stack(c) else "",
    ),
    Merit("the later of repeated exposures", lambda c: -_instance_number(c), lambda c: ""),
    Merit("what was received last", lambda c: -c.series.last_received_at.timestamp(), lambda c: ""),
)
"""What makes one candidate better than another, the most important first."""
