"""Print approval and run of the first refunds that wait, from ``meshflow --json approvals list`` on standard input."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Print as many as the argument says, one a line."""
    listed = json.load(sys.stdin)
    waiting = listed["approvals"] if isinstance(listed, dict) else listed
    refunds = sorted((item["run_id"], item["approval_id"]) for item in waiting if item["tool"] == "issue_refund")
    for run_id, approval_id in refunds[: int(sys.argv[1])]:
        print(approval_id, run_id)


if __name__ == "__main__":
    main()
