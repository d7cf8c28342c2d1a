"""What reception notes of plain images is enough to load them without their headers."""

import numpy as np

from node.store import catalogue
from node.store.database import read_transaction
from node.volume import load_volume
from node.volume.known import KnownHeaders
from node.work import known_instance
from tests.phantoms import default_voxels


def test_received_series_is_loaded_by_what_was_noted(receive, images) -> None:
    receiver = receive()
    with receiver.associated() as client:
        assert [client.store(image) for image in images] == [0] * 4
        client.release()
    with read_transaction(receiver.engine) as connection:
        stored = catalogue.instances(connection, [image.sop_instance for image in images])
    known = [known_instance(each, receiver.data_dir) for each in stored]
    volume = load_volume([each.path for each in known], known)
    assert isinstance(volume.headers, KnownHeaders)
    np.testing.assert_array_equal(volume.voxels, default_voxels((4, 16, 16), (3.0, 1.5, 1.5)))
