"""An anchor in a git repository: a commit for each checkpoint, pushed to a remote that others keep."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from meshflow.ledger.anchors.contract import Anchor, AnchorError, follows
from meshflow.ledger.format.checkpoints import read_checkpoint

_WHO = ("-c", "user.name=meshflow", "-c", "user.email=ledger@meshflow.invalid", "-c", "commit.gpgsign=false")


class GitAnchor:
    """Commits to ``file`` in the work tree at ``repository``, and pushes when a ``remote`` is named.

    Only what is pushed is out of reach of whoever owns this machine. A push that would rewrite the remote is refused
    by git, and is an AnchorError here.
    """

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
        self._lock = asyncio.Lock()

    async def publish(self, checkpoint: str) -> str:
        """Commit the checkpoint and push it."""
        async with self._lock:
            if follows(checkpoint, await self.latest(), self.name):
                await asyncio.to_thread((self.repository / self._file).write_text, checkpoint, "utf-8")
                await self._git("add", "--", self._file)
                message = f"Checkpoint of {read_checkpoint(checkpoint).size} entries"
                await self._git(*_WHO, "commit", "-q", "--no-verify", "-m", message, "--", self._file)
            if self._remote is not None:
                await self._git("push", "-q", self._remote, self._branch)
            return f"{self.name} at {(await self._git('rev-parse', 'HEAD')).strip()}"

    async def latest(self) -> str | None:
        """Return the checkpoint of the newest commit; what lies uncommitted in the work tree does not count."""
        if not (await self._git("ls-files", "--", self._file)).strip():
            await self._git("rev-parse", "--git-dir")
            return None
        return await self._git("show", f"HEAD:{self._file}", missing="") or None

    async def _git(self, *arguments: str, missing: str | None = None) -> str:
        # In a thread: asyncio's own child processes leave transports behind when a loop ends soon after.
        return await asyncio.to_thread(self._run, arguments, missing)

    def _run(self, arguments: tuple[str, ...], missing: str | None) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and what comes from settings is no option
                [shutil.which("git") or "git", "-C", str(self.repository), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )
        except OSError as error:
            raise AnchorError(f"{self.name}: git cannot be run ({error.strerror or error})") from error
        if done.returncode:
            if missing is not None:
                return missing
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise AnchorError(f"{self.name}: git {arguments[-1]!r} failed: {said[-1] if said else done.returncode}")
        return done.stdout.decode(errors="replace")


if TYPE_CHECKING:
    _: Anchor = GitAnchor("checkpoints")
