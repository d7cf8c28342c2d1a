"""A model folder and a volume to labels, volumes and errors: the whole room with tiny networks."""

import random
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from dicom_sr.findings import Presence
from node.errors import Permanent, Transient
from node.infer import Model, ModelRefused, Registry, analyse, check_model
from node.infer.check import dice_of
from node.volume import Volume, load_volume
from tests.models import threshold_network, write_model
from tests.node.infer.conftest import LABELS, identity, network, two_channels
from tests.phantoms import ORIENTATIONS, default_voxels, ellipsoid, write_series

SHAPE, SPACING = (24, 32, 28), (3.0, 1.5, 1.5)
BALL = ellipsoid(SHAPE, SPACING, 42 / 4)
"""The bright ball of the default phantom: a quarter of its smallest side (28 x 1.5 mm) in radius."""


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return load_volume(write_series(tmp_path / "series", shape=SHAPE, spacing_mm=SPACING))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("letters", ["SPL", "LIA", "RAS"])
def test_ball_is_found_where_it_is(tmp_path: Path, make_model, orientation: str, letters: str) -> None:
    paths = write_series(tmp_path / "series", shape=SHAPE, spacing_mm=SPACING, orientation=orientation)
    random.Random(2).shuffle(paths)
    model = make_model(
        preprocessing=f'orientation = "{letters}"\nalignment = "acquisition"\ngrid = {{ kind = "source" }}'
    )
    found = analyse(model, {"image": load_volume(paths)}, device="cpu", threads=1)
    np.testing.assert_array_equal(found.labels == 1, BALL)
    (finding,) = found.findings
    assert finding.segment_number == 1 and finding.tracking_identifier == "Ball"
    assert finding.measurements[0].value == pytest.approx(BALL.sum() * 3 * 1.5 * 1.5 / 1000, abs=1e-9)
    assert finding.measurements[0].unit.value == "mL"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("run", "decision"),
    [
        ("", 'activation = "none"'),
        ('mode = "sliding-window"\npatch = [16, 16, 16]\nmultiple = [8, 8, 8]', 'resample = "labels"'),
    ],
)
def test_ball_comes_back_from_another_grid(
    tmp_path: Path, make_model, orientation: str, run: str, decision: str
) -> None:
    """On 1 mm along the patient's axes and back: Dice near 1, centre within half a voxel."""
    volume = load_volume(write_series(tmp_path / "s", shape=SHAPE, spacing_mm=SPACING, orientation=orientation))
    model = make_model(
        two_channels(),
        preprocessing='orientation = "LIA"\nspacing_mm = [1.0, 1.0, 1.0]',
        run=run,
        output="channels = 2",
        postprocessing=decision,
        labels=LABELS.replace("channels = [0]", "channels = [1]"),
    )
    found = analyse(model, {"image": volume}, device="cpu", threads=2).labels == 1
    assert dice_of(found, BALL) >= 0.97
    offset = np.argwhere(found).mean(0) - np.argwhere(BALL).mean(0)
    assert (np.abs(offset) < 0.5).all()


def test_slices_and_whole_agree(make_model, volume: Volume) -> None:
    slices = make_model(identity(rank=4), identifier="slices", run='mode = "slices"\nbatch = 5')
    np.testing.assert_array_equal(analyse(slices, {"image": volume}, device="cpu").labels == 1, BALL)


def test_what_it_says_of_itself(make_model, volume: Volume) -> None:
    stages: list[tuple[str, float]] = []
    model = make_model()
    found = analyse(
        model, {"image": volume}, device="cpu", threads=1, progress=lambda stage, share: stages.append((stage, share))
    )
    assert found.provider == "CPUExecutionProvider" and not found.degraded and found.remarks == ()
    assert set(found.timings) == {"session", "prepare", "run", "finish"}
    assert stages[0] == ("prepare", 0) and stages[-1] == ("finish", 1)
    assert found.labels.dtype == np.uint8 and not found.labels.flags.writeable
    algorithm = model.algorithm(found.provider)
    assert (algorithm.name, algorithm.version, algorithm.identifier) == ("Bright ball", "1.2.3", "bright-ball")
    assert algorithm.digest == model.digest and model.not_for_clinical_use
    assert found.segments[0].label == "Ball" and found.segments[0].rgb == (255, 0, 0)


def test_session_stays_warm(make_model, volume: Volume) -> None:
    model = make_model()
    assert model.sessions("cpu", 1) is model.sessions("cpu", 1)
    (model.folder / "model.onnx").unlink()
    assert analyse(model, {"image": volume}, device="cpu", threads=1).labels.any()


def test_fall_back_to_the_cpu_is_never_silent(make_model, volume: Volume) -> None:
    model = make_model()
    found = analyse(model, {"image": volume}, device="prefer-gpu", threads=1)
    on_cpu = found.provider == "CPUExecutionProvider"
    assert found.degraded == on_cpu
    assert any("Computed on the CPU" in remark for remark in found.remarks) == on_cpu
    if on_cpu:
        with pytest.raises(Transient, match="a GPU is required and the session runs on CPUExecutionProvider"):
            analyse(model, {"image": volume}, device="require-gpu", threads=1)


def test_empty_label_is_measured_as_zero_and_noted(make_model, volume: Volume) -> None:
    labels = LABELS + (
        '\n[[outputs.labels]]\nname = "Nothing"\nchannels = [1]\ntype = { value = "1", meaning = "Thing" }\n'
        'rgb = [0, 0, 0]\n[[outputs.measurements]]\nkind = "volume"\nlabels = ["Nothing"]\n'
        '[[outputs.measurements]]\nkind = "ratio"\nlabels = ["Ball"]\nof = ["Nothing"]\nunit = "%"\n'
        'concept = { value = "X", scheme = "99T", meaning = "Ratio" }\n'
        '[[outputs.measurements]]\nkind = "ratio"\nlabels = ["Nothing"]\nof = ["Ball"]\nunit = "%"\n'
        'concept = { value = "X", scheme = "99T", meaning = "Ratio" }\n'
    )
    nodes = [
        helper.make_node("Sub", ["image", "image"], ["nothing"]),
        helper.make_node("Concat", ["image", "nothing"], ["logits"], axis=1),
    ]
    found = analyse(make_model(network(nodes), output="channels = 2", labels=labels), {"image": volume}, device="cpu")
    ball, nothing = found.findings
    assert ball.segment_number == 1 and nothing.segment_number is None
    assert ball.presence is Presence.PRESENT and nothing.presence is Presence.ABSENT
    assert [m.value for m in nothing.measurements] == [0, 0] and nothing.measurements[1].unit.value == "%"
    assert found.remarks == ("Nothing: no voxel found.", "Ball: no ratio, because the volume of Nothing is 0.")


def test_ratio_of_two_labels(make_model, volume: Volume) -> None:
    labels = LABELS.replace(
        "[[outputs.measurements]]",
        (
            '[[outputs.labels]]\nname = "Rest"\nchannels = [0]\ntype = { value = "1", meaning = "Thing" }\n'
            'rgb = [0, 0, 0]\n\n[[outputs.measurements]]\nkind = "ratio"\nlabels = ["Ball"]\nof = ["Ball", "Rest"]\n'
            'unit = "%"\n'
            'concept = { value = "X", scheme = "99T", meaning = "Share" }\n\n[[outputs.measurements]]'
        ),
    ).replace("channels = [0]", "channels = [1]", 1)
    model = make_model(two_channels(), output="channels = 2", postprocessing="", labels=labels)
    (finding,) = analyse(model, {"image": volume}, device="cpu").findings
    share, millilitres = finding.measurements
    assert share.value == pytest.approx(100 * BALL.mean())
    assert (share.unit.value, millilitres.unit.value) == ("%", "mL")


def raising() -> bytes:
    """Loads, and fails when it runs: asks for a slice that is not there."""
    nodes = [helper.make_node("Gather", ["image", "index"], ["logits"], axis=2)]
    return network(nodes, constants={"index": np.array([10_000])})


def test_model_that_raises(make_model, volume: Volume) -> None:
    with pytest.raises(Permanent, match=r"model bright-ball: raised \w+ in node '.*' \(Gather\) on an input of shape"):
        analyse(make_model(raising()), {"image": volume}, device="cpu")


def test_network_is_stopped_while_it_runs(make_model, volume: Volume) -> None:
    """A network of many slow steps, told to stop at the first question, ends long before it is done."""
    steps = 400
    nodes = [helper.make_node("Identity", ["image"], ["step0"])]
    for step in range(steps):
        nodes.append(helper.make_node("Erf", [f"step{step}"], [f"half{step}"]))
        nodes.append(helper.make_node("CumSum", [f"half{step}", "axis"], [f"step{step + 1}"]))
    nodes.append(helper.make_node("Identity", [f"step{steps}"], ["logits"]))
    model = make_model(
        network(nodes, constants={"axis": np.array(2, np.int32)}),
        preprocessing='orientation = "SPL"\nspacing_mm = [0.5, 0.5, 0.5]',
    )
    model.sessions("cpu", 1)
    asked = []

    class Stopped(Exception):
        pass

    def stop(stage: str, share: float) -> None:
        asked.append((stage, share))
        if len(asked) > 2:  # after the two of the beginning: the network is running
            raise Stopped

    with pytest.raises(Stopped):
        analyse(model, {"image": volume}, device="cpu", threads=1, progress=stop)
    assert asked == [("prepare", 0), ("run", 0), ("run", 0)]


def test_model_of_another_shape(make_model, volume: Volume) -> None:
    content = network([helper.make_node("ReduceMax", ["image"], ["logits"], axes=[2], keepdims=1)])
    with pytest.raises(
        Permanent, match=r"output 'logits' has shape \(1, 1, 1, 32, 28\) .*expected \(1, 1, 24, 32, 28\)"
    ):
        analyse(make_model(content), {"image": volume}, device="cpu")


def test_model_that_gives_no_numbers(make_model, volume: Volume) -> None:
    content = network([helper.make_node("Log", ["image"], ["logits"])])
    with pytest.raises(Permanent, match="not finite"):
        analyse(
            make_model(
                content,
                preprocessing='orientation = "SPL"\nalignment = "acquisition"\n'
                'intensity = [{ step = "affine", offset = -500 }]',
            ),
            {"image": volume},
            device="cpu",
        )


def test_file_that_is_no_model(make_model, volume: Volume) -> None:
    with pytest.raises(Permanent, match="ONNX Runtime cannot load it"):
        analyse(make_model(b"not onnx"), {"image": volume}, device="cpu")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"run": 'input = "picture"'}, r"found input tensors \['image'\], expected \['picture'\]"),
        ({"output": 'channels = 1\ntensor = "mask"'}, r"found output tensors \['logits'\], expected 'mask' among them"),
    ],
)
def test_tensors_of_other_names(make_model, volume: Volume, parts: dict[str, str], words: str) -> None:
    with pytest.raises(Permanent, match=words):
        analyse(make_model(**parts), {"image": volume}, device="cpu")


def test_too_much_memory_is_transient(make_model, volume: Volume) -> None:
    nodes = [
        helper.make_node("Expand", ["image", "huge"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["logits"], axes=[1], keepdims=1),
    ]
    content = network(nodes, constants={"huge": np.array([1, 1 << 34, 24, 32, 28])})
    with pytest.raises(Transient, match="not enough memory for an input of shape"):
        analyse(make_model(content), {"image": volume}, device="cpu")


def test_changed_byte_is_refused(make_model, volume: Volume) -> None:
    model: Model = make_model()
    content = bytearray((model.folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (model.folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelRefused, match=r"model bright-ball: model.onnx: found SHA-256 \w{64}, expected \w{64}"):
        analyse(model, {"image": volume}, device="cpu")
    assert any("found SHA-256" in problem for problem in check_model(model.folder))


def test_missing_file_is_refused(make_model) -> None:
    model: Model = make_model()
    (model.folder / "model.onnx").unlink()
    with pytest.raises(ModelRefused, match=r"model\.onnx cannot be read"):
        model.sessions("cpu", 1)


def test_registry_lists_models_and_problems(make_model, tmp_path: Path) -> None:
    folder = make_model().folder
    make_model(identifier="another")
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / "model.toml").write_text("version = 1")
    (folder.parent / "copy").mkdir()
    (folder.parent / "copy" / "model.toml").write_text((folder / "model.toml").read_text())
    registry = Registry([folder.parent, tmp_path / "nowhere"])
    assert [model.identifier for model in registry.models()] == ["another", "bright-ball"]
    text = "\n".join(registry.problems)
    assert "broken/model.toml: model: found nothing" in text
    assert "copy/model.toml: model.identifier: found 'bright-ball', which another folder has" in text
    assert "nowhere: found no such folder" in text
    with pytest.raises(ModelRefused, match=r"model 'third' is not here: known are another, bright-ball"):
        registry.get("third")


def write_example(folder: Path, volume: Volume, expected: np.ndarray) -> None:
    (folder / "example").mkdir()
    np.savez(folder / "example" / "input.npz", voxels=volume.voxels, affine_lps=volume.affine_lps, modality="MR")
    np.savez(folder / "example" / "expected.npz", labels=expected.astype(np.uint8))


def test_check_runs_the_example(make_model, volume: Volume) -> None:
    model = make_model(labels=LABELS + "\n[example]\n")
    assert check_model(model.folder) == [
        "bright-ball: example: cannot be read: FileNotFoundError: "
        f"[Errno 2] No such file or directory: '{model.folder}/example/input.npz'"
    ]
    write_example(model.folder, volume, BALL)
    assert check_model(model.folder) == []
    (model.folder / "CARD.md").unlink()
    np.savez(model.folder / "example" / "expected.npz", labels=np.roll(BALL, 2, axis=1).astype(np.uint8))
    card, dice = check_model(model.folder)
    assert "CARD.md: found nothing" in card and "example: Ball: found Dice 0." in dice


def test_check_compares_the_manifest_with_the_network(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "ball", "ball", threshold_network())
    path = folder / "model.toml"
    path.write_text(path.read_text().replace("channels = 2\n", "channels = 3\n"))
    assert check_model(folder) == [
        "ball/model.toml: outputs[0].channels: found 3, expected 2 as the tensor 'logits' has (model.onnx)"
    ]


def test_check_of_a_wrong_manifest(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text("version = 3")
    assert check_model(tmp_path) == [f"{tmp_path.name}/model.toml:1: version: found 3, expected 1"]


def test_default_phantom_has_the_ball() -> None:
    np.testing.assert_array_equal(default_voxels(SHAPE, SPACING) > 500, BALL)
