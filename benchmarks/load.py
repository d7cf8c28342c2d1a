"""Loading 300 slices into one volume, beside `dcmread` + `pixel_array`, alternating, from a warm page cache.

    python benchmarks/load.py [--slices 300] [--rounds 5] [--syntax plain|jpeg-ls|jpeg-2000|rle]

The peer stacks int16 planes as `pixel_array` gives them. Peak memory is that of a process of its own that only loads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmread, uid

sys.path.insert(0, str(Path(__file__).parent.parent))
from node.receive.header import read_header
from node.volume import Decoders, KnownInstance, load_volume
from tests.phantoms import write_series

SYNTAXES = {
    "plain": uid.ExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg-2000": uid.JPEG2000Lossless,
}


def make_ct(folder: Path, slices: int, syntax: str) -> list[Path]:
    """A CT of 512 x 512: smooth shades with noise, 12 bits stored."""
    columns, rows = np.meshgrid(np.arange(512), np.arange(512))
    shade = 900 + 700 * np.sin(rows / 60) * np.cos(columns / 45)
    chance = np.random.default_rng(1)
    voxels = np.empty((slices, 512, 512), np.int16)
    for index in range(slices):
        voxels[index] = np.clip(shade + index + chance.normal(0, 12, shade.shape), 0, 4095)
    return write_series(
        folder,
        shape=voxels.shape,
        spacing_mm=(1.0, 0.7, 0.7),
        modality="CT",
        voxels=voxels,
        transfer_syntax=SYNTAXES[syntax],
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        RescaleIntercept=-1024,
    )


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


def peer(paths: list[Path]) -> np.ndarray:
    """The usual way: stored values, ordered by position."""
    images = [dcmread(path) for path in paths]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    return np.stack([image.pixel_array for image in images])


def peer_hounsfield(paths: list[Path]) -> np.ndarray:
    """The usual way to Hounsfield units in int16."""
    return (peer(paths).astype(np.int32) - 1024).astype(np.int16)


def seconds(load: Callable[[], object]) -> tuple[float, float]:
    """Time passed, and time of the processor used."""
    started, used = time.perf_counter(), time.process_time()
    load()
    return time.perf_counter() - started, time.process_time() - used


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
    if way != "nothing":
        with Decoders() as decoders:
            _ways(paths, known, decoders)[way]()
    lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss would count the parent's pages
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000)


def _ways(paths: list[Path], known: list[KnownInstance], decoders: Decoders) -> dict[str, Callable[[], object]]:
    return {
        "load_volume, known, pool": lambda: load_volume(paths, known, decoders),
        "load_volume, known": lambda: load_volume(paths, known),
        "load_volume": lambda: load_volume(paths),
        "dcmread + pixel_array": lambda: peer(paths),
        "dcmread + pixel_array, HU": lambda: peer_hounsfield(paths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--syntax", choices=SYNTAXES, default="plain")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = make_ct(folder, options.slices, options.syntax)
        known = [known_of(path) for path in paths]
        decoders = Decoders()
        ways = _ways(paths, known, decoders)
        load_volume(paths, known, decoders)  # the processes are there before the first series is measured
        np.testing.assert_array_equal(load_volume(paths, known).voxels, peer_hounsfield(paths))
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, load in ways.items():
                taken[way].append(seconds(load))
        volume_mb = options.slices * 512 * 512 * 2 / 1e6
        load_average = os.getloadavg()[0]
        print(f"{options.slices} x 512 x 512, {options.syntax}, volume {volume_mb:.0f} MB, load {load_average:.1f}")
        usual = [statistics.median(column) for column in zip(*taken["dcmread + pixel_array"], strict=True)]
        for way, values in taken.items():
            passed, used = (statistics.median(column) for column in zip(*values, strict=True))
            print(
                f"{way:26} {passed:6.3f} s [{min(values)[0]:.3f}-{max(values)[0]:.3f}] {usual[0] / passed:5.1f}x"
                f"   processor {used:6.3f} s {usual[1] / used:5.1f}x   peak {peak_mb(folder, way):4.0f} MB"
            )
        decoders.close()


if __name__ == "__main__":
    main()
