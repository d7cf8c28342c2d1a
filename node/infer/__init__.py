"""From a volume to labels and measurements, by a model that is a folder: `model.toml`, `*.onnx`, `CARD.md`.

`manifest` says what a model is and is bound to its weights; `registry` finds models and refuses changed ones;
`transforms`, `run`, `postprocess`, `cleaning` and `measure` do what the manifest says; `analyse` puts them in order.
"""

from node.infer.analyse import Inference, analyse
from node.infer.check import check_model
from node.infer.manifest import Manifest, ManifestError, load_manifest
from node.infer.registry import Model, ModelRefused, Registry

__all__ = [
    "Inference",
    "Manifest",
    "ManifestError",
    "Model",
    "ModelRefused",
    "Registry",
    "analyse",
    "check_model",
    "load_manifest",
]
