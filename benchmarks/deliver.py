"""Delivery against dcmtk's own sender: 20 results of 5 MB to `storescp` or Orthanc, alternating, medians compared.

    .venv/bin/python benchmarks/deliver.py [--peer orthanc] [--rounds 7] [--objects 20] [--megabytes 5]

All send the same files in one association, with the presentation contexts that the files need and no others; the
receivers run with their defaults (Orthanc keeps the objects over those of the round before). Ours is measured in this
process, because a delivery process is up when a result is made; the start of `storescu` is in its times, and printed.
`TCP_NODELAY=1` in its environment is how dcmtk switches Nagle's algorithm off. Needs dcmtk, and Orthanc if asked for.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.deliver.storage_scu import send
from node.settings import Destination
from tests.counterparts import LOOPBACK, orthanc, storescp

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def write_results(folder: Path, count: int, size_bytes: int) -> list[Path]:
    """Segmentations of one frame each, `size_bytes` long."""
    folder.mkdir()
    return [_write_result(folder / f"{number:03d}.dcm", size_bytes) for number in range(count)]


def _write_result(path: Path, size_bytes: int) -> Path:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = SEGMENTATION, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID, made.Modality = "Bench^Mark", "B-1", "SEG"
    made.Rows, made.Columns = 1000, size_bytes // 1000
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = bytes(1000 * made.Columns)
    made["PixelData"].VR = "OB"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(path, enforce_file_format=True)
    return path


def send_ours(destination: Destination, paths: Sequence[Path]) -> None:
    send(destination, "OVERREAD", paths, 60)


def send_dcmtk(destination: Destination, paths: Sequence[Path], **environment: str) -> None:
    command = ["storescu", "--required", "--propose-little", "-aec", destination.ae_title]
    command += [destination.host, str(destination.port), *map(str, paths)]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@contextmanager
def receiver(name: str, folder: Path, count: int) -> Iterator[tuple[Destination, Callable[[], None]]]:
    """A peer to send to, and what to call after each sending: it checks that everything is there."""
    if name == "orthanc":
        with orthanc(folder) as archive:

            def check_orthanc() -> None:
                found = archive.get("/statistics")["CountInstances"]
                assert found == count, f"Orthanc has {found} of {count} objects"

            yield _destination(archive.ae_title, archive.dicom_port), check_orthanc
        return
    with storescp(folder) as scp:

        def check_storescp() -> None:
            received = scp.received()
            assert len(received) == count, f"storescp has {len(received)} of {count} objects"
            for path in received:
                path.unlink()

        yield _destination(scp.ae_title, scp.port), check_storescp


def _destination(ae_title: str, port: int) -> Destination:
    return Destination(name="peer", kind="dimse", ae_title=ae_title, host=LOOPBACK, port=port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=("storescp", "orthanc"), default="storescp")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--megabytes", type=float, default=5.0)
    options = parser.parse_args()
    senders: dict[str, Callable[[Destination, Sequence[Path]], object]] = {
        "overread": send_ours,
        "storescu": send_dcmtk,
        "storescu TCP_NODELAY=1": partial(send_dcmtk, TCP_NODELAY="1"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in senders}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_results(Path(folder) / "results", options.objects, int(options.megabytes * 1e6))
        with receiver(options.peer, Path(folder) / "peer", options.objects) as (destination, check):
            for number in range(options.rounds + 1):
                for name, sender in senders.items():
                    taken = seconds_of(partial(sender, destination, paths))
                    check()
                    if number:  # the first round warms the file cache
                        seconds[name].append(taken)
    report(seconds, options.objects, options.megabytes)


def report(seconds: dict[str, list[float]], objects: int, megabytes: float) -> None:
    start = median(seconds_of(lambda: subprocess.run(["storescu", "--version"], capture_output=True)) for _ in range(5))
    print(f"{objects} objects of {megabytes:g} MB; {start * 1000:.0f} ms of each storescu are its start")
    ours = median(seconds["overread"])
    for name, taken in seconds.items():
        print(
            f"{name:24} median {median(taken):.3f} s [{min(taken):.3f} - {max(taken):.3f}]"
            f" {objects * megabytes / median(taken):6.0f} MB/s {objects / median(taken):7.1f} objects/s"
            f"   ratio to ours {median(taken) / ours:.2f}"
        )


if __name__ == "__main__":
    main()
