"""What PyTorch, MONAI and scikit-image gave for each option (`parity/make.py`) is what the node gives."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from node.infer.image_preparation import prepare_images
from node.infer.intensity import scale_intensities
from node.infer.networks import StageNetwork
from node.infer.preparation import prepare_volumes
from node.infer.preprocessing_sections import ImagePreprocessing, Preprocessing
from node.infer.sections import Run, Stage
from node.infer.session import Session, open_session
from node.infer.sliding_window import pad_to, run_network
from node.volume import Volume
from node.volume.images import ImageSet

HERE = Path(__file__).parent / "parity"
CASES = json.loads((HERE / "cases.json").read_text())
STAGE = {
    "name": "only",
    "preprocessing": {"orientation": "SPL", "alignment": "acquisition"},
    "outputs": [
        {
            "task": "segmentation",
            "channels": 3,
            "labels": [{"name": "a", "channels": [1], "type": {"value": "1", "meaning": "a"}, "rgb": [0, 0, 0]}],
        }
    ],
}
SPACING_MM = (2.0, 1.0, 1.5)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(HERE / "reference.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def net() -> Session:
    names = {"input_names": ["image"], "output_names": ["logits"]}
    return open_session("m", HERE / "net.onnx", **names, device="cpu", threads=1)


def volume_of(voxels: np.ndarray) -> Volume:
    affine = np.zeros((4, 4))  # slices to the head, rows to the back, columns to the left
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *SPACING_MM, 1
    return Volume(voxels, affine, [Dataset()] * len(voxels), "CT", "1.2.3")


def prepared(voxels: np.ndarray, manifest: dict) -> np.ndarray:
    wanted = Preprocessing.model_validate(manifest)
    return prepare_volumes({"image": volume_of(voxels)}, ["image"], wanted, {}).image[0]


def found(case: dict, given: np.ndarray, net: Session) -> np.ndarray:
    manifest = case["manifest"]
    match case["kind"]:
        case "intensity":
            steps = Preprocessing.model_validate(
                manifest | {"orientation": "SPL", "alignment": "acquisition", "grid": {"kind": "source"}}
            ).intensity
            image = given.copy()
            scale_intensities(image, given, steps)
            return image
        case "padding":
            run = Run.model_validate(manifest)
            return pad_to(given[None], (1, 1, 1), (0, 0, 0), run.multiple, run.padding_value)[0]
        case "picture":
            image = ImageSet(given[None], Dataset(), None, None, (), "1.2.3")
            return prepare_images({"image": image}, ["image"], ImagePreprocessing.model_validate(manifest), {}).image[
                0, 0
            ]
        case "window":
            stage = Stage.model_validate(STAGE | {"run": manifest})
            network = StageNetwork(stage, [net], {"image": 1}, False, "m", lambda: None)
            return run_network(network, given[None], stage.run, lambda share: None).together(3)
        case _:
            return prepared(given, manifest)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['name']}")
def test_as_pytorch_and_monai_have_it(case: dict, arrays, net) -> None:
    expected = arrays[case["expected"]]
    result = found(case, arrays[case["given"]], net)
    assert result.shape == expected.shape
    known = ~np.isnan(expected)
    scale = max(1.0, float(np.abs(expected[known]).max()))
    np.testing.assert_allclose(result[known], expected[known], rtol=0, atol=case["tolerance"] * scale)
