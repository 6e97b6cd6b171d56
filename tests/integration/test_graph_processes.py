"""Processes that resume one thread at the same time: one goes on, the others are refused, and no node runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from typing import Annotated, TypedDict

from meshflow import START, StateGraph, add
from meshflow.checkpoint import CheckpointConflictError

folder, place, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


class State(TypedDict):
    log: Annotated[list[str], add]


def pay(state):
    with open(folder / "journal", "a") as journal:
        journal.write("paid\\n")
    while not (folder / "over").exists():
        time.sleep(0.005)
    return {"log": ["paid"]}


graph = (
    StateGraph(State)
    .add_node("order", lambda state: {"log": ["ordered"]})
    .add_node("pay", pay)
    .add_edge(START, "order")
    .add_edge("order", "pay")
    .compile(place, interrupt_before=["pay"])
)
if what == "begin":
    graph.invoke({}, thread_id="t")
elif what == "read":
    print(graph.get_state(thread_id="t").values["log"])
else:
    (folder / f"ready-{sys.argv[4]}").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    try:
        print(graph.invoke(None, thread_id="t")["log"])
    except CheckpointConflictError:
        print("refused")
graph.store.close()
"""


class Stage:
    """A folder with the program, and a store that its processes share."""

    def __init__(self, folder: Path, place: str) -> None:
        self.folder = folder
        self.place = place
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.run("begin")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.program), str(self.folder), self.place, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        told, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return told.strip()

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"{name} never came"
            time.sleep(0.01)

    @property
    def journal(self) -> list[str]:
        return (self.folder / "journal").read_text().splitlines()


@pytest.fixture(params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    sqlite = request.param == "sqlite"
    yield Stage(tmp_path, str(tmp_path / "graphs.db") if sqlite else request.getfixturevalue("postgres_url"))
    for name in ("go", "over"):  # whoever a failed test has left waiting may end
        (tmp_path / name).touch()


def test_of_several_processes_that_resume_a_thread_at_once_one_runs_its_node(stage: Stage) -> None:
    processes = [stage.start("resume", str(number)) for number in range(4)]
    for number in range(4):
        stage.wait_for(f"ready-{number}")
    (stage.folder / "go").touch()
    deadline = time.monotonic() + 30
    while sum(process.poll() is not None for process in processes) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (stage.folder / "over").touch()
    told = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert told == ["['ordered', 'paid']", "refused", "refused", "refused"]
    assert stage.journal == ["paid"]
    assert stage.run("read") == "['ordered', 'paid']"


def test_thread_of_a_process_that_was_killed_is_free_at_once(stage: Stage) -> None:
    (stage.folder / "go").touch()
    hung = stage.start("resume", "0")
    stage.wait_for("journal")
    assert stage.run("resume", "1") == "refused"
    os.kill(hung.pid, signal.SIGKILL)
    hung.communicate()
    (stage.folder / "over").touch()
    deadline = time.monotonic() + 10
    while (told := stage.run("resume", "2")) == "refused":  # a server notices the end of a session a moment later
        assert time.monotonic() < deadline
    assert told == "['ordered', 'paid']"
    assert stage.journal == ["paid", "paid"], "what was under way runs again, and only that"
