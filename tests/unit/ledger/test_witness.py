"""A witness over real connections, by the words of tlog-witness."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.cosignatures import ED25519, ML_DSA_44, cosignatures, with_lines
from meshflow.ledger.format.merkle import EMPTY_ROOT, Frontier, complete_root, consistency_proof, leaf_hash
from meshflow.ledger.format.notes import NoteError, Signer
from meshflow.ledger.witness import (
    Witness,
    WitnessServer,
    WitnessState,
    make_witness_keys,
    read_witness_keys,
    trusted_logs,
)

LOG = "log.example/one"
SIGNER = Signer.generate(LOG)


class Tree:
    """A log of numbered leaves, on one of several histories."""

    def __init__(self, history: str = "") -> None:
        self.leaves = [leaf_hash(f"{history if n >= 8 else ''}{n}".encode()) for n in range(20_000)]

    def node(self, level: int, index: int) -> bytes:
        return complete_root(self.leaves[index << level : (index + 1) << level])

    def root(self, size: int) -> bytes:
        frontier = Frontier()
        for leaf in self.leaves[:size]:
            frontier.append(leaf)
        return frontier.root()

    def note(self, size: int, signer: Signer = SIGNER, origin: str = LOG) -> str:
        return Checkpoint(origin, size, self.root(size)).sign(signer)

    def request(self, old: int, size: int, note: str | None = None) -> bytes:
        proof = consistency_proof(self.node, old, size) if old <= size else []
        lines = [f"old {old}", *(base64.b64encode(step).decode() for step in proof), "", ""]
        return ("\n".join(lines) + (note or self.note(size))).encode()


TREE = Tree()
Start = Callable[..., WitnessServer]
Said = tuple[int, str, str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[WitnessServer] = []
    key = tmp_path / "witness.key"
    make_witness_keys(key, "witness.example/w1", [ED25519, ML_DSA_44])

    def begin(now: Callable[[], int] = lambda: 1_700_000_000, logs: tuple[str, ...] = ()) -> WitnessServer:
        state = WitnessState(tmp_path / "witness.db")
        trusted = trusted_logs([str(SIGNER.verifier), *logs])
        server = WitnessServer(("127.0.0.1", 0), Witness(state, read_witness_keys(key), trusted, now))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return server

    yield begin
    for server in running:
        server.shutdown()
        server.server_close()
        server.witness.state.close()


def ask(server: WitnessServer, body: bytes | None, path: str = "/add-checkpoint", method: str = "POST") -> Said:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    finally:
        connection.close()


def test_a_checkpoint_that_extends_the_last_one_is_cosigned_with_every_key(start: Start) -> None:
    server = start()
    keys = [key.verifier for key in server.witness.keys]
    for old, size in ((0, 0), (0, 5), (5, 5), (5, 6), (6, 64), (64, 300)):
        status, lines, kind = ask(server, TREE.request(old, size))
        assert (status, kind) == (200, "text/plain; charset=utf-8"), lines
        assert [line[:2] for line in lines.splitlines()] == ["— ", "— "]
        found = cosignatures(with_lines(TREE.note(size), lines, keys), keys)
        assert [(one.cosigner, one.at_s) for one in found] == [(key, 1_700_000_000) for key in keys]


def test_the_newest_checkpoint_is_served_with_log_and_witness_signatures(start: Start) -> None:
    server = start()
    place = f"/{sha256(LOG.encode()).hexdigest()}/checkpoint"
    assert ask(server, None, place, "GET")[0] == 404
    note = TREE.note(5)
    _, lines, _ = ask(server, TREE.request(0, 5, note))
    assert ask(server, None, place, "GET") == (200, note + lines, "text/plain; charset=utf-8")
    assert ask(server, None, "/", "GET")[1].split() == [str(key.verifier) for key in server.witness.keys]
    assert ask(server, None, "/" + "0" * 64 + "/checkpoint", "GET")[0] == 404
    assert ask(server, None, "/else", "GET")[0] == 404


def test_an_unknown_log_is_404_and_a_signature_that_is_not_its_own_403(start: Start) -> None:
    server = start()
    other = Signer.generate("log.example/two")
    assert ask(server, TREE.request(0, 5, TREE.note(5, other, "log.example/two")))[0] == 404
    impostor = Signer.generate(LOG)
    assert ask(server, TREE.request(0, 5, TREE.note(5, impostor)))[0] == 403
    good, changed = TREE.note(5), TREE.note(6)
    swapped = changed.split("\n\n")[0] + "\n\n" + good.split("\n\n")[1]
    assert ask(server, TREE.request(0, 6, swapped))[0] == 403
    # A second line of an unknown key beside the log's does no harm.
    assert ask(server, TREE.request(0, 5, good + impostor.line(TREE.note(5).split("\n\n")[0] + "\n")))[0] == 200


def test_another_old_size_is_409_with_the_size_in_decimal(start: Start) -> None:
    server = start()
    assert ask(server, TREE.request(4, 5)) == (409, "0\n", "text/x.tlog.size")
    assert ask(server, TREE.request(0, 5))[0] == 200
    for old, size in ((0, 9), (4, 9), (6, 9), (0, 5), (3, 4)):
        assert ask(server, TREE.request(old, size)) == (409, "5\n", "text/x.tlog.size")


def test_the_same_size_with_another_root_is_409_and_kept_as_evidence(start: Start) -> None:
    server = start()
    fork = Tree("other ")
    assert ask(server, TREE.request(0, 20))[0] == 200
    status, size, _ = ask(server, fork.request(20, 20))
    assert (status, size) == (409, "20\n")
    (refused,) = server.witness.state.all_refused()
    kept, shown = read_checkpoint(refused.head), read_checkpoint(refused.note)
    assert (kept.size, shown.size, kept.root == shown.root) == (20, 20, False)


def test_another_history_is_422_whatever_proof_comes_with_it(start: Start) -> None:
    server = start()
    fork = Tree("other ")
    assert ask(server, TREE.request(0, 20))[0] == 200
    assert ask(server, fork.request(20, 30))[0] == 422
    assert ask(server, TREE.request(20, 30, fork.note(30)))[0] == 422
    assert ask(server, TREE.request(20, 30).replace(b"\n\n", b"\n" + b"A" * 43 + b"=\n\n", 1))[0] == 422
    assert ask(server, b"old 20\n\n" + TREE.note(30).encode())[0] == 422
    assert ask(server, TREE.request(20, 30))[0] == 200
    assert len(server.witness.state.all_refused()) == 2


def test_a_proof_from_zero_and_a_proof_between_equals_must_be_empty(start: Start) -> None:
    server = start()
    step = base64.b64encode(bytes(32))
    assert ask(server, b"old 0\n" + step + b"\n\n" + TREE.note(5).encode())[0] == 422
    assert ask(server, b"old 0\n\n" + Checkpoint(LOG, 0, bytes(32)).sign(SIGNER).encode())[0] == 409
    assert ask(server, b"old 0\n\n" + Checkpoint(LOG, 0, EMPTY_ROOT).sign(SIGNER).encode())[0] == 200
    assert ask(server, TREE.request(0, 5))[0] == 200
    assert ask(server, b"old 5\n" + step + b"\n\n" + TREE.note(5).encode())[0] == 422


@pytest.mark.parametrize(
    "body",
    [
        b"", b"old 0", b"old 0\n", b"old 0\n\nrubbish", b"old 00\n\n", b"old -1\n\n", b"old 0 \n\n",
        b"Old 0\n\n", b"old  0\n\n", b"old 1e3\n\n", b"old 0\r\n\r\n", b"old 0\nAAAA\n\n", b"old 0\n!!!\n\n",
        b"old 9999999999999999999\n\n", b"\xff\xfe", "old \N{ARABIC-INDIC DIGIT ONE}\n\n".encode(),
        b"old 0\n" + b"A" * 43 + b"=\n" * 64,
    ],
)  # fmt: skip
def test_what_is_no_request_is_400_and_changes_nothing(start: Start, body: bytes) -> None:
    server = start()
    note = TREE.note(5).encode()
    assert ask(server, body + (note if body.endswith(b"\n\n") else b""))[0] == 400
    assert server.witness.state.heads() == {}


def test_sixty_four_lines_of_proof_and_an_old_size_above_the_new_are_400(start: Start) -> None:
    server = start()
    line = base64.b64encode(bytes(32)) + b"\n"
    assert ask(server, b"old 1\n" + line * 63 + b"\n" + TREE.note(5).encode())[0] == 409
    assert ask(server, b"old 1\n" + line * 64 + b"\n" + TREE.note(5).encode())[0] == 400
    assert ask(server, TREE.request(6, 5))[0] == 400


def test_bodies_that_are_too_long_or_of_unknown_length_are_refused(start: Start) -> None:
    server = start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("POST", "/add-checkpoint")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("POST", "/add-checkpoint", iter([b"old 0\n"]), encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()
    assert ask(server, TREE.request(0, 5), "/elsewhere")[0] == 404
    assert ask(server, TREE.request(0, 5))[0] == 200


def test_one_connection_serves_many_requests(start: Start) -> None:
    server = start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    socket_used = None
    for old, size in ((0, 3), (0, 4), (3, 4)):
        connection.request("POST", "/add-checkpoint", TREE.request(old, size))
        answer = connection.getresponse()
        answer.read()
        assert socket_used in (None, connection.sock)
        socket_used = connection.sock
    connection.close()


def test_a_log_may_have_several_keys_and_a_witness_several_logs(start: Start) -> None:
    new, other = Signer.generate(LOG), Signer.generate("log.example/two")
    server = start(logs=(str(new.verifier), str(other.verifier)))
    assert ask(server, TREE.request(0, 5))[0] == 200
    assert ask(server, TREE.request(5, 9, TREE.note(9, new)))[0] == 200
    assert ask(server, TREE.request(0, 2, TREE.note(2, other, "log.example/two")))[0] == 200
    assert {name: head.size for name, head in server.witness.state.heads().items()} == {LOG: 9, "log.example/two": 2}


def test_a_clock_that_steps_back_does_not_date_a_larger_tree_before_a_smaller_one(start: Start) -> None:
    times = iter((1_700_000_000, 1_600_000_000, 1_700_000_500))
    server = start(lambda: next(times))
    keys = [key.verifier for key in server.witness.keys]
    seen = []
    for old, size in ((0, 5), (5, 6), (6, 7)):
        lines = ask(server, TREE.request(old, size))[1]
        seen.append(cosignatures(TREE.note(size) + lines, keys)[0].at_s)
    assert seen == [1_700_000_000, 1_700_000_000, 1_700_000_500]


def test_no_race_makes_a_witness_go_back(start: Start) -> None:
    """Two servers on one file, as two processes, and many clients that all learn the size and submit their own."""
    servers = [start(), start()]
    accepted: list[tuple[int, int]] = []

    def submit(number: int) -> None:
        server, size, old = servers[number % 2], random.randrange(1, 300), 0
        for _ in range(20):
            status, body, _ = ask(server, TREE.request(old, size))
            if status == 200:
                accepted.append((old, size))
                return
            if status != 409 or int(body) > size:
                return
            old = int(body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(submit, range(60)))
    grown = sorted(pair for pair in set(accepted) if pair[0] != pair[1])
    assert grown
    # Each step begins where another ended, so that all of them are one line: nobody was overtaken.
    assert [old for old, _ in grown[1:]] == [size for _, size in grown[:-1]]
    assert servers[0].witness.state.heads()[LOG].size == max(size for _, size in accepted)


KILLS = 100 if os.environ.get("MESHFLOW_SOAK") == "full" else 4
SERVE = """
import json, sys
from pathlib import Path
from meshflow.ledger.witness import *
key, state, logs = json.loads(sys.argv[1])
witness = Witness(WitnessState(Path(state)), read_witness_keys(Path(key)), trusted_logs(logs))
server = WitnessServer(("127.0.0.1", 0), witness)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.soak
@pytest.mark.slow
def test_what_a_witness_answered_survives_kill_9(tmp_path: Path) -> None:
    key, state = tmp_path / "key", tmp_path / "state.db"
    make_witness_keys(key, "w.example/1")
    old = 0
    for _ in range(KILLS):
        argument = json.dumps([str(key), str(state), [str(SIGNER.verifier)]])
        process = subprocess.Popen([sys.executable, "-c", SERVE, argument], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        wait = threading.Timer(random.uniform(0.05, 0.4), os.kill, (process.pid, signal.SIGKILL))
        wait.start()
        acknowledged = old
        try:
            while acknowledged < len(TREE.leaves):
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                    connection.request("POST", "/add-checkpoint", TREE.request(acknowledged, acknowledged + 1))
                    with connection.getresponse() as answer:
                        answer.read()
                assert answer.status == 200
                acknowledged += 1
        except (OSError, http.client.HTTPException):
            pass
        wait.join()
        process.wait()
        process.stdout.close()
        kept = WitnessState(state)
        head = kept.heads().get(LOG)
        kept.close()
        size = head.size if head is not None else 0
        assert size in (acknowledged, acknowledged + 1)
        old = size


def test_keys_and_files_that_make_no_witness_are_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    make_witness_keys(key, "w.example/1")
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LedgerError, match="there already"):
        make_witness_keys(key, "w.example/1")
    key.chmod(0o644)
    with pytest.raises(LedgerError, match="chmod 600"):
        read_witness_keys(key)
    empty = tmp_path / "empty"
    empty.touch(0o600)
    with pytest.raises(LedgerError, match="empty"):
        read_witness_keys(empty)
    with pytest.raises(LedgerError, match="cannot be read"):
        read_witness_keys(tmp_path / "none")
    with pytest.raises(LedgerError, match="cannot be made"):
        make_witness_keys(tmp_path / "no" / "folder", "w.example/1")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with pytest.raises(LedgerError, match="not a witness's"):
        WitnessState(tmp_path / "other.db")
    with pytest.raises(LedgerError, match="cannot be opened"):
        WitnessState(tmp_path / "no" / "folder")
    with pytest.raises(NoteError):
        trusted_logs(["log.example/x+00000000+AAAA"])
