"""The Storage SCP over loopback with a real SQLite file: what is answered, and what is there afterwards."""

import socket
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from blake3 import blake3
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]

from node.store import tables
from node.store.catalogue import StoreOutcome, store_instances
from node.store.database import write_transaction
from tests.counterparts import wait_until
from tests.node.receive.conftest import Receiver
from tests.node.receive.wire import (
    CT,
    EXPLICIT,
    IMPLICIT,
    MR,
    VERIFICATION,
    Client,
    Encoded,
    associate_request,
    command,
    encode,
    item,
    message,
    p_data,
    pdv,
    uid_value,
)
from tests.nodes import without_uids
from tests.phantoms import make_series

Start = Callable[..., Receiver]


def test_stored_object_is_in_place_indexed_and_bit_for_bit(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        assert [client.store(image) for image in images] == [0] * 4
        client.release()
    rows = {row.sop_instance_uid: row for row in receiver.rows()}
    for image in images:
        row = rows[image.sop_instance]
        content = (receiver.data_dir / row.path).read_bytes()
        assert content.endswith(image.data_set) and len(content) == row.size_bytes
        assert row.digest == blake3(image.data_set).hexdigest()
        read = pydicom.dcmread(receiver.data_dir / row.path)
        assert content[row.pixel_offset : row.pixel_offset + row.pixel_length] == read.PixelData
        assert row.geometry["ImagePositionPatient"] == [float(value) for value in read.ImagePositionPatient]
        assert read.file_meta.SourceApplicationEntityTitle == "TESTER"
        assert (row.sop_class_uid, row.transfer_syntax_uid) == (CT, EXPLICIT)
    assert receiver.temporary_files() == []
    (series,) = receiver.rows(tables.series)
    assert (series.calling_ae_title, series.called_ae_title) == ("TESTER", "OVERREAD")
    assert series.header["Modality"] == "CT" and "PatientName" not in series.header


def test_release_brings_deadline_forward(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        client.store(images[0])
        (before,) = receiver.rows(tables.series)
        assert before.settle_at > datetime.now(UTC) + timedelta(seconds=20)
        assert receiver.notified.wait(60)
        receiver.notified.clear()
        client.release()
    assert receiver.notified.wait(60)
    (after,) = receiver.rows(tables.series)
    assert after.settle_at < datetime.now(UTC) + timedelta(seconds=5)


def test_abort_leaves_deadline(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        client.store(images[0])
        client.send(b"\7\0\0\0\0\4" + bytes(4))
        assert client.is_closed_within(60)
    (row,) = receiver.rows(tables.series)
    assert row.settle_at > datetime.now(UTC) + timedelta(seconds=20)


def test_same_object_again_is_success_without_second_copy(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        assert client.store(images[0]) == 0
        (before,) = receiver.rows(tables.series)
        assert client.store(images[0]) == 0
        (after,) = receiver.rows(tables.series)
    assert before == after
    assert len(receiver.placed_files()) == receiver.count() == 1


def test_same_object_again_replaces_a_lost_file(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        client.store(images[0])
        (row,) = receiver.rows()
        (receiver.data_dir / row.path).unlink()
        assert client.store(images[0]) == 0
    (row,) = receiver.rows()
    assert (receiver.data_dir / row.path).read_bytes().endswith(images[0].data_set)


def test_other_content_under_known_uid_is_refused_and_set_aside(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    other = Encoded(CT, images[0].sop_instance, EXPLICIT, images[0].data_set[:-2] + b"\x7f\x7f")
    with receiver.associated() as client:
        assert client.store(images[0]) == 0
        assert client.store(other) == 0xC001
        assert client.store(images[1]) == 0
    (row,) = receiver.rows(tables.quarantine)
    assert (row.code, row.sop_instance_uid) == ("other-content-known", images[0].sop_instance)
    assert (receiver.data_dir / row.path).read_bytes().endswith(other.data_set)
    kept = next(row for row in receiver.rows() if row.sop_instance_uid == images[0].sop_instance)
    assert (receiver.data_dir / kept.path).read_bytes().endswith(images[0].data_set)
    assert receiver.count() == len(receiver.placed_files()) == 2


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda data: data[:-1], 0xC000, "truncated"),
        (lambda data: b"\xff" * 400, 0xC000, "not-understood"),
        (lambda data: b"", 0xA900, "data-set-mismatch"),
        (lambda data: data.replace(b"\x20\0\x0d\0UI", b"\x20\0\x0c\0UI"), 0xC000, "missing-identifier"),
    ],
    ids=["truncated", "noise", "empty", "no-study-uid"],
)
def test_what_cannot_be_understood_is_set_aside_with_its_reason(
    receive: Start, images: list[Encoded], change: Callable[[bytes], bytes], status: int, code: str
) -> None:
    receiver = receive()
    broken = Encoded(CT, images[0].sop_instance, EXPLICIT, change(images[0].data_set))
    with receiver.associated() as client:
        assert client.store(broken) == status
        assert client.store(images[1]) == 0
    (row,) = receiver.rows(tables.quarantine)
    assert row.code == code
    assert (receiver.data_dir / row.path).read_bytes().endswith(broken.data_set)
    assert receiver.count() == 1


@pytest.mark.parametrize("name", ["dccc9599087131742838cc1162a630fe", "../../../escaped", "Canary^Bird", ""])
def test_instance_without_a_uid_is_set_aside(receive: Start, images: list[Encoded], name: str) -> None:
    """Some anonymisers put hashes where UIDs belong. What is no UID names no file and goes into no log."""
    receiver = receive()
    with receiver.associated() as client:
        data_set = images[0].data_set.replace(images[0].sop_instance.encode(), name.ljust(64).encode())
        assert client.store(Encoded(CT, name, EXPLICIT, data_set)) == 0xC000
        assert client.store(images[1]) == 0
    (row,) = receiver.rows(tables.quarantine)
    assert (row.code, row.sop_instance_uid) == ("no-sop-instance-uid", None)
    assert row.path.startswith("quarantine/no-uid-")
    assert (receiver.data_dir / row.path).read_bytes().endswith(data_set)
    assert len(receiver.placed_files()) == receiver.count() == 1


def test_data_set_of_another_instance_is_a900(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        mixed = Encoded(CT, images[1].sop_instance, EXPLICIT, images[0].data_set)
        assert client.store(mixed) == 0xA900
    (row,) = receiver.rows(tables.quarantine)
    assert row.code == "data-set-mismatch" and receiver.count() == 0


def test_class_of_another_context_is_0122(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        assert client.store(images[0], context_id=3) == 0x0122
        assert client.store(images[0], context_id=1) == 0


def test_no_room_is_a700_and_recovers(receive: Start, images: list[Encoded]) -> None:
    full = receive(free_disk_mb=10**9)
    with full.associated() as client:
        assert [client.store(image) for image in images] == [0xA700] * 4
        client.send(message(5, command(0x30, 7, VERIFICATION, has_data=False), None))
        assert client.read_status() == 0
    assert full.count() == 0 and full.temporary_files() == [] and full.placed_files() == []


def test_failing_database_is_a700_and_leaves_no_file(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE instance RENAME TO hidden")
    with receiver.associated() as client:
        assert client.store(images[0]) == 0xA700
        with receiver.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO instance")
        assert client.store(images[0]) == 0
    assert receiver.count() == 1


@pytest.mark.parametrize("durability", ["group", "object"])
def test_nobody_is_answered_while_rows_wait(receive: Start, images: list[Encoded], durability: str) -> None:
    receiver = receive(durability=durability)
    answers: list[int] = []

    def send(image: Encoded) -> None:
        with receiver.associated() as client:
            answers.append(client.store(image))

    threads = [threading.Thread(target=send, args=(image,)) for image in images[:2]]
    with write_transaction(receiver.engine):  # whoever writes rows has to wait
        for thread in threads:
            thread.start()
        wait_until(lambda: len(receiver.placed_files()) == 2, "files in place")
        assert not answers
    for thread in threads:
        thread.join(90)
    assert answers == [0, 0]


def test_overtaken_by_another_listener_is_tried_again(
    receive: Start, images: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL two listeners may write the same row at once, and one of them fails."""
    failures = [sqlite3.IntegrityError("UNIQUE constraint failed")]

    def overtaken(*arguments: Any) -> list[StoreOutcome]:
        outcomes = store_instances(*arguments)
        if failures:
            raise failures.pop()
        return outcomes

    monkeypatch.setattr("node.receive.committer.store_instances", overtaken)
    receiver = receive()
    with receiver.associated() as client:
        assert [client.store(image) for image in images] == [0] * 4
    assert receiver.count() == 4


@pytest.mark.parametrize(
    ("gone", "answers"),
    [
        ("", [0xA700, 0xA700]),
        ("incoming", [0xA700, 0xA700]),
        ("instances", [0, 0xC000]),
        ("quarantine", [0, 0xC000]),
    ],
)
def test_vanished_folder_costs_no_association(
    receive: Start, images: list[Encoded], gone: str, answers: list[int]
) -> None:
    receiver = receive()
    broken = Encoded(CT, images[2].sop_instance, EXPLICIT, images[2].data_set[:-1])
    place = receiver.data_dir / gone
    with receiver.associated() as client:
        assert client.store(images[0]) == 0
        place.rename(place.with_name("elsewhere"))
        assert [client.store(images[1]), client.store(broken)] == answers
        if not place.exists():
            place.with_name("elsewhere").rename(place)
        assert client.store(images[3]) == 0


def test_concurrent_associations_share_commits_and_lose_nothing(receive: Start) -> None:
    receiver = receive()
    series = [[encode(image) for image in make_series(shape=(12, 8, 8), modality="CT")] for _ in range(6)]
    answers: list[int] = []

    def send(images: list[Encoded]) -> None:
        with receiver.associated() as client:
            answers.extend(client.store(image) for image in images)
            client.release()

    threads = [threading.Thread(target=send, args=(images,)) for images in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert answers == [0] * 72
    assert {row.sop_instance_uid for row in receiver.rows()} == {i.sop_instance for s in series for i in s}


@pytest.mark.parametrize("durability", ["group", "object", "none"])
def test_every_durability_stores(receive: Start, images: list[Encoded], durability: str) -> None:
    receiver = receive(durability=durability)
    with receiver.associated() as client:
        assert [client.store(image) for image in images] == [0] * 4
    assert receiver.count() == 4


def test_object_larger_than_the_buffer_streams(receive: Start) -> None:
    receiver = receive()
    (image,) = make_series(shape=(1, 1500, 1000), modality="CT")
    encoded = encode(image)
    with receiver.associated() as client:
        client.send(encoded.message(fragment_bytes=100_000))
        assert client.read_status() == 0
    (row,) = receiver.rows()
    assert row.digest == blake3(encoded.data_set).hexdigest()
    assert (receiver.data_dir / row.path).read_bytes().endswith(encoded.data_set)


def test_object_above_the_limit_ends_the_association(receive: Start) -> None:
    receiver = receive(maximum_object_mb=1)
    (image,) = make_series(shape=(1, 720, 720), modality="CT")  # 37 kB too many
    with receiver.associated() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)  # where the rest of it is on its way
        client.send(encode(image).message())
        assert client.read_pdu()[0] == 7
    wait_until(lambda: not receiver.temporary_files(), "removal of the temporary file")
    assert receiver.count() == 0


# Protocol ---------------------------------------------------------------------------------------------------------


def test_several_pdvs_in_a_pdu_and_fragmented_commands(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    image = images[0]
    head = command(1, 9, CT, image.sop_instance)
    values = [pdv(1, head[:11], is_command=True, is_last=False), pdv(1, head[11:], is_command=True, is_last=True)]
    middle = len(image.data_set) // 2
    values.append(pdv(1, image.data_set[:middle], is_command=False, is_last=False))
    values.append(pdv(1, image.data_set[middle:], is_command=False, is_last=True))
    with receiver.associated() as client:
        client.send(p_data(*values))
        assert client.read_status() == 0
        client.send(p_data(values[0]) + p_data(values[1], values[2]) + p_data(values[3]))
        assert client.read_status() == 0


def test_empty_fragments_are_fine(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    image = images[0]
    head = command(1, 9, CT, image.sop_instance)
    with receiver.associated() as client:
        client.send(p_data(pdv(1, b"", is_command=True, is_last=False), pdv(1, head, is_command=True, is_last=True)))
        client.send(p_data(pdv(1, image.data_set, is_command=False, is_last=False)))
        client.send(p_data(pdv(1, b"", is_command=False, is_last=True)))
        assert client.read_status() == 0


def test_contexts_take_turns_and_requests_may_queue_up(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    (mr,) = [encode(image) for image in make_series(shape=(1, 8, 8), modality="MR")]
    echo = message(5, command(0x30, 3, VERIFICATION, has_data=False), None)
    with receiver.associated() as client:
        client.send(images[0].message(1, 1) + mr.message(3, 2) + echo + images[1].message(1, 4))
        assert [client.read_status() for _ in range(4)] == [0] * 4
    assert receiver.count() == 3


def test_byte_by_byte_is_served(receive: Start) -> None:
    receiver = receive()
    with Client(receiver.port) as client:
        for byte in associate_request([(5, VERIFICATION, [IMPLICIT])]):
            client.send(bytes([byte]))
        assert client.read_pdu()[0] == 2
        for byte in message(5, command(0x30, 3, VERIFICATION, has_data=False), None):
            client.send(bytes([byte]))
        assert client.read_status() == 0


def test_unknown_operation_is_0211_and_cancel_is_ignored(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        client.send(message(1, command(0x20, 3, CT), b"\x08\0\x18\0UI\2\x001\0"))
        assert client.read_status() == 0x0211
        client.send(message(1, command(0xFFF, 3, has_data=False), None))
        client.send(message(1, command(0x150, 3, CT, has_data=False), None))
        assert client.read_status() == 0x0211
        assert client.store(images[0]) == 0


def test_store_without_data_set_is_c000(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    with receiver.associated() as client:
        client.send(message(1, command(1, 3, CT, images[0].sop_instance, has_data=False), None))
        assert client.read_status() == 0xC000


def test_private_class_and_syntax_are_taken(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    private = "1.2.826.0.1.3680043.2.1125.77"
    data_set = images[0].data_set.replace(uid_value(CT).ljust(26, b"\0"), uid_value(private[:25]).ljust(26, b"\0"))
    with Client(receiver.port) as client:
        client.associate([(1, private[:25], ["1.2.826.0.1.3680043.9.9"])])
        client.send(message(1, command(1, 1, private[:25], images[0].sop_instance), data_set))
        assert client.read_status() == 0
    (row,) = receiver.rows()
    assert (row.sop_class_uid, row.transfer_syntax_uid) == (private[:25], "1.2.826.0.1.3680043.9.9")


def test_roles_and_unsupported_classes_are_answered(receive: Start) -> None:
    receiver = receive()
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    roles = b"".join(
        item(0x54, len(uid).to_bytes(2, "big") + uid.encode() + bytes([scu, scp]))
        for uid, scu, scp in ((CT, 1, 1), (MR, 0, 1))
    )
    with Client(receiver.port) as client:
        body = client.associate(
            [(1, CT, [EXPLICIT]), (3, MR, [EXPLICIT]), (5, find, [IMPLICIT]), (7, VERIFICATION, [])], user_items=roles
        )
    results = {body[at + 4]: body[at + 6] for at in _find_all(body, b"\x21\0")}
    assert results == {1: 0, 3: 2, 5: 3, 7: 4}
    assert item(0x54, len(CT).to_bytes(2, "big") + CT.encode() + b"\1\0") in body
    assert item(0x54, len(MR).to_bytes(2, "big") + MR.encode() + b"\0\0") in body


def _find_all(body: bytes, item_type: bytes) -> list[int]:
    """Positions of the presentation context items of an A-ASSOCIATE-AC."""
    at, found = 68, []
    while at < len(body):
        if body[at : at + 2] == item_type:
            found.append(at)
        at += 4 + int.from_bytes(body[at + 2 : at + 4], "big")
    return found


@pytest.mark.parametrize(
    ("options", "reject"),
    [
        ({"called": "ANOTHER"}, (1, 1, 7)),
        ({"calling": "STRANGER"}, (1, 1, 3)),
        ({"application_context": "1.2.3"}, (1, 1, 2)),
        ({"version": 2}, (1, 2, 2)),
    ],
)
def test_rejected_association_says_why(receive: Start, options: dict[str, Any], reject: tuple[int, int, int]) -> None:
    receiver = receive(allowed_calling_ae_titles=("TESTER",))
    with Client(receiver.port) as client:
        client.send(associate_request([(1, CT, [EXPLICIT])], **options))
        kind, body = client.read_pdu()
    assert (kind, tuple(body[1:])) == (3, reject)


def test_called_ae_title_may_be_ignored(receive: Start) -> None:
    receiver = receive(require_called_ae_title=False)
    with Client(receiver.port) as client:
        client.associate([(1, CT, [EXPLICIT])], called="ANOTHER")


# Start and stop ---------------------------------------------------------------------------------------------------


def test_stop_lets_an_object_finish_and_aborts_the_idle(receive: Start, images: list[Encoded]) -> None:
    receiver = receive(stop_seconds=60)
    busy, idle = receiver.associated(), receiver.associated()
    whole = images[0].message()
    busy.send(whole[:400])
    stopper = threading.Thread(target=receiver.scp.stop)
    stopper.start()
    assert idle.read_pdu()[0] == 7
    busy.send(whole[400:])
    assert busy.read_status() == 0
    stopper.join(90)
    assert not stopper.is_alive()
    assert receiver.count() == 1
    busy.socket.close()
    idle.socket.close()


def test_stop_is_bounded_when_an_object_never_ends(receive: Start, images: list[Encoded]) -> None:
    receiver = receive()
    client = receiver.associated()
    client.send(images[0].message()[:400])
    stopper = threading.Thread(target=receiver.scp.stop, args=(0.2,))
    stopper.start()
    stopper.join(60)
    assert not stopper.is_alive()
    assert receiver.count() == 0 and not list((receiver.data_dir / "incoming").iterdir())
    client.socket.close()


def test_taken_port_is_an_error(receive: Start) -> None:
    receiver = receive()
    with pytest.raises(OSError, match="in use"):
        receive(port=receiver.port, data_dir=receiver.data_dir.with_name("other"))


# Counterparts -----------------------------------------------------------------------------------------------------


def test_pynetdicom_sends_and_echoes(receive: Start, tmp_path: Path) -> None:
    receiver = receive()
    ae = AE("PYNETDICOM")
    ae.add_requested_context(CTImageStorage, EXPLICIT)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", receiver.port, ae_title="OVERREAD")
    assert association.is_established
    assert association.send_c_echo().Status == 0
    for image in make_series(shape=(3, 16, 16), modality="CT"):
        assert association.send_c_store(image).Status == 0
    association.release()
    assert receiver.count() == 3


def test_log_says_what_happened_and_names_no_patient(receive: Start, capfd: pytest.CaptureFixture[str]) -> None:
    receiver = receive()
    series = make_series(shape=(3, 8, 8), modality="CT", patient_name="Canary^Bird", patient_id="CANARY-7")
    first, second, third = (encode(image) for image in series)
    broken = Encoded(CT, second.sop_instance, EXPLICIT, second.data_set[:-1])
    other = Encoded(CT, first.sop_instance, EXPLICIT, first.data_set[:-2] + b"\x7f\x7f")
    swapped = Encoded(CT, third.sop_instance, EXPLICIT, second.data_set)
    with receiver.associated() as client:
        assert [client.store(image) for image in (first, broken, other, swapped)] == [0, 0xC000, 0xC001, 0xA900]
        client.release()
    receiver.scp.stop()
    written = "".join(capfd.readouterr())
    assert "anary" not in written.lower() and "19700102" not in without_uids(written)
    assert written.count("association_ended") == 1 and written.count("object_refused") == 3
    for word in ("TESTER", "released", "truncated", "other-content-known", "data-set-mismatch", first.sop_instance):
        assert word in written
    rows = receiver.rows(tables.quarantine)
    assert "anary" not in repr(rows).lower() and len(rows) == 3
