"""How often a shadow would have decided otherwise than what was enforced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from meshflow.plugin import Effect, StageResult

_STRENGTH = {Effect.DENY: 3, Effect.ESCALATE: 2, Effect.ALLOW: 1, Effect.ABSTAIN: 0}
_ABSTAIN = Effect.ABSTAIN


class Comparison(NamedTuple):
    """One shadow's answer beside what was enforced at its stage."""

    stage: str
    plugin: str
    enforced: Effect
    shadow: Effect

    @property
    def agrees(self) -> bool:
        """True where both have the same effect."""
        return self.enforced is self.shadow


def comparisons(results: Iterable[StageResult]) -> Iterator[Comparison]:
    """Yield what the shadows of a step said beside what was enforced.

    A shadow whose evidence names a plugin that it stands ``instead_of`` is compared with that one's answer, any other
    with the strongest of its stage. What abstains is compared only where it names one, which did not abstain as well.
    """
    results = tuple(results)
    for shadow in results:
        other = shadow.evidence.get("instead_of")
        if shadow.enforced or (shadow.effect is _ABSTAIN and other is None):
            continue
        effects = [
            one.effect
            for one in results
            if one.enforced and one.stage == shadow.stage and (other is None or one.plugin.partition("@")[0] == other)
        ]
        strongest = max(effects, key=_STRENGTH.__getitem__, default=_ABSTAIN)
        if effects and (shadow.effect, strongest) != (_ABSTAIN, _ABSTAIN):
            yield Comparison(shadow.stage, shadow.plugin, strongest, shadow.effect)


class Shadows:
    """Counts comparisons by shadow and stage; as many as a configuration can name."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {}

    def add(self, one: Comparison) -> None:
        """Count a comparison."""
        counts = self._counts.setdefault((one.plugin, one.stage), Counter())
        counts["agree" if one.agrees else f"{one.enforced.value} to {one.shadow.value}"] += 1

    def merge(self, other: Shadows) -> None:
        """Count what another has counted."""
        for key, counts in other._counts.items():
            self._counts.setdefault(key, Counter()).update(counts)

    def to_dict(self) -> dict[str, Any]:
        """Return, by ``plugin at stage``, how many answers were compared, how many differ, the rate, and how."""
        found: dict[str, Any] = {}
        for (plugin, stage), counts in sorted(self._counts.items()):
            compared = sum(counts.values())
            differ = {kind: count for kind, count in sorted(counts.items()) if kind != "agree"}
            disagreed = sum(differ.values())
            found[f"{plugin} at {stage}"] = {
                "compared": compared, "disagreed": disagreed, "rate": disagreed / compared, "kinds": differ,
            }  # fmt: skip
        return found
