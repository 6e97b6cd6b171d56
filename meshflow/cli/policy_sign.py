"""``meshflow policy sign`` and ``meshflow policy verify``."""

from __future__ import annotations

from pathlib import Path

from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, print_json, say


def sign_policy(options: Chosen, folder: Path, key: Path, key_id: str | None, scope: str | None) -> None:
    """Write a bundle's signature."""
    from meshflow.policy import Bundle
    from meshflow.policy.signing import FILE_NAME, sign_folder

    algorithm = sign_folder(folder, key, key_id=key_id, scope=scope)
    digest = Bundle.load(folder).digest
    written = folder / FILE_NAME
    if options.as_json:
        print_json({"written": str(written), "algorithm": algorithm, "digest": digest})
    else:
        say(f"wrote {written} ({algorithm})", f"digest {digest}")


def verify_policy(options: Chosen, folder: Path, key: Path, key_id: str | None, scope: str | None) -> None:
    """Say that a bundle is what was signed; ConfigError says what is not."""
    from meshflow.policy import Bundle
    from meshflow.policy.signing import Verifier, verify_folder

    files = verify_folder(folder, Verifier(key, key_id, scope))
    digest = Bundle.load(folder).digest
    if options.as_json:
        print_json({"verified": True, "files": sorted(files), "digest": digest})
    else:
        say(f"{counted(len(files), 'file')} as they were signed", f"digest {digest}")
