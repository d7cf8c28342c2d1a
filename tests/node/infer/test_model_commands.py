"""`overread models card`, `keys`, `sign` and `verify`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from node.cli import build_app
from node.errors import Permanent
from node.infer import load_manifest
from tests.models import threshold_network, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "ball", "ball", threshold_network())


def overread(*arguments: object) -> str:
    """What a command prints; its errors are raised."""
    words = [str(each) for each in arguments]
    ended = CliRunner().invoke(build_app(words), words, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_card_is_what_people_wrote_and_what_the_manifest_says(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "card.md"
    assert "was written" in overread("models", "card", folder, "--out", out)
    text = out.read_text(encoding="utf-8")
    assert text.startswith("# Bright ball\n\nA model for tests.")
    for words in ("Ball; measured: volume", load_manifest(folder).digest, "Phantom Works", "model.onnx"):
        assert words in text
    assert text.count("\n# ") == 0, "what the manifest says stands below the card's own heading"
    assert "Bright ball" in overread("models", "card", folder)
    (folder / "CARD.md").unlink()
    assert "Phantom Works" in overread("models", "card", folder)


def test_an_installed_model_is_known_by_its_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[models]\npaths = ["."]\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "Phantom Works" in overread("models", "show", "ball", "--config", config)
    assert f"{folder}: good" in overread("models", "check", "ball", "--config", config).replace("\n", "")
    assert "Phantom Works" in overread("models", "card", "ball", "--config", config)
    with pytest.raises(Permanent, match=r"found neither a folder here nor an installed model .* known are ball"):
        overread("models", "show", "bal", "--config", config)
    with pytest.raises(Permanent, match="nor a configuration that says which models are installed"):
        overread("models", "show", "ball")


def test_a_model_is_signed_and_verified(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "maker.pem"
    overread("models", "keys", key)
    assert key.stat().st_mode & 0o077 == 0, "the private key is for its owner only"
    overread("models", "sign", folder, "--key", key)
    assert "signed, and unchanged" in overread("models", "verify", folder, "--key", f"{key}.pub")


@pytest.mark.parametrize("changed", ["model.onnx", "model.toml", "model.sig"])
def test_a_changed_model_is_not_verified_and_a_wrong_one_not_signed(folder: Path, tmp_path: Path, changed: str) -> None:
    key = tmp_path / "maker.pem"
    overread("models", "keys", key)
    overread("models", "sign", folder, "--key", key)
    content = (folder / changed).read_bytes()
    (folder / changed).write_bytes(content.replace(b'"1.0"', b'"1.1"') if changed == "model.toml" else content[::-1])
    with pytest.raises(Permanent):
        overread("models", "verify", folder, "--key", f"{key}.pub")
    if changed == "model.onnx":
        with pytest.raises(Permanent, match="found SHA-256"):
            overread("models", "sign", folder, "--key", key)
