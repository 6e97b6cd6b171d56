"""An anchor in a git repository: a commit for each checkpoint, pushed to a remote that others keep."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field

from meshflow.ledger.anchors.contract import Anchor, AnchorError, Prove, Receipt, follows, spread
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.plugin.base import Settings

_WHO = ("-c", "user.name=meshflow", "-c", "user.email=ledger@meshflow.invalid", "-c", "commit.gpgsign=false")

_PATIENCE_S = 60


class GitAnchorSettings(Settings):
    """Which repository, and where it is pushed to."""

    repository: str = Field(min_length=1, description="work tree of a git repository")
    file: str = Field("checkpoint.txt", min_length=1, description="file in it that holds the newest checkpoint")
    remote: str | None = Field(
        None, min_length=1, description="remote to push to; without it nothing leaves the machine"
    )
    branch: str = Field("HEAD", min_length=1, description="branch that is pushed")


class GitAnchor(Anchor):
    """Commits to ``file`` in the work tree at ``repository``, and pushes when a ``remote`` is named.

    Only what is pushed is out of reach of whoever owns this machine. A push that would rewrite the remote is refused
    by git, and is an AnchorError here.
    """

    settings_type: ClassVar[type[Settings]] = GitAnchorSettings

    def __init__(
        self, repository: str | Path, *, file: str = "checkpoint.txt", remote: str | None = None, branch: str = "HEAD"
    ) -> None:
        if any(name.startswith("-") for name in (file, remote or "", branch)):
            raise AnchorError("a file, remote or branch of a git anchor does not begin with a dash")
        self.repository = Path(repository)
        self.name = f"git {self.repository}"
        self._file = file
        self._remote = remote
        self._branch = branch
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: GitAnchorSettings, base: Path) -> Self:
        """Return the anchor in the repository that settings name."""
        return cls(base / settings.repository, file=settings.file, remote=settings.remote, branch=settings.branch)

    async def publish(self, checkpoint: str, prove: Prove | None = None) -> Receipt:
        """Commit the checkpoint and push it."""
        return await asyncio.to_thread(self._publish, checkpoint)

    async def latest(self, origin: str | None = None) -> str | None:
        """Return the checkpoint of the newest commit; what lies uncommitted in the work tree does not count."""
        return await asyncio.to_thread(self._latest)

    async def kept(self, at_most: int, origin: str | None = None) -> list[str]:
        """Return the checkpoint of each commit that changed the file."""
        return await asyncio.to_thread(self._kept, at_most)

    async def check(self) -> None:
        """Read the newest commit, and reach the remote."""
        await self.latest()
        if self._remote is not None:
            await asyncio.to_thread(self._git, "ls-remote", "-q", self._remote)

    # In threads: asyncio's own child processes leave transports behind when a loop ends soon after.

    def _publish(self, checkpoint: str) -> Receipt:
        with self._lock:
            if follows(checkpoint, self._latest(), self.name):
                (self.repository / self._file).write_text(checkpoint, "utf-8")
                self._git("add", "--", self._file)
                message = f"Checkpoint of {read_checkpoint(checkpoint).size} entries"
                self._git(*_WHO, "commit", "-q", "--no-verify", "-m", message, "--", self._file)
            if self._remote is not None:
                self._git("push", "-q", self._remote, self._branch)
            return Receipt(f"{self.name} at {self._git('rev-parse', 'HEAD').strip()}")

    def _latest(self) -> str | None:
        if not self._git("ls-files", "--", self._file).strip():
            self._git("rev-parse", "--git-dir")
            return None
        return self._git("show", f"HEAD:{self._file}", missing="") or None

    def _kept(self, at_most: int) -> list[str]:
        if self._latest() is None:
            return []
        commits = self._git("log", "--format=%H", "--reverse", "--", self._file).split()
        shown = [self._git("show", f"{commit}:{self._file}", missing="") for commit in spread(commits, at_most)]
        return [checkpoint for checkpoint in shown if checkpoint]

    def _git(self, *arguments: str, missing: str | None = None) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and what comes from settings is no option
                [shutil.which("git") or "git", "-C", str(self.repository), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
                timeout=_PATIENCE_S,
            )
        except subprocess.TimeoutExpired:
            raise AnchorError(f"{self.name}: git {arguments[-1]!r} did not end within {_PATIENCE_S} s") from None
        except OSError as error:
            raise AnchorError(f"{self.name}: git cannot be run ({error.strerror or error})") from error
        if done.returncode:
            if missing is not None:
                return missing
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise AnchorError(f"{self.name}: git {arguments[-1]!r} failed: {said[-1] if said else done.returncode}")
        return done.stdout.decode(errors="replace")
