"""Make `example/`: the demo series at a third of its resolution with the labels that the model gives it now.

    python config/models/brain-ventricles/training/make_example.py

Run it in the node's environment after the weights have changed, look at the labels, and put the new SHA-256 of
`model.onnx` into `model.toml`. `overread models check` compares the model with this example ever after.
"""

from pathlib import Path

import numpy as np

from node.infer import analyse, load_manifest
from node.infer.registry import Model
from node.volume import Volume, load_volume

FOLDER = Path(__file__).parent.parent
SERIES = FOLDER.parent.parent / "demo" / "mni152-t1"
STEP = 3


def main() -> None:
    """Write `input.npz` and `expected.npz`."""
    whole = load_volume(sorted(SERIES.glob("*.dcm")))
    affine = whole.affine_lps @ np.diag([STEP, STEP, STEP, 1.0])
    small = Volume(
        voxels=np.ascontiguousarray(whole.voxels[::STEP, ::STEP, ::STEP]),
        affine_lps=affine,
        headers=(),
        modality=whole.modality,
        frame_of_reference_uid="",
    )
    labels = analyse(Model(FOLDER, load_manifest(FOLDER)), {"t1": small}, device="cpu").labels
    folder = FOLDER / "example"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "input.npz", voxels=small.voxels, affine_lps=affine, modality=np.array(small.modality))
    np.savez_compressed(folder / "expected.npz", labels=labels)
    print(f"labels {np.bincount(labels.ravel())}")


if __name__ == "__main__":
    main()
