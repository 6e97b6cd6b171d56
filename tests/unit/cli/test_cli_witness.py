"""``meshflow ledger witness`` as a process, with a ledger that publishes to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Shell


@pytest.fixture
def serve(shell: Shell) -> Iterator[Any]:
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "meshflow.cli", "ledger", "witness", "serve", "--json", *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=shell.folder
        )
        processes.append(process)
        assert process.stdout is not None
        lines = ""
        while not lines.endswith("}\n"):
            lines += process.stdout.readline()
        found: dict[str, Any] = json.loads(lines) | {"process": process}
        return found

    yield start
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_a_ledger_is_witnessed_and_verifies_against_its_witness(shell: Shell, ledger: Path, serve: Any) -> None:
    made = shell("ledger", "witness", "key", "w.key", "--name", "acme.example/w1", "--json").document
    assert len(made["keys"]) == 2
    assert shell("ledger", "witness", "key", "w.key", "--name", "again").code == 4
    shell.write("ledger.keys", "\n".join(shell("ledger", "checkpoint", "--json").document["keys"]))
    running = serve("--key", "w.key", "--state", "w.db", "--log", "ledger.keys", "--listen", "127.0.0.1:0", "--new")
    assert running["keys"] == made["keys"]
    settings = {"use": "witness", "url": running["url"], "keys": made["keys"]}
    shell.write("meshflow.yaml", json.dumps({"ledger": {"anchors": [settings]}}))
    assert shell("ledger", "anchor").code == 0
    witnesses = [word for key in made["keys"] for word in ("--witness", key)]
    done = shell("ledger", "verify", "--anchor", "witness", *witnesses, "--json")
    assert (done.code, done.document["whole"]["witness"]["cosigned"].keys()) == (0, {"acme.example/w1"})
    assert shell("ledger", "doctor").code == 0
    running["process"].terminate()
    assert running["process"].wait(10) == 0
    shown = shell("ledger", "witness", "show", "--state", "w.db", "--json").document
    assert (len(shown["logs"]), shown["refused"]) == (1, [])
    assert shell("ledger", "witness", "show", "--state", "w.db").code == 0
    assert shell("ledger", "anchor").code == 1
    assert shell("ledger", "verify", *witnesses).code == 0
    assert shell("ledger", "verify", "--anchor", "witness").code == 4


@pytest.mark.parametrize("listen", ["8080", ":8080", "host:port", "host:99999"])
def test_an_address_that_is_none_is_refused(shell: Shell, ledger: Path, listen: str) -> None:
    shell("ledger", "witness", "key", "w.key", "--name", "w", "--no-ml-dsa-44")
    key = shell("ledger", "checkpoint", "--json").document["keys"][0]
    done = shell("ledger", "witness", "serve", "--key", "w.key", "--state", "w.db", "--log", key, "--listen", listen)
    assert (done.code, "is not an address" in done.err) == (2, True)


def test_a_witness_does_not_begin_anew_unless_it_is_told_to(shell: Shell, ledger: Path) -> None:
    shell("ledger", "witness", "key", "w.key", "--name", "w")
    key = shell("ledger", "checkpoint", "--json").document["keys"][0]
    words = ("ledger", "witness", "serve", "--key", "w.key", "--state", "w.db", "--log", key)
    done = shell(*words)
    assert (done.code, "could then be shown another history" in done.err) == (4, True)
    shell.write("w.db", "")
    assert shell(*words, "--new").code == 4


def test_a_witness_without_its_file_or_with_another_is_refused(shell: Shell, ledger: Path) -> None:
    assert shell("ledger", "witness", "show", "--state", "none.db").code == 4
    assert shell("ledger", "witness", "show", "--state", ledger.name).code == 4
    assert shell("ledger", "witness", "key", "no/where", "--name", "w").code == 4
    assert shell("ledger", "witness", "key", "w.key", "--name", "two words").code == 4
