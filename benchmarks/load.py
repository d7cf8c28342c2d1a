"""Loading 300 slices into one volume, beside `dcmread` + `pixel_array`, alternating.

    python benchmarks/load.py [--slices 300] [--rounds 5] [--syntax plain] [--cold] [--pause 0] [--only-wait]

Files are read from a warm page cache, or with --cold from the disk, where a node finds what it received past the cache.

Syntaxes are plain, rle, jpeg-ls, jpeg-lossless, jpeg-2000, htj2k and jpeg-xl (which has no peer). The peer stacks int16
planes as `pixel_array` gives them, with the decoder that pydicom chooses by itself, and with each one that it has: for
JPEG-LS it takes gdcm if that is installed, else pylibjpeg-libjpeg (GPL, so no dependency here: put it on PYTHONPATH to
measure it), else pyjpegls. The last lines compare with each. Peak memory is that of a process of its own that only
loads. "node" is how a job loads, "kept" how it does where another job of the study waits, both as from the second load
of a worker on: the memory of the volume before is used again. For compressed slices the wait after the last one is
measured too: they arrive 100 in a second, in the database and by notice as a listener does it, and are decoded
meanwhile. What was decoded is mapped and not copied, so the wait is told with one look at every voxel as well; a volume
that is copied costs at least the fresh memory that the last figure is for.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

sys.path.insert(0, str(Path(__file__).parent.parent))
from node.decode_ahead import AheadDecoder
from node.jobs.wake import Topic, Wake
from node.receive.header import read_header
from node.store.catalogue import ReceivedInstance, store_instances
from node.store.database import migrate, open_database, write_transaction
from node.volume import Decoders, FrameCache, KnownInstance, Volume, load_volume
from node.volume.codecs import JPEG_XL_LOSSLESS
from node.volume.threads import for_each, reading_threads
from tests.phantoms import write_series

SYNTAXES = {
    "plain": uid.ExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg-lossless": uid.JPEGLosslessSV1,
    "jpeg-2000": uid.JPEG2000Lossless,
    "htj2k": uid.HTJ2KLossless,
    "jpeg-xl": JPEG_XL_LOSSLESS,
}
ENCODERS = {
    "jpeg-lossless": imagecodecs.ljpeg_encode,
    "htj2k": lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
    "jpeg-xl": lambda plane: imagecodecs.jpegxl_encode(plane, lossless=True, effort=3),
}
"""For what pydicom does not encode."""
WITHOUT_PEER = ("jpeg-xl",)
PEER_BY = "pixel_array by"
DECODED = "load_volume, decoded"
ARRIVING_PER_SECOND = 100


def make_ct(folder: Path, slices: int, syntax: str) -> list[Path]:
    """A CT of 512 x 512: smooth shades with noise, 12 bits stored."""
    columns, rows = np.meshgrid(np.arange(512), np.arange(512))
    shade = 900 + 700 * np.sin(rows / 60) * np.cos(columns / 45)
    chance = np.random.default_rng(1)
    voxels = np.empty((slices, 512, 512), np.int16)
    for index in range(slices):
        voxels[index] = np.clip(shade + index + chance.normal(0, 12, shade.shape), 0, 4095)
    paths = write_series(
        folder,
        shape=voxels.shape,
        spacing_mm=(1.0, 0.7, 0.7),
        modality="CT",
        voxels=voxels,
        transfer_syntax=uid.ExplicitVRLittleEndian if syntax in ENCODERS else SYNTAXES[syntax],
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        RescaleIntercept=-1024,
    )
    if syntax in ENCODERS:
        for path, plane in zip(paths, voxels, strict=True):
            image = dcmread(path)
            image.PixelData = encapsulate([bytes(ENCODERS[syntax](plane.astype(np.uint16)))])
            image["PixelData"].is_undefined_length = True
            image.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
            image.save_as(path, implicit_vr=False, little_endian=True, force_encoding=True)
    return paths


def known_of(path: Path) -> KnownInstance:
    """What reception notes of a file."""
    header = read_header(path)
    return KnownInstance(
        path=path,
        sop_instance_uid=header.sop_instance_uid,
        series_instance_uid=header.series_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        pixel_offset=header.pixel_offset,
        pixel_length=header.pixel_length,
        geometry=header.geometry,
    )


def peer(paths: list[Path], plugin: str = "") -> np.ndarray:
    """The usual way: stored values, ordered by position; by the decoder that pydicom chooses, or by this one."""
    images = [dcmread(path) for path in paths]
    for image in images:
        image.pixel_array_options(decoding_plugin=plugin)
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    return np.stack([image.pixel_array for image in images])


def peer_hounsfield(paths: list[Path]) -> np.ndarray:
    """The usual way to Hounsfield units in int16."""
    return (peer(paths).astype(np.int32) - 1024).astype(np.int16)


def load_once(paths: list[Path], known: list[KnownInstance], decoders: Decoders) -> Volume:
    """As a job does whose images no other job wants."""
    with decoders.keeping(False):
        return load_volume(paths, known, decoders)


def forget(paths: list[Path]) -> None:
    """Let the page cache have nothing of these files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(load: Callable[[], object]) -> tuple[float, float]:
    """Time passed, and time of the processor used."""
    started, used = time.perf_counter(), time.process_time()
    load()
    return time.perf_counter() - started, time.process_time() - used


def wait_after_last(
    folder: Path, paths: list[Path], known: list[KnownInstance], cache: FrameCache
) -> tuple[float, float]:
    """Seconds from the last image's row to the volume, with everything before it decoded as it arrived; and to the end
    of a sum over its voxels.
    """
    url = f"sqlite:///{folder / 'node.sqlite'}"
    migrate(url, folder)
    engine, notify = open_database(url), Wake(folder / "run").notify
    with Decoders(0, cache) as decoders:
        decoders.submit_file(paths[0]).result()  # the processes of a node are there
        ahead = AheadDecoder(engine, folder, decoders, cache, folder / "run", poll_seconds=5)
        ahead.start()
        step = ARRIVING_PER_SECOND // 10
        began = time.monotonic()
        for first in range(0, len(paths), step):
            rows = [_row(path, each) for path, each in zip(paths[first:][:step], known[first:][:step], strict=True)]
            time.sleep(max(0.0, began + first / ARRIVING_PER_SECOND - time.monotonic()))
            with write_transaction(engine) as connection:
                store_instances(connection, rows, datetime.now(UTC) + timedelta(hours=1))
            notify(Topic.SETTLE)
        arrived = time.perf_counter()
        volume = load_volume(paths, known, decoders)
        loaded = time.perf_counter()
        volume.voxels.sum(dtype=np.int64)
        looked = time.perf_counter()
        ahead.stop()
    engine.dispose()
    return loaded - arrived, looked - arrived


def fresh_memory(slices: int) -> float:
    """Seconds to write once, by as many threads, to memory of the volume's size that nobody had for a while: a virtual
    machine may have given it back.
    """
    time.sleep(slices / ARRIVING_PER_SECOND)
    began = time.perf_counter()
    volume = np.empty((slices, 512, 512), np.int16)
    for_each(lambda index: volume[index].fill(1), slices, reading_threads(), at_once=8)
    return time.perf_counter() - began


def _row(path: Path, known: KnownInstance) -> ReceivedInstance:
    return ReceivedInstance(
        sop_instance_uid=known.sop_instance_uid,
        sop_class_uid=str((known.geometry or {})["SOPClassUID"]),
        series_instance_uid=known.series_instance_uid,
        study_instance_uid="1.2",
        transfer_syntax_uid=known.transfer_syntax_uid,
        path=str(path),
        size_bytes=path.stat().st_size,
        digest="0" * 64,
        received_at=datetime.now(UTC),
        calling_ae_title="A",
        called_ae_title="B",
        series_header={"Modality": "CT"},
        geometry=dict(known.geometry or {}),
        pixel_offset=known.pixel_offset,
        pixel_length=known.pixel_length,
    )


def peak_mb(folder: Path, way: str) -> float:
    """Peak resident memory of a process that loads, above one that only imports."""
    peaks = []
    for each in ("nothing", way):
        answer = subprocess.run([sys.executable, __file__, "--measure", each, folder], capture_output=True, check=True)
        peaks.append(json.loads(answer.stdout))
    return peaks[1] - peaks[0]


def measure(way: str, folder: Path) -> None:
    paths = sorted(folder.glob("*.dcm"))
    known = [known_of(path) for path in paths]
    if way == DECODED:
        with Decoders(0, FrameCache(folder / "decoded", 1 << 32)) as decoders:
            load_volume(paths, known, decoders).voxels.sum(dtype=np.int64)
    elif way != "nothing":
        with tempfile.TemporaryDirectory() as kept, Decoders(0, FrameCache(Path(kept), 1 << 32)) as decoders:
            _ways(paths, known, decoders, [way.rpartition(" ")[2]])[way]()
    lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss would count the parent's pages
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000)


def _plugins(syntax: str) -> tuple[str, ...]:
    """Decoders that pydicom has for it."""
    return () if syntax in ("plain", *WITHOUT_PEER) else get_decoder(SYNTAXES[syntax]).available_plugins


def _ways(
    paths: list[Path], known: list[KnownInstance], decoders: Decoders, plugins: Sequence[str] = ()
) -> dict[str, Callable[[], object]]:
    return {
        "load_volume, known, node": partial(load_once, paths, known, decoders),
        "load_volume, known, kept": lambda: load_volume(paths, known, decoders),
        "load_volume, known": lambda: load_volume(paths, known),
        "load_volume": lambda: load_volume(paths),
        "dcmread + pixel_array": lambda: peer(paths),
        "dcmread + pixel_array, HU": lambda: peer_hounsfield(paths),
        **{f"{PEER_BY} {plugin}": partial(peer, paths, plugin) for plugin in plugins},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--syntax", choices=SYNTAXES, default="plain")
    parser.add_argument("--cold", action="store_true", help="files are on the disk and not in memory")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each load: a worker is often idle")
    parser.add_argument("--only-wait", action="store_true", help="nothing but the wait after the last image")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = make_ct(folder, options.slices, options.syntax)
        known = [known_of(path) for path in paths]
        cache = FrameCache(folder / "decoded", 1 << 32)
        cache.begin(time.time())
        if not options.only_wait:
            compare(folder, paths, known, cache, options)
        if options.syntax != "plain":
            compare_waits(folder, paths, known, cache, options.rounds)


def compare(
    folder: Path, paths: list[Path], known: list[KnownInstance], cache: FrameCache, options: argparse.Namespace
) -> None:
    """How long each way takes."""
    slices, syntax = len(paths), options.syntax
    with Decoders(0, cache) as decoders:
        ways = _ways(paths, known, decoders, _plugins(syntax))
        if syntax in WITHOUT_PEER:
            ways = {way: load for way, load in ways.items() if not way.startswith("dcmread")}
        else:
            np.testing.assert_array_equal(load_volume(paths, known).voxels, peer_hounsfield(paths))
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, load in ways.items():
                cache.trim(math.inf)
                if options.cold:
                    forget(paths)
                time.sleep(options.pause)
                taken[way].append(seconds(load))
        load_average = os.getloadavg()[0]
        print(f"{slices} x 512 x 512, {syntax}, volume {slices * 512 * 512 * 2 / 1e6:.0f} MB, load {load_average:.1f}")
        usual_way = list(ways)[-1] if syntax in WITHOUT_PEER else "dcmread + pixel_array"
        usual = [statistics.median(column) for column in zip(*taken[usual_way], strict=True)]
        quickest = next(iter(taken))
        for way, values in taken.items():
            passed, used = (statistics.median(column) for column in zip(*values, strict=True))
            print(
                f"{way:26} {passed:6.3f} s [{min(values)[0]:.3f}-{max(values)[0]:.3f}] {usual[0] / passed:5.1f}x"
                f"   processor {used:6.3f} s {usual[1] / used:5.1f}x   peak {peak_mb(folder, way):4.0f} MB"
            )
        for way in (each for each in taken if each.startswith(PEER_BY)):
            ratios = [theirs[0] / ours[0] for theirs, ours in zip(taken[way], taken[quickest], strict=True)]
            print(f"{quickest}, against {way}: {statistics.median(ratios):.1f}x [{min(ratios):.1f}-{max(ratios):.1f}]")


def compare_waits(folder: Path, paths: list[Path], known: list[KnownInstance], cache: FrameCache, rounds: int) -> None:
    """How long a job waits for images that were decoded as they arrived."""
    taken = []
    for number in range(rounds):
        cache.trim(math.inf)
        arriving = folder / f"node-{number}"
        arriving.mkdir()
        taken.append((*wait_after_last(arriving, paths, known, cache), fresh_memory(len(paths))))
    waits = ("the volume", "the volume and a look at each voxel", "as much fresh memory alone")
    print("decoded as they arrived, after the last one:")
    for what, values in zip(waits, zip(*taken, strict=True), strict=True):
        print(f"  {what:36} {statistics.median(values):6.3f} s [{min(values):.3f}-{max(values):.3f}]")
    print(f"  peak {peak_mb(folder, DECODED):4.0f} MB")


if __name__ == "__main__":
    main()
