"""Codes proposed for labels by their names, from the lists of the standard. Pure.

A name is matched by its words with the concepts of CID 7192 (anatomical structures) and CID 7140 (brain structures for
volumetric measurements); left and right become the laterality. Nothing is guessed: without the same words there is no
proposal. The spellings of FreeSurfer, whose names many networks of the brain have, are translated.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from pydicom.sr.codedict import codes

LEFT = {"value": "7771000", "scheme": "SCT", "meaning": "Left"}
RIGHT = {"value": "24028007", "scheme": "SCT", "meaning": "Right"}
SIDES: Mapping[str, Mapping[str, str]] = {"left": LEFT, "lh": LEFT, "right": RIGHT, "rh": RIGHT}

FREESURFER: Mapping[str, str] = {
    "thalamus proper": "thalamus",
    "caudate": "caudate nucleus",
    "pallidum": "globus pallidus",
    "accumbens area": "nucleus accumbens",
    "ventraldc": "ventral diencephalon",
    "ventral dc": "ventral diencephalon",
    "inf lat vent": "inferior horn of lateral ventricle",
    "3rd ventricle": "third ventricle",
    "4th ventricle": "fourth ventricle",
    "cerebellum white matter": "cerebellar white matter",
    "cerebellum cortex": "cerebellar cortex",
    "ctx entorhinal": "entorhinal cortex",
    "ctx insula": "insula",
}
"""Names of its colour table (without the side) as the standard says them."""

NOT_ANATOMICAL = {"110701", "110702"}
"""Of CID 7140: hypo- and hyperintensities of white matter are no anatomical structures, the default category."""

_SMALL_WORDS = {"of", "the", "and"}


@dataclass(frozen=True)
class Proposal:
    """What a name says.

    Parameters
    ----------
    type : mapping of str to str, optional
        A coded concept as a manifest has it; None where no list has one of this name.
    laterality : mapping of str to str, optional
    rest : str
        The name without its side.
    """

    type: Mapping[str, str] | None
    laterality: Mapping[str, str] | None
    rest: str


def propose(name: str) -> Proposal:
    """The concept and the side that a name says."""
    words = _words(name)
    whole = _concepts().get(_key(words))
    if whole is not None:
        return Proposal(whole, None, name)
    sides = [word for word in words if word in SIDES]
    if len(sides) != 1:
        return Proposal(_known(words), None, name)
    rest = [word for word in words if word not in SIDES]
    shown = re.sub(rf"(?i)(?<![a-z0-9]){sides[0]}(?![a-z0-9])", "", name)
    shown = re.sub(r"([-_ .])[-_ .]+", r"\1", shown).strip("-_ .")
    return Proposal(_known(rest), SIDES[sides[0]], shown or name)


def _known(words: list[str]) -> Mapping[str, str] | None:
    said = FREESURFER.get(" ".join(words))
    return _concepts().get(_key(said.split() if said else words))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name).lower())


def _key(words: list[str]) -> str:
    return " ".join(sorted(word for word in words if word not in _SMALL_WORDS))


@cache
def _concepts() -> dict[str, dict[str, str]]:
    """Concepts by the words of their meanings; words that mean several are left out."""
    found: dict[str, dict[str, str]] = {}
    for group in (codes.cid7192, codes.cid7140):
        own: dict[str, dict[str, str]] = {}
        unclear: set[str] = set()
        for concept in group.concepts.values():
            if concept.value in NOT_ANATOMICAL:
                continue
            key = _key(_words(concept.meaning))
            if own.get(key, {"value": concept.value})["value"] != concept.value:
                unclear.add(key)
            own[key] = {"value": concept.value, "scheme": concept.scheme_designator, "meaning": concept.meaning[:64]}
        found |= {key: each for key, each in own.items() if key not in unclear and key not in found}
    return found
