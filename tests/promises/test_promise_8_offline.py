"""Promise 8: nothing leaves the machine unless a setting names where it goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Audit events come from the interpreter itself, so no library gets around them short of a C extension of its own.
GUARD = """
import sys
import ipaddress

def guard(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and not ipaddress.ip_address(host).is_loopback:
            raise SystemExit(f"connects to {address}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        if arguments[0] not in (None, "localhost", "127.0.0.1", "::1"):
            raise SystemExit(f"looks up {arguments[0]}")
    elif event in ("socket.sendto", "socket.sendmsg", "urllib.Request", "http.client.connect", "ftplib.connect"):
        raise SystemExit(f"{event} {arguments[1:]}")
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        raise SystemExit(f"{event} {arguments[0]}")

sys.addaudithook(guard)
"""

STEPS = """
import asyncio
from meshflow import StepRuntime
from meshflow.step import Metered, NodeInput

TEXT = "Ask ann@example.org or +1 212 555 0100 about https://example.org/x?q=1, card 4111 1111 1111 1111."

async def chunks(_):
    for word in TEXT.split():
        yield word + " "

async def main():
    # On trial: the profile judges every step, and none of them shows a credential.
    trial = {"compliance_profile": {"mode": "shadow"}}
    config = {"ledger": {"path": sys.argv[1]}, "profiles": ["hipaa"], "stages": trial}
    async with StepRuntime(config=config) as runtime:
        for kind in ("model", "agent", "function", "human", "http", "mcp"):
            await runtime.run(NodeInput(
                node_id=kind, kind=kind, tool="fetch" if kind in ("http", "mcp") else None, run_id="r",
                input={"text": TEXT, "url": "http://192.0.2.1/"}, handler=lambda given: Metered(TEXT, "0.01", 5),
            ))
        await runtime.run(NodeInput(node_id="stream", input=TEXT, handler=chunks))
        ledger = runtime.plugin("ledger").ledger
        assert len(await ledger.get_run("r")) == 6
        assert (await ledger.verify_chain("r"))["valid"]
        await runtime.reload()

asyncio.run(main())
print("all done")
"""

DESK = """
import asyncio, pathlib, shutil
from examples.desk import job
from examples.desk.prepare import prepare
from examples.desk.values import load_messages
from meshflow import StepRuntime

folder = pathlib.Path(sys.argv[1]).parent
here = pathlib.Path(job.__file__).parent
shutil.copy(here / "meshflow.yaml", folder)
shutil.copytree(here / "policy", folder / "policy")
prepare(folder / "work")
job.WORK = folder / "work"

class Context:
    run_id, resume, arguments = "batch", False, [message.id for message in load_messages()[:60]]
    def progress(self, done, total, text=""): pass
    def say(self, text): pass

async def main():
    async with StepRuntime(config=folder / "meshflow.yaml") as runtime:
        Context.runtime = runtime
        summary = await job.job(Context())
        assert summary["e-mails delivered"] > 0, summary

asyncio.run(main())
print("all done")
"""


def _run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARD + script, str(folder / "ledger.db")],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("script", [STEPS, DESK], ids=["steps of every kind", "the desk"])
def test_nothing_but_the_loopback_is_ever_reached(tmp_path: Path, script: str) -> None:
    done = _run(script, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "all done"), done.stderr[-2_000:]


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('192.0.2.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://example.org')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
        "import asyncio; asyncio.run(asyncio.open_connection('example.org', 9))",
        "import subprocess; subprocess.run(['true'])",
    ],
)
def test_the_guard_of_this_test_sees_what_it_should(tmp_path: Path, attempt: str) -> None:
    assert _run(attempt, tmp_path).returncode == 1
