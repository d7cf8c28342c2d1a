"""Folders begun from what nnU-Net leaves behind: drafts that pass, and what they ask."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.errors import Permanent
from node.infer import check_model, load_manifest
from node.infer.nnunet import import_nnunet
from tests.models import any_network

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
        any_network(folder / f"fold_{fold}" / "net.onnx", sides, {"seg": [1, 2, "D", "H", "W"]}, "input")
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
    any_network(folder / "net.onnx", [1, 1, "H", "W"], {"seg": [1, 2, "H", "W"]}, "input")
    import_nnunet(folder, tmp_path / "flat", "2d")
    assert check_model(tmp_path / "flat") == []
    manifest = load_manifest(tmp_path / "flat")
    assert manifest.run.mode == "slices" and manifest.run.patch == (1, 512, 512)
    assert manifest.preprocessing.spacing_mm == ("images", 0.8, 0.8)


@pytest.mark.parametrize(
    ("said", "flips"),
    [
        (["(0, 1, 2)"], (0, 1, 2)),
        (["(1,)", "(1,)"], (1,)),
        (["None", "None"], ()),
        (["(0, 1)", "None"], None),
        (["<object>"], None),
        ([], None),
    ],
)
def test_mirrored_axes_are_those_that_the_folds_say(tmp_path: Path, said: list[str], flips: Any) -> None:
    folder = results(tmp_path / "r")
    for fold, axes in enumerate(said):
        (folder / f"fold_{fold}" / "debug.json").write_text(json.dumps({"inference_allowed_mirroring_axes": axes}))
    made = import_nnunet(folder, tmp_path / "spleen")
    assert check_model(tmp_path / "spleen") == []
    assert load_manifest(tmp_path / "spleen").run.flips == (flips or ())
    assert any(question.startswith("run.flips") for question in made.open_questions) is (flips is None)


def test_mirrored_axes_of_slices_are_those_of_the_plane(tmp_path: Path) -> None:
    settings = {**PLANS["configurations"]["3d_fullres"], **PLANS["configurations"]["2d"]}
    folder = results(tmp_path / "r", {**PLANS, "configurations": {"2d": settings}}, folds=0)
    any_network(folder / "fold_0" / "net.onnx", [1, 1, "H", "W"], {"seg": [1, 2, "H", "W"]}, "input")
    (folder / "fold_0" / "debug.json").write_text('{"inference_allowed_mirroring_axes": "(0, 1)"}')
    import_nnunet(folder, tmp_path / "flat", "2d")
    assert load_manifest(tmp_path / "flat").run.flips == (1, 2)


def cascade(folder: Path, first: Any = DATASET, values: int = 1) -> Path:
    """The folders of both configurations, as nnU-Net lays them out; the last network sees the first's labels, too."""
    results(folder / "nnUNetTrainer__nnUNetPlans__3d_lowres", dataset=first)
    last = folder / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
    return results(last, dataset=first, folds=1, channels=1 + values)


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


def test_a_cascade_whose_first_part_is_elsewhere(tmp_path: Path) -> None:
    last = cascade(tmp_path / "all")
    elsewhere = (tmp_path / "all" / "nnUNetTrainer__nnUNetPlans__3d_lowres").rename(tmp_path / "low")
    import_nnunet(last, tmp_path / "both", "3d_cascade_fullres", elsewhere)
    assert load_manifest(tmp_path / "both").stages[0].name == "previous"


REGIONS = {
    **DATASET,
    "labels": {"background": 0, "whole": [1, 2], "core": [2]},
    "regions_class_order": [1, 2],
}


def test_regions_of_a_cascade_are_painted_into_one_map_for_the_last(tmp_path: Path) -> None:
    """nnU-Net gives the last network a channel for each value, of which the later region has what both cover."""
    import_nnunet(cascade(tmp_path / "all", REGIONS, 2), tmp_path / "both", "3d_cascade_fullres")
    assert check_model(tmp_path / "both") == []
    first, last = load_manifest(tmp_path / "both").sequence
    assert [each.names for each in last.preprocessing.regions] == [("whole", "core")]
    made, shown = first.outputs[0], last.outputs[0]
    assert made.task == shown.task == "segmentation"
    assert [each.name for each in made.labels] == ["whole", "core"]
    assert (made.decision, made.overlap, made.report) == ("threshold", False, False)
    assert (shown.decision, shown.overlap, shown.report) == ("threshold", True, True)


def test_channels_of_a_cascade_are_in_the_order_of_the_values(tmp_path: Path) -> None:
    turned = {**REGIONS, "labels": {"background": 0, "core": [2], "whole": [1, 2]}, "regions_class_order": [2, 1]}
    import_nnunet(cascade(tmp_path / "regions", turned, 2), tmp_path / "r", "3d_cascade_fullres")
    labels = {**DATASET, "labels": {"background": 0, "spleen": 2, "liver": [1]}}
    import_nnunet(cascade(tmp_path / "labels", labels, 2), tmp_path / "l", "3d_cascade_fullres")
    found = [load_manifest(tmp_path / name).preprocessing.regions[0].names for name in "rl"]
    assert found == [("whole", "core"), ("liver", "spleen")]


@pytest.mark.parametrize("order", [None, [1, 1], [1, 3], [1]])
def test_regions_of_a_cascade_that_are_no_values_are_refused(tmp_path: Path, order: Any) -> None:
    wrong = {**REGIONS, "regions_class_order": order}
    with pytest.raises(Permanent, match=r"found regions_class_order .* expected each value of the labels once"):
        import_nnunet(cascade(tmp_path / "all", wrong, 2), tmp_path / "none", "3d_cascade_fullres")


def test_a_hundred_labels_have_codes_and_colours_of_their_own(tmp_path: Path) -> None:
    labels = {"background": 0} | {f"vertebrae_lumbar_number_{n}": n for n in range(1, 105)}
    folder = results(tmp_path / "r", dataset={**DATASET, "labels": labels}, folds=0)
    any_network(folder / "net.onnx", [1, 1, "D", "H", "W"], {"seg": [1, 105, "D", "H", "W"]}, "input")
    import_nnunet(folder, tmp_path / "total")
    assert check_model(tmp_path / "total") == []
    found = load_manifest(tmp_path / "total").outputs[0].labels
    assert len({each.type.value for each in found}) == 104 and len({each.rgb for each in found}) == 104


def test_a_configuration_that_inherits(tmp_path: Path) -> None:
    import_nnunet(results(tmp_path / "r", folds=1), tmp_path / "low", "3d_lowres")
    assert load_manifest(tmp_path / "low").run.patch == (64, 160, 160)
