"""The command line on a ledger in PostgreSQL: named by URL, by variable or by configuration, and never its password."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshflow.cli.exits import ExitCode
from tests.servers import PostgresServer

if TYPE_CHECKING:
    from .conftest import Result, Shell

PASSWORD = "hunter2-horse"


@pytest.fixture
def url(postgres_url: str) -> str:
    """A URL with a password, which the server does not ask for."""
    return postgres_url.replace("owner@", f"owner:{PASSWORD}@")


@pytest.fixture
def named(url: str) -> dict[str, str]:
    """The environment in which ``${LEDGER_URL}`` is that URL, and ``${LEDGER_PASSWORD}`` its password."""
    return {"LEDGER_URL": url, "LEDGER_PASSWORD": PASSWORD}


def hides(result: Result) -> Result:
    assert PASSWORD not in result.out + result.err
    return result


def test_a_job_runs_and_is_reported_from_postgres(shell: Shell, job: str, named: dict[str, str]) -> None:
    shell.write("job.py", job)
    shell.write("meshflow.yaml", "ledger:\n  path: ${LEDGER_URL}\n")
    ran = hides(shell("run", "job.py", "--run-id", "r1", **named))
    assert ran.code == ExitCode.PAUSED, ran.err  # its last step waits for a person
    assert "postgresql://owner@" in ran.out
    document = hides(shell("run", "job.py", "--run-id", "r2", "--json", **named)).document
    assert document["ledger"]["valid"]
    listed = hides(shell("ledger", "list", "--json", **named)).document
    assert [run["run_id"] for run in listed["runs"]] == ["r2", "r1"]
    for words in (
        ("ledger", "show", "r1"), ("ledger", "show", "r1", "0"), ("ledger", "checkpoint"),
        ("ledger", "prove", "r1", "0"), ("ledger", "export", "r1"),
        ("ledger", "diff", "r1", "r2"), ("ledger", "holds"), ("approvals", "list"),
        ("ledger", "verify"), ("stages",), ("plugins", "list"), ("doctor",), ("config", "show"),
        ("ledger", "doctor"),
    ):  # fmt: skip
        hides(shell(*words, **named))
        hides(shell(*words, "--json", **named))
    assert hides(shell("ledger", "verify", **named)).code == 0


@pytest.mark.parametrize("where", ["url", "variable", "password in a variable"])
def test_a_ledger_is_named_by_url(shell: Shell, job: str, named: dict[str, str], url: str, where: str) -> None:
    place = {
        "url": url,
        "variable": "${LEDGER_URL}",
        "password in a variable": url.replace(PASSWORD, "${LEDGER_PASSWORD}"),
    }[where]
    shell.write("job.py", job)
    assert hides(shell("run", "job.py", "--run-id", "r1", "--ledger", place, **named)).code == ExitCode.PAUSED
    assert hides(shell("ledger", "list", "--ledger", place, "--json", **named)).document["runs"][0]["run_id"] == "r1"
    assert hides(shell("ledger", "verify", "--ledger", place, **named)).code == 0
    missing = hides(shell("ledger", "list", "--ledger", "postgresql://u:${NO_SUCH_VARIABLE}@h/db"))
    assert (missing.code, "NO_SUCH_VARIABLE is not set" in missing.err) == (ExitCode.CONFIG, True)


@pytest.mark.parametrize(
    "settings",
    [
        "path: ${LEDGER_URL}\n  busy_timeout_ms: -1", "path: ${LEDGER_URL}\n  paht: x", "path: [\"${LEDGER_URL}\"]",
        "path: ${LEDGER_URL}&pool_size=none", "path: ${LEDGER_URL}&no_such_setting=1", "path: my${LEDGER_URL}",
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_told_without_the_password(
    shell: Shell, job: str, named: dict[str, str], settings: str
) -> None:
    shell.write("job.py", job)
    shell.write("meshflow.yaml", f"ledger:\n  {settings}\n")
    for words in (("ledger", "list"), ("doctor",), ("ledger", "verify", "--json"), ("stages", "--debug")):
        hides(shell(*words, **named))
    assert hides(shell("run", "job.py", **named)).code not in (ExitCode.OK, ExitCode.PAUSED)


def test_a_server_that_is_down_is_told_without_the_password(shell: Shell, tmp_path: Path) -> None:
    place = f"postgresql://owner:{PASSWORD}@/ledgers?host={tmp_path}"
    for words in (("ledger", "list"), ("ledger", "verify"), ("ledger", "doctor"), ("ledger", "checkpoint")):
        for debug in ((), ("--debug",)):
            result = hides(shell(*words, *debug, "--ledger", place))
            assert result.code != 0
            assert "cannot be reached" in result.err


def test_a_ledger_is_copied_both_ways(shell: Shell, ledger: Path, named: dict[str, str], url: str) -> None:
    there = hides(shell("ledger", "copy", str(ledger), url.replace(PASSWORD, "${LEDGER_PASSWORD}"), **named))
    assert there.code == 0, there.err
    assert "The copy verifies" in there.out
    key = shell.folder / "meshflow_runs.db.key"
    assert "key" in there.out
    assert key.exists()
    back = hides(shell("ledger", "copy", url, "back.db", "--json", **named)).document
    assert (back["verification"]["errors"], back["behind"]) == ([], 0)
    one = shell("ledger", "list", "--json").document["runs"]
    assert shell("ledger", "list", "--ledger", "back.db", "--json").document["runs"] == one
    assert hides(shell("ledger", "list", "--ledger", url, "--json")).document["runs"] == one
    again = hides(shell("ledger", "copy", str(ledger), url))
    assert (again.code, "holds a ledger already" in again.err) == (ExitCode.LEDGER, True)


def test_data_keys_are_wrapped_anew(shell: Shell, job: str, named: dict[str, str], postgres: PostgresServer) -> None:
    for name, byte in (("old", b"o"), ("new", b"n")):
        path = shell.write(name, base64.b64encode(byte * 32).decode())
        path.chmod(0o600)
    shell.write("job.py", job)
    configuration = "ledger:\n  path: ${LEDGER_URL}\n  encrypt: run\n  key_encryption_key: "
    shell.write("meshflow.yaml", configuration + "old\n")
    assert shell("run", "job.py", "--run-id", "r1", **named).code == ExitCode.PAUSED
    done = hides(shell("ledger", "rewrap", "--to", "new", **named))
    assert (done.code, "1 data key under the new" in done.out) == (0, True)
    assert "key-encryption key" in hides(shell("ledger", "show", "r1", **named)).err
    shell.write("meshflow.yaml", configuration + "new\n")
    assert "found" in hides(shell("ledger", "show", "r1", "0", **named)).out
    assert hides(shell("ledger", "verify", **named)).code == 0


def test_a_bundle_of_a_ledger_in_postgres_verifies_without_it(
    shell: Shell, ledger: Path, named: dict[str, str], url: str
) -> None:
    assert shell("ledger", "copy", str(ledger), url, **named).code == 0
    keys = shell("ledger", "checkpoint", "--ledger", url, "--json", **named).document["keys"]
    done = shell("ledger", "export", "desk", "--format", "bundle", "-o", "b", "--ledger", url, "--json", **named)
    assert (done.code, done.document["valid"]) == (0, True)
    done = shell("verify", "b", "--key", keys[-1], "--json")
    assert (done.code, done.document["strength"], done.document["errors"]) == (0, "key", [])
    assert [run["run_id"] for run in done.document["runs"]] == ["desk"]
