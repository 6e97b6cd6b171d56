"""What the records say of one control: counted by state, with the first of each state kept by hash."""

from __future__ import annotations

from typing import Any, Final

from meshflow.config.problems import Problem, raise_problems
from meshflow.ledger.format.steps import timestamp
from meshflow.profiles.conditions import ERASED, Compiled, Fields, compile_condition
from meshflow.profiles.manifest import Control, Evidence, RecordKind
from meshflow.profiles.packs import Pack
from meshflow.profiles.read import scope_of
from meshflow.profiles.records import Record

STATES: Final = ("satisfied", "violated", "undecidable")
_WORDS: Final = 80
_TEXT_SHOWN: Final = frozenset({
    "verdict", "code", "risk", "origin", "confidentiality", "outcome", "redaction", "tool", "action", "node_id",
    "node_kind", "tenant_id", "erasure.authority", "unsafe", "stopped_by",
})  # fmt: skip
"""Fields whose words nobody can erase from the ledger either; any other text stays there, where it can be erased."""


class Query:
    """One piece of evidence, compiled with the settings in force."""

    __slots__ = ("_holds", "_when", "records", "shows")

    def __init__(self, evidence: Evidence, when: Compiled, holds: Compiled) -> None:
        self.records: RecordKind = evidence.records
        self.shows = evidence.shows
        self._when, self._holds = when, holds

    def judge(self, record: Fields) -> tuple[str, Compiled] | None:
        """Return the state that a record is in and the condition that says so; None where it is not concerned."""
        concerned = self._when.holds(record)
        if concerned is None:
            return "undecidable", self._when
        if not concerned:
            return None
        held = self._holds.holds(record)
        return ("undecidable" if held is None else "satisfied" if held else "violated"), self._holds


def queries_of(control: Control, pack: Pack) -> tuple[Query, ...]:
    """Return the evidence of a control, compiled; ConfigError where a setting in force does not fit."""
    problems: list[Problem] = []
    place = pack.manifest.controls.index(control)
    queries = []
    for number, evidence in enumerate(control.evidence):
        scope = scope_of(pack.manifest, evidence, pack.settings)
        path = ("controls", place, "evidence", number)
        when = compile_condition(evidence.when, (*path, "when"), scope, problems)
        queries.append(Query(evidence, when, compile_condition(evidence.holds, (*path, "holds"), scope, problems)))
    raise_problems(problems, pack.source)
    return tuple(queries)


class ControlTally:
    """The records that speak of one control."""

    def __init__(self, control: Control, pack: Pack, limit: int) -> None:
        self.control = control
        self.pack = pack
        self.queries = queries_of(control, pack)
        self._limit = limit
        self._counts = dict.fromkeys(STATES, 0)
        self._listed: dict[str, list[dict[str, Any]]] = {state: [] for state in STATES}

    def ask(self, query: Query, record: Record) -> None:
        """Count a record, and keep it if there is room."""
        judged = query.judge(record)
        if judged is not None and self._room(judged[0]):
            entry = record.entry
            self._keep(query, *judged, record, {
                "kind": entry["kind"], "run_id": entry["run_id"], "step_id": entry["step_id"],
                "attempt": entry["attempt"], "seq": entry["seq"], "position": entry["position"],
                "entry_hash": entry["entry_hash"], "timestamp": timestamp(entry["started_us"]),
            })  # fmt: skip

    def ask_ledger(self, query: Query, facts: Fields) -> None:
        """Ask of the ledger as a whole; its checkpoint is the record."""
        judged = query.judge(facts)
        if judged is not None and self._room(judged[0]):
            self._keep(query, *judged, facts, {"kind": "ledger"})

    def _room(self, state: str) -> bool:
        """Count a record, and say whether it can be listed too."""
        self._counts[state] += 1
        return len(self._listed[state]) < self._limit

    def _keep(self, query: Query, state: str, condition: Compiled, record: Fields, reference: dict[str, Any]) -> None:
        self._listed[state].append({**reference, "why": _why(query, state, condition, record)})

    @property
    def status(self) -> str:
        """One violation violates; without one it takes a record that satisfies."""
        if self._counts["violated"]:
            return "violated"
        return "satisfied" if self._counts["satisfied"] else "not_exercised"

    def document(self) -> dict[str, Any]:
        """Return the control with its state and its records, as JSON values."""
        control = self.control
        return {
            "profile": self.pack.manifest.name, "id": control.id, "title": control.title, "source": control.source,
            "how": control.how, "status": self.status, "counts": dict(self._counts),
            "records": {state: listed for state, listed in self._listed.items() if listed},
        }  # fmt: skip


def _why(query: Query, state: str, condition: Compiled, record: Fields) -> str:
    if state == "satisfied":
        return query.shows
    failing = dict.fromkeys(condition.failing(record))
    if state == "undecidable":
        gone = [name for name in failing if record.value(name) is ERASED]
        return f"{'erased' if record.value('erased.any') else 'withheld'}: {', '.join(gone or failing)}"
    return "; ".join(f"{name} is {_shown(name, record.value(name))}" for name in failing)


def _shown(name: str, value: Any) -> str:
    """Return a value as far as it may stand in a report, from which nothing can be erased."""
    if value is None or value == "" or value == []:
        return "not there"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.6g}"
    if name in _TEXT_SHOWN or name.startswith(("stages.", "entities.", "profile.")):
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        return text[:_WORDS]
    return "not what is asked for"
