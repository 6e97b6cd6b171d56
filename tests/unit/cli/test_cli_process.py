"""The command as a process: what a shell, a pipe, a terminal and a signal see of it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Shell

COMMAND = (sys.executable, "-m", "meshflow.cli")
SLOW = """
import asyncio
from meshflow import NodeInput

async def job(context):
    async def slow(value):
        print("READY", flush=True)
        await asyncio.sleep(60)

    for name, handler in (("quick", str), ("slow", slow)):
        await context.runtime.run(
            NodeInput(node_id=name, step_id=name, input=1, handler=handler, run_id=context.run_id))
"""
HEAVY = (
    "presidio_analyzer", "presidio_anonymizer", "spacy", "fastapi", "starlette", "uvicorn", "pydantic", "regorus",
    "rich", "yaml", "aiosqlite", "sqlite3", "asyncio", "jsonschema_rs", "meshflow.kernel", "meshflow.config",
)  # fmt: skip


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
        stdin=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip


def _seconds_of_children() -> float:
    """Return the processor's time of the processes that have ended; that by the wall is also that of others."""
    times = os.times()
    return times.children_user + times.children_system


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    code = f"""
import sys, time
begun = time.perf_counter()
from meshflow.cli import main
assert main(["--help"]) == 0
print(sorted(set({HEAVY!r}) & set(sys.modules)), time.perf_counter() - begun, file=sys.stderr)
"""
    spent = []
    for _ in range(3):
        begun = _seconds_of_children()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        spent.append(_seconds_of_children() - begun)
        assert "Evidence:" in done.stdout
        assert done.stderr.startswith("[] ")
    assert min(spent) < 0.4


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "meshflow", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("meshflow 2")


def test_the_type_of_a_job_can_be_imported_without_the_app() -> None:
    code = "import sys; from meshflow.cli.job import JobContext; print('typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("version",), 0),
        (("stages",), 0),
        (("explain", "--node", "x"), 0),
        (("plugins", "list"), 0),
        (("plugins", "doctor"), 0),
        (("schema",), 0),
        (("ledger", "list"), 0),
        (("ledger", "show", "desk"), 0),
        (("ledger", "show", "desk", "pay"), 0),
        (("ledger", "verify"), 0),
        (("approvals", "list"), 0),
        (("approvals", "show", "apr-none"), 4),
        (("approvals", "approve", "apr-none"), 4),
        (("approvals", "deny", "apr-none"), 4),
        (("init",), 0),
        (("run", "job.py"), 5),
        (("stages", "--config", "absent.yaml"), 3),
        (("ledger", "show", "absent"), 4),
        (("run", "absent.py"), 2),
    ],
    ids=str,
)
def test_each_command_ends_with_its_code_and_no_traceback(
    shell: Shell, ledger: Path, job: str, words: tuple[str, ...], code: int
) -> None:
    shell.write("job.py", job)
    done = run(*words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout == "") == (code in (2, 3, 4))
    assert "\x1b" not in done.stdout + done.stderr


def _started(*words: str, **more: Any) -> subprocess.Popen[str]:
    # A shell without job control starts background work with SIGINT ignored; the child shall not inherit that.
    return subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **more,
    )  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_keeps_what_is_recorded_and_still_reports(shell: Shell, as_json: bool) -> None:
    shell.write("job.py", SLOW)
    process = _started("run", "job.py", "--run-id", "r1", *(["--json"] if as_json else []))
    ready = process.stderr if as_json else process.stdout
    assert ready is not None
    assert ready.readline().strip() == "READY"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    if as_json:
        found = json.loads(out)
        assert (found["job"]["status"], found["exit_code"]) == ("interrupted", 130)
        assert found["steps"]["verdicts"] == {"commit": 1, "error": 1}
    else:
        assert "Job interrupted" in out
    shown = shell("ledger", "show", "r1", "--json").document
    assert [(step["step_id"], step["code"]) for step in shown["steps"]] == [("quick", ""), ("slow", "step.cancelled")]
    assert shell("ledger", "verify").code == 0


def test_a_second_ctrl_c_gives_up_at_once(shell: Shell) -> None:
    shell.write(
        "job.py",
        "import asyncio\n"
        "async def job(context):\n"
        "    print('READY', flush=True)\n"
        "    while True:\n"
        "        try:\n"
        "            await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError:\n"
        "            print('STUBBORN', flush=True)\n",
    )
    process = _started("run", "job.py")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "READY"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().strip() == "STUBBORN"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


def test_ctrl_c_that_a_job_swallows_still_counts(shell: Shell) -> None:
    shell.write(
        "job.py",
        "import asyncio\n"
        "async def job(context):\n"
        "    print('READY', flush=True)\n"
        "    try:\n"
        "        await asyncio.sleep(60)\n"
        "    except asyncio.CancelledError:\n"
        "        return {'swallowed': True}\n",
    )
    process = _started("run", "job.py")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "READY"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


@pytest.mark.parametrize("words", [("schema",), ("ledger", "show", "desk", "pay"), ("--help",)], ids=" ".join)
def test_a_closed_pipe_is_no_error_message(shell: Shell, ledger: Path, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*COMMAND, *words], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert done.returncode in (1, 141)
    assert done.returncode == 141 or words == ("--help",)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Errno" not in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_are_no_error() -> None:
    script = f"{' '.join(COMMAND)} version >&- 2>&-; exit $?"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_unicode_survives_a_c_locale(shell: Shell, ledger: Path) -> None:
    done = run("explain", "--node", "né", "--input", '"é日本"', "--json", **ASCII)
    assert done.returncode == 0
    assert json.loads(done.stdout)["input"] == "é日本"
    table = run("stages", **ASCII)
    assert table.returncode == 0
    assert table.stdout.isascii()
    missing = run("ledger", "show", "ré", **ASCII)
    assert missing.returncode == 4
    assert "Traceback" not in missing.stderr
    shell.write("job.py", "async def job(context):\n    context.say('é')\n    return {'日本': 'é'}\n")
    assert run("run", "job.py", "--run-id", "é", **ASCII).returncode == 0


def test_bytes_that_are_no_text_are_a_usage_error() -> None:
    done = subprocess.run([*COMMAND, "explain", "--node", b"\xff\xfe"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr


_ABOUT_TERMINALS = {"NO_COLOR", "COLUMNS", "FORCE_COLOR", "TERM", "LINES"}


def on_terminal(*words: str, **environment: str) -> tuple[int, str]:
    """Run with a terminal as stdin, stdout and stderr; return the code and all that it showed."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            kept = {name: value for name, value in os.environ.items() if name not in _ABOUT_TERMINALS}
            os.execve(sys.executable, [*COMMAND, *words], kept | {"TERM": "xterm-256color"} | environment)
        finally:
            os._exit(99)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode("utf-8", "replace")


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(shell: Shell) -> None:
    shell.write(
        "job.py",
        "import asyncio\n"
        "async def job(context):\n"
        "    for n in range(3):\n"
        "        context.progress(n + 1, 3, 'part [bold]\\x1b]0;title')\n"
        "        await asyncio.sleep(0.2)\n"
        "    context.say('said')\n",
    )
    code, shown = on_terminal("run", "job.py")
    assert code == 0
    assert "3/3" in shown
    assert "part [bold]" in shown
    assert "\x1b]0;title" not in shown
    assert "said" in shown
    quiet = run("run", "job.py")
    assert quiet.stderr == "said\n"
    dumb, plain = on_terminal("run", "job.py", TERM="dumb")
    assert dumb == 0
    assert "3/3" not in plain


def test_no_color_is_obeyed(shell: Shell) -> None:
    code, shown = on_terminal("stages", NO_COLOR="1", COLUMNS="120")
    assert code == 0
    assert not re.search("\x1b\\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])m", shown)
    assert "identity_verification" in shown


def test_the_same_output_in_a_narrow_terminal_loses_nothing(shell: Shell, ledger: Path) -> None:
    code, shown = on_terminal("ledger", "show", "desk", COLUMNS="30")
    assert code == 0
    assert "input_guardrails.prompt_injection" in shown
