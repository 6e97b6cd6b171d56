#!/bin/sh
# The main job: a batch of messages, three approvals and a refusal on the command line, and the calls they set free.
# usage: sh examples/desk/run.sh .venv/bin
set -eu
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
config=examples/desk/meshflow.yaml
meshflow() {
	echo "\$ meshflow $*"
	"$bin/meshflow" --config "$config" "$@"
}

"$bin/python" -m examples.desk.prepare

# 5 says that calls wait for a person, which is how the batch is meant to end.
meshflow run examples/desk/job.py --run-id batch || [ $? -eq 5 ]

meshflow approvals list
"$bin/meshflow" --config "$config" --json approvals list |
	"$bin/python" -m examples.desk.first_waiting 4 >examples/desk/work/decide
{
	read -r first && meshflow approvals approve "$first" --as mara --reason "checked with the customer"
	read -r second && meshflow approvals approve "$second" --as mara
	read -r third && meshflow approvals approve "$third" --as mara
	read -r fourth && meshflow approvals deny "$fourth" --as mara --reason "goods have not come back"
} <examples/desk/work/decide

meshflow run examples/desk/job.py --run-id batch --resume || [ $? -eq 5 ]
meshflow ledger verify
