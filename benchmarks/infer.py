"""Sliding window on the CPU beside MONAI with PyTorch, alternating, and the memory of volumes with many classes.

    python benchmarks/infer.py --peer-python OTHER/bin/python [--size 96] [--patch 64] [--rounds 3]
    python benchmarks/infer.py --memory [--classes 5 104] [--halo 16]

The peer runs in an environment of its own (`pip install torch monai onnx`), which also exports the network: a 3D U-Net
with 5 classes (channels 16 to 128, strides of 2, batch normalisation, one residual unit). Both get the same patches,
overlap and Gaussian weights. Memory is that of a process of its own that analyses 300 x 512 x 512 voxels in
patches, above the same process with the model loaded and run once.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = 5
MODEL_TOML = """\
version = 1
[model]
identifier = "benchmark"
name = "Benchmark"
version = "1"
maker = "Nobody"
licence = "MIT"
intended_use = "Measuring. Not for clinical use."
regulatory_status = "none"
[files]
"model.onnx" = "{sha256}"
[[inputs]]
[inputs.requires]
modality = ["CT"]
[preprocessing]
orientation = "SPL"
alignment = "acquisition"
{spacing}
[run]
mode = "sliding-window"
patch = [{patch}, {patch}, {patch}]
{overlap}
[[outputs]]
task = "segmentation"
channels = {channels}
{labels}
"""


def phantom(shape: Sequence[int]) -> np.ndarray:
    """Smooth shades with noise, float32."""
    axes = np.meshgrid(*(np.linspace(0, 9, side, dtype=np.float32) for side in shape), indexing="ij", sparse=True)
    noise = np.random.default_rng(1).normal(0, 0.1, shape).astype(np.float32)
    return np.asarray(np.sin(axes[0]) + np.cos(axes[1]) * np.sin(axes[2]) + noise, np.float32)


# The peer: in its own process and environment.


def serve_peer(folder: Path, size: int, patch: int, threads: int) -> None:
    """Export the network, then run once for each line on standard input and answer with the seconds."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import UNet

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = UNet(3, 1, CLASSES, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1, norm="BATCH").eval()
    with torch.inference_mode():
        torch.onnx.export(
            net,
            (torch.zeros(1, 1, patch, patch, patch),),
            folder / "model.onnx",
            opset_version=17,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
        )
        image = torch.from_numpy(phantom((size, size, size)))[None, None]
        print("ready", flush=True)
        for _ in sys.stdin:
            started, used = time.perf_counter(), time.process_time()
            scores = sliding_window_inference(image, (patch,) * 3, 1, net, overlap=0.25, mode="gaussian")
            answer = [time.perf_counter() - started, time.process_time() - used]
            np.save(folder / "labels.npy", scores[0].argmax(0).numpy().astype(np.uint8))
            print(json.dumps(answer), flush=True)


def compare(peer_python: str, size: int, patch: int, rounds: int, threads: int) -> None:
    """Both ways in turn; medians, their ratio, and on how many voxels the labels agree."""
    from node.infer.mosaic import Block
    from node.infer.output_sections import Label, Postprocessing
    from node.infer.postprocess import make_decision
    from node.infer.sections import Run
    from node.infer.session import open_session
    from node.infer.sliding_window import run_network

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [peer_python, __file__, "--serve", name, "--size", size, "--patch", patch, "--threads", threads]
        with subprocess.Popen(
            [str(each) for each in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as peer:
            assert peer.stdin is not None and peer.stdout is not None
            line = ""
            while line != "ready\n":
                line = peer.stdout.readline()
                if not line:
                    sys.exit(f"the peer did not start: {peer_python} needs torch, monai and onnx")
            image = phantom((size, size, size))
            session = open_session(
                "unet",
                folder / "model.onnx",
                input_names=["image"],
                output_names=["logits"],
                device="cpu",
                threads=threads,
            )
            run = Run.model_validate({"mode": "sliding-window", "patch": (patch,) * 3, "overlap": 0.25})
            labels = [
                Label.model_validate(
                    {"name": str(n), "channels": [n], "type": {"value": "1", "meaning": "x"}, "rgb": (0, 0, 0)}
                )
                for n in range(1, CLASSES)
            ]
            decision = make_decision(Postprocessing(), labels, CLASSES)
            inside = 0.0

            def network(batch: np.ndarray, last: bool) -> np.ndarray:
                nonlocal inside
                started = time.perf_counter()
                output = session.run({"image": batch}, last=last)["logits"]
                inside += time.perf_counter() - started
                return output

            def ours() -> tuple[float, float, np.ndarray]:
                started, used = time.perf_counter(), time.process_time()
                found = np.empty(image.shape, np.uint8)
                block: Block
                for block in run_network(network, image[None], run, lambda share: None).blocks:
                    found[block.box] = decision.numbers[decision.states(block.scores)]
                return time.perf_counter() - started, time.process_time() - used, found

            ours()
            rows: dict[str, list[list[float]]] = {"overread": [], "MONAI + torch": []}
            shares, agreement = [], 1.0
            for _ in range(rounds):
                inside = 0.0
                seconds, processor, found = ours()
                rows["overread"].append([seconds, processor])
                shares.append(1 - inside / seconds)
                peer.stdin.write("run\n")
                peer.stdin.flush()
                rows["MONAI + torch"].append(json.loads(peer.stdout.readline()))
                agreement = min(agreement, float((found == np.load(folder / "labels.npy")).mean()))
            peer.stdin.close()
    print(f"{size}^3 voxels, patches of {patch}^3, overlap 0.25, Gaussian, {threads} threads, {rounds} rounds")
    medians = {way: [statistics.median(column) for column in zip(*each, strict=True)] for way, each in rows.items()}
    for way, (seconds, processor) in medians.items():
        print(f"  {way:16s} {seconds:8.2f} s  {processor:8.2f} CPU s")
    wall, cpu = (ours / theirs for ours, theirs in zip(medians["overread"], medians["MONAI + torch"], strict=True))
    print(f"  ratio            {wall:8.3f}    {cpu:8.3f}        (overread / MONAI + torch)")
    print(f"  labels equal on {100 * agreement:.4f} % of voxels; {100 * statistics.median(shares):.1f} % of the time ")
    print("  outside the network")


# Memory.


def status_mb(field: str) -> float:
    """A memory figure of this process; `ru_maxrss` would count the parent's pages."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1000


def make_model(folder: Path, channels: int, patch: int, spacing: str = "", overlap: str = "overlap = 0.25") -> None:
    """A network of one convolution with as many channels, and its manifest."""
    import hashlib

    import onnx
    from onnx import TensorProto, helper

    chance = np.random.default_rng(2)
    weights = chance.normal(size=(channels, 1, 1, 1, 1)).astype(np.float32)
    bias = chance.normal(size=channels).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights", "bias"], ["logits"])],
        "benchmark",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, "D", "H", "W"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", channels, "D", "H", "W"])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
            helper.make_tensor("bias", TensorProto.FLOAT, bias.shape, bias),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content = model.SerializeToString()
    onnx.checker.check_model(model)
    (folder / "model.onnx").write_bytes(content)
    label = (
        '[[outputs.labels]]\nname = "{0}"\nchannels = [{0}]\ntype = {{ value = "1", meaning = "x" }}\nrgb = [0, 0, 0]'
    )
    text = MODEL_TOML.format(
        sha256=hashlib.sha256(content).hexdigest(),
        channels=channels,
        patch=patch,
        spacing=spacing,
        overlap=overlap,
        labels="\n".join(label.format(number) for number in range(1, channels)),
    )
    (folder / "model.toml").write_text(text)


def measure(folder: Path, shape: Sequence[int]) -> None:
    """Analyse in this process: prints the memory before and the peak, in MB, and the seconds."""
    from pydicom import Dataset

    from node.infer import Registry, analyse
    from node.infer.pool import keep_large_arrays_apart
    from node.volume import Volume

    keep_large_arrays_apart()  # as the worker does
    model = Registry([folder]).models()[0]
    patch = model.manifest.sequence[-1].run.patch

    def volume(sides: Sequence[int]) -> Volume:
        voxels = np.empty(sides, np.int16)
        chance = np.random.default_rng(3)
        rows, columns = np.meshgrid(np.arange(sides[1]), np.arange(sides[2]), indexing="ij")
        for index in range(sides[0]):
            voxels[index] = 900 * np.sin(rows / 60 + index / 50) * np.cos(columns / 45) + chance.normal(0, 12)
        headers = [Dataset() for _ in range(sides[0])]
        for number, header in enumerate(headers):
            header.SOPInstanceUID = f"1.2.{number + 1}"
        return Volume(voxels, np.diag([1.0, 0.7, 0.7, 1.0]), headers, "CT", "1.2.3")

    assert patch is not None
    analyse(model, {"image": volume(patch)}, device="cpu")
    whole = volume(shape)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = status_mb("VmRSS"), time.perf_counter()
    analyse(model, {"image": whole}, device="cpu")
    print(json.dumps([before - whole.voxels.nbytes / 1e6, status_mb("VmHWM"), time.perf_counter() - started]))


def memory(classes: Sequence[int], patch: int, shape: Sequence[int], halo: int) -> None:
    """Peak memory for each number of classes, on the images' own voxels and resampled."""
    overlap = f"halo = {halo}" if halo else "overlap = 0.25"
    print(
        f"{' x '.join(map(str, shape))} voxels of int16, patches of {patch}^3, {overlap}; peak above the loaded model:"
    )
    for channels in classes:
        for spacing in ("", "spacing_mm = [1.5, 1.5, 1.5]"):
            with tempfile.TemporaryDirectory() as name:
                make_model(Path(name), channels, patch, spacing, overlap)
                command = [sys.executable, __file__, "--measure", name, "--shape", *map(str, shape)]
                answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode:
                sys.exit(answer.stderr)
            before, peak, seconds = json.loads(answer.stdout.splitlines()[-1])
            where = "resampled to 1.5 mm" if spacing else "own voxels"
            print(f"  {channels:4d} classes, {where:20s} {peak - before:7.0f} MB  ({seconds:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with torch, monai and onnx")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--classes", type=int, nargs="+", default=[5, 104])
    parser.add_argument("--halo", type=int, default=0, help="voxels at the sides of a patch that are not used")
    parser.add_argument("--shape", type=int, nargs=3, default=[300, 512, 512])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_peer(given.serve, given.size, given.patch, given.threads)
        return
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if given.measure:
        measure(given.measure, given.shape)
    elif given.memory:
        memory(given.classes, given.patch, given.shape, given.halo)
    elif given.peer_python:
        compare(given.peer_python, given.size, given.patch, given.rounds, given.threads)
    else:
        parser.error("--peer-python or --memory")


if __name__ == "__main__":
    main()
