"""Who and what has been revoked, by the settings and by a file that is read again when it changes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from meshflow.plugin import Principal
from meshflow_identity.files import UnreadableError, WatchedFile


class Revocations:
    """Revoked token ids, subjects and agents. ``problem`` is why the file cannot be relied on."""

    def __init__(self, tokens: tuple[str, ...], subjects: tuple[str, ...], file: Path | None) -> None:
        self._fixed_tokens, self._fixed_subjects = frozenset(tokens), frozenset(subjects)
        self._file = WatchedFile(file) if file is not None else None
        self._lock = threading.Lock()
        self._tokens, self._subjects = self._fixed_tokens, self._fixed_subjects
        self.problem: str | None = None

    def stale(self) -> bool:
        """Return whether ``refresh`` has something to do, or is at it: nobody goes on with what is being replaced."""
        return self._file is not None and (self._lock.locked() or self._file.changed())

    def refresh(self) -> None:
        """Read the file anew."""
        with self._lock:
            if self._file is None or not self._file.changed():
                return
            try:
                tokens, subjects = _read(self._file)
            except UnreadableError as error:
                self.problem = str(error)
                return
            self._tokens, self._subjects = self._fixed_tokens | tokens, self._fixed_subjects | subjects
            self.problem = None

    def revoked(self, principal: Principal) -> str | None:
        """Return what of the principal is revoked, in words; None if nothing is."""
        if principal.token_id is not None and principal.token_id in self._tokens:
            return "token"
        if principal.subject in self._subjects:
            return "subject"
        if principal.agent_id in self._subjects:
            return "agent"
        return None


def _read(file: WatchedFile) -> tuple[frozenset[str], frozenset[str]]:
    content = file.read()
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{file.path}: not JSON") from error
    if not isinstance(document, dict) or not document.keys() <= {"tokens", "subjects"}:
        raise UnreadableError(f'{file.path}: must be {{"tokens": [...], "subjects": [...]}}')
    lists = document.get("tokens", []), document.get("subjects", [])
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise UnreadableError(f"{file.path}: tokens and subjects must be lists of texts")
    return frozenset(lists[0]), frozenset(lists[1])
