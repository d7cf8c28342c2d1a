"""The models of this node: found, checked against their hashes, kept warm."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dicom_sr.findings import Algorithm, Segment
from node.errors import Permanent
from node.infer.manifest import FILE_NAME, Manifest, ManifestError, load_manifest
from node.infer.networks import input_tensors, output_tensors
from node.infer.output_sections import Segmentation
from node.infer.pool import Key, SessionPool, Sessions, close_sessions
from node.infer.providers import Acceleration
from node.infer.remote import RemoteSession, open_remote
from node.infer.segmentation import segment_of
from node.infer.session import Session, open_session
from node.infer.signature import NotSigned, check_signature, read_keys

PLAIN_FILES = (".md", ".txt", ".npz", ".json", ".png")
"""Files that no network refers to."""


class ModelRefused(Permanent):
    """The model is not there, or its files are not those that its manifest names."""

    code = "model-refused"


class Model:
    """A model folder whose manifest was read; files are hashed when they are loaded.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    pool : SessionPool, optional
        Where its sessions are kept warm, beside those of other models.
    """

    def __init__(self, folder: Path, manifest: Manifest, pool: SessionPool | None = None) -> None:
        self.pool = pool or SessionPool()
        self.folder = folder
        self.manifest = manifest
        self.digest = manifest.digest

    @property
    def identifier(self) -> str:
        """Machine name, as routes use it."""
        return self.manifest.model.identifier

    @property
    def not_for_clinical_use(self) -> bool:
        """Whether every object made by it says so."""
        return not self.manifest.model.clinical_use

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All labels the model can give, numbered from 1."""
        labels = [
            label for output in self.manifest.reported if isinstance(output, Segmentation) for label in output.labels
        ]
        return tuple(segment_of(label, number) for number, label in enumerate(labels, start=1))

    def algorithm(self, provider: str) -> Algorithm:
        """How the objects name it; `provider` is what it really ran on."""
        model = self.manifest.model
        return Algorithm(
            name=model.name,
            version=model.version,
            manufacturer=model.maker,
            identifier=model.identifier,
            digest=self.digest,
            family=model.family.code,
            intended_use=model.intended_use,
            parameters=(("Execution provider", provider),),
        )

    def verify(self) -> dict[str, bytes]:
        """Hash every file of the manifest that is used here; the content of the ONNX files by name.

        Raises
        ------
        ModelRefused
            When a file is missing or a byte of it differs.
        """
        networks = {name for stage in self.manifest.sequence for name in stage.run.files}
        contents: dict[str, bytes] = {}
        for name, wanted in self.manifest.files.items():
            if self.pool.engine(self.identifier, name) is not None and name in networks:
                continue  # it runs elsewhere, by its version there
            content = self._read(name)
            found = hashlib.sha256(content).hexdigest()
            if found != wanted:
                raise ModelRefused(
                    f"model {self.identifier}: {name}: found SHA-256 {found}, expected {wanted}: the file was changed "
                    "or the manifest is of another version"
                )
            if name in networks:
                contents[name] = content
        return contents

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise ModelRefused(
                f"model {self.identifier}: {name} cannot be read ({error.strerror}), expected the file named in [files]"
            ) from None

    def vocabulary(self, name: str) -> tuple[str, ...]:
        """The words of a vocabulary file, one on each line."""
        return tuple(self._read(name).decode("utf-8").splitlines())

    def sessions(self, device: str, threads: int, acceleration: Acceleration | None = None) -> Sessions:
        """The warm sessions for a device and thread count by ONNX file; the bytes that were hashed are the bytes that
        run. `acceleration` is for what is not to run as the pool says.

        Raises
        ------
        ModelRefused
            When the files differ from the manifest.
        Permanent, Transient
            As `open_session`.
        """
        key = Key(self.identifier, device, threads, acceleration)
        return self.pool.sessions(key, lambda: self._open(device, threads, acceleration or self.pool.acceleration))

    def _open(self, device: str, threads: int, acceleration: Acceleration) -> Sessions:
        contents = self.verify()
        # What is neither a network nor words may be weights beside a network, which ONNX Runtime reads by itself.
        others = [name for name in self.manifest.files if name not in contents and not name.endswith(PLAIN_FILES)]
        inputs = [each.name for each in self.manifest.inputs]
        tensors: dict[str, tuple[str, ...]] = {}
        for stage in self.manifest.sequence:
            for name in stage.run.files:  # a network may serve several stages
                tensors[name] = tuple(dict.fromkeys((*tensors.get(name, ()), *output_tensors(stage))))
        given = {
            name: tuple(input_tensors(stage, inputs)) for stage in self.manifest.sequence for name in stage.run.files
        }
        opened: dict[str, Session | RemoteSession] = {}
        try:
            for file, names in given.items():
                engine = self.pool.engine(self.identifier, file)
                if engine is not None:
                    opened[file] = open_remote(self.identifier, engine, input_names=names, output_names=tensors[file])
                    continue
                opened[file] = open_session(
                    self.identifier,
                    self.folder / file if others else contents.pop(file),
                    input_names=names,
                    output_names=tensors[file],
                    device=device,
                    threads=threads,
                    acceleration=acceleration,
                )
        except BaseException:
            close_sessions(opened)
            raise
        return opened


class Registry:
    """All models in the given folders, each a folder with a `model.toml`.

    Parameters
    ----------
    paths : sequence of Path
        Folders that hold model folders, or model folders themselves. One that is missing is a problem, not
        an error.
    pool : SessionPool, optional
        Where the sessions of all of them are kept warm.
    trusted_keys : sequence of Path
        Public keys; when there are any, a model that none of them signed is refused.

    Raises
    ------
    Permanent
        When a key cannot be read.
    """

    def __init__(
        self, paths: Sequence[Path], pool: SessionPool | None = None, trusted_keys: Sequence[Path] = ()
    ) -> None:
        self.pool = pool or SessionPool()
        self._keys = read_keys(trusted_keys)
        self.problems: list[str] = []
        self._models: dict[str, Model] = {}
        for path in paths:
            folders = [path] if (path / FILE_NAME).is_file() else sorted(_subfolders(path))
            if not path.is_dir():
                self.problems.append(f"models.paths: {path.name}: found no such folder")
            for folder in folders:
                self._add(folder)

    def _add(self, folder: Path) -> None:
        try:
            manifest = load_manifest(folder)
            if self._keys:
                check_signature(folder, manifest.digest, self._keys)
        except (ManifestError, NotSigned) as error:
            self.problems.append(str(error))
            return
        identifier = manifest.model.identifier
        if identifier in self._models:
            self.problems.append(
                f"{folder.name}/{FILE_NAME}: model.identifier: found {identifier!r}, which another folder has "
                f"({self._models[identifier].folder.name}), expected one of its own"
            )
            return
        self._models[identifier] = Model(folder, manifest, self.pool)

    def models(self) -> tuple[Model, ...]:
        """All models whose manifest is right, by identifier; `problems` lists the others."""
        return tuple(self._models[identifier] for identifier in sorted(self._models))

    def get(self, identifier: str) -> Model:
        """The model of this name.

        Raises
        ------
        ModelRefused
            When there is none; the message lists those there are, and what is wrong with folders that were
            refused.
        """
        if identifier not in self._models:
            known = ", ".join(sorted(self._models)) or "none"
            wrong = f"; refused: {' | '.join(self.problems)}" if self.problems else ""
            raise ModelRefused(f"model {identifier!r} is not here: known are {known}{wrong}")
        return self._models[identifier]


def _subfolders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [folder for folder in path.iterdir() if (folder / FILE_NAME).is_file()]
