"""Writing results as DICOM, beside dcmqi's `itkimage2segimage`, alternating, on the same labels and images.

    python benchmarks/encode.py [--slices 300] [--rounds 3] [--case "BINARY 104"]

dcmqi is a program: its time is from start to end, with reading the images and the labels. Ours is that of a process
that has the modules loaded, as a worker of the node has, with reading the headers of the images and the labels from the
same disk too: in its first object (`first`), and when it has written one before (`warm`). Peak memory, labels and
headers with it, is that of a process that writes one object, above what it was after a small one, as multiples of the
label volume.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent.parent))
from dicom_sr import codes, conformance
from dicom_sr.evidence import check_evidence
from dicom_sr.findings import Algorithm, Equipment, Finding, Measurement, Result, Segment, SourceImage
from dicom_sr.measurement_report import encode_measurement_report
from dicom_sr.part10 import to_part10, write_part10
from dicom_sr.profile import CONSERVATIVE, SegmentationFlavour
from dicom_sr.segment_numbering import number_segments
from dicom_sr.segmentation import encode_segmentations
from tests.phantoms import make_series

CASES = {
    "BINARY 5": (SegmentationFlavour.BINARY, 5, "binary", 0.5),
    "BINARY 104": (SegmentationFlavour.BINARY, 104, "binary", 0.3),
    "LABELMAP 104": (SegmentationFlavour.LABELMAP, 104, "labelmap", 0.5),
}
"""Name -> flavour, labels, dcmqi's name of the flavour, and the ratio to dcmqi that must not be exceeded."""
LARGEST_LABEL_MAP_MB = 5.0
LARGEST_MEMORY = 2.0
SLOWEST_REPORT_MS = 50.0
USUAL_FINDINGS = 20
"""Reports of more findings are measured, and held to nothing."""
ROWS = COLUMNS = 512


def make_organs(slices: int, count: int) -> np.ndarray:
    """uint8 (slice, row, column): organs that touch, with wavy surfaces, in the middle of the body.

    Every voxel of the body belongs to the seed that is nearest in a space bent by smooth noise; half of the seeds are
    no organ.
    """
    chance = np.random.default_rng(5)
    coarse = (slices // 4, ROWS // 4, COLUMNS // 4)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in coarse), indexing="ij"), axis=-1)
    for axis in range(3):
        grid[..., axis] += 60 * ndimage.gaussian_filter(chance.normal(size=coarse).astype(np.float32), 4)
    body = ((grid[..., 1] / coarse[1] - 0.5) / 0.38) ** 2 + ((grid[..., 2] / coarse[2] - 0.5) / 0.45) ** 2 < 1
    seeds = chance.random((count * 2, 3)) * coarse * [1, 0.7, 0.8] + np.array(coarse) * [0, 0.15, 0.1]
    nearest = np.full(coarse, np.inf, np.float32)
    owner = np.zeros(coarse, np.uint8)
    for number, seed in enumerate(seeds):
        distance = ((grid - seed.astype(np.float32)) ** 2).sum(axis=-1)
        closer = distance < nearest
        nearest[closer] = distance[closer]
        owner[closer] = number + 1 if number < count else 0
    owner[~body] = 0
    labels = np.zeros((slices, ROWS, COLUMNS), np.uint8)
    for index in range(slices):  # to full size slice by slice, edges made smooth by a majority of neighbours
        plane = np.kron(owner[min(index // 4, coarse[0] - 1)], np.ones((4, 4), np.uint8))
        labels[index] = ndimage.median_filter(np.roll(plane, index % 4 - 2, axis=1), 7)
    return labels


def make_result(images: list, labels: np.ndarray, count: int) -> Result:
    """A Result with that many segments, and findings of the first 20."""
    segments = tuple(
        Segment(number, f"Organ {number}", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (number * 2, 90, 255 - number))
        for number in range(1, count + 1)
    )
    findings = tuple(
        Finding(
            codes.LUNG, segment.label, segment.number, measurements=(Measurement(codes.VOLUME, 1.0, codes.MILLILITER),)
        )
        for segment in segments[:20]
    )
    return Result(
        study_instance_uid=images[0].StudyInstanceUID,
        series_instance_uid=images[0].SeriesInstanceUID,
        input_digest="00" * 32,
        revision=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        algorithm=Algorithm("Organs", "1", "Benchmark", "organs", "11" * 32, codes.ARTIFICIAL_INTELLIGENCE),
        equipment=Equipment("Overread", "Overread AI node", ("1",), "benchmark"),
        source_images=tuple(SourceImage(str(i.SOPClassUID), str(i.SOPInstanceUID)) for i in images),
        labels=labels,
        segments=segments,
        findings=findings,
    )


def write_inputs(folder: Path, slices: int, count: int) -> None:
    """The images, and the labels as both programs read them: NRRD for dcmqi, plain bytes behind a header for us."""
    labels = make_organs(slices, count)
    spacing_mm = (1.0, 0.75, 0.75)
    (folder / "ct").mkdir(parents=True)
    voxels = np.zeros(labels.shape, np.int16)
    for number, image in enumerate(
        make_series(shape=labels.shape, spacing_mm=spacing_mm, modality="CT", voxels=voxels)
    ):
        image.save_as(folder / "ct" / f"{number:04d}.dcm", enforce_file_format=True)
    np.save(folder / "labels.npy", labels)
    header = (
        f"NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: {COLUMNS} {ROWS} {slices}\n"
        "space directions: (0.75,0,0) (0,0.75,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n"
        "space origin: (-20,-30,40)\n\n"
    )
    (folder / "labels.nrrd").write_bytes(header.encode() + labels.tobytes())
    organ = {"CodeValue": "91723000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"}
    lung = {"CodeValue": "39607008", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lung"}
    described = [
        {
            "labelID": number,
            "SegmentLabel": f"Organ {number}",
            "SegmentDescription": f"Organ {number}",
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "Organs",
            "SegmentedPropertyCategoryCodeSequence": organ,
            "SegmentedPropertyTypeCodeSequence": lung,
        }
        for number in range(1, count + 1)
        if (labels == number).any()
    ]
    meta = {
        "ContentCreatorName": "Benchmark",
        "SeriesDescription": "Benchmark",
        "SeriesNumber": "100",
        "InstanceNumber": "1",
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "Benchmark",
        "segmentAttributes": [described],
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def by_dcmqi(folder: Path, kind: str, out: Path) -> float:
    """Seconds of the whole program."""
    command = [
        Path(sys.executable).parent / "itkimage2segimage",
        *("--inputImageList", folder / "labels.nrrd", "--inputDICOMDirectory", folder / "ct"),
        *("--inputMetadata", folder / "meta.json", "--outputDICOM", out, "--segmentationType", kind),
    ]
    started = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return time.perf_counter() - started


def by_us(folder: Path, name: str, out: Path) -> float:
    """Seconds for the same: read the headers and the labels, encode, write."""
    flavour, count, *_ = CASES[name]
    started = time.perf_counter()
    images = [dcmread(path, stop_before_pixels=True) for path in sorted((folder / "ct").iterdir())]
    labels = np.load(folder / "labels.npy")
    profile = replace(CONSERVATIVE, segmentation_flavour=flavour)
    (dataset,) = encode_segmentations(make_result(images, labels, count), images, profile)
    with out.open("wb") as file:
        write_part10(dataset, file)
    return time.perf_counter() - started


def write_small(out: Path) -> None:
    """One slice, after which the tables of the libraries are loaded."""
    images = make_series(shape=(1, 16, 16), spacing_mm=(1.0, 1.0, 1.0), modality="CT")
    (dataset,) = encode_segmentations(make_result(images, np.ones((1, 16, 16), np.uint8), 1), images)
    with out.open("wb") as file:
        write_part10(dataset, file)


def resident_mb(field: str) -> float:
    """Resident memory of this process, now (VmRSS) or at most (VmHWM); `ru_maxrss` would count pages of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1000


def child(name: str, folder: Path, out: Path) -> None:
    """What is measured in a process of its own."""
    started = time.perf_counter()
    write_small(out)
    once = time.perf_counter() - started
    before = resident_mb("VmRSS")
    taken = by_us(folder, name, out)
    memory = resident_mb("VmHWM") - before
    warm = by_us(folder, name, out)
    print(json.dumps({"first": once + taken, "warm": warm, "memory": memory}))


def report_ms(folder: Path, count: int) -> tuple[float, float, int]:
    """Milliseconds of writing a report when one was written before, of what the gate then needs for it beside the
    Segmentation, and of how many findings it is: every segment is one.
    """
    images = [dcmread(path, stop_before_pixels=True) for path in sorted((folder / "ct").iterdir())]
    result = make_result(images, np.load(folder / "labels.npy"), count)
    segmentations = encode_segmentations(result, images)
    evidence, numbering = check_evidence(result, images), number_segments(result)
    written, checked = [], []
    for _ in range(6):
        started = time.perf_counter()
        report = encode_measurement_report(result, images, segmentations, evidence=evidence, numbering=numbering)
        to_part10(report)
        encoded = time.perf_counter()
        conformance.check(segmentations, images)
        alone = time.perf_counter()
        conformance.check([*segmentations, report], images)
        written.append(encoded - started)
        checked.append(time.perf_counter() - alone - (alone - encoded))
    return min(written[1:]) * 1000, statistics.median(checked[1:]) * 1000, len(numbering.places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--child", nargs=3, metavar=("CASE", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder, out = options.child
        child(name, Path(folder), Path(out))
        return
    missed = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for count in {CASES[name][1] for name in ([options.case] if options.case else CASES)}:
            write_inputs(root / str(count), options.slices, count)
        print(f"{options.slices} x {ROWS} x {COLUMNS}, load {os.getloadavg()[0]:.1f}, medians of {options.rounds}")
        print("case           dcmqi s  first s  warm s  warm/dcmqi  must be   file MB  dcmqi MB  memory/labels")
        for name in [options.case] if options.case else CASES:
            missed += measure(name, root, options.rounds)
        smallest = min(CASES[name][1] for name in ([options.case] if options.case else CASES))
        taken, gate, findings = report_ms(root / str(smallest), smallest)
        usual = findings <= USUAL_FINDINGS
        print(
            f"report of {findings} findings on {options.slices} images: {taken:.0f} ms"
            f"{f', must be {SLOWEST_REPORT_MS:.0f}' if usual else ''}; and {gate:.0f} ms in the gate"
        )
        missed += [f"report {taken:.0f} ms"] if usual and taken > SLOWEST_REPORT_MS else []
    if missed:
        sys.exit("missed: " + "; ".join(missed))


def measure(name: str, root: Path, rounds: int) -> list[str]:
    """One line of the table; what was missed, in words."""
    _, count, kind, wanted = CASES[name]
    folder, ours, theirs = root / str(count), root / "ours.dcm", root / "theirs.dcm"
    peer, taken = [], []
    for _ in range(rounds):
        peer.append(by_dcmqi(folder, kind, theirs))
        command = [sys.executable, __file__, "--child", name, str(folder), str(ours)]
        taken.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    dcmqi = statistics.median(peer)
    first, warm, memory = (statistics.median(each[key] for each in taken) for key in ("first", "warm", "memory"))
    input_mb = (folder / "labels.npy").stat().st_size / 1e6
    sizes = [path.stat().st_size / 1e6 for path in (ours, theirs)]
    print(
        f"{name:14} {dcmqi:7.2f} {first:8.2f} {warm:7.2f} {warm / dcmqi:10.2f}x {wanted:7.1f}x {sizes[0]:9.1f}"
        f" {sizes[1]:9.1f} {memory / input_mb:10.2f}x"
    )
    missed = [f"{name}: {warm / dcmqi:.2f}x"] if warm / dcmqi > wanted else []
    missed += [f"{name}: memory {memory / input_mb:.2f}x"] if memory / input_mb > LARGEST_MEMORY else []
    too_large = kind == "labelmap" and sizes[0] > LARGEST_LABEL_MAP_MB
    return missed + ([f"{name}: {sizes[0]:.1f} MB"] if too_large else [])


if __name__ == "__main__":
    main()
