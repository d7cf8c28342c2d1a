"""Wrong manifests: file, field, found, expected, for each. And the documents that describe the format."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from node.infer import Manifest, ManifestError, load_manifest
from node.infer.intensity_sections import IntensityStep
from node.infer.output_sections import AnyOutput
from node.infer.preprocessing_sections import ImagePreprocessing
from node.infer.reference import json_schema, with_tables
from tests.node.infer.conftest import LABELS, MANIFEST, OUTPUT, POSTPROCESSING, PREPROCESSING, RUN

DOCS = Path(__file__).parents[3] / "docs"
RIGHT = MANIFEST.format(
    identifier="bright-ball",
    sha256="0" * 64,
    preprocessing=PREPROCESSING,
    run=RUN,
    output=OUTPUT,
    postprocessing=POSTPROCESSING,
    labels=LABELS,
)


@pytest.fixture
def problems(tmp_path: Path) -> Callable[[str], str]:
    folder = tmp_path / "ball"
    folder.mkdir()

    def read(text: str) -> str:
        (folder / "model.toml").write_text(text)
        with pytest.raises(ManifestError) as caught:
            load_manifest(folder)
        return str(caught.value)

    return read


def test_right_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(RIGHT)
    manifest = load_manifest(tmp_path)
    assert manifest.model.identifier == "bright-ball"
    assert manifest.outputs[0].labels[0].category.meaning == "Anatomical Structure"
    assert not manifest.model.clinical_use


SECOND = '[[inputs]]\nname = "second"\n[inputs.requires]\nmodality = ["MR"]\n[preprocessing]'


@pytest.mark.parametrize(
    ("requires", "run", "expected"),
    [
        ('timepoint = "prior"', "", "inputs[0].requires.timepoint: found 'prior', expected 'current'"),
        ("optional = true", "", "inputs[0].requires.optional: found true, expected false"),
        ("", '\ninput = { image = ["second"] }', "run.input: found second, expected also 'image'"),
    ],
)
def test_results_lie_on_the_first_input(problems, requires: str, run: str, expected: str) -> None:
    text = RIGHT.replace('modality = ["MR", "CT"]', f'modality = ["MR", "CT"]\n{requires}')
    text = text.replace("[preprocessing]", SECOND, 1)
    message = problems(text.replace("[run]", f"[run]{run}", 1))
    assert expected in message and "results lie on the first" in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version = 1", "version = 2", "ball/model.toml:1: version: found 2, expected 1"),
        ('name = "Bright ball"', "", "model.name: found nothing, expected a value"),
        ('"bright-ball"', '"Bright Ball"', 'model.identifier: found "Bright Ball", expected text matching'),
        ('maker = "', 'vendor = "', "model.vendor: found an unknown key, expected one of: identifier, name,"),
        ("0" * 64, "abc", 'files.model.onnx: found "abc", expected text matching'),
        ('"model.onnx" =', '"net.onnx" =', "run.file: found 'model.onnx', expected one of files: net.onnx"),
        ('"model.onnx" =', '"../model.onnx" =', 'found "../model.onnx", expected text matching'),
        ('modality = ["MR", "CT"]', "", "inputs[0].requires.modality: found nothing, expected a value"),
        (
            'modality = ["MR", "CT"]',
            'modality = "MR"',
            'inputs[0].requires.modality: found "MR", expected a list',
        ),
        (
            'modality = ["MR", "CT"]',
            'modality = ["MR"]\nseries_description = "("',
            'inputs[0].requires.series_description: found "(", expected a regular expression',
        ),
        ('"SPL"', '"SPX"', 'preprocessing.orientation: found "SPX", expected text matching'),
        ('"SPL"', '"SPI"', 'preprocessing.orientation: found "SPI", expected one of L and R'),
        ('"source"', '"fixed"', "preprocessing.grid: found"),
        ('"acquisition"', '"patient"', 'expected spacing_mm, or alignment = "acquisition"'),
        ("[run]", 'intensity = [{ step = "clop" }]\n[run]', "preprocessing.intensity[0].step: found"),
        (
            "[run]",
            'intensity = [{ step = "clip", low = 1 }]\n[run]',
            "preprocessing.intensity[0].high: found nothing, expected a value",
        ),
        (
            "[run]",
            'intensity = [{ step = "clip", low = 1, high = 2, x = 3 }]\n[run]',
            "preprocessing.intensity[0].x: found an unknown key, expected one of: step, low, high",
        ),
        ("channels = 1\n", "channels = 0\n", ":29: outputs[0].channels: found 0, expected greater than or equal to 1"),
        ("[run]\n", '[run]\nmode = "patches"\n', ":25: run.mode: found \"patches\", expected 'whole'"),
        ("[run]\n", '[run]\nmode = "sliding-window"\n', "run: found"),
        ("[run]\n", '[run]\nmode = "slices"\nmultiple = [8, 8, 8]\n', ":26: run.multiple: found 8 on axis 0"),
        ("threshold = 500", 'threshold = "high"', 'outputs[0].threshold: found "high", expected a number'),
        ("threshold = 500", "threshold = nan", "outputs[0].threshold: found NaN, expected a finite number"),
        (
            'task = "segmentation"',
            'task = "guess"',
            "outputs[0].task: found \"guess\", expected one of 'segmentation',",
        ),
        ('task = "segmentation"\n', "", "outputs[0].task: found nothing, expected one of 'segmentation',"),
        (
            "channels = [0]",
            "channels = [3]",
            "outputs[0].labels[0].channels: found 3, expected at most 0 (channels is 1)",
        ),
        ("rgb = [255, 0, 0]", "rgb = [256, 0, 0]", "labels[0].rgb[0]: found 256, expected less than or equal to 255"),
        ('labels = ["Ball"]', 'labels = ["Bell"]', "measurements[0]: found label 'Bell', expected one of: Ball"),
        ('kind = "volume"', 'kind = "ratio"', "outputs[0].measurements[0]: found"),
        ('kind = "volume"', 'kind = "area"', "measurements[0].kind: found 'area', expected volume"),
        ('value = "52988006"', 'value = "52988006529880065"', "labels[0].type.value: found"),
    ],
)
def test_problem_names_file_field_found_and_expected(problems, old: str, new: str, expected: str) -> None:
    assert old in RIGHT
    message = problems(RIGHT.replace(old, new, 1))
    assert expected in message, message
    assert re.match(r"ball/model\.toml(:\d+)?: ", message)


def test_every_problem_is_listed(problems) -> None:
    message = problems(RIGHT.replace('name = "Bright ball"', "").replace("rgb = [255, 0, 0]", ""))
    assert len(message.splitlines()) == 2


def test_two_labels_of_one_name_or_channel(problems) -> None:
    label = LABELS.split("\n\n", maxsplit=1)[0]
    twice = RIGHT.replace(label, f"{label}\n\n{label}")
    assert "outputs[0].labels[1].name: found 'Ball' twice" in problems(twice)
    other = RIGHT.replace(label, label + "\n\n" + label.replace('"Ball"', '"Bell"'))
    assert "outputs[0].labels[1].channels: found 0, which 'Ball' has already" in problems(other)


def test_not_toml_and_not_there(problems, tmp_path: Path) -> None:
    assert "is not TOML" in problems("version = = 1")
    with pytest.raises(ManifestError, match=r"empty/model.toml: cannot be read"):
        load_manifest(tmp_path / "empty")


def test_digest_follows_meaning_not_layout(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        return Manifest.model_validate(tomllib.loads(text)).digest

    assert digest(RIGHT) == digest("# a comment\n" + RIGHT.replace("decision =", "decision   ="))
    assert digest(RIGHT) != digest(RIGHT.replace("0" * 64, "1" * 64))
    assert digest(RIGHT) != digest(RIGHT.replace("threshold = 500", "threshold = 501"))


def test_digest_is_that_of_what_is_not_the_default() -> None:
    """Jobs wait, and signatures hold, over an upgrade that adds a key: if this constant has to change, they do not."""
    manifest = Manifest.model_validate(tomllib.loads(RIGHT))
    written = RIGHT.replace("[preprocessing]", "[preprocessing]\ndimensions = 3\noutside = 0.0")
    written = written.replace("[model]", "[model]\nclinical_use = false\nlimits = []")
    assert Manifest.model_validate(tomllib.loads(written)).digest == manifest.digest
    assert manifest.digest == "ab4a80714774252242b1c58607dce4072dc46e3f8f720c634eee7ca9350e404c"


def test_what_tells_tables_of_one_list_apart_is_always_in_the_digest() -> None:
    """Otherwise two outputs of different tasks that say nothing else would have one digest."""
    for section in (*get_args(get_args(AnyOutput)[0]), *get_args(get_args(IntensityStep)[0])):
        tag = "task" if "task" in section.model_fields else "step"
        assert section.model_fields[tag].is_required()
    assert ImagePreprocessing.model_fields["dimensions"].is_required()


def test_documents_are_made_from_the_code() -> None:
    assert (DOCS / "manifest.schema.json").read_text(encoding="utf-8") == json_schema()
    text = (DOCS / "manifest.md").read_text(encoding="utf-8")
    assert text == with_tables(text), "run python -m node.infer.reference docs"
    assert "| `input` | text or table of name = list of text |" in text
    assert "| `intensity_of` | table of name = list of one of Clip, " in text


def test_example_in_the_documents_is_right() -> None:
    text = (DOCS / "manifest.md").read_text()
    example = text.split("```toml\n", 1)[1].split("```", 1)[0]
    assert Manifest.model_validate(tomllib.loads(example)).model.identifier == "brain-ventricles"


def test_outputs_of_one_tensor_are_averaged_in_one_way(tmp_path: Path) -> None:
    """Folds are averaged after the activation, so that two outputs of a tensor cannot want two of them."""
    classes = '[[outputs.classes]]\nname = "{0}"\nchannel = 0\nfinding = {{ value = "1", meaning = "x" }}\n'
    scores = '[[outputs]]\ntask = "classification"\ntensor = "y"\nactivation = "{0}"\n'
    outputs = "".join(scores.format(each) + classes.format(each) for each in ("softmax", "sigmoid"))
    head, _, _ = RIGHT.partition("[[outputs]]")
    text = re.sub(r"\[run\][^\[]*", "", head) + '[run]\nflips = [1]\ninput = "image"\n' + outputs
    with pytest.raises(ValueError, match="found 'sigmoid' for tensor 'y', expected 'softmax'"):
        Manifest.model_validate(tomllib.loads(text))
    for right in (text.replace("flips", 'average = "logits"\nflips'), text.replace('"softmax"', '"sigmoid"', 1)):
        Manifest.model_validate(tomllib.loads(right))
