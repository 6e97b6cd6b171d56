"""A bundle: the policy texts and the data that decide, read once, immutable, and known by their digest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from meshflow.errors import ConfigError
from meshflow.policy.data import DATA_NAMES, merge, parse_document, place, unfit

LIBRARIES = "meshflow/"
"""Texts that are added to a bundle, and not its own, have paths below this."""

MAX_FILES = 2_000
MAX_POLICY_BYTES = 1 << 20
"""The largest policy file."""
MAX_BUNDLE_BYTES = 64 << 20
"""Policies and data together."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Policy texts by relative path, one data document, and the sha256 over all of it.

    The engine is given exactly these bytes: what the digest names is what decides, whatever happens to the files.
    """

    name: str
    policies: Mapping[str, str]
    digest: str
    data_json: bytes = field(default=b"{}", repr=False)
    origin: str = field(default="", compare=False)

    @property
    def data(self) -> dict[str, Any]:
        """A fresh copy of the data document."""
        document: dict[str, Any] = orjson.loads(self.data_json)
        return document

    @property
    def data_digest(self) -> str:
        """The sha256 of the data document alone."""
        return sha256(self.data_json).hexdigest()

    @classmethod
    def load(cls, path: str | Path, *, tests: bool = False) -> Bundle:
        """Read a folder (all ``*.rego``, and ``data.json`` or ``data.yaml`` at any depth) or a single ``.rego`` file.

        ``*_test.rego`` is read only with ``tests``. Hidden files are skipped. ConfigError says what is wrong and where.
        """
        root = Path(path)
        if root.is_file():
            if root.suffix != ".rego":
                raise ConfigError("a bundle is a folder or a file that ends in .rego", where=str(path))
            files, name, origin = {root.name: _read(root, root.name)}, root.stem, root.parent
        elif root.is_dir():
            files, name, origin = _read_folder(root, tests), root.resolve().name, root
        else:
            raise ConfigError("there is no such policy bundle", where=str(path))
        if not any(file.endswith(".rego") for file in files):
            raise ConfigError("the policy bundle holds no .rego file", where=str(path))
        return cls.from_files(files, name=name, origin=str(origin))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, name: str = "inline", origin: str = "") -> Bundle:
        """Make a bundle of contents by relative path, as ``load`` reads them; ``origin`` is where errors point."""
        with _placed(origin):
            policies = {path: _text(files[path], path) for path in sorted(files) if path.endswith(".rego")}
            others = [path for path in sorted(files) if not path.endswith(".rego")]
            data = place((path, parse_document(files[path], path)) for path in others)
        return cls(name, MappingProxyType(policies), _digest(files.items()), _encoded(data), origin)

    def errors_placed(self) -> AbstractContextManager[None]:
        """Let errors about the bundle's files name them by their path, not only inside the bundle."""
        return _placed(self.origin)

    def with_data(self, overlay: Mapping[str, Any], where: str = "data") -> Bundle:
        """Return the bundle with a document laid over its data: mappings merge, anything else is replaced."""
        problem = unfit(overlay)
        if problem:
            raise ConfigError(problem, where=where)
        data = self.data
        merge(data, overlay, where, replace=True)
        digest = sha256(b"meshflow/overlay/v1\x00" + bytes.fromhex(self.digest) + _encoded(overlay)).hexdigest()
        return Bundle(self.name, self.policies, digest, _encoded(data), self.origin)

    def with_policies(self, texts: Mapping[str, str]) -> Bundle:
        """Return the bundle with further policy texts by path, such as a library that its rules import."""
        taken = sorted(self.policies.keys() & texts.keys())
        if taken:
            raise ConfigError("a policy file of this name is added to every such bundle; rename it", where=taken[0])
        added = _digest((path, text.encode()) for path, text in texts.items())
        digest = sha256(b"meshflow/policies/v1\x00" + bytes.fromhex(self.digest + added)).hexdigest()
        policies = MappingProxyType({**self.policies, **texts})
        return Bundle(self.name, policies, digest, self.data_json, self.origin)


def read_files(folder: Path, *, tests: bool = False) -> dict[str, bytes]:
    """Return what ``Bundle.load`` reads of a folder, by relative path."""
    if not folder.is_dir():
        raise ConfigError("there is no such folder", where=str(folder))
    return _read_folder(folder, tests)


@contextmanager
def _placed(origin: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        if not origin or not error.where:
            raise
        raise ConfigError(error.problem, where=os.path.join(origin, error.where), path=error.path) from None


def _encoded(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(dict(document), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"the data document has no JSON form: {error}") from None


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the sha256 over sorted paths and contents, each with its length so that none can run into the next."""
    total = sha256(b"meshflow/bundle/v1\x00")
    for path, content in sorted(files):
        encoded = path.encode()
        total.update(len(encoded).to_bytes(8, "big") + encoded + len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


def _text(content: bytes, path: str) -> str:
    if len(content) > MAX_POLICY_BYTES:
        raise ConfigError(f"a policy file may have {MAX_POLICY_BYTES} bytes; this has {len(content)}", where=path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError("not UTF-8 text", where=f"{path}:{line}") from None


def _read_folder(root: Path, tests: bool) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    room = MAX_BUNDLE_BYTES
    real_root = root.resolve()
    for path in _wanted(root, tests):
        relative = path.relative_to(root).as_posix()
        real = path.resolve()
        if not real.is_relative_to(real_root):
            raise ConfigError("a link leads out of the bundle", where=str(path))
        files[relative] = _read(real, relative, room)
        room -= len(files[relative])
        if len(files) > MAX_FILES:
            raise ConfigError(f"a bundle may have {MAX_FILES} files", where=str(root))
    return files


def _wanted(root: Path, tests: bool) -> Iterator[Path]:
    for folder, below, names in os.walk(root, onerror=_refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in below:
            # os.walk would pass over a linked folder in silence, and a policy that is not loaded denies nothing.
            if Path(folder, name).is_symlink():
                raise ConfigError("a link to a folder is not followed in a bundle", where=str(Path(folder, name)))
        for name in sorted(names):
            is_test = name.endswith("_test.rego")
            if not name.startswith(".") and ((name.endswith(".rego") and (tests or not is_test)) or name in DATA_NAMES):
                yield Path(folder, name)


def _refuse(error: OSError) -> None:
    raise ConfigError(f"cannot be read: {error.strerror}", where=str(error.filename))


def _read(path: Path, relative: str, room: int = MAX_BUNDLE_BYTES) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(room + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(content) > room:
        raise ConfigError(f"a bundle may have {MAX_BUNDLE_BYTES} bytes in all", where=relative)
    return content
