"""The main job on its real messages: every effect shows, nothing raw is kept, and what waited runs after approval."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from examples.desk import driver as desk_driver
from examples.desk import job as desk_job
from examples.desk.prepare import prepare
from examples.desk.values import load_messages
from meshflow import StepRuntime

HERE = Path(desk_job.__file__).parent


class Context:
    """What ``meshflow run`` hands to a job."""

    def __init__(self, runtime, *, resume=False, arguments=()):
        self.runtime, self.run_id, self.resume, self.arguments = runtime, "batch", resume, arguments
        self.said = []

    def progress(self, done, total, text=""):
        pass

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(HERE / "meshflow.yaml", folder)
    shutil.copytree(HERE / "policy", folder / "policy")
    prepare(folder / "work")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def batch(folder):
    """The whole batch, run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk_job, "WORK", folder / "work")
        async with StepRuntime(config=folder / "meshflow.yaml") as runtime:
            summary = await desk_job.job(Context(runtime))
            ledger = runtime.plugin("ledger").ledger
            runs = {run: await ledger.get_run(run) for run in await ledger.list_runs(limit=1000)}
    return summary, runs


pytestmark = pytest.mark.asyncio(loop_scope="module")


def ended(runs):
    return Counter((step["node_id"], step["verdict"], step["code"]) for steps in runs.values() for step in steps)


async def test_every_message_is_worked_through_under_a_run_of_its_own(batch):
    summary, runs = batch
    assert summary["messages"] == len(load_messages()) == len(runs) >= 200


@pytest.mark.parametrize(
    "effect",
    [
        ("send_email", "commit", ""),
        ("export_orders", "reject", "rate_limiting.exceeded"),
        ("send_email", "reject", "budget_check.exhausted"),
        ("issue_refund", "reject", "policy_evaluation.denied"),
        ("understand", "reject", "input_guardrails.prompt_injection"),
        ("lookup_order", "reject", "output_guardrails.prompt_injection"),
        ("issue_refund", "escalate", "tool_permission.policy_escalated"),
        ("carrier_status", "error", "execution.handler_error"),
    ],
    ids=lambda effect: effect[2] or "allowed",
)
async def test_the_batch_shows_every_effect(batch, effect):
    assert ended(batch[1])[effect] > 0


async def test_a_denial_by_policy_names_the_rule(batch):
    reasons = [
        step["reason"] for steps in batch[1].values() for step in steps if step["code"] == "policy_evaluation.denied"
    ]
    assert reasons
    assert all("desk." in reason for reason in reasons)


async def test_inputs_were_redacted_before_the_agent_saw_them(batch):
    replaced = [
        step["step_id"]
        for steps in batch[1].values()
        for step in steps
        for stage in step["stages"]
        if stage["stage"] == "sensitive_data_scan" and stage["replaced"]
    ]
    assert len(replaced) >= 10


RAW = ["4111 1111 1111 1111", "5555 5555 5555 4444", "AKIA", "ghp_"]


@pytest.mark.parametrize("raw", RAW)
async def test_nothing_raw_is_in_the_ledger_file(batch, folder, raw):
    assert any(raw in message.text() for message in load_messages()), "the messages no longer carry it"
    kept = b"".join(path.read_bytes() for path in (folder / "work").glob("ledger.db*"))
    assert raw.encode() not in kept


async def test_no_senders_address_is_in_the_ledger_file(batch, folder):
    kept = b"".join(path.read_bytes() for path in (folder / "work").glob("ledger.db*"))
    found = [message.sender.email for message in load_messages() if message.sender.email.encode() in kept]
    assert found == []


async def test_an_injected_note_moves_no_order_and_pays_nobody(batch, folder):
    with closing(sqlite3.connect(folder / "work" / "desk.db")) as database:
        moved = database.execute("SELECT count(*) FROM orders WHERE ship_to LIKE '%Locker 88%'").fetchone()
    assert moved == (0,)
    for message_id in ("M-0115", "M-0145"):
        verdicts = [step["verdict"] for step in batch[1][f"batch-{message_id}"] if step["node_id"] == "issue_refund"]
        assert verdicts in (["escalate"], ["reject"], [])


async def test_every_run_verifies(batch, folder):
    async with StepRuntime(config=folder / "meshflow.yaml") as runtime:
        ledger = runtime.plugin("ledger").ledger
        results = [await ledger.verify_chain(run) for run in batch[1]]
    assert all(result["valid"] for result in results)


async def test_what_a_person_approved_runs_and_what_they_refused_does_not(batch, folder, monkeypatch):
    monkeypatch.setattr(desk_job, "WORK", folder / "work")
    async with StepRuntime(config=folder / "meshflow.yaml") as runtime:
        ledger = runtime.plugin("ledger").ledger
        waiting = await ledger.pending_approvals()
        refunds = [item for item in waiting if item["tool"] == "issue_refund"]
        for item in refunds[:2]:
            await ledger.decide_approval(item["approval_id"], approve=True, approver="mara")
        await ledger.decide_approval(refunds[2]["approval_id"], approve=False, approver="mara", reason="no")
        summary = await desk_job.job(Context(runtime, resume=True))
        assert (summary["approved calls carried out"], summary["refused"]) == (2, 1)
        assert summary["still waiting"] == len(waiting) - 3
        for item, verdict in zip(refunds[:3], ("commit", "commit", "reject"), strict=True):
            last = (await ledger.get_run(item["run_id"]))[-1]
            assert (last["step_id"], last["attempt"], last["verdict"]) == (item["step_id"], 2, verdict)


async def test_the_yaml_declares_the_tools_that_the_desk_has():
    import yaml

    declared = yaml.safe_load((HERE / "meshflow.yaml").read_text(encoding="utf-8"))["tools"]["tools"]
    assert declared.keys() == desk_driver.TOOLS.keys()
    for name, spec in desk_driver.TOOLS.items():
        assert declared[name]["schema"] == {**spec.parameters}, name
        assert (declared[name]["risk"], declared[name]["idempotent"]) == (spec.risk, spec.idempotent)
