"""Which rules an entry point reaches, and through which rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshflow.policy.syntax import Rule, calls_of, references


class Reach:
    """The rules of a bundle, and what each of them uses."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = list(rules)
        self._by_path: dict[str, list[int]] = {}
        self._below: dict[str, list[int]] = {}
        for place, rule in enumerate(self.rules):
            self._by_path.setdefault(rule.path, []).append(place)
            parts = rule.path.split(".")
            for end in range(1, len(parts)):
                self._below.setdefault(".".join(parts[:end]), []).append(place)
        self._uses = [set(self._used_by(rule)) for rule in self.rules]

    def from_rule(self, path: str) -> list[Rule]:
        """Return the rules with a path, and all that they use, in the bundle's order."""
        return self.from_places(self._by_path.get(path, ()))

    def from_tests(self) -> list[Rule]:
        """Return the tests, and all that they use."""
        return self.from_places(place for place, rule in enumerate(self.rules) if rule.is_test)

    def from_places(self, places: Iterable[int]) -> list[Rule]:
        """Return the rules at places, and all that they use."""
        seen: set[int] = set()
        stack = list(places)
        while stack:
            place = stack.pop()
            if place not in seen:
                seen.add(place)
                stack.extend(self._uses[place])
        return [self.rules[place] for place in sorted(seen)]

    def _used_by(self, rule: Rule) -> Iterator[int]:
        for read in references(rule):
            if read.path[0] == "data":
                yield from self._named(read.path)
        for call in calls_of(rule):
            for name in call.names:
                yield from self._by_path.get(name, ())

    def _named(self, path: tuple[str, ...]) -> Iterator[int]:
        for end in range(2, len(path) + 1):
            yield from self._by_path.get(".".join(path[:end]), ())
        if len(path) > 1:
            yield from self._below.get(".".join(path), ())
