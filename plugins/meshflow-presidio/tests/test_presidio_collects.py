"""The first steps are not held up by what loading the detectors has left to collect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, gc
from meshflow import NodeInput, StepRuntime

full = []
gc.callbacks.append(lambda phase, info: full.append(info["generation"]) if phase == "start" else None)


async def main(folder):
    async with StepRuntime(config={"ledger": {"path": f"{folder}/ledger.db"}}) as runtime:
        full.clear()
        for number in range(20):
            step = NodeInput(node_id="n", input="text", handler=lambda text: text, run_id="r", step_id=str(number))
            assert (await runtime.run(step)).ok
    print(full.count(2))


import sys
asyncio.run(main(sys.argv[1]))
"""


def test_no_full_collection_falls_into_the_first_steps(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
