import pytest

from node.errors import Permanent
from node.infer.packages import check_builds, installed_builds


def test_one_build_is_right_and_this_environment_has_one() -> None:
    check_builds(["onnxruntime"])
    check_builds(["onnxruntime-openvino"])
    check_builds(installed_builds())


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (("onnxruntime-gpu", "onnxruntime"), "found onnxruntime-gpu and onnxruntime, expected exactly one"),
        (("onnxruntime-gpu", "onnxruntime-openvino"), "found onnxruntime-gpu and onnxruntime-openvino, expected"),
        ((), "found no build of ONNX Runtime, expected exactly one"),
    ],
)
def test_both_or_none_say_what_to_do(installed: tuple[str, ...], words: str) -> None:
    with pytest.raises(Permanent, match=words) as caught:
        check_builds(installed)
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu" in str(caught.value)
