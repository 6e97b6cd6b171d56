"""A ledger entry as conditions see it: named fields, joined with what the rest of its run says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from meshflow.config.problems import did_you_mean
from meshflow.ledger.controls import TARGETS
from meshflow.ledger.retention import AUTHORITY as RETENTION_POLICY
from meshflow.names import folded_name, names_of
from meshflow.profiles.conditions import ERASED
from meshflow.profiles.manifest import RecordKind
from meshflow.profiles.stops import STRONGEST_FIRST, Stops
from meshflow.stages import STAGE_BY_NAME
from meshflow.step import ACTING_AGENT

DAY_US: Final = 86_400_000_000
_PRINCIPAL = ("subject", "agent_id", "issuer", "verified", "roles", "tenant", "token_id")
_APPROVAL = ("given", "approved", "approver", "own")
_BODY = (
    "run_id", "step_id", "attempt", "tenant_id", "node_id", "node_kind", "tool", "action", "verdict", "code",
    "executed", "intended", "cost_micro_usd", "risk", "origin", "confidentiality", "started_us", "fingerprint",
    "redaction", "unsafe",
)  # fmt: skip
_OF_STEP = (
    *_BODY, "age_days", "plain_address", "input_keys", "names_a_person", "erased.any", "erased.by_retention",
    "profile.active", "profile.effect", "profile.codes", "stopped_by",
    *(f"principal.{name}" for name in _PRINCIPAL), *(f"approval.{name}" for name in _APPROVAL),
)  # fmt: skip
_OF_INTENT = (
    *(name for name in _BODY if name not in ("verdict", "code", "executed", "intended", "cost_micro_usd")), "age_days",
    "outcome", *(f"principal.{name}" for name in _PRINCIPAL),
)  # fmt: skip
FIELDS: Final[Mapping[RecordKind, tuple[str, ...]]] = {
    "step": _OF_STEP,
    "intent": tuple(name for name in _OF_INTENT if name not in ("redaction", "unsafe")),
    "approval": (
        "run_id", "step_id", "tenant_id", "node_id", "started_us", "age_days", "approval.approved",
        "approval.approver", "approval.own",
    ),
    "erasure": (
        "run_id", "tenant_id", "started_us", "age_days", "erasure.authority", "erasure.by_retention",
        "erasure.youngest_days", "erasure.deleted",
    ),
    "control": (
        "tenant_id", "started_us", "age_days", "control.code", "control.authority", "control.run", "control.agent",
        "control.tool", "control.tenant",
    ),
    "ledger": ("signed", "fully_signed", "held", "anchored", "chain", "merkle_log", "commitments"),
}  # fmt: skip
"""What a condition may ask of each kind of record; a step has the open names of ``_OPEN`` too."""

OPEN_FIELDS: Final = (
    "stages.<stage>.effect", "stages.<stage>.enforced", "stages.<stage>.replaced", "stages.<stage>.code",
    "stages.<stage>.plugins", "evidence.<stage>.<key>", "entities.<ENTITY>", "entities.any", "metadata.<key>",
    "settings.<setting>",
)  # fmt: skip
"""Names with a part of the author's choosing, as the reference shows them."""
_PARTS = "effect|enforced|replaced|code|plugins"
_OPEN = re.compile(
    rf"stages\.(?P<stage>[a-z_]+)\.(?:{_PARTS})|evidence\.(?P<told>[a-z_]+)\.[a-z_]+"
    r"|entities\.[A-Z][A-Z0-9_]*|entities\.any|metadata\.[A-Za-z0-9_-]+"
)
_ERASABLE = {"principal": "principal", "evidence": "results", "entities": "results", "metadata": "metadata",
             "profile": "results"}  # fmt: skip
_STRENGTH = ("none", "abstain", "allow", "escalate", "deny")
_SCANS = ("sensitive_data_scan", "output_guardrails")


def unknown_field(kind: RecordKind, name: str) -> str | None:
    """Return what is wrong with a field's name in a condition on a kind of record, or None."""
    if name in FIELDS[kind]:
        return None
    opened = _OPEN.fullmatch(name) if kind == "step" else None
    if opened is None:
        return f"no field of the records {kind}{did_you_mean(name, FIELDS[kind])}"
    stage = opened["stage"] or opened["told"]
    if stage is not None and stage not in STAGE_BY_NAME:
        return f"unknown stage{did_you_mean(stage, STAGE_BY_NAME)}"
    return None


@dataclass(slots=True)
class RunFacts:
    """What the entries of one run say of each other, and control entries of all of them."""

    stops: Stops = field(default_factory=Stops)
    approvals: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The decisions, by approval id."""
    votes: dict[str, list[Any]] = field(default_factory=dict)
    """Who agreed before the one that decided, by approval id; ERASED where the name is gone."""
    requesters: dict[str, Any] = field(default_factory=dict)
    """Who asked, by approval id; ERASED where the name is gone."""
    erased_by: dict[int, frozenset[str]] = field(default_factory=dict)
    """Authorities that erased payloads, by the seq of the entry erased."""
    started_us: dict[int, int] = field(default_factory=dict)
    """When entries began that are erased later, by seq."""

    def take_tombstones(self, tombstones: Iterable[Mapping[str, Any]]) -> None:
        """Note which entries the run's tombstones stand for, before those are read."""
        for tombstone in tombstones:
            for seq in tombstone["erased_of"]:
                known = self.erased_by.get(int(seq), frozenset())
                self.erased_by[int(seq)] = known | {tombstone["authority"]}

    def take(self, entry: Mapping[str, Any]) -> None:
        """Note what an entry says of those behind it."""
        if entry["seq"] in self.erased_by:
            self.started_us[entry["seq"]] = entry["started_us"]
        if entry["kind"] == "approval":
            kept = ("kind", "approved", "approver", "erased")
            self.approvals[entry["approval_id"]] = {name: entry.get(name) for name in kept}
        elif entry["kind"] == "vote":
            gone = "approver" in entry["erased"]
            self.votes.setdefault(entry["approval_id"], []).append(ERASED if gone else entry["approver"])
        elif entry["kind"] == "step" and entry["approval_request"] is not None:
            gone = "principal" in entry["erased"]
            self.requesters[entry["approval_request"]["approval_id"]] = ERASED if gone else entry["principal"]


class Record:
    """One entry; ``entry`` is the dict that ``ReplayLedger.iter_history`` yields."""

    def __init__(
        self, entry: Mapping[str, Any], run: RunFacts, profile: str, settings: Mapping[str, Any], now_us: int,
        outcome: str = "",
    ) -> None:  # fmt: skip
        self.entry = entry
        self._run = run
        self._profile = profile
        self._settings = settings
        self._now_us = now_us
        self._outcome = outcome

    def value(self, field: str) -> Any:
        """Return a field's value, None where there is none, ERASED where it is gone or was never let in."""
        area, dot, rest = field.partition(".")
        if not dot:
            return self._plain(field)
        if area in _ERASABLE and (_ERASABLE[area] in self.entry["erased"] or self._withheld(_ERASABLE[area])):
            return ERASED
        if area == "principal":
            return (self.entry["principal"] or {}).get(rest)
        if area == "approval":
            return self._approval(rest)
        if area == "settings":
            return self._settings.get(rest)
        if area == "stages":
            stage, _, part = rest.partition(".")
            return self._stages.get(stage, _NO_STAGE)[part]
        if area == "entities":
            return self._entities.get(rest)
        if area == "evidence":
            stage, _, key = rest.partition(".")
            return self._evidence.get(stage, {}).get(key)
        if area == "metadata":
            return (self.entry["metadata"] or {}).get(rest)
        if area == "profile":
            return self._of_profile(rest)
        if area == "control":
            return self._control(rest)
        return self._erasure(rest) if area == "erasure" else self._erased(rest)

    def _plain(self, field: str) -> Any:
        if field == "age_days":
            return (self._now_us - self.entry["started_us"]) / DAY_US
        if field in ("plain_address", "input_keys"):
            if "input" in self.entry["erased"] or self._withheld("input"):
                return ERASED
            look = _keys_of if field == "input_keys" else _holds_plain_address
            return look(self.entry["input_task"])
        if field == "names_a_person":
            return any(_EMAIL.search(str(self.entry.get(name) or "")) is not None for name in _KEPT_FOR_GOOD)
        if field == "stopped_by":
            return self._stopped_by()
        if field == "outcome":
            return ERASED if self._outcome == "open" else self._outcome
        return self.entry.get(field)

    def _withheld(self, payload: str) -> bool:
        """Return whether a payload could not be scanned, or encoded, so that the ledger has no more than its type."""
        if payload == "results":
            evidence = (result["evidence"] for result in self.entry["stages"])
            return self.entry["redaction"] == "withheld" and not any(evidence)
        value = self.entry["input_task" if payload == "input" else payload]
        return isinstance(value, Mapping) and not _NO_VALUE.isdisjoint(value)

    def _approval(self, part: str) -> Any:
        approval_id = self.entry.get("approval_id")
        if part == "given":
            return approval_id is not None
        decision = self.entry if self.entry["kind"] == "approval" else self._run.approvals.get(approval_id or "")
        if decision is None:
            return None
        if part == "approved":
            return decision.get("approved")
        approver = ERASED if "approver" in decision["erased"] else decision.get("approver")
        if part == "approver":
            return approver
        who = self._run.requesters.get(approval_id or "", ERASED)
        agreed = [*self._run.votes.get(approval_id or "", ()), approver]
        if who is ERASED:
            return ERASED
        who = who or {}
        asked = names_of(str(who.get("subject", "")), str(who.get("agent_id", "")), who.get("claims") or {})
        if any(one is not ERASED and folded_name(str(one)) in asked for one in agreed):
            return True
        return ERASED if ERASED in agreed else False

    def _stopped_by(self) -> Any:
        entry, stops = self.entry, self._run.stops
        if not stops:
            return None
        if stops.by_agent and (not _NAMING.isdisjoint(entry["erased"]) or self._withheld("metadata")):
            return ERASED
        belongs = {"run": entry["run_id"], "tool": entry["tool"], "tenant": entry["tenant_id"]}
        # As for the switch: an agent that acts under another's token has two names.
        metadata = entry["metadata"]
        acting = metadata.get(ACTING_AGENT) if isinstance(metadata, Mapping) else None
        agents = ((entry["principal"] or {}).get("agent_id"), acting if isinstance(acting, str) else None)
        found = (stops.in_force(entry["started_us"], belongs | {"agent": agent}) for agent in agents)
        return min(filter(None, found), key=STRONGEST_FIRST.index, default=None)

    def _control(self, part: str) -> Any:
        return self.entry["target"].get(part) if part in TARGETS else self.entry.get(part)

    def _erased(self, part: str) -> Any:
        authorities = self._run.erased_by.get(self.entry["seq"], frozenset())
        return RETENTION_POLICY in authorities if part == "by_retention" else bool(self.entry["erased"])

    def _erasure(self, part: str) -> Any:
        entry = self.entry
        if part == "authority":
            return entry.get("authority")
        if part == "by_retention":
            return entry.get("authority") == RETENTION_POLICY
        if part == "deleted":
            return entry.get("code") == "deleted"
        begun = [
            self._run.started_us[int(seq)] for seq in entry.get("erased_of", {}) if int(seq) in self._run.started_us
        ]
        return (entry["started_us"] - max(begun)) / DAY_US if begun else None

    @cached_property
    def _stages(self) -> dict[str, dict[str, Any]]:
        """Return each stage's strongest enforced answer."""
        found: dict[str, dict[str, Any]] = {}
        for result in self.entry["stages"]:
            kept = found.setdefault(result["stage"], {**_NO_STAGE, "plugins": []})
            if not result["enforced"]:
                continue
            kept["enforced"] = True
            kept["plugins"].append(result["plugin"])
            kept["replaced"] = kept["replaced"] or result["replaced"]
            if _STRENGTH.index(result["effect"]) > _STRENGTH.index(kept["effect"]):
                kept["effect"], kept["code"] = result["effect"], result["code"]
        return found

    @cached_property
    def _evidence(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for result in self.entry["stages"]:
            if result["enforced"] and isinstance(result["evidence"], Mapping):
                found.setdefault(result["stage"], {}).update(result["evidence"])
        return found

    @cached_property
    def _entities(self) -> dict[str, list[str]]:
        """Return what was done to each kind of sensitive data; what a shadow alone found went through as it was."""
        found: dict[str, set[str]] = {}
        for result in self.entry["stages"]:
            told = result["evidence"].get("by_entity") if isinstance(result["evidence"], Mapping) else None
            if result["stage"] in _SCANS and isinstance(told, Mapping):
                for entity, actions in told.items():
                    done = set(actions) if result["enforced"] else {"allow"}
                    found.setdefault(entity, set()).update(done)
        if found:
            found["any"] = set().union(*found.values())
        return {entity: sorted(actions) for entity, actions in found.items()}

    def _of_profile(self, part: str) -> Any:
        evidence = [
            result["evidence"]
            for result in self.entry["stages"]
            if result["stage"] == "compliance_profile"
            and result["enforced"]
            and isinstance(result["evidence"], Mapping)
        ]
        mine = [one for one in evidence if self._profile in one.get("profiles", ())]
        if part == "active":
            return bool(mine)
        said = [one["said"][self._profile] for one in mine if self._profile in one.get("said", {})]
        if part == "codes":
            return sorted({code for one in said for code in one["codes"]}) or None
        return max((one["effect"] for one in said), key=_STRENGTH.index, default="allow" if mine else None)


def _holds_plain_address(root: Any) -> bool:
    """Return whether some text, at any depth, is an address without encryption."""
    todo = [root]
    while todo:
        value = todo.pop()
        if isinstance(value, str) and value.strip().lower().startswith(_PLAIN):
            return True
        if isinstance(value, Mapping):
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    return False


def _keys_of(root: Any) -> list[str]:
    """Return every key of every mapping in a value, in lower case."""
    found: set[str] = set()
    todo = [root]
    while todo:
        value = todo.pop()
        if isinstance(value, Mapping):
            found.update(str(key).lower() for key in value)
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    return sorted(found)


_NAMING = frozenset({"principal", "metadata"})
"""Payloads that name the agent of a step."""
_NO_VALUE = frozenset({"meshflow:withheld", "meshflow:unencodable"})
_KEPT_FOR_GOOD = ("run_id", "step_id", "node_id", "tool", "action")
_EMAIL = re.compile(r"[^\s@]@[^\s@]+\.[^\s@]")
_PLAIN = ("http://", "ftp://", "ws://", "telnet://", "ldap://", "smtp://")
_NO_STAGE: Mapping[str, Any] = {"effect": "none", "enforced": False, "replaced": False, "code": "", "plugins": None}
