"""The first steps are not held up by what loading the detectors has left to collect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, gc, sys
gc.disable()  # until the steps begin, so that nothing but the detectors' own collection has come by
from meshflow import NodeInput, StepRuntime

full = []
gc.callbacks.append(lambda phase, info: full.append(info["generation"]) if phase == "start" else None)


async def main(folder):
    async with StepRuntime(config={"ledger": {"path": f"{folder}/ledger.db"}}) as runtime:
        left = len(gc.get_objects(generation=0))
        gc.enable()
        full.clear()
        for number in range(20):
            step = NodeInput(node_id="n", input="text", handler=lambda text: text, run_id="r", step_id=str(number))
            assert (await runtime.run(step)).ok
    print(left, full.count(2))


asyncio.run(main(sys.argv[1]))
"""


def test_what_loading_left_is_collected_before_the_first_steps_and_nothing_in_full_among_them(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    left, full = map(int, done.stdout.split())
    assert left < 10_000  # of more than a hundred thousand
    assert full == 0
