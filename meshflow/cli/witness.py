"""``meshflow ledger witness key|serve|show``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.given import lines_of
from meshflow.cli.ledgers import shown
from meshflow.cli.options import Chosen
from meshflow.cli.output import print_json, print_table, say
from meshflow.errors import LedgerError


def make_key(options: Chosen, path: Path, name: str, *, post_quantum: bool) -> None:
    """Write new keys and print their public halves."""
    from meshflow.ledger.format.cosignatures import ED25519, ML_DSA_44
    from meshflow.ledger.witness import make_witness_keys

    keys = make_witness_keys(path, name, [ED25519, ML_DSA_44] if post_quantum else [ED25519])
    public = [str(key.verifier) for key in keys]
    if options.as_json:
        print_json({"written": shown(path), "keys": public})
    else:
        say(f"Wrote {shown(path)}. Give these public keys to logs and to those who verify:", *public)


def serve(options: Chosen, key: Path, state: Path, logs: Sequence[str], listen: str, *, new: bool) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from meshflow.ledger.witness import Witness, WitnessServer, WitnessState, read_witness_keys, trusted_logs

    trusted = trusted_logs([one for given in logs for one in _log_keys(given)])
    address, keys = _address(listen), read_witness_keys(key)
    if new and state.exists():
        raise LedgerError(f"{shown(state)} is there already; serve it without --new")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with closing(WitnessState(state, make=new)) as remembered:
        witness = Witness(remembered, keys, trusted)
        try:
            server = WitnessServer(address, witness)
        except OSError as error:
            raise LedgerError(f"the witness cannot listen on {listen}: {error.strerror or error}") from error

        def stop(number: int, frame: FrameType | None) -> None:
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        if options.as_json:
            public = [str(one.verifier) for one in witness.keys]
            print_json({"url": server.url, "keys": public, "logs": sorted(trusted)})
        else:
            say(f"Witness {witness.keys[0].name} of {len(trusted)} logs listens on {server.url}")
        sys.stdout.flush()
        try:
            server.serve_forever(poll_interval=0.1)
        finally:
            server.server_close()


def _log_keys(given: str) -> list[str]:
    return lines_of(Path(given)) if Path(given).is_file() else [given]


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise typer.BadParameter(f"--listen {listen!r} is not an address such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def show(options: Chosen, path: Path) -> ExitCode:
    """Print what a witness remembers."""
    from meshflow.ledger.format.checkpoints import read_checkpoint
    from meshflow.ledger.format.steps import timestamp
    from meshflow.ledger.witness import WitnessState

    state = WitnessState(path, make=False)
    try:
        heads, refused = state.heads(), state.all_refused()
    finally:
        state.close()
    logs = [
        {"origin": origin, "size": head.size, "at": timestamp(head.at_s * 1_000_000), "checkpoint": head.note}
        for origin, head in heads.items()
    ]
    two = [one for one in refused if one.head and read_checkpoint(one.head).size == read_checkpoint(one.note).size]
    if options.as_json:
        print_json({
            "state": shown(path), "logs": logs,
            "refused": [{**one._asdict(), "proves_two_histories": one in two} for one in refused],
        })  # fmt: skip
    else:
        rows = [(one["origin"], one["size"], one["at"]) for one in logs]
        print_table(f"Witness {shown(path)}", ("log", "entries", "cosigned at"), rows, right={"entries"})
        say(f"{len(refused)} refused checkpoints")
        say(*(f"TWO HISTORIES of {one.origin}: two roots at {read_checkpoint(one.head).size} entries" for one in two))
    return ExitCode.FAILED if two else ExitCode.OK
