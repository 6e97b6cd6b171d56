"""Mesh: the control plane over agents and workflows that share a runtime and its ledger."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from meshflow.clock import SystemClock
from meshflow.errors import ConfigError
from meshflow.ids import new_id
from meshflow.kernel.runtime import StepRuntime
from meshflow.ledger.approvals import AS_ASKED, ApprovalRefusedError
from meshflow.ledger.replay import ReplayLedger
from meshflow.mesh.bus import Bus
from meshflow.mesh.events import Event, MeshEvent, events_of
from meshflow.mesh.live import LiveRun, LiveRuns
from meshflow.mesh.messages import Messages
from meshflow.mesh.switch import STOPPED, Stop, SwitchPlugin
from meshflow.record import StepRecord, Verdict
from meshflow.registry.select import StageChoice
from meshflow.step import StepContext

if TYPE_CHECKING:
    from meshflow.agent import Agent, AgentResult
    from meshflow.workflow import WorkflowDefinition, WorkflowResult


class Mesh:
    """Registers agents, runs workflows, tells handlers what happens, and stops what must stop.

    ``runtime`` governs everything that the mesh runs, and whatever else uses it; it must not have taken a step yet, so
    that the mesh's switch can join it. Without one, the mesh makes its own from ``ledger``, ``policy`` and ``config``.
    The ledger has to be a ReplayLedger: stops are entries in it, which every process reads before each step.

    ``quarantine_after`` stops an agent after so many denied steps in a row, by any process's count of its own. A
    handler that has not returned after ``handler_timeout_s`` is left behind.
    """

    def __init__(
        self, runtime: StepRuntime | None = None, *, ledger: Any = None, policy: Any = None, config: Any = None,
        quarantine_after: int | None = None, handler_timeout_s: float = 30,
    ) -> None:  # fmt: skip
        if runtime is not None and any(one is not None for one in (ledger, policy, config)):
            raise ConfigError(
                "a runtime has its own ledger, policy and config; give the runtime or these", where="Mesh"
            )
        if quarantine_after is not None and quarantine_after < 1:
            raise ConfigError("counts from 1", where="Mesh(quarantine_after=)")
        self._own = runtime is None
        self._bus = Bus(handler_timeout_s)
        self._clock = SystemClock()
        self._switch = SwitchPlugin(self._recorded)
        if runtime is None:
            runtime = StepRuntime(ledger, policy, config=config, plugins={"mesh": self._switch})
        else:
            runtime.attach("mesh", self._switch)
        self.runtime = runtime
        self.ledger = self._switch.ledger = _ledger_of(runtime)
        runtime.insist(_insist_on_the_switch)
        self._watch_objectives()
        self._agents: dict[str, Agent] = {}
        self._live = LiveRuns()
        self._quarantine_after = quarantine_after
        self._denials: Counter[tuple[str, str]] = Counter()
        self._pending: set[Future[None]] = set()
        self.messages = Messages(self.runtime, self._known, self._tell)

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The agents by name."""
        return MappingProxyType(self._agents)

    def register(self, agent: Agent) -> Mesh:
        """Take an agent in; it is governed by the mesh's runtime from now on. Returns the mesh."""
        name = getattr(agent, "name", None)
        if not isinstance(name, str) or not name or not callable(getattr(agent, "run", None)):
            raise ConfigError(f"an agent has a name and run(); {type(agent).__name__} has not", where="Mesh.register")
        if self._agents.get(name, agent) is not agent:
            raise ConfigError(f"there is an agent {name!r} already; give this one another name", where="Mesh.register")
        if callable(govern_by := getattr(agent, "govern_by", None)):
            govern_by(self.runtime, self.ledger)
        self._agents[name] = agent
        return self

    def on(self, event: MeshEvent, handler: Callable[[Event], Awaitable[None] | None]) -> Callable[[], None]:
        """Have a function told of every event of a kind, sync or async; returns what takes it away again.

        What it raises is logged and isolated. It runs apart from the step, in order, after the step is recorded.
        """
        return self._bus.on(event, handler)

    async def run_agent(self, name: str, prompt: Any, *, run_id: str | None = None, **options: Any) -> AgentResult:
        """Run an agent under the mesh's runtime."""
        agent = self._known(name)

        async def work(run_id: str, cancel: asyncio.Event) -> AgentResult:
            return await agent.run(prompt, run_id=run_id, runtime=self.runtime, **options)

        result: AgentResult = await self._run(name, run_id, work)
        return result

    async def resume_agent(self, checkpoint: Mapping[str, Any], **options: Any) -> AgentResult:
        """Go on with an agent's run that was paused, by a person's approval or by ``pause``; releases the latter."""
        agent = self._known(str(checkpoint.get("agent")))
        await self._unpause(checkpoint["run_id"])

        async def work(run_id: str, cancel: asyncio.Event) -> AgentResult:
            return await agent.resume(checkpoint, runtime=self.runtime, **options)

        result: AgentResult = await self._run(agent.name, checkpoint["run_id"], work)
        return result

    async def run_workflow(
        self, workflow: WorkflowDefinition, input: Any = None, *, run_id: str | None = None, registry: Any = None,
        **options: Any,
    ) -> WorkflowResult:  # fmt: skip
        """Run a workflow under the mesh's runtime; its agent nodes find the registered agents by name.

        Returns how it ended, after every handler has been told. ``options`` are those of ``WorkflowDefinition.run``.
        """
        known = self._registry(registry)

        async def work(run_id: str, cancel: asyncio.Event) -> WorkflowResult:
            return await workflow.run(
                input, runtime=self.runtime, run_id=run_id, registry=known, cancel=cancel, **options
            )

        result: WorkflowResult = await self._run(_name_of(workflow), run_id, work)
        return result

    async def resume_workflow(
        self, workflow: WorkflowDefinition, run_id: str, *, registry: Any = None, **options: Any
    ) -> WorkflowResult:
        """Go on with a run that was paused, by a person's approval or by ``pause``; releases the latter."""
        await self._unpause(run_id)
        known = self._registry(registry)

        async def work(run_id: str, cancel: asyncio.Event) -> WorkflowResult:
            return await workflow.resume(run_id, runtime=self.runtime, registry=known, cancel=cancel, **options)

        result: WorkflowResult = await self._run(_name_of(workflow), run_id, work)
        return result

    async def _unpause(self, run_id: str) -> None:
        """Release a pause of a run; a kill of it stands."""
        stops = [stop for stop in await self.stops() if stop.target == (("run", run_id),)]
        if any(stop.code == "pause" for stop in stops):
            await self.release(run=run_id, reason="resumed", authority="operator")

    async def _run(self, what: str, run_id: str | None, work: Callable[[str, asyncio.Event], Awaitable[Any]]) -> Any:
        run_id = run_id or new_id("run")
        with self._live.entered(run_id, what, self._clock.now_us()) as cancel:
            self._tell(MeshEvent.RUN_STARTED, run_id=run_id, what=what)
            status = "failed"
            try:
                result = await work(run_id, cancel)
                status = result.status.value
            finally:
                self._tell(MeshEvent.RUN_ENDED, run_id=run_id, what=what, status=status)
        await self.drain()
        return result

    async def kill(
        self, *, run: str = "", agent: str = "", tool: str = "", tenant: str = "", reason: str, authority: str
    ) -> None:
        """Refuse every further step of a run, an agent, a tool or a tenant, or of what has all that is named.

        It holds for the next step of every process that shares the ledger and has a mesh, until ``release``. What is
        executing goes on to its end: only its process could stop it. Live runs named by ``run`` are cancelled as well.
        """
        await self._stop("kill", MeshEvent.KILLED, run, agent, tool, tenant, reason, authority)

    async def pause(
        self, *, run: str = "", agent: str = "", tool: str = "", tenant: str = "", reason: str, authority: str
    ) -> None:
        """Do the same for a while.

        A workflow's run ends as cancelled and goes on with ``resume_workflow``, an agent's as paused, with
        ``resume_agent``.
        """
        await self._stop("pause", MeshEvent.PAUSED, run, agent, tool, tenant, reason, authority)

    async def release(
        self, *, run: str = "", agent: str = "", tool: str = "", tenant: str = "", reason: str, authority: str
    ) -> None:
        """Let go on what was killed, paused or quarantined under exactly these names."""
        target = _target(run, agent, tool, tenant)
        await self.ledger.record_control("release", target, reason=reason, authority=authority)
        await self._switch.refresh()
        for key in [key for key in self._denials if key[1] == agent]:
            del self._denials[key]
        self._tell(MeshEvent.RELEASED, run_id=run or None, agent_id=agent or None, target=target, reason=reason)

    async def _stop(
        self, code: str, event: MeshEvent, run: str, agent: str, tool: str, tenant: str, reason: str, authority: str
    ) -> None:
        target = _target(run, agent, tool, tenant)
        await self.ledger.record_control(code, target, reason=reason, authority=authority)
        await self._switch.refresh()
        self._live.cancel(run)
        self._tell(event, run_id=run or None, agent_id=agent or None, target=target, reason=reason)

    def cancel(self, run_id: str) -> bool:
        """End a live run of this process after the steps that execute; False where there is none."""
        return self._live.cancel(run_id)

    async def stops(self) -> tuple[Stop, ...]:
        """Return all that is stopped now, by whichever process."""
        await self._switch.refresh()
        return self._switch.stops

    def live(self) -> tuple[LiveRun, ...]:
        """Return the runs that this process is at, the oldest first."""
        return self._live.all()

    async def past(self, **filters: Any) -> list[dict[str, Any]]:
        """Return the summaries of runs on record, the newest first; filtered as ``ReplayLedger.list_runs`` filters."""
        tenant = filters.get("tenant")
        return [
            await self.ledger.run_summary(run_id, tenant=tenant) for run_id in await self.ledger.list_runs(**filters)
        ]

    async def pending_approvals(self, *, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return the steps that wait for a person."""
        return await self.ledger.pending_approvals(tenant=tenant)

    async def decide_approval(self, approval_id: str, **decision: Any) -> dict[str, Any]:
        """Record a person's decision; see ``ReplayLedger.decide_approval``.

        Sensitive data is taken out of the reason and of edited arguments first, as out of all that a record keeps.
        """
        decided = await self.ledger.decide_approval(approval_id, **await self._redacted(approval_id, decision))
        self._tell(MeshEvent.APPROVAL_DECIDED, run_id=decided["run_id"], step_id=decided["step_id"], decision=decided)
        return decided

    async def _redacted(self, approval_id: str, decision: Mapping[str, Any]) -> Mapping[str, Any]:
        words = {name: decision[name] for name in ("reason", "edited") if decision.get(name, AS_ASKED) is not AS_ASKED}
        if not words:
            return decision
        waiting = await self.ledger.pending_approvals(tenant=decision.get("tenant"))
        tenant = next((one["tenant_id"] for one in waiting if one["approval_id"] == approval_id), None)
        kept = await self.runtime.redacted(words, tenant)
        if kept is None:
            raise ApprovalRefusedError("answer", "stage 8 could not scan the reason or the edit, so neither is kept")
        return {**decision, **kept}

    async def reload(self, config: Any = None) -> str:
        """Have the runtime read its configuration again; return the new fingerprint.

        One that leaves the switch out is refused, here and by the runtime itself, and what was in force stays.
        """
        fingerprint = await self.runtime.reload(config)
        self._watch_objectives()
        self._tell(MeshEvent.RELOADED, fingerprint=fingerprint)
        return fingerprint

    async def drain(self) -> None:
        """Wait until handlers have been told of everything so far."""
        waiting = (asyncio.wrap_future(one) for one in tuple(self._pending))
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._bus.drained()

    async def aclose(self) -> None:
        """Tell handlers the rest, and close the runtime if the mesh made it."""
        await self.drain()
        if self._own:
            await self.runtime.aclose()

    async def __aenter__(self) -> Mesh:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _known(self, name: str) -> Agent:
        if name not in self._agents:
            raise ConfigError(f"no agent {name!r}; registered are {sorted(self._agents)}", where="Mesh")
        return self._agents[name]

    def _registry(self, given: Any) -> Any:
        from meshflow.workflow import Registry

        registry = given if given is not None else Registry()
        for name, agent in self._agents.items():
            registry.agent(name, agent)
        return registry

    def _tell(self, kind: MeshEvent, **about: Any) -> None:
        names = ("run_id", "step_id", "agent_id", "tenant_id", "code")
        known = {name: about.pop(name) for name in names if name in about}
        self._bus.emit(Event(kind, self._clock.now_us(), **known, data=about))

    def _watch_objectives(self) -> None:
        """Hear of breached objectives from whatever recorder tells of them."""
        for choice in self.runtime.stages():
            for slot in choice.slots if choice.stage.name == "sla_record" else ():
                listeners = getattr(slot.provider.plugin, "on_breach", None)
                if isinstance(listeners, list) and self._breached not in listeners:
                    listeners.append(self._breached)

    def _breached(self, objective: str, record: StepRecord) -> None:
        self._tell(
            MeshEvent.SLA_BREACHED, run_id=record.run_id, step_id=record.step_id, tenant_id=record.tenant_id,
            objective=objective,
        )  # fmt: skip

    def _recorded(self, context: StepContext, record: StepRecord) -> None:
        principal = record.principal
        agent_id = principal.agent_id if principal is not None else context.step.agent_id
        for event in events_of(record, agent_id):
            self._bus.emit(event)
        self._live.step(record)
        self._count_denials(record, agent_id)

    def _count_denials(self, record: StepRecord, agent_id: str) -> None:
        """Count denials in a row of an agent that is known to be it: a claimed name must not get another stopped."""
        after, stopped = self._quarantine_after, record.code.removeprefix("compliance_profile.") in STOPPED
        if after is None or record.principal is None or stopped:
            return
        key = (record.tenant_id, agent_id)
        if record.verdict is not Verdict.REJECT:
            self._denials.pop(key, None)
            return
        self._denials[key] += 1
        if self._denials[key] == after:
            pending = asyncio.run_coroutine_threadsafe(self._quarantine(record, agent_id), asyncio.get_running_loop())
            self._pending.add(pending)
            pending.add_done_callback(self._pending.discard)

    async def _quarantine(self, record: StepRecord, agent_id: str) -> None:
        target = {"agent": agent_id, **({"tenant": record.tenant_id} if record.tenant_id else {})}
        reason = f"{self._quarantine_after} steps in a row were denied, the last with {record.code}"
        await self.ledger.record_control("quarantine", target, reason=reason, authority="mesh")
        await self._switch.refresh()
        self._tell(
            MeshEvent.QUARANTINED, run_id=record.run_id, agent_id=agent_id, tenant_id=record.tenant_id, reason=reason
        )


def _target(run: str, agent: str, tool: str, tenant: str) -> dict[str, str]:
    named = {"run": run, "agent": agent, "tool": tool, "tenant": tenant}
    return {name: value for name, value in named.items() if value}


def _name_of(workflow: Any) -> str:
    return str(getattr(workflow, "name", "") or type(workflow).__name__)


def _ledger_of(runtime: StepRuntime) -> ReplayLedger:
    if runtime.ledger is None:
        raise ConfigError(
            "a mesh keeps its stops in a ReplayLedger, and the runtime's audit provider has none", where="Mesh"
        )
    return _seeing(runtime.ledger)


def _seeing(ledger: ReplayLedger) -> ReplayLedger:
    if ledger.sees_all_controls:
        return ledger
    raise ConfigError(
        f"{ledger.name} is open for one tenant, and row security would hide the stops that hold for all; open the "
        "mesh's ledger without tenant=",
        where="Mesh",
    )


def _insist_on_the_switch(choices: tuple[StageChoice, ...]) -> None:
    """Raise ConfigError where the configuration leaves the switch out: a kill that nobody obeys is worse than none."""
    (choice,) = [one for one in choices if one.stage.name == "compliance_profile"]
    if choice.mode == "enforce" and any(slot.enforced and slot.provider.name == "mesh" for slot in choice.slots):
        return
    raise ConfigError(
        "the mesh's switch serves stage compliance_profile, which the configuration gives to others; add mesh to "
        "stages.compliance_profile.use, and leave the stage enforced",
        where="Mesh",
    )
