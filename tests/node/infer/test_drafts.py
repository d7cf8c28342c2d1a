"""Folders begun from an ONNX file or a MONAI bundle: drafts that pass, and what they ask."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.errors import Permanent
from node.infer import check_model, load_manifest
from node.infer.describe import describe
from node.infer.importers import import_monai
from node.infer.label_files import NamedLabel, read_labels
from node.infer.scaffold import new_folder
from tests.models import any_network


@pytest.mark.parametrize(
    ("sides", "outputs", "dimensions", "tasks"),
    [
        (["N", 1, "D", "H", "W"], {"logits": ["N", 3, "D", "H", "W"]}, 3, ("segmentation",)),
        ([1, 2, 64, 64, 64], {"mask": [1, 1, 64, 64, 64]}, 3, ("segmentation",)),
        (["N", 3, 224, 224], {"probability": ["N", 14]}, 2, ("classification",)),
        (["N", 1, 256, 256], {"boxes": ["M", 4], "scores": ["M"], "labels": ["M"]}, 2, ("detection",)),
        (["N", 1, "H", "W"], {"mask": ["N", 1, "H", "W"], "cls": ["N", 2]}, 2, ("segmentation", "classification")),
    ],
)
def test_a_folder_begun_from_a_network_is_right(tmp_path: Path, sides, outputs, dimensions: int, tasks) -> None:
    path = any_network(tmp_path / "net.onnx", sides, outputs)
    made = new_folder(tmp_path / "My Model", path)
    assert check_model(tmp_path / "My Model") == []
    manifest = load_manifest(tmp_path / "My Model")
    assert manifest.model.identifier == "my-model" and manifest.run.input == "x"
    assert manifest.preprocessing.dimensions == dimensions and manifest.tasks == tasks
    assert len(manifest.inputs) == (2 if sides[1] == 2 else 1)
    assert any(question.startswith("preprocessing") for question in made.open_questions)
    assert "To be said" in made.text and "Open" in (tmp_path / "My Model" / "CARD.md").read_text()


def test_labels_of_a_file_are_in_the_draft(tmp_path: Path) -> None:
    path = any_network(tmp_path / "net.onnx", ["N", 1, "D", "H", "W"], {"logits": ["N", 5, "D", "H", "W"]})
    names = {"0": "BG", "1": "Left-Hippocampus", "2": "ctx-lh-cuneus", "4": "ctx-rh-cuneus"}
    (tmp_path / "labels.json").write_text(json.dumps(names))
    made = new_folder(tmp_path / "m", path, read_labels(tmp_path / "labels.json"))
    assert check_model(tmp_path / "m") == []
    one, two, three = load_manifest(tmp_path / "m").outputs[0].labels
    assert (one.name, one.type.value, one.laterality.meaning) == ("Left-Hippocampus", "5366008", "Left")
    assert two.type == three.type and two.type.scheme == "99LOCAL" and two.laterality != three.laterality
    assert three.channels == (4,)
    assert any("codes of 3 labels: 1 proposed by their names" in each for each in made.open_questions)
    assert any("channels 3 have no label" in each for each in made.open_questions)


def test_labels_of_one_channel_are_its_values_and_those_of_scores_are_classes(tmp_path: Path) -> None:
    labels = (NamedLabel("Liver", (1,)), NamedLabel("Spleen", (7,)))
    path = any_network(tmp_path / "a.onnx", ["N", 1, "D", "H", "W"], {"labels": ["N", 1, "D", "H", "W"]})
    new_folder(tmp_path / "values", path, labels)
    assert load_manifest(tmp_path / "values").outputs[0].decision == "values"
    path = any_network(tmp_path / "b.onnx", ["N", 1, 64, 64], {"scores": ["N", 8]})
    new_folder(tmp_path / "classes", path, labels)
    assert check_model(tmp_path / "values") == check_model(tmp_path / "classes") == []
    assert [(each.name, each.channel) for each in load_manifest(tmp_path / "classes").outputs[0].classes] == [
        ("Liver", 1),
        ("Spleen", 7),
    ]


def test_classes_have_the_codes_of_the_file(tmp_path: Path) -> None:
    """The two lungs of a detector; and answers that are probabilities already, with a meaning longer than DICOM has."""
    sides = {"scheme": "SCT", "meaning": "Left", "value": "7771000"}
    lung = {"value": "39607008", "scheme": "SCT", "meaning": "Lung, " + "x" * 80}
    listed = {
        "channels": [{"index": 0, "name": "Left lung", "code": lung, "laterality": sides}, {"index": 1, "name": "B"}]
    }
    (tmp_path / "labels.json").write_text(json.dumps(listed))
    named = read_labels(tmp_path / "labels.json")
    image = ["N", 1, 64, 64]
    boxes = any_network(tmp_path / "a.onnx", image, {"boxes": [9, 4], "scores": ["N", 2, 9]})
    grades = any_network(tmp_path / "b.onnx", image, {"probability": ["N", 2]})
    for path in (boxes, grades):
        made = new_folder(tmp_path / path.stem, path, named)
        output = load_manifest(tmp_path / path.stem).outputs[0]
        left, other = output.classes
        assert (
            left.finding.value == "39607008" and len(left.finding.meaning) == 64 and left.laterality.meaning == "Left"
        )
        assert other.finding.scheme == "99LOCAL" and other.laterality is None
        assert any(each.startswith("outputs.classes: 1 local codes") for each in made.open_questions)
        assert not any("have no label" in each for each in made.open_questions)
    assert output.activation == "none"


def test_labels_with_numbers_that_are_no_channels(tmp_path: Path) -> None:
    path = any_network(tmp_path / "net.onnx", ["N", 1, "D", "H", "W"], {"logits": ["N", 5, "D", "H", "W"]})
    with pytest.raises(Permanent, match="found number 1002 for 'ctx-lh-bankssts', expected at most 4"):
        new_folder(tmp_path / "m", path, (NamedLabel("ctx-lh-bankssts", (1002,)),))
    assert not (tmp_path / "m").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = any_network(tmp_path / "net.onnx", [1, 1, 8, 8], {"y": [1, 2]})
    (tmp_path / "there").mkdir()
    with pytest.raises(Permanent, match="exists, expected the name of a folder to be made"):
        new_folder(tmp_path / "there", path)
    assert list((tmp_path / "there").iterdir()) == []


METADATA = {
    "version": "0.4.1",
    "name": "Spleen CT segmentation",
    "authors": "MONAI team",
    "intended_use": "This is an example, not to be used for diagnostic purposes",
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "format": "hounsfield",
                "modality": "CT",
                "num_channels": 1,
                "spatial_shape": [96, 96, 96],
                "value_range": [0, 1],
                "is_patch_data": True,
                "channel_def": {"0": "image"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": 2,
                "channel_def": {"0": "background", "1": "spleen"},
            }
        },
    },
}


def bundle(folder: Path, metadata: Any = METADATA) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text('{"import_me": "$__import__(\'os\').abort()"}')
    any_network(folder / "models" / "model.onnx", [1, 1, 96, 96, 96], {"pred": [1, 2, 96, 96, 96]}, "image")
    return folder


def test_a_monai_bundle(tmp_path: Path) -> None:
    made = import_monai(bundle(tmp_path / "spleen_ct"), tmp_path / "spleen")
    assert check_model(tmp_path / "spleen") == []
    manifest = load_manifest(tmp_path / "spleen")
    assert (manifest.model.name, manifest.model.version, manifest.model.maker) == (
        "Spleen CT segmentation",
        "0.4.1",
        "MONAI team",
    )
    assert manifest.inputs[0].requires.modality == ("CT",)
    assert manifest.run.mode == "sliding-window" and manifest.run.patch == (96, 96, 96)
    output = manifest.outputs[0]
    assert output.task == "segmentation" and [(each.name, each.channels) for each in output.labels] == [
        ("spleen", (1,))
    ]
    text = "\n".join(made.open_questions)
    for word in ("orientation, spacing_mm", "intensity", "overlap", "labels", "licence"):
        assert word in text


def test_a_bundle_without_its_parts(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"metadata.json cannot be read"):
        import_monai(tmp_path, tmp_path / "new")
    with pytest.raises(Permanent, match="found no network_data_format"):
        import_monai(bundle(tmp_path / "b", {"version": "1"}), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def bundle_of_images(folder: Path, outputs: dict[str, list[Any]], channels: int = 1, **answer: Any) -> Path:
    image = {"modality": "MG", "num_channels": channels, "spatial_shape": [64, 48], "value_range": [0, 1]}
    form = {"inputs": {"image": image}, "outputs": {"pred": answer}}
    bundle(folder, {**METADATA, "network_data_format": form})
    any_network(folder / "models" / "model.onnx", [1, channels, 64, 48], outputs, "image")
    return folder


def test_a_monai_bundle_of_images_that_are_classified(tmp_path: Path) -> None:
    named = {"0": "A", "1": "B", "2": "C", "3": "D"}
    made = import_monai(
        bundle_of_images(tmp_path / "b", {"pred": [1, 4]}, 3, num_channels=4, channel_def=named), tmp_path / "density"
    )
    assert check_model(tmp_path / "density") == []
    manifest = load_manifest(tmp_path / "density")
    prepared, (output,) = manifest.preprocessing, manifest.outputs
    assert (prepared.dimensions, prepared.size, prepared.colours) == (2, (64, 48), 3) and len(manifest.inputs) == 1
    assert output.task == "classification" and [each.name for each in output.classes] == ["A", "B", "C", "D"]
    assert any("single images are assumed" in each for each in made.open_questions)


def test_a_monai_bundle_of_images_that_are_outlined(tmp_path: Path) -> None:
    named = {"0": "background", "1": "tool"}
    folder = bundle_of_images(tmp_path / "b", {"pred": [1, 2, 64, 48]}, num_channels=2, channel_def=named)
    import_monai(folder, tmp_path / "tools")
    assert check_model(tmp_path / "tools") == []
    (output,) = load_manifest(tmp_path / "tools").outputs
    assert output.task == "segmentation" and output.measurements[0].kind == "area"


def test_a_cascade_in_words(tmp_path: Path) -> None:
    labels = (NamedLabel("Liver", (1,)), NamedLabel("Spleen", (2,)))
    new_folder(
        tmp_path / "m",
        any_network(tmp_path / "n.onnx", ["N", 1, "D", "H", "W"], {"y": ["N", 3, "D", "H", "W"]}),
        labels,
    )
    path = tmp_path / "m" / "model.toml"
    stage = (
        '[[stages]]\nname = "body"\n[stages.preprocessing]\norientation = "SPL"\nspacing_mm = [3, 3, 3]\n'
        'grid = { kind = "fixed", shape = [128, 96, 64] }\n[stages.run]\nfile = "model.onnx"\ninput = "x"\n'
        '[[stages.outputs]]\ntask = "segmentation"\ntensor = "y"\nreport = false\nchannels = 3\n'
        '[[stages.outputs.labels]]\nname = "Trunk"\nchannels = [1]\ntype = { value = "1", meaning = "x" }\n'
        "rgb = [0, 0, 0]\n\n"
    )
    region = '\n[[preprocessing.regions]]\nstage = "body"\nuse = "crop"\n\n[run]'
    text = path.read_text().replace("[run]", region, 1).replace("# To be said: as in training", f"{stage}# As", 1)
    path.write_text(text.replace('decision = "argmax"', 'decision = "argmax"\nlargest_component = "foreground"', 1))
    words = describe(load_manifest(tmp_path / "m"))
    for said in (
        "- stage body: volume SPL at 3 x 3 x 3 mm of 128 x 96 x 64 voxels; model.onnx; finds Trunk for later stages",
        "- volume SPL at 1 x 1 x 1 mm, crop by body; scaled by min-max; model.onnx",
        "2 labels: Liver, Spleen; measured: volume; cleaned: largest component of all together",
    ):
        assert said in words


def test_a_manifest_in_words(tmp_path: Path) -> None:
    import_monai(bundle(tmp_path / "b"), tmp_path / "spleen")
    text = describe(load_manifest(tmp_path / "spleen"))
    for words in (
        "# Spleen CT segmentation 0.4.1 (spleen)",
        "modality: CT",
        "patches of 96 x 96 x 96",
        "spleen; measured: volume",
    ):
        assert words in text
