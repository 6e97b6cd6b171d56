"""Polynomials with whole coefficients from 0 on: upper bounds of what an expression does, by the size of its data."""

from __future__ import annotations

from typing import TypeAlias

Monomial: TypeAlias = tuple[tuple[str, int], ...]
Polynomial: TypeAlias = dict[Monomial, int]

MAX_DEGREE = 12


class TooSteepError(ValueError):
    """A bound would grow faster than any data could be small enough for."""


def constant(value: int) -> Polynomial:
    """Return the polynomial that is a number."""
    return {(): value} if value else {}


def variable(name: str) -> Polynomial:
    """Return the polynomial that is a variable."""
    return {((name, 1),): 1}


def add(*terms: Polynomial) -> Polynomial:
    """Return the sum."""
    total: Polynomial = {}
    for one in terms:
        for monomial, factor in one.items():
            total[monomial] = total.get(monomial, 0) + factor
    return total


def either(one: Polynomial, other: Polynomial) -> Polynomial:
    """Return a bound of both, wherever the variables are not negative."""
    return {key: max(one.get(key, 0), other.get(key, 0)) for key in {**one, **other}}


def multiply(one: Polynomial, other: Polynomial) -> Polynomial:
    """Return the product; TooSteepError past a degree that no use has."""
    product: Polynomial = {}
    for left, factor in one.items():
        for right, times in other.items():
            powers = dict(left)
            for name, power in right:
                powers[name] = powers.get(name, 0) + power
            if sum(powers.values()) > MAX_DEGREE:
                raise TooSteepError(f"grows faster than the {MAX_DEGREE}th power of its data")
            monomial = tuple(sorted(powers.items()))
            product[monomial] = product.get(monomial, 0) + factor * times
    return product


def summed(term: Polynomial, name: str, size: Polynomial) -> Polynomial:
    """Return a bound of the sum over elements whose sizes ``name`` stands for, and that have ``size`` together.

    What does not depend on the element counts once for each, and there are no more of them than their size says. For
    the rest the sum of powers is never above the power of the sum.
    """
    total: Polynomial = {}
    for monomial, factor in term.items():
        powers = dict(monomial)
        power = powers.pop(name, 0)
        part: Polynomial = {tuple(sorted(powers.items())): factor}
        for _ in range(max(1, power)):
            part = multiply(part, size)
        total = add(total, part)
    return total


def without(one: Polynomial, name: str) -> Polynomial:
    """Return the terms that a variable has no part in."""
    return {monomial: factor for monomial, factor in one.items() if name not in dict(monomial)}


def value_at(one: Polynomial, size: int) -> int:
    """Return the value where every variable is ``size``."""
    return sum(factor * size ** sum(power for _, power in monomial) for monomial, factor in one.items())
