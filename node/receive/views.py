"""View Code Sequence (0054,0220) of mammograms: the view and its modifiers, from the encoded bytes of the sequence.

PS3.16 CID 4014 (views) and CID 4015 (modifiers), in SNOMED CT and in the older SRT. The code values are looked for as
they stand: the sequence is not decoded, so that its encoding does not matter.
"""

import re

VIEWS = {
    "399162004": "CC",
    "R-10242": "CC",
    "399368009": "MLO",
    "R-10226": "MLO",
    "399260004": "ML",
    "R-10224": "ML",
    "399352003": "LM",
    "R-10228": "LM",
    "399099002": "LMO",
    "R-10230": "LMO",
    "399188001": "SIO",
    "R-102D0": "SIO",
    "441555000": "ISO",
    "R-40AAA": "ISO",
    "399196006": "FB",
    "R-10244": "FB",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399101009": "XCCM",
    "R-1024B": "XCCM",
}
"""View Position (0018,5101) as PS3.3 C.8.11.7.1.1 abbreviates it."""

MODIFIERS = {
    "399163009": "magnification",
    "R-102D6": "magnification",
    "399055006": "spot compression",
    "R-102D7": "spot compression",
    "399209000": "implant displaced",
    "R-102D5": "implant displaced",
    "399161006": "cleavage",
    "R-102D2": "cleavage",
    "399011000": "axillary tail",
    "R-102D1": "axillary tail",
    "442580003": "axillary tissue",
    "R-40AB2": "axillary tissue",
    "399110001": "tangential",
    "R-102C2": "tangential",
    "441752004": "anterior compression",
    "P2-00161": "anterior compression",
    "442593008": "infra-mammary fold",
    "R-40ABE": "infra-mammary fold",
    "442581004": "nipple in profile",
    "R-40AB3": "nipple in profile",
    "399226006": "rolled medial",
    "R-102D4": "rolled medial",
    "399197002": "rolled lateral",
    "R-102D3": "rolled lateral",
    "415670009": "rolled superior",
    "R-102C9": "rolled superior",
    "414493004": "rolled inferior",
    "R-102CA": "rolled inferior",
}
"""What makes an image a detail, or another projection, of a view."""

_CODE = re.compile(rb"R-[14][0-9A-F]{4}|P2-00161|[0-9]{9}")


def codes_in(sequence: bytes) -> list[str]:
    """All codes of views and modifiers that stand in the sequence, in order."""
    found = (each.decode() for each in _CODE.findall(sequence))
    return [code for code in found if code in VIEWS or code in MODIFIERS]


def view_of(sequence: bytes) -> str:
    """The abbreviation of the view; empty when it is none of those known."""
    return next((VIEWS[code] for code in codes_in(sequence) if code in VIEWS), "")


def modifiers_of(sequence: bytes) -> list[str]:
    """The modifiers of the view, each once."""
    return list(dict.fromkeys(MODIFIERS[code] for code in codes_in(sequence) if code in MODIFIERS))
