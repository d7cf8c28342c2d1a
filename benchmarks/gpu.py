"""What the GPU gives: the provider that really ran, speed beside PyTorch on the same device, memory of three models.

    python benchmarks/gpu.py --peer-python OTHER/bin/python     speed beside torch, eager and compiled
    python benchmarks/gpu.py --memory [--runs 1000]             three models within a budget, memory before and after
    python benchmarks/gpu.py --exhaust                          a batch that no memory holds, and the next run
    python benchmarks/gpu.py --labels [--onnx NETWORK]          a whole volume: scores left on the GPU (by CuPy) and
                                                                brought back, share outside the network, labels

Every part prints the name of the device and the provider of the session. `--device cpu` tries the script where there is
no GPU; its figures then say nothing about one.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 5


def device_name() -> str:
    """Name of the first GPU, as its driver has it."""
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver"
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def used_mb() -> float:
    """Memory of the first GPU in use; of this process where there is none."""
    if shutil.which("nvidia-smi") is None:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0])


def serve_peer(folder: Path, patch: int, device: str) -> None:
    """Export a U-Net; then for each line (`eager` or `compiled`) run it on one patch and answer with the seconds."""
    import torch
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    where = "cpu" if device == "cpu" else "cuda"
    net = UNet(3, 1, CLASSES, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1, norm="BATCH").eval()
    torch.onnx.export(
        net,
        (torch.zeros(1, 1, patch, patch, patch),),
        folder / "model.onnx",
        opset_version=17,
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
    )
    image = torch.from_numpy(np.load(folder / "image.npy")).to(where)
    net = net.to(where)
    ways = {"eager": net, "compiled": torch.compile(net)}
    print("ready", flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            started = time.perf_counter()
            scores = ways[line.strip()](image).cpu()  # the answer is wanted in the memory of the machine
            print(json.dumps(time.perf_counter() - started), flush=True)
            np.save(folder / "scores.npy", scores.numpy())


def compare(peer_python: str, patch: int, rounds: int, device: str) -> None:
    """One patch through both in turn."""
    from node.infer.session import open_session

    image = np.random.default_rng(1).normal(size=(1, 1, patch, patch, patch)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "image.npy", image)
        command = [peer_python, __file__, "--serve", name, "--patch", str(patch), "--device", device]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdin is not None and peer.stdout is not None
            if "ready" not in peer.stdout.readline():
                sys.exit(f"the peer did not start: {peer_python} needs torch, monai and onnx")
            session = open_session(
                "unet",
                folder / "model.onnx",
                input_names=["image"],
                output_names=["logits"],
                device=device,
                threads=0,
            )

            def ask(way: str) -> float:
                assert peer.stdin is not None and peer.stdout is not None
                peer.stdin.write(way + "\n")
                peer.stdin.flush()
                return float(json.loads(peer.stdout.readline()))

            def ours() -> float:
                started = time.perf_counter()
                session.run({"image": image}, last=False)
                return time.perf_counter() - started

            ways = {"overread": ours, "torch eager": lambda: ask("eager"), "torch compiled": lambda: ask("compiled")}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for round_number in range(rounds + 1):
                for way, run in ways.items():
                    passed = run()
                    if round_number:  # the first warms up
                        seconds[way].append(passed)
            scores = session.run({"image": image})["logits"]
            agreement = float((scores.argmax(1) == np.load(folder / "scores.npy").argmax(1)).mean())
            peer.stdin.close()
    print(f"{device_name()}: {session.provider}, one patch of {patch}^3, {CLASSES} classes, {rounds} rounds")
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    for way, median in medians.items():
        print(f"  {way:16s} {1000 * median:8.1f} ms")
    faster = min(medians["torch eager"], medians["torch compiled"])
    print(f"  the faster of torch takes {faster / medians['overread']:.2f}x the time of overread")
    print(f"  labels equal on {100 * agreement:.4f} % of voxels")


def memory(runs: int, patch: int, device: str, budget_mb: int) -> None:
    """Three models in turn, within a budget; memory in use after the tenth round and at the end."""
    import infer as on_cpu

    from node.infer import Registry, analyse
    from node.infer.pool import SessionPool
    from node.volume import load_volume
    from tests.phantoms import write_series

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(3):
            (folder / "models" / f"m{index}").mkdir(parents=True)
            on_cpu.make_model(folder / "models" / f"m{index}", 2 + index, patch)
            text = (folder / "models" / f"m{index}" / "model.toml").read_text()
            (folder / "models" / f"m{index}" / "model.toml").write_text(text.replace('"benchmark"', f'"m{index}"', 1))
        volume = load_volume(write_series(folder / "series", shape=(2 * patch, patch, patch), modality="CT"))
        registry = Registry([folder / "models"], SessionPool(budget_mb * 1_000_000))
        early, provider = 0.0, ""
        for number in range(runs):
            model = registry.models()[number % 3]
            registry.pool.rest()
            provider = analyse(model, {"image": volume}, device=device).provider
            if number == min(29, runs // 2):
                early = used_mb()
        late = used_mb()
    print(f"{device_name()}: {provider}, 3 models, {runs} runs: {early:.0f} MB, then {late:.0f} MB ", end="")
    print(f"({100 * (late / early - 1):+.1f} %)")


class Timed:
    """An engine that adds up the seconds of its runs."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seconds = engine, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run(self, *arguments: Any) -> Any:
        return self._timed(self.engine.run, *arguments)

    def run_with_iobinding(self, *arguments: Any) -> None:
        self._timed(self.engine.run_with_iobinding, *arguments)

    def _timed(self, run: Any, *arguments: Any) -> Any:
        started = time.perf_counter()
        answer = run(*arguments)
        self.seconds += time.perf_counter() - started
        return answer


def labels(patch: int, rounds: int, device: str, network: Path | None) -> None:
    """The same volume with scores left where they were computed, and with scores brought back."""
    from dataclasses import replace

    import infer as on_cpu

    from node.infer import Registry, analyse
    from node.infer.pool import Key
    from node.infer.session import Session
    from node.volume import load_volume
    from tests.phantoms import write_series

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        on_cpu.make_model(folder / "model", CLASSES, patch, "spacing_mm = [1.5, 1.5, 1.5]")
        if network is not None:
            digest = hashlib.sha256((folder / "model" / "model.onnx").read_bytes()).hexdigest()
            shutil.copyfile(network, folder / "model" / "model.onnx")
            text = (folder / "model" / "model.toml").read_text()
            own = hashlib.sha256(network.read_bytes()).hexdigest()
            (folder / "model" / "model.toml").write_text(text.replace(digest, own))
        paths = write_series(folder / "series", shape=(200, 256, 256), spacing_mm=(1.0, 0.9, 0.9), modality="CT")
        volume = load_volume(paths)
        model = Registry([folder / "model"]).models()[0]
        (session,) = model.sessions(device, 0).values()
        assert isinstance(session, Session)
        left = "left on the GPU" if session.scores else "left on the GPU (not so: CuPy is not there)"
        ways = {left: session, "brought back": replace(session, scores=None)}
        print(
            f"{device_name()}: {session.provider}, 200 x 256 x 256 voxels at 1.5 mm, patches of {patch}^3", flush=True
        )
        found = {}
        for way, changed in ways.items():
            seconds, shares = [], []
            for number in range(rounds + 1):
                timed: Any = Timed(changed.engine)
                watched = {"model.onnx": replace(changed, engine=timed)}
                model.pool.close()
                model.pool.sessions(Key(model.identifier, device, 0), partial(dict, watched))
                started = time.perf_counter()
                found[way] = analyse(model, {"image": volume}, device=device).labels
                passed = time.perf_counter() - started
                if number:  # the first warms up
                    seconds.append(passed)
                    shares.append(1 - timed.seconds / passed)
            share = 100 * statistics.median(shares)
            print(
                f"  {way:16s} {1000 * statistics.median(seconds):8.0f} ms, {share:.1f} % outside the network",
                flush=True,
            )
        one, other = found.values()
        print(f"  labels equal on {100 * np.mean(one == other):.4f} % of voxels")


def exhaust(device: str) -> None:
    """A batch that no memory holds is refused as such, and the same session goes on."""
    import infer as on_cpu

    from node.infer.session import OutOfMemory, open_session

    with tempfile.TemporaryDirectory() as name:
        on_cpu.make_model(Path(name), 104, 96)
        session = open_session(
            "m", Path(name) / "model.onnx", input_names=["image"], output_names=["logits"], device=device, threads=0
        )
        small = np.zeros((1, 1, 32, 32, 32), np.float32)
        expected = session.run({"image": small})["logits"]
        huge = np.broadcast_to(np.float32(1), (1, 1, 4096, 4096, 64))  # 104 channels of it: 447 GB
        try:
            session.run({"image": np.ascontiguousarray(huge)})
            outcome = "was computed: this device has more memory than was thought of"
        except OutOfMemory:
            outcome = "was refused for lack of memory"
        same = np.array_equal(session.run({"image": small})["logits"], expected)
    print(
        f"{device_name()}: {session.provider}: the batch {outcome}; the next run gives {'the same' if same else 'ELSE'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with torch (for this GPU), monai and onnx")
    parser.add_argument("--device", choices=["require-gpu", "cpu"], default="require-gpu")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--budget-mb", type=int, default=0)
    parser.add_argument("--exhaust", action="store_true")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--onnx", type=Path, help="Network of 5 classes for --labels; else one convolution")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_peer(given.serve, given.patch, given.device)
        return
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if given.memory:
        memory(given.runs, given.patch, given.device, given.budget_mb)
    elif given.exhaust:
        exhaust(given.device)
    elif given.labels:
        labels(given.patch, given.rounds, given.device, given.onnx)
    elif given.peer_python:
        compare(given.peer_python, given.patch, given.rounds, given.device)
    else:
        parser.error("--peer-python, --memory, --exhaust or --labels")


if __name__ == "__main__":
    main()
