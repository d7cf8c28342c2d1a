"""An authority and certificates made by it, for tests of TLS. Uses the `openssl` command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder of its own."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str, days: int = 2) -> tuple[Path, Path]:
        """A certificate for loopback and its key; with negative days it has expired."""
        key, request, certificate = (self.folder / f"{name}.{suffix}" for suffix in ("key", "csr", "pem"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        subject = ["-subj", f"/CN={name}"]
        _openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, *subject)
        signed = [
            "-CA",
            self.ca,
            "-CAkey",
            self.folder / "ca.key",
            "-CAcreateserial",
            "-extfile",
            extensions,
            "-days",
            days,
        ]
        _openssl("x509", "-req", "-in", request, *signed, "-out", certificate)
        return certificate, key


def make_authority(folder: Path, name: str = "Test CA") -> Authority:
    folder.mkdir(parents=True, exist_ok=True)
    made = Authority(folder)
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", folder / "ca.key", "-out", made.ca,
        "-subj", f"/CN={name}",
    )  # fmt: skip
    return made


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
