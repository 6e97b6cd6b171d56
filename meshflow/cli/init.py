"""``meshflow init``: a commented meshflow.yaml and a starter policy that it names."""

from __future__ import annotations

import os
from pathlib import Path

from meshflow.cli.options import DEFAULT_CONFIG, Chosen
from meshflow.cli.output import print_json, say
from meshflow.errors import ConfigError, ContractError

POLICIES = "policies"
_COMMENTED = ("# plugins:\n", "#   rego:\n", "#     bundle: policies\n")


def write_starter(options: Chosen, folder: Path, *, force: bool) -> None:
    """Write the files into ``folder``; ConfigError names what is there already, and then nothing is written."""
    files = {folder / DEFAULT_CONFIG: _example().encode()}
    for name, content in _starter_policy().items():
        files[folder / POLICIES / name] = content
    there = [path for path in (folder / DEFAULT_CONFIG, folder / POLICIES) if os.path.lexists(path)]
    if there and not force:
        names = ", ".join(map(str, there))
        raise ConfigError(f"{names} exist{'s' if len(there) == 1 else ''} already; --force overwrites")
    for path, content in files.items():
        _write(path, content)
    if options.as_json:
        print_json({"written": [str(path) for path in files]})
    else:
        say(*(f"wrote {path}" for path in files), "", "Next: meshflow stages, then meshflow explain --node hello")


def _example() -> str:
    """Return the commented example with the line that names the policy folder in force."""
    from meshflow.config import commented_example

    example = commented_example()
    for line in _COMMENTED:
        if example.count(line) != 1:
            raise ContractError(f"the example of meshflow.yaml lacks the line {line.strip()!r}")
        example = example.replace(line, line.replace("# ", "", 1))
    return example


def _starter_policy() -> dict[str, bytes]:
    from meshflow.policy.shipped import shipped_bundle

    source = shipped_bundle("authz")
    paths = [path for path in sorted(source.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror or error}", where=str(path)) from error
