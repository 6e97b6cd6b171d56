"""``python -m benchmarks [--quick] [part ...]``: measure, and print the table."""

from __future__ import annotations

import argparse
import asyncio
import sys
from importlib import import_module

from benchmarks.harness import Row, machine, table

PARTS = (
    "kernel",
    "durable",
    "concurrent",
    "flat",
    "startup",
    "plugins",
    "policy",
    "ledger",
    "postgres",
    "graph",
    "workflow",
)
LONG = ("postgres_large",)
"""What is measured only when it is named."""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules[__name__].__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, *LONG, []],
        help=f"{', '.join(PARTS)}; all these if none; {', '.join(LONG)}",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: too few rounds for the figures to count")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for part in options.parts or PARTS:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        rows += asyncio.run(import_module(f"benchmarks.{part}").rows(options.quick))
    print(machine())
    if options.quick:
        print("quick: the figures below show that everything runs, and nothing else")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
