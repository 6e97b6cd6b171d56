#!/bin/sh
# The main job: a batch of messages, three approvals and a refusal on the command line, the calls they set free, and the
# evidence of one of them, verified by a program that shares no code with meshflow.
# usage: sh examples/desk/run.sh .venv/bin
set -eu
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
config=examples/desk/meshflow.yaml
work=examples/desk/work

say() {
	printf '\n'
	printf '# %s\n' "$@"
}

show() { # the command as it can be typed
	printf '$ %s' "$1"
	shift
	for word; do
		case $word in
		*[!a-zA-Z0-9_./:=-]*) printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	printf '\n'
}

meshflow() {
	show meshflow "$@" --config "$config"
	"$bin/meshflow" --config "$config" "$@"
}

decide() {
	verb=$1
	shift
	show meshflow approvals "$verb" "$@" --config "$config"
	"$bin/meshflow" --config "$config" approvals "$verb" "$@" >$work/decided
	tail -n "$shown" $work/decided
}

"$bin/python" -m examples.desk.prepare

say "An agent answers 245 messages to a shop, with ten tools: orders, refunds, mail. It obeys whatever a text tells it," \
	"and some texts tell it to mail the customer list to a stranger. Each model and tool call is a governed step."
# 5 says that calls wait for a person, which is how the batch is meant to end.
meshflow run examples/desk/job.py --run-id batch || [ $? -eq 5 ]

say "The calls that need a person are in the ledger, and nothing of them has happened yet. Mara looks at the first one," \
	"approves three and denies the fourth."
"$bin/meshflow" --config "$config" --json approvals list | "$bin/python" -m examples.desk.first_waiting 4 >$work/decide
{
	read -r first run && meshflow approvals show "$first"
	shown=2
	decide approve "$first" --as mara --reason "checked with the customer"
	read -r second run && decide approve "$second" --as mara
	read -r third run && decide approve "$third" --as mara
	shown=1
	read -r fourth run && decide deny "$fourth" --as mara --reason "goods have not come back"
} <$work/decide

say "The same job again: what was approved runs now, once and with the arguments that Mara saw; what she denied does not."
meshflow run examples/desk/job.py --run-id batch --resume || [ $? -eq 5 ]

say "Every record is chained by hash and covered by signed checkpoints. Was anything changed, left out or added?"
meshflow ledger verify

say "Evidence for somebody who trusts neither us nor the database: the denied refund's run in a file, and a key."
"$bin/meshflow" --config "$config" --json ledger checkpoint |
	"$bin/python" -c 'import json, sys; print(*json.load(sys.stdin)["keys"], sep="\n")' >$work/keys
meshflow ledger export "$run" --format bundle --output $work/evidence --force
show python verifier/verify_bundle.py $work/evidence --key $work/keys
"$bin/python" verifier/verify_bundle.py $work/evidence --key $work/keys

say "Look further, at any step whole: who asked, what each stage answered, and the hashes that hold it in place." \
	"The command is $1/meshflow."
show meshflow ledger show "$run" --config "$config"
