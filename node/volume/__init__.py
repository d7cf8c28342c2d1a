"""From instances of a series to one volume in patient space, or to the exact reason why not.

`load_image` reads what has no place there: projections, loops and secondary captures, as an `ImageSet`.
`load_volume` reads single-frame CT and MR images: headers first (`instance`), then order and geometry
(`geometry`, pure), then pixels (`decode`, `values`). What it cannot place exactly it refuses with a `Reason`.
"""

from node.volume.decoders import Decoders
from node.volume.images import ImageSet, load_image
from node.volume.known import KnownInstance
from node.volume.load import load_volume
from node.volume.reason import Reason
from node.volume.volume import Grid, Volume

__all__ = ["Decoders", "Grid", "ImageSet", "KnownInstance", "Reason", "Volume", "load_image", "load_volume"]
