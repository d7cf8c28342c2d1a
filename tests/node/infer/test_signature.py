"""Models that are signed, and those that only seem to be."""

import stat
from pathlib import Path

import pytest

from node.errors import Permanent
from node.infer import Registry, load_manifest
from node.infer.signature import NotSigned, check_signature, make_keys, read_keys, sign


@pytest.fixture
def folder(make_model) -> Path:
    return make_model().folder


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return tmp_path / "site.pem"


def test_a_signed_model_is_taken(folder: Path, private: Path) -> None:
    public = make_keys(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    digest = load_manifest(folder).digest
    sign(folder, digest, private)
    check_signature(folder, digest, read_keys([public]))


def test_another_manifest_key_or_signature_is_not(folder: Path, private: Path, tmp_path: Path) -> None:
    keys = read_keys([make_keys(private)])
    digest = load_manifest(folder).digest
    with pytest.raises(NotSigned, match=r"found no model\.sig"):
        check_signature(folder, digest, keys)
    sign(folder, digest, private)
    with pytest.raises(NotSigned, match="of another manifest or by another key, expected one of 1 trusted keys"):
        check_signature(folder, "0" * 64, keys)
    with pytest.raises(NotSigned, match="by another key"):
        check_signature(folder, digest, read_keys([make_keys(tmp_path / "other.pem")]))
    (folder / "model.sig").write_text("nonsense")
    with pytest.raises(NotSigned):
        check_signature(folder, digest, keys)


def test_a_site_with_trusted_keys_takes_signed_models_only(folder: Path, private: Path) -> None:
    public = make_keys(private)
    refused = Registry([folder.parent], trusted_keys=[public])
    assert refused.models() == () and refused.problems == [
        "bright-ball: found no model.sig, expected a signature by a trusted key"
    ]
    sign(folder, load_manifest(folder).digest, private)
    assert [model.identifier for model in Registry([folder.parent], trusted_keys=[public]).models()] == ["bright-ball"]
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.2.3"', 'version = "1.2.4"'))
    assert Registry([folder.parent], trusted_keys=[public]).models() == ()


def test_files_that_are_no_keys(folder: Path, private: Path) -> None:
    with pytest.raises(Permanent, match=r"site\.pem cannot be read"):
        read_keys([private])
    private.write_text("nonsense")
    with pytest.raises(Permanent, match="found no key that can be used"):
        sign(folder, "0" * 64, private)
    with pytest.raises(Permanent, match="exists, expected the name of a new file"):
        make_keys(private)
