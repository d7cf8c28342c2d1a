"""From instances of a series to one volume in patient space, or to the exact reason why not.

`load_image` reads what has no place there: projections, loops and secondary captures, as an `ImageSet`.
`load_volume` reads CT, MR and PT images, single-frame or enhanced: headers first (`instance`, `groups`, `slices`), then
order and geometry (`geometry`, pure), then pixels (`decode`, `values`). What it cannot place exactly it refuses with a
`Reason`.
"""

from node.volume.cache import FrameCache
from node.volume.decoders import Decoders
from node.volume.images import ImageSet, load_image
from node.volume.known import KnownInstance
from node.volume.load import load_volume, load_volumes
from node.volume.reason import Reason
from node.volume.volume import Grid, Volume

__all__ = [
    "Decoders",
    "FrameCache",
    "Grid",
    "ImageSet",
    "KnownInstance",
    "Reason",
    "Volume",
    "load_image",
    "load_volume",
    "load_volumes",
]
