"""The Storage SCU against archives that others wrote, and against one that misbehaves."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from node.deliver.part10 import NotPart10, read_file_meta
from node.deliver.storage_scu import SendInterrupted, SendRefused, send
from node.errors import Permanent, Transient
from node.jobs.heartbeat import Heartbeat, Interrupted, StopReason
from node.settings import Destination
from tests.counterparts import LOOPBACK, free_port, orthanc, storescp
from tests.faulty_archive import Abort, Answer, Drop, FaultyArchive, Reject, Stall
from tests.phantoms import write_series

DestinationAt = Callable[..., Destination]
SEGMENTATION, REPORT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


def data_set_of(path: Path) -> bytes:
    return path.read_bytes()[read_file_meta(path).data_set_offset :]


def uid_of(path: Path) -> str:
    return read_file_meta(path).sop_instance_uid


def test_objects_arrive_byte_for_byte_in_order_in_one_association(
    result_objects: list[Path], destination_at: DestinationAt
):
    with FaultyArchive() as archive:
        answers = send(destination_at(archive.port), "OVERREAD", result_objects, 60)
    assert [received.data_set for received in archive.received] == [data_set_of(path) for path in result_objects]
    assert {received.association for received in archive.received} == {1}
    assert {received.calling_ae_title for received in archive.received} == {"OVERREAD"}
    assert [answer.sop_instance_uid for answer in answers] == [uid_of(path) for path in result_objects]
    assert [answer.status for answer in answers] == [0, 0]


def test_compressed_objects_keep_their_transfer_syntax(tmp_path: Path, destination_at: DestinationAt):
    plain = write_series(tmp_path / "plain", shape=(1, 16, 16))
    packed = write_series(tmp_path / "packed", shape=(1, 16, 16), transfer_syntax=RLELossless)
    with FaultyArchive() as archive:
        send(destination_at(archive.port), "OVERREAD", plain + packed, 10)
    assert [received.transfer_syntax_uid for received in archive.received][1] == RLELossless
    assert archive.received[1].data_set == data_set_of(packed[0])


@pytest.mark.parametrize("warning", [0xB000, 0xB006, 0xB007])
def test_warning_counts_as_delivered_and_is_kept(
    result_objects: list[Path], destination_at: DestinationAt, warning: int
):
    with FaultyArchive([Answer(warning), Answer(0x0111)]) as archive:
        answers = send(destination_at(archive.port), "OVERREAD", result_objects, 60)
    assert [answer.status for answer in answers] == [warning, 0x0111]
    assert all(answer.is_delivered for answer in answers)


def test_out_of_resources_is_transient_and_later_objects_are_not_sent(
    result_objects: list[Path], destination_at: DestinationAt
):
    with FaultyArchive([Answer(0xA700)]) as archive:
        with pytest.raises(SendInterrupted, match=r"0xA700 \(out of resources\)") as caught:
            send(destination_at(archive.port), "OVERREAD", result_objects, 60)
        assert archive.received == []
        assert [answer.status for answer in caught.value.answers] == [0xA700]
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)
        assert len(archive.received) == 2


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122])
def test_refused_object_is_permanent_and_earlier_answers_are_kept(
    result_objects: list[Path], destination_at: DestinationAt, status: int
):
    with FaultyArchive([Answer(0x0000), Answer(status)]) as archive, pytest.raises(SendRefused) as caught:
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)
    assert [answer.status for answer in caught.value.answers] == [0x0000, status]
    for part in (f"0x{status:04X}", "destination 'pacs'", "Comprehensive 3D SR Storage", uid_of(result_objects[1])):
        assert part in str(caught.value)


def test_refused_sop_class_is_permanent_and_nothing_is_sent(result_objects: list[Path], destination_at: DestinationAt):
    with FaultyArchive(refuse=["SEG"]) as archive:
        destination = destination_at(archive.port)
        with pytest.raises(SendRefused) as caught:
            send(destination, "OVERREAD", result_objects, 60)
    assert archive.received == []
    message = str(caught.value)
    for part in (
        "destination 'pacs'",
        f"FAULTY at 127.0.0.1:{archive.port}",
        "Segmentation Storage (1.2.840.10008.5.1.4.1.1.66.4)",
        "SOP class not supported",
        "'OVERREAD'",
    ):
        assert part in message
    assert "Canary" not in message and "CANARY" not in message


def test_wrong_called_ae_title_is_permanent(result_objects: list[Path], destination_at: DestinationAt):
    with FaultyArchive(ae_title="ARCHIVE", check=True) as archive:
        with pytest.raises(Permanent, match="called AE title not recognised; set ae_title of this destination"):
            send(destination_at(archive.port, ae_title="WRONG"), "OVERREAD", result_objects, 60)
        send(destination_at(archive.port, ae_title="ARCHIVE"), "OVERREAD", result_objects, 60)


def test_unknown_calling_ae_title_is_permanent(result_objects: list[Path], destination_at: DestinationAt):
    with (
        FaultyArchive([Reject(1, 1, 3)]) as archive,
        pytest.raises(Permanent, match="make AE title 'OVERREAD' known to the archive"),
    ):
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)


@pytest.mark.parametrize("rejection", [Reject(2, 3, 1), Reject(2, 3, 2), Reject(1, 1, 1), Reject(2, 1, 7)])
def test_rejection_that_may_pass_is_transient(
    result_objects: list[Path], destination_at: DestinationAt, rejection: Reject
):
    with FaultyArchive([rejection]) as archive:
        with pytest.raises(Transient, match="rejected the association"):
            send(destination_at(archive.port), "OVERREAD", result_objects, 60)
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)


def test_archive_that_is_away_is_transient(result_objects: list[Path], destination_at: DestinationAt):
    destination = destination_at(free_port())
    with pytest.raises(Transient, match=r"destination 'pacs' \(FAULTY at .*Connection refused"):
        send(destination, "OVERREAD", result_objects, 60)


def test_host_that_does_not_resolve_is_transient(result_objects: list[Path]):
    destination = Destination(name="pacs", kind="dimse", ae_title="PACS", host="archive.invalid", port=104)
    with pytest.raises(Transient, match="cannot be resolved"):
        send(destination, "OVERREAD", result_objects, 60)


@pytest.mark.parametrize("after_bytes", [0, 300, 20_000, 99_000, 101_000])
def test_connection_dropped_anywhere_is_transient_and_sending_again_is_harmless(
    result_objects: list[Path], destination_at: DestinationAt, after_bytes: int
):
    with FaultyArchive([Drop(after_bytes)]) as archive:
        with pytest.raises(SendInterrupted):
            send(destination_at(archive.port), "OVERREAD", result_objects, 60)
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)
        assert {received.sop_instance_uid for received in archive.received} == {uid_of(path) for path in result_objects}


def test_abort_is_transient_and_earlier_answers_are_kept(result_objects: list[Path], destination_at: DestinationAt):
    with (
        FaultyArchive([Answer(0x0000), Abort()]) as archive,
        pytest.raises(SendInterrupted, match=f"aborted.*{uid_of(result_objects[1])}") as caught,
    ):
        send(destination_at(archive.port), "OVERREAD", result_objects, 60)
    assert [answer.sop_instance_uid for answer in caught.value.answers] == [uid_of(result_objects[0])]


def test_stall_ends_after_the_timeout_and_is_transient(result_objects: list[Path], destination_at: DestinationAt):
    with FaultyArchive([Stall()]) as archive, pytest.raises(Transient, match=r"answered nothing for 0\.6 s"):
        send(destination_at(archive.port), "OVERREAD", result_objects, 0.6)


def test_stop_ends_a_stalled_delivery_at_once(result_objects: list[Path], destination_at: DestinationAt):
    heartbeat = Heartbeat()
    with FaultyArchive([Stall()]) as archive:
        asked = threading.Thread(
            target=lambda: archive.stalled.wait() and setattr(heartbeat, "reason", StopReason.STOPPING), daemon=True
        )
        asked.start()
        with pytest.raises(Interrupted):  # after 60 s it would be Transient
            send(destination_at(archive.port), "OVERREAD", result_objects, 60, check=heartbeat.check)
        asked.join()


def test_peer_that_takes_nothing_is_left_after_the_timeout(tmp_path: Path, destination_at: DestinationAt):
    """Accepts the TCP connection and never reads: the operating system's buffers fill up, or no answer comes."""
    with (
        socket.create_server((LOOPBACK, 0)) as silent,
        pytest.raises(Transient, match=r"for 0\.5 s, while the association was requested"),
    ):
        send(
            destination_at(silent.getsockname()[1]),
            "OVERREAD",
            write_series(tmp_path, shape=(1, 16, 16)),
            0.5,
        )


@pytest.mark.parametrize(
    "noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x02\x00\xff\xff\xff\xff", b"\x02\x00\0\0\0\x01x"]
)
def test_peer_that_is_no_dicom_node_is_transient(
    result_objects: list[Path], destination_at: DestinationAt, noise: bytes
):
    with socket.create_server((LOOPBACK, 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                with contextlib.suppress(OSError):  # the node hangs up as soon as it sees nonsense
                    connection.sendall(noise)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(65536)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Transient, match="destination 'pacs'"):
            send(destination_at(server.getsockname()[1]), "OVERREAD", result_objects, 60)
        thread.join()


def test_file_that_is_not_dicom_is_refused_before_connecting(tmp_path: Path, destination_at: DestinationAt):
    path = tmp_path / "note.txt"
    path.write_text("hello" * 100)
    with pytest.raises(NotPart10):
        send(destination_at(free_port()), "OVERREAD", [path], 10)


def test_nothing_to_send_needs_no_association(destination_at: DestinationAt):
    assert send(destination_at(free_port()), "OVERREAD", [], 10) == []


def test_ae_title_outside_ascii_is_permanent(result_objects: list[Path], destination_at: DestinationAt):
    with pytest.raises(Permanent, match="outside ASCII"):
        send(destination_at(free_port(), ae_title="ÄRCHIV"), "OVERREAD", result_objects, 60)


@pytest.mark.counterpart("dcmtk")
def test_storescp_of_dcmtk_takes_what_we_send(
    tmp_path: Path, result_objects: list[Path], destination_at: DestinationAt
):
    with storescp(tmp_path / "peer", "--bit-preserving") as peer:
        send(destination_at(peer.port, peer.ae_title), "OVERREAD", result_objects, 60)
        received = {uid_of(path): path for path in peer.wait_for(2)}
    for path in result_objects:
        assert data_set_of(received[uid_of(path)]) == data_set_of(path)


@pytest.mark.counterpart("dcmtk")
def test_fifty_small_objects_to_default_storescp_do_not_wait_for_delayed_acknowledgements(
    tmp_path: Path, destination_at: DestinationAt
):
    """With Nagle on one side and delayed acknowledgements on the other each answer takes 40 ms: 2 s in all, always.

    Without them a busy machine may take as long for once, and not again and again.
    """
    objects = write_series(tmp_path / "series", shape=(50, 16, 16))

    def seconds() -> float:
        started = time.monotonic()
        send(destination_at(peer.port, peer.ae_title), "OVERREAD", objects, 60)
        return time.monotonic() - started

    with storescp(tmp_path / "peer") as peer:
        assert any(seconds() < 1.7 for _ in range(20))
        peer.wait_for(50)


@pytest.mark.counterpart("orthanc")
def test_orthanc_keeps_what_we_send_even_twice(
    tmp_path: Path, result_objects: list[Path], destination_at: DestinationAt
):
    with orthanc(tmp_path / "peer") as peer:
        destination = destination_at(peer.dicom_port, peer.ae_title)
        for _ in range(2):
            send(destination, "OVERREAD", result_objects, 60)
        kept = peer.instances()
        assert sorted(one["SOPInstanceUID"] for one in kept) == sorted(map(uid_of, result_objects))
        for path in peer.download_to(tmp_path / "read back"):
            original = next(one for one in result_objects if uid_of(one) == path.stem)
            assert dcmread(path) == dcmread(original)


@pytest.mark.counterpart("orthanc")
def test_orthanc_that_expects_another_ae_title_says_which_setting_is_wrong(
    tmp_path: Path, result_objects: list[Path], destination_at: DestinationAt
):
    with (
        orthanc(tmp_path / "peer", DicomCheckCalledAet=True) as peer,
        pytest.raises(Permanent, match="set ae_title of this destination"),
    ):
        send(destination_at(peer.dicom_port, "SOMEBODY"), "OVERREAD", result_objects, 60)
