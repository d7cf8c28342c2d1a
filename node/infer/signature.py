"""A signature over a manifest: whose model it is, when the site wants to know. Ed25519 (RFC 8032).

The manifest names the SHA-256 of every file, so its digest stands for the whole model; `model.sig` beside it holds
the signature of the digest. Keys are PEM files (PKCS #8 and SubjectPublicKeyInfo).
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from node.errors import Permanent

SIGNATURE_FILE = "model.sig"
PURPOSE = b"overread model manifest 1\n"
"""Before the digest in what is signed, so that a signature cannot be taken for one of something else."""


class NotSigned(Permanent):
    """The model is not signed by a trusted key."""


def make_keys(private: Path) -> Path:
    """Write a new private key, readable by its owner only, and the public one beside it (`.pub`), whose path is given.

    Raises
    ------
    Permanent
        When one of the files exists.
    """
    public = private.with_name(private.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise Permanent(f"{path} exists, expected the name of a new file")
    key = Ed25519PrivateKey.generate()
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def sign(folder: Path, digest: str, private: Path) -> None:
    """Write the signature of a manifest's digest into the model's folder.

    Raises
    ------
    Permanent
        When the key cannot be read.
    """
    key = _load(private, lambda content: serialization.load_pem_private_key(content, None))
    if not isinstance(key, Ed25519PrivateKey):
        raise Permanent(f"{private.name}: found another kind of key, expected Ed25519")
    (folder / SIGNATURE_FILE).write_bytes(base64.b64encode(key.sign(PURPOSE + digest.encode())) + b"\n")


def read_keys(paths: Sequence[Path]) -> tuple[Ed25519PublicKey, ...]:
    """The public keys of these files.

    Raises
    ------
    Permanent
        When one cannot be read.
    """
    keys = []
    for path in paths:
        key = _load(path, serialization.load_pem_public_key)
        if not isinstance(key, Ed25519PublicKey):
            raise Permanent(f"{path.name}: found another kind of key, expected Ed25519")
        keys.append(key)
    return tuple(keys)


def _load(path: Path, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(path.read_bytes())
    except OSError as error:
        raise Permanent(f"{path.name} cannot be read ({error.strerror}), expected a key as PEM") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Permanent(f"{path.name}: found no key that can be used, expected Ed25519 as PEM") from None


def check_signature(folder: Path, digest: str, keys: Sequence[Ed25519PublicKey]) -> None:
    """Whether one of the keys signed this digest.

    Raises
    ------
    NotSigned
        When there is no signature, or none of the keys made it.
    """
    path = folder / SIGNATURE_FILE
    try:
        signature = base64.b64decode(path.read_bytes(), validate=False)
    except OSError:
        raise NotSigned(f"{folder.name}: found no {SIGNATURE_FILE}, expected a signature by a trusted key") from None
    except binascii.Error:
        raise NotSigned(f"{folder.name}: {SIGNATURE_FILE}: found no base64, expected a signature") from None
    for key in keys:
        try:
            key.verify(signature, PURPOSE + digest.encode())
        except InvalidSignature:
            continue
        return
    raise NotSigned(
        f"{folder.name}: {SIGNATURE_FILE}: found a signature of another manifest or by another key, expected one of "
        f"{len(keys)} trusted keys"
    )
