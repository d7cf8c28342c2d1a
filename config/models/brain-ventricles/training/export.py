"""Export a checkpoint of train.py to ONNX (opset 17, one file, fixed shape) and compare it with torch.

The offset of the parenchyma logit was chosen so that the volumes of the two training heads come out right:
without it parenchyma is 6 to 8 % too large and the ventricles are 12 to 13 % too small on both.

python export.py --checkpoint run/best.pt --output ../model.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from network import HeadUNet
from volume import STUDENT_SHAPE


def main() -> None:
    """Export and check."""
    parser = argparse.ArgumentParser(description="Export a checkpoint of train.py to ONNX.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--offset", type=float, default=-0.5, help="added to the logit of parenchyma")
    arguments = parser.parse_args()
    network = HeadUNet()
    network.load_state_dict(torch.load(arguments.checkpoint, map_location="cpu"))
    with torch.no_grad():
        network.classify.bias[1] += arguments.offset
    network.eval()
    image = torch.rand(1, 1, *STUDENT_SHAPE)
    torch.onnx.export(
        network,
        (image,),
        str(arguments.output),
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamo=False,
    )
    model = onnx.load(arguments.output)
    model.producer_name = "Overread"
    model.doc_string = "brain-ventricles: background, parenchyma, ventricles from T1 MR. Not clinical."
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, arguments.output)
    found = onnxruntime.InferenceSession(str(arguments.output), providers=["CPUExecutionProvider"]).run(
        None, {"image": image.numpy()}
    )[0]
    with torch.no_grad():
        expected = network(image).numpy()
    print(
        f"{arguments.output.stat().st_size} bytes, output {found.shape}, "
        f"largest difference to torch {np.abs(found - expected).max():.2e}"
    )


if __name__ == "__main__":
    main()
