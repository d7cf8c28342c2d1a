"""Makes `reference.npz`, `cases.json` and `net.onnx`: what PyTorch, MONAI and scikit-image give for each option of
preprocessing and of the sliding window. Run once, in an environment of its own:

    pip install torch==2.13.0 monai==1.6.1 scikit-image==0.26.0 onnx && python make.py

Each case names the part of the manifest that is to give the same, and its input and expected arrays.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    ClipIntensityPercentiles,
    CropForeground,
    DivisiblePad,
    NormalizeIntensity,
    Orientation,
    ScaleIntensity,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
)
from skimage.transform import resize
from torch import nn

HERE = Path(__file__).parent
CASES: list[dict] = []
ARRAYS: dict[str, np.ndarray] = {}
CHANCE = np.random.default_rng(11)


def case(kind: str, name: str, manifest: dict, given: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Keep one case; arrays are stored once for each content."""
    places = []
    for array in (given, expected):
        array = np.ascontiguousarray(array, np.float32)
        place = next((key for key, other in ARRAYS.items() if np.array_equal(other, array)), f"array{len(ARRAYS)}")
        ARRAYS[place] = array
        places.append(place)
    CASES.append(
        {
            "kind": kind,
            "name": name,
            "manifest": manifest,
            "given": places[0],
            "expected": places[1],
            "tolerance": tolerance,
        }
    )


def head(shape: tuple[int, ...]) -> np.ndarray:
    """A bright ball with texture in a field of exact zeros, as after removal of the background."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    ball = sum(axis**2 for axis in axes) < 0.7
    return np.where(ball, 300 + 900 * CHANCE.random(shape), 0).astype(np.float32)


def intensities() -> None:
    """Steps on the whole grid."""
    image = head((14, 16, 12))
    tensor = torch.from_numpy(image.copy())[None]
    steps = {
        "window": (
            {"step": "window", "centre": 500, "width": 800, "low": -1, "high": 1},
            ScaleIntensityRange(100, 900, -1, 1, clip=True),
        ),
        "min-max": ({"step": "min-max", "low": -1, "high": 2}, ScaleIntensity(-1, 2)),
        "percentiles": (
            {"step": "clip-percentiles", "low": 5, "high": 97.5},
            ClipIntensityPercentiles(5, 97.5),
        ),
        "z-score": ({"step": "z-score"}, NormalizeIntensity()),
        "z-score of what is not zero": (
            {"step": "z-score", "over": "nonzero", "only_there": True},
            NormalizeIntensity(nonzero=True),
        ),
        "z-score by fixed numbers": (
            {"step": "z-score", "mean": 200, "deviation": 150},
            NormalizeIntensity(subtrahend=200, divisor=150),
        ),
        "percentile-window": (
            {"step": "percentile-window", "lower": 5, "upper": 95, "low": -1},
            ScaleIntensityRangePercentiles(5, 95, -1, 1),
        ),
        "percentile-window, clipped": (
            {"step": "percentile-window", "lower": 20, "upper": 99, "high": 255, "clip": True},
            ScaleIntensityRangePercentiles(20, 99, 0, 255, clip=True),
        ),
        "clip": ({"step": "clip", "low": 350, "high": 800}, lambda values: values.clamp(350, 800)),
        "affine": ({"step": "affine", "scale": 0.01, "offset": -3}, lambda values: values * 0.01 - 3),
    }
    for name, (manifest, transform) in steps.items():
        case("intensity", name, {"intensity": [manifest]}, image, np.asarray(transform(tensor.clone()))[0], 1e-4)
    both = ScaleIntensity(0, 1)(ClipIntensityPercentiles(1, 99)(tensor.clone()))
    chain = {"intensity": [{"step": "clip-percentiles", "low": 1, "high": 99}, {"step": "min-max"}]}
    case("intensity", "percentiles, then min-max", chain, image, np.asarray(both)[0], 1e-4)


def geometry() -> None:
    """Orientation, cropping and padding; the volume's voxels go to P, L and S by (slice, row, column) = (S, P, L)."""
    image = head((14, 16, 12))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # MONAI's world is RAS: column to the left, row to the back, slice up
    monai = MetaTensor(torch.from_numpy(image.transpose(2, 1, 0).copy())[None], affine=torch.from_numpy(affine))
    for letters in ("LPS", "RAS", "LIA", "SPL", "AIR"):
        turned = Orientation(axcodes=letters, labels=(("L", "R"), ("P", "A"), ("I", "S")))(monai)
        manifest = {"orientation": letters, "alignment": "acquisition", "grid": {"kind": "source"}}
        case("geometry", f"orientation {letters}", manifest, image, np.asarray(turned)[0], 0)
    away = np.zeros((14, 16, 12), np.float32)
    away[4:9, 5:13, 2:8] = 1 + CHANCE.random((5, 8, 6))
    cropped = CropForeground(select_fn=lambda values: values > 0.5, margin=2)(torch.from_numpy(away)[None])
    manifest = {
        "orientation": "SPL",
        "alignment": "acquisition",
        "grid": {"kind": "source"},
        "crop": {"threshold_fraction": 0.25, "margin_voxels": 2},
    }
    case("geometry", "crop to the foreground", manifest, away, np.asarray(cropped)[0], 0)
    padded = DivisiblePad(8, method="end", constant_values=-2.0)(torch.from_numpy(image)[None])
    case("padding", "multiple", {"multiple": [8, 8, 8], "padding_value": -2}, image, np.asarray(padded)[0], 0)


def resampling() -> None:
    """Places in another grid, by `grid_sample`: exact at voxel centres; only where voxels surround them."""
    image = head((14, 16, 12))
    spacing = np.array([2.0, 1.0, 1.5])
    for name, mode in (("linear", "bilinear"), ("nearest", "nearest")):
        wanted = np.array([1.3, 1.3, 1.3])
        extent = (np.array(image.shape)) * spacing
        shape = np.ceil(extent / wanted - 1e-6).astype(int)
        middle = (np.array(image.shape) - 1) / 2
        axes = [
            ((np.arange(count) - (count - 1) / 2) * step / own + centre)
            for count, step, own, centre in zip(shape, wanted, spacing, middle, strict=True)
        ]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        normal = places / (np.array(image.shape) - 1) * 2 - 1
        grid = torch.from_numpy(normal[..., ::-1].copy())[None]
        tensor = torch.from_numpy(image.astype(np.float64))[None, None]
        found = torch.nn.functional.grid_sample(tensor, grid, mode=mode, padding_mode="zeros", align_corners=True)
        inside = ((places >= 0) & (places <= np.array(image.shape) - 1)).all(-1)
        expected = np.where(inside, found[0, 0].numpy(), np.nan)
        manifest = {"orientation": "SPL", "alignment": "acquisition", "spacing_mm": [1.3] * 3, "interpolation": name}
        case("resampling", name, manifest, image, expected, 1e-3)


def as_nnunet_does() -> None:
    """Cut to what is not 0, z-score on the images' own voxels, resized by scikit-image: nnU-Net's order of things.
    Where voxels are more than 3 times as long along an axis, plane by plane, and then the nearest plane.
    """
    image = head((14, 16, 12))
    places = np.nonzero(image)
    cut = image[tuple(slice(each.min(), each.max() + 1) for each in places)]
    scaled = (cut - cut.mean()) / cut.std()
    options = {"order": 3, "mode": "edge", "anti_aliasing": False}
    spacing = np.array([2.0, 1.0, 1.5])
    for name, wanted in (
        ("", [1.2, 1.3, 1.1]),
        (", coarse slices", [3.2, 1.3, 0.9]),
        (", coarse rows", [0.9, 2.9, 1.1]),
    ):
        shape = [round(size) for size in spacing / wanted * cut.shape]
        if max(wanted) > 3 * min(wanted):
            axis = int(np.argmax(wanted))
            planes = np.moveaxis(scaled, axis, 0)
            sides = shape[:axis] + shape[axis + 1 :]
            found = np.stack([resize(plane, sides, **options) for plane in planes])
            at = len(planes) / shape[axis] * (np.arange(shape[axis]) + 0.5) - 0.5
            nearest = np.clip(np.floor(at + 0.5).astype(int), 0, len(planes) - 1)
            expected = np.moveaxis(found[nearest], 0, axis)
        else:
            expected = resize(scaled, shape, **options)
        manifest = {
            "orientation": "SPL",
            "alignment": "acquisition",
            "spacing_mm": wanted,
            "interpolation": "cubic-clipped",
            "coarse_axis": "nearest",
            "outside": "edge",
            "grid": {"kind": "resized", "around": "nonzero"},
            "intensity": [{"step": "z-score"}],
            "intensity_on": "images",
        }
        case("resampling", f"as nnU-Net does{name}", manifest, image, expected, 1e-4)


def pictures() -> None:
    """Images resized as `interpolate` does; area by whole factors, where every definition is the same."""
    picture = CHANCE.random((24, 36)).astype(np.float32)
    tensor = torch.from_numpy(picture)[None, None]
    options = {
        "area": ([8, 12], {"mode": "area"}),
        "linear": ([17, 23], {"mode": "bilinear", "align_corners": False}),
        "linear-antialias": ([9, 13], {"mode": "bilinear", "align_corners": False, "antialias": True}),
        "nearest": ([17, 23], {"mode": "nearest-exact"}),
    }
    for name, (size, arguments) in options.items():
        found = torch.nn.functional.interpolate(tensor, size, **arguments)[0, 0].numpy()
        manifest = {"dimensions": 2, "size": size, "fit": "stretch", "interpolation": name}
        case("picture", name, manifest, picture, found, 2e-4)


class Net(nn.Module):
    """Two convolutions that see 5 x 5 x 5 voxels, so that it matters where patches lie."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.second = nn.Conv3d(4, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(image)))


def windows() -> None:
    """The sliding window, for overlaps, weights, sizes that do not fit and volumes smaller than a patch; flips."""
    torch.manual_seed(5)
    net = Net().eval()
    torch.onnx.export(
        net,
        (torch.zeros(1, 1, 8, 8, 8),),
        HERE / "net.onnx",
        opset_version=17,
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={name: {0: "n", 2: "d", 3: "h", 4: "w"} for name in ("image", "logits")},
    )
    image = CHANCE.normal(size=(13, 17, 10)).astype(np.float32)
    small = CHANCE.normal(size=(5, 9, 6)).astype(np.float32)
    for given, patch, overlap, blending in [
        (image, (8, 8, 8), 0.25, "gaussian"),
        (image, (8, 8, 8), 0.5, "gaussian"),
        (image, (8, 6, 10), 0.75, "gaussian"),
        (image, (8, 8, 8), 0.0, "constant"),
        (image, (8, 8, 8), 0.25, "constant"),
        (small, (8, 8, 8), 0.25, "gaussian"),
        (small, (8, 4, 9), 0.5, "constant"),
    ]:
        inferer = SlidingWindowInferer(patch, 2, overlap, blending)
        found = inferer(torch.from_numpy(given)[None, None], net)[0].numpy()
        run = {"mode": "sliding-window", "patch": patch, "overlap": overlap, "blending": blending, "batch": 2}
        sizes = "x".join(map(str, given.shape))
        case("window", f"{sizes}, {patch}, {overlap}, {blending}", run, given, found, 1e-4)
    tensor = torch.from_numpy(image)[None, None]
    answers = []
    for axes in itertools.chain.from_iterable(itertools.combinations((2, 4), count) for count in range(3)):
        answers.append(torch.flip(net(torch.flip(tensor, axes)), axes) if axes else net(tensor))
    case("window", "flips", {"flips": [0, 2]}, image, torch.stack(answers).mean(0)[0].numpy(), 1e-4)
    case("window", "whole", {}, image, net(tensor)[0].numpy(), 1e-5)
    halo = {"mode": "sliding-window", "patch": (8, 9, 10), "halo": 2}
    case("window", "halo as wide as the network looks", halo, image, net(tensor)[0].numpy(), 1e-5)


def main() -> None:
    with torch.inference_mode():
        intensities()
        geometry()
        resampling()
        pictures()
        windows()
        as_nnunet_does()
    np.savez_compressed(HERE / "reference.npz", **ARRAYS)
    (HERE / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
    print(f"{len(CASES)} cases, {(HERE / 'reference.npz').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
