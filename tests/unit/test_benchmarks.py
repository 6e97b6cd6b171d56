"""The benchmarks run and print every row; what they say is for ``make bench``, never for a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = (
    "15 no-op stages, no ledger, recorders shielded: CPU",
    "durable step without Rego and Presidio: CPU",
    "share of Rego: CPU",
    "share of Presidio: CPU",
    "durable step, all default plugins: CPU",
    "durable step: wall time less its CPU",
    "256 durable steps at once: rate",
    "CPU per step, last tenth of",
    "memory after",
    "import meshflow, beyond a bare interpreter",
    "meshflow --help, all of it",
    "heavy modules that either imports",
    "limits: reserve and settle",
    "limits: GCRA",
    "rego: one evaluation, CPU",
    "rego: evaluation, p50",
    "regorus: two threads",
    "backtest: recorded decisions, one core",
    "presidio: 1 KB of clean prose, CPU",
    "PostgreSQL, 256 waiters: records",
    "PostgreSQL: load_state, p50",
    "graph: superstep of the counter",
    "graph: superstep with 10,000 elements in the state: CPU",
    "graph: governed node, default runtime, ledger on disk: CPU",
    "workflow of 20 nodes: CPU a node",
    "workflow: memory that a node of a run takes",
)


def test_the_quick_benchmarks_run_and_print_every_row() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2_000:]
    lines = done.stdout.splitlines()
    assert re.search(r"\d{4}-\d\d-\d\d .* cores", lines[0])
    missing = [row for row in ROWS if not any(line.startswith(row) for line in lines)]
    assert missing == []
    judged = [line for line in lines if line.rstrip().endswith((" met", "NOT MET"))]
    assert len(judged) >= 10, done.stdout
