"""What a workflow adds to the cost of its steps, and whether a node costs the same in a long one and a short one.

``python -m benchmarks.workflow NODES`` is the process whose memory is measured; it prints a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

from benchmarks.durable import completed, governed, handler
from benchmarks.flat import rss_kb
from benchmarks.harness import ROOT, Row, Work, at_most, beside, folder, in_turn, prose
from meshflow import NodeInput, StepRuntime, WorkflowDefinition
from meshflow.workflow import Registry

TEXT_CHARS = 1_024
MOST = 1.3
FLAT = 1.25
WIDTH = 100


def registry() -> Registry:
    """Return what the nodes call: the handler of the other durable benchmarks, and one that counts."""
    made = Registry()
    made.function(handler, name="ask")

    async def size(given: Any) -> int:
        return len(given)

    made.function(size, name="size")
    return made


def line(length: int, texts: Iterator[str]) -> WorkflowDefinition:
    """Return nodes one after the other, each with a text of its own and a condition on the one before."""
    nodes = {f"n{number}": {"kind": "python", "call": "ask", "input": next(texts)} for number in range(length)}
    edges = [{"from": one, "to": two, "when": f"size(nodes.{one}.output) > 0"} for one, two in pairwise(nodes)]
    return WorkflowDefinition.from_mapping({"nodes": nodes, "edges": edges})


def fans(rounds: int, width: int) -> WorkflowDefinition:
    """Return rounds of a fan-out and a fan-in, one after the other."""
    nodes: dict[str, Any] = {"begin": {"kind": "python", "call": "size"}}
    edges: list[Any] = []
    last = "begin"
    for number in range(rounds):
        names = [f"r{number}n{place}" for place in range(width)]
        nodes |= {name: {"kind": "python", "call": "size", "input": [1]} for name in names}
        nodes[f"join{number}"] = {"kind": "python", "call": "size"}
        edges += [{"from": last, "to": names}, {"from": names, "to": f"join{number}"}]
        last = f"join{number}"
    return WorkflowDefinition.from_mapping(
        {"nodes": nodes, "edges": edges, "output": f"${{{{ nodes.{last}.output }}}}"}
    )


async def ran(wf: WorkflowDefinition, runtime: StepRuntime, given: Any = "x") -> None:
    """Run a workflow to its end; RuntimeError where that is another."""
    result = await wf.run(given, runtime=runtime, registry=registry())
    if not result.ok:
        raise RuntimeError(f"a measured run did not complete: {result.code}: {result.reason}")


async def rows(quick: bool) -> list[Row]:
    """Measure governed workflows beside the same steps taken bare."""
    rounds, small, large = (1, 5, 20) if quick else (3, 100, 1_000)
    texts = prose(TEXT_CHARS, 7)
    with folder() as path:
        async with governed(path / "a.db") as runtime, governed(path / "b.db") as other:
            flows = iter([line(large, texts) for _ in range(rounds + 1)])
            shorts = iter([[line(small, texts) for _ in range(large // small)] for _ in range(rounds + 1)])
            wide = fans(large // WIDTH if large > WIDTH else 1, min(large, WIDTH))
            runs = count()

            async def bare() -> None:
                run_id = f"bare-{next(runs)}"
                for number, text in enumerate(islice(texts, large)):
                    name = f"n{number}"
                    completed(
                        await other.run(
                            NodeInput(node_id=name, step_id=name, run_id=run_id, input=text, handler=handler)
                        )
                    )

            async def long() -> None:
                await ran(next(flows), runtime)

            async def short() -> None:
                for wf in next(shorts):
                    await ran(wf, runtime)

            async def fan() -> None:
                await ran(wide, runtime, [1])

            contestants: dict[str, Work] = {"bare": bare, "long": long, "short": short, "fan": fan}
            spent = await in_turn(rounds, contestants, large)
    us = {name: one.cpu * 1e6 for name, one in spent.items()}
    wall_us = {name: one.wall * 1e6 for name, one in spent.items()}
    begun = time.process_time()
    text = line(large, prose(32)).to_yaml()
    WorkflowDefinition.from_yaml(text)
    load_us = (time.process_time() - begun) / large * 1e6
    memory = await asyncio.to_thread(_memory, (500, 1_000) if quick else (2_000, 10_000))
    bare_is = "the same steps taken bare"
    return [
        at_most(
            f"workflow of {large:,} nodes: CPU a node", us["long"], "us", MOST, baseline=us["bare"], baseline_is=bare_is
        ),
        beside(f"workflow of {large:,} nodes: wall time a node", wall_us["long"], "us", wall_us["bare"], bare_is),
        at_most(
            f"workflow of {large:,} nodes: CPU a node, by length", us["long"], "us", FLAT, baseline=us["short"],
            baseline_is=f"in workflows of {small}",
        ),
        beside(f"workflow of fans of {WIDTH}: CPU a node", us["fan"], "us", us["long"], "in a line, with 1 KB each"),
        Row("workflow: loading and writing YAML, CPU a node", load_us, "us"),
        Row("workflow: memory that a node of a run takes", memory, "bytes"),
    ]  # fmt: skip


def _memory(sizes: tuple[int, int]) -> float:
    """Return what one node more takes, from two processes that differ in nothing else."""
    taken: list[int] = []
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.workflow", str(size)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the measured process failed: {done.stderr[-2_000:]}")
        taken.append(json.loads(done.stdout)["rss_kb"])
    return (taken[1] - taken[0]) * 1024 / (sizes[1] - sizes[0])


async def measure(nodes: int) -> None:
    """Run one workflow of fans and print what memory the process then holds."""
    with folder() as path:
        async with governed(Path(path) / "ledger.db", "without both") as runtime:
            await ran(fans(nodes // (WIDTH + 1), WIDTH), runtime, [1])
            print(json.dumps({"nodes": nodes, "rss_kb": rss_kb()}), flush=True)


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1])))
