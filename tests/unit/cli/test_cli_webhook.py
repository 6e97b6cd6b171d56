"""What the command line says of the webhook for approvals, and that it never tells its secret."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Shell

SECRET = "swordfish-0123456789"


def configure(folder: Path, port: int, secret: str = "${HOOK_SECRET}", **more: Any) -> None:
    settings = "".join(f", {name}: {value}" for name, value in more.items())
    (folder / "meshflow.yaml").write_text(
        f'approvals:\n  webhook: {{url: "http://127.0.0.1:{port}/hook", secret: "{secret}"{settings}}}\n'
    )


def check(document: dict[str, Any]) -> dict[str, Any] | None:
    return next((one for one in document["checks"] if one["check"] == "webhook"), None)


def test_the_doctor_says_whether_the_webhook_can_be_reached(shell: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        configure(tmp_path, server.getsockname()[1])
        done = shell("plugins", "doctor", "--start", "--json", HOOK_SECRET=SECRET)
        found = check(done.document)
        assert (done.code, found and found["level"]) == (0, "ok")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b""  # nothing was posted
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen; nobody else is given the port
        configure(tmp_path, silent.getsockname()[1])
        done = shell("plugins", "doctor", "--start", "--json", HOOK_SECRET=SECRET)
    found = check(done.document)
    assert found is not None
    assert (done.code, found["level"]) == (0, "warning")
    assert "meshflow.yaml:2: approvals.webhook.url cannot be reached: ConnectionRefusedError" in found["message"]


def test_without_start_nobody_is_connected_to(shell: Shell, tmp_path: Path) -> None:
    configure(tmp_path, 9)
    assert check(shell("plugins", "doctor", "--json", HOOK_SECRET=SECRET).document) is None


@pytest.mark.parametrize(
    "words",
    [
        ("plugins", "doctor", "--start"), ("plugins", "doctor", "--start", "--json"), ("stages",), ("stages", "--json"),
        ("explain", "--node", "x"), ("explain", "--node", "x", "--json"), ("schema",), ("ledger", "doctor"),
        ("approvals", "list", "--debug"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrong", [{}, {"attempts": 0}, {"tries": 3}])
def test_no_command_tells_the_secret(shell: Shell, tmp_path: Path, words: tuple[str, ...], wrong: Any) -> None:
    configure(tmp_path, 9, **wrong)
    done = shell(*words, HOOK_SECRET=SECRET)
    assert SECRET not in done.out + done.err
    if wrong and words[0] != "schema":
        assert "approvals.webhook" in done.out + done.err


def test_a_secret_that_is_too_short_is_refused_unseen(shell: Shell, tmp_path: Path) -> None:
    configure(tmp_path, 9, secret="swordfish")
    done = shell("stages")
    assert (done.code, "swordfish" in done.out + done.err) == (3, False)
