"""Print the ids of the first refunds that wait, from ``meshflow --json approvals list`` on standard input."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Print as many ids as the argument says, one a line."""
    listed = json.load(sys.stdin)
    waiting = listed["approvals"] if isinstance(listed, dict) else listed
    refunds = sorted(item["run_id"] + " " + item["approval_id"] for item in waiting if item["tool"] == "issue_refund")
    for item in refunds[: int(sys.argv[1])]:
        print(item.split()[1])


if __name__ == "__main__":
    main()
