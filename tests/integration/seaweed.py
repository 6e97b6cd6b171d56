"""A real S3 server with versions, conditional writes and Object Lock: SeaweedFS, from its wheel."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ACCESS, SECRET = "the-access-key", "the-secret-key"
_ROLES = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


class Seaweed:
    """One server in a folder, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        *ports, self.port, grpc = _free_ports(len(_ROLES) + 2)
        self.url = f"http://127.0.0.1:{self.port}"
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        credentials = [{"accessKey": ACCESS, "secretKey": SECRET}]
        (folder / "s3.json").write_text(
            json.dumps({"identities": [{"name": "tests", "credentials": credentials, "actions": everything}]})
        )
        self._command = [
            str(Path(sysconfig.get_path("scripts")) / "weed"), "-logtostderr=true", "server", f"-dir={folder}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.port={self.port}", f"-s3.port.grpc={grpc}",
            f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=1000",
            "-master.volumeSizeLimitMB=64", *(f"-{role}={port}" for role, port in zip(_ROLES, ports, strict=True)),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes requests."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder
            )
        deadline = time.monotonic() + 90
        while True:
            try:
                self.client().list_buckets()
                return
            except Exception as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"seaweedfs does not start: {error}\n{self._tail()}") from error
                time.sleep(0.2)

    def _tail(self) -> str:
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-20:])

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self, secret: str = SECRET) -> Any:
        """Return a client of its own."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=ACCESS, aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=20),
        )  # fmt: skip

    def bucket(self, name: str, *, locked: bool = True, tries: int = 50) -> str:
        """Make a bucket; a server that has just started refuses the first ones."""
        for left in reversed(range(tries)):
            try:
                self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=locked)
                return name
            except Exception:
                if not left:
                    raise
                time.sleep(0.2)
        return name


def running(folder: Path) -> Iterator[Seaweed]:
    """Start a server and end it."""
    server = Seaweed(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
