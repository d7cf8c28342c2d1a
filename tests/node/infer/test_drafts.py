"""Folders begun from an ONNX file, a MONAI bundle or nnU-Net's results: drafts that pass, and what they ask."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from node.errors import Permanent
from node.infer import check_model, load_manifest
from node.infer.describe import describe
from node.infer.importers import import_monai
from node.infer.label_files import NamedLabel, read_labels
from node.infer.nnunet import import_nnunet
from node.infer.scaffold import new_folder


def network(path: Path, sides: list[Any], outputs: dict[str, list[Any]], name: str = "x") -> Path:
    """An ONNX file with these tensors; what it computes does not matter here."""
    nodes = [
        helper.make_node("RandomNormal", [], [each], shape=[side if isinstance(side, int) else 2 for side in shape])
        for each, shape in outputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in outputs],
    )
    for each, shape in zip(graph.output, outputs.values(), strict=True):
        each.CopyFrom(helper.make_tensor_value_info(each.name, TensorProto.FLOAT, shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


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
    path = network(tmp_path / "net.onnx", sides, outputs)
    made = new_folder(tmp_path / "My Model", path)
    assert check_model(tmp_path / "My Model") == []
    manifest = load_manifest(tmp_path / "My Model")
    assert manifest.model.identifier == "my-model" and manifest.run.input == "x"
    assert manifest.preprocessing.dimensions == dimensions and manifest.tasks == tasks
    assert len(manifest.inputs) == (2 if sides[1] == 2 else 1)
    assert any(question.startswith("preprocessing") for question in made.open_questions)
    assert "To be said" in made.text and "Open" in (tmp_path / "My Model" / "CARD.md").read_text()


def test_labels_of_a_file_are_in_the_draft(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", ["N", 1, "D", "H", "W"], {"logits": ["N", 5, "D", "H", "W"]})
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
    path = network(tmp_path / "a.onnx", ["N", 1, "D", "H", "W"], {"labels": ["N", 1, "D", "H", "W"]})
    new_folder(tmp_path / "values", path, labels)
    assert load_manifest(tmp_path / "values").outputs[0].decision == "values"
    path = network(tmp_path / "b.onnx", ["N", 1, 64, 64], {"scores": ["N", 8]})
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
    boxes = network(tmp_path / "a.onnx", image, {"boxes": [9, 4], "scores": ["N", 2, 9]})
    grades = network(tmp_path / "b.onnx", image, {"probability": ["N", 2]})
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
    path = network(tmp_path / "net.onnx", ["N", 1, "D", "H", "W"], {"logits": ["N", 5, "D", "H", "W"]})
    with pytest.raises(Permanent, match="found number 1002 for 'ctx-lh-bankssts', expected at most 4"):
        new_folder(tmp_path / "m", path, (NamedLabel("ctx-lh-bankssts", (1002,)),))
    assert not (tmp_path / "m").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", [1, 1, 8, 8], {"y": [1, 2]})
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
    network(folder / "models" / "model.onnx", [1, 1, 96, 96, 96], {"pred": [1, 2, 96, 96, 96]}, "image")
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


PLANS = {
    "dataset_name": "Dataset009_Spleen",
    "transpose_forward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 99.5, "std": 37.1, "percentile_00_5": -41.0, "percentile_99_5": 176.0}
    },
    "configurations": {
        "2d": {"patch_size": [512, 512], "spacing": [0.8, 0.8]},
        "3d_lowres": {"inherits_from": "3d_fullres", "spacing": [3.0, 1.6, 1.6], "patch_size": [64, 160, 160]},
        "3d_fullres": {
            "patch_size": [64, 192, 160],
            "spacing": [5.0, 0.79, 0.79],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1}, "file_ending": ".nii.gz"}


def results(folder: Path, plans: Any = PLANS, dataset: Any = DATASET, folds: int = 2, channels: int = 1) -> Path:
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for fold in range(folds):
        sides = [1, channels, "D", "H", "W"]
        network(folder / f"fold_{fold}" / "net.onnx", sides, {"seg": [1, 2, "D", "H", "W"]}, "input")
    return folder


def test_nnunet_results(tmp_path: Path) -> None:
    made = import_nnunet(results(tmp_path / "r"), tmp_path / "spleen")
    assert check_model(tmp_path / "spleen") == []
    manifest = load_manifest(tmp_path / "spleen")
    assert manifest.run.files == ("fold0.onnx", "fold1.onnx") and manifest.run.input == "input"
    assert manifest.run.patch == (64, 192, 160) and manifest.run.overlap == 0.5
    prepared = manifest.preprocessing
    assert prepared.dimensions == 3 and prepared.spacing_mm == (5.0, 0.79, 0.79) and prepared.outside == "edge"
    assert prepared.interpolation == "cubic-clipped" and prepared.intensity_on == "images"
    assert prepared.grid.kind == "resized" and prepared.grid.around == "nonzero"
    assert prepared.coarse_axis == "nearest"
    clip, z_score = prepared.intensity
    assert (clip.step, z_score.step) == ("clip", "z-score")
    assert clip.model_dump() == {"step": "clip", "low": -41.0, "high": 176.0}
    text = "\n".join(made.open_questions)
    for word in ("orientation", "flips", "labels"):
        assert word in text


def test_nnunet_regions_and_channels(tmp_path: Path) -> None:
    plans = {
        "transpose_forward": [1, 0, 2],
        "configurations": {
            "3d_fullres": {
                "patch_size": [128, 128, 128],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization", "NoNormalization"],
                "use_mask_for_norm": [True, False],
            }
        },
    }
    dataset = {
        "channel_names": {"0": "T1", "1": "mystery"},
        "labels": {"background": 0, "whole tumor": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
    }
    made = import_nnunet(results(tmp_path / "r", plans, dataset, folds=1, channels=2), tmp_path / "tumour")
    assert check_model(tmp_path / "tumour") == []
    manifest = load_manifest(tmp_path / "tumour")
    assert [each.name for each in manifest.inputs] == ["t1", "mystery"]
    prepared = manifest.preprocessing
    assert prepared.dimensions == 3 and prepared.orientation == "PSL" and prepared.intensity_of == {"mystery": ()}
    output = manifest.outputs[0]
    assert output.task == "segmentation" and output.overlap and output.decision == "threshold"
    assert (output.activation, output.threshold) == ("none", 0.0)  # logits are resampled, and decided then
    assert any("'mystery'; MR is assumed" in question for question in made.open_questions)


@pytest.mark.parametrize(
    ("configuration", "plans", "dataset", "words"),
    [
        ("4d", {}, {}, "found configurations 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres, expected 4d"),
        ("3d_cascade_fullres", {}, {}, "goes on from 3d_lowres: found no __3d_lowres beside r, expected its folder"),
        ("3d_fullres", {"foreground_intensity_properties_per_channel": {}}, {}, "found no percentile_00_5, perc"),
        ("3d_fullres", {"configurations": {"3d_fullres": {"spacing": [1, 1, 1]}}}, {}, "found no patch_size, expected"),
        ("3d_lowres", {"configurations": {"3d_lowres": {"inherits_from": "x"}}}, {}, "inherits from 'x', which is not"),
        ("3d_fullres", {}, {"labels": {}}, "dataset.json: found no labels, expected it"),
    ],
)
def test_nnunet_results_that_are_not_imported(tmp_path: Path, configuration: str, plans, dataset, words: str) -> None:
    with pytest.raises(Permanent, match=words):
        import_nnunet(results(tmp_path / "r", PLANS | plans, DATASET | dataset), tmp_path / "new", configuration)
    assert not (tmp_path / "new").exists()


def test_nnunet_of_slices(tmp_path: Path) -> None:
    """Slices stay as they are, each is resampled in its plane and taken in patches."""
    plans = {
        **PLANS,
        "configurations": {"2d": {**PLANS["configurations"]["3d_fullres"], **PLANS["configurations"]["2d"]}},
    }
    folder = results(tmp_path / "r", plans, folds=0)
    network(folder / "net.onnx", [1, 1, "H", "W"], {"seg": [1, 2, "H", "W"]}, "input")
    import_nnunet(folder, tmp_path / "flat", "2d")
    assert check_model(tmp_path / "flat") == []
    manifest = load_manifest(tmp_path / "flat")
    assert manifest.run.mode == "slices" and manifest.run.patch == (1, 512, 512)
    assert manifest.preprocessing.spacing_mm == ("images", 0.8, 0.8)


def cascade(folder: Path, first: Any = DATASET) -> Path:
    """The folders of both configurations, as nnU-Net lays them out; the last network sees the first's label, too."""
    results(folder / "nnUNetTrainer__nnUNetPlans__3d_lowres", dataset=first)
    return results(folder / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres", folds=1, channels=2)


def test_a_cascade_of_nnunet_becomes_one_model(tmp_path: Path) -> None:
    import_nnunet(cascade(tmp_path / "all"), tmp_path / "both", "3d_cascade_fullres")
    assert check_model(tmp_path / "both") == []
    manifest = load_manifest(tmp_path / "both")
    first, last = manifest.sequence
    assert first.run.files == ("3d_lowres-fold0.onnx", "3d_lowres-fold1.onnx") and last.run.files == ("model.onnx",)
    assert first.preprocessing.spacing_mm == (3.0, 1.6, 1.6) and last.preprocessing.spacing_mm == (5.0, 0.79, 0.79)
    assert [(each.stage, each.use, each.names) for each in last.preprocessing.regions] == [
        ("previous", "channel", ("spleen",))
    ]
    assert [each.report for each in (*first.outputs, *last.outputs)] == [False, True]


def test_a_cascade_whose_first_part_is_elsewhere_or_cannot_be_said(tmp_path: Path) -> None:
    last = cascade(tmp_path / "all")
    elsewhere = (tmp_path / "all" / "nnUNetTrainer__nnUNetPlans__3d_lowres").rename(tmp_path / "low")
    import_nnunet(last, tmp_path / "both", "3d_cascade_fullres", elsewhere)
    assert load_manifest(tmp_path / "both").stages[0].name == "previous"
    regions = {**DATASET, "labels": {"background": 0, "whole": [1, 2], "core": [2]}}
    with pytest.raises(Permanent, match="found regions in a cascade, expected labels"):
        import_nnunet(cascade(tmp_path / "other", regions), tmp_path / "none", "3d_cascade_fullres")


def bundle_of_images(folder: Path, outputs: dict[str, list[Any]], channels: int = 1, **answer: Any) -> Path:
    image = {"modality": "MG", "num_channels": channels, "spatial_shape": [64, 48], "value_range": [0, 1]}
    form = {"inputs": {"image": image}, "outputs": {"pred": answer}}
    bundle(folder, {**METADATA, "network_data_format": form})
    network(folder / "models" / "model.onnx", [1, channels, 64, 48], outputs, "image")
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


def test_a_hundred_labels_have_codes_and_colours_of_their_own(tmp_path: Path) -> None:
    labels = {"background": 0} | {f"vertebrae_lumbar_number_{n}": n for n in range(1, 105)}
    folder = results(tmp_path / "r", dataset={**DATASET, "labels": labels}, folds=0)
    network(folder / "net.onnx", [1, 1, "D", "H", "W"], {"seg": [1, 105, "D", "H", "W"]}, "input")
    import_nnunet(folder, tmp_path / "total")
    assert check_model(tmp_path / "total") == []
    found = load_manifest(tmp_path / "total").outputs[0].labels
    assert len({each.type.value for each in found}) == 104 and len({each.rgb for each in found}) == 104


def test_a_configuration_that_inherits(tmp_path: Path) -> None:
    import_nnunet(results(tmp_path / "r", folds=1), tmp_path / "low", "3d_lowres")
    assert load_manifest(tmp_path / "low").run.patch == (64, 160, 160)


def test_a_cascade_in_words(tmp_path: Path) -> None:
    labels = (NamedLabel("Liver", (1,)), NamedLabel("Spleen", (2,)))
    new_folder(
        tmp_path / "m", network(tmp_path / "n.onnx", ["N", 1, "D", "H", "W"], {"y": ["N", 3, "D", "H", "W"]}), labels
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
