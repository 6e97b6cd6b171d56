"""Polynomials with coefficients from 0 on: upper bounds of what an expression does, by the size of its data."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypeAlias

Monomial: TypeAlias = tuple[tuple[str, int], ...]
Polynomial: TypeAlias = dict[Monomial, float]

MAX_DEGREE = 12


class TooSteepError(ValueError):
    """A bound would grow faster than any data could be small enough for."""


def constant(value: float) -> Polynomial:
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


def summed(term: Polynomial, totals: Mapping[str, Polynomial], count: Polynomial) -> Polynomial:
    """Return a bound of the sum over ``count`` elements, where ``totals`` says what their variables come to together.

    What does not depend on the element counts once for each. For the rest the sum of powers, and of products, is never
    above the power and the product of the sums.
    """
    whole: Polynomial = {}
    for monomial, factor in term.items():
        powers = dict(monomial)
        own = [(totals[name], powers.pop(name)) for name in totals if name in powers]
        part: Polynomial = {tuple(sorted(powers.items())): factor}
        for total, power in own or [(count, 1)]:
            for _ in range(power):
                part = multiply(part, total)
        whole = add(whole, part)
    return whole


def without(one: Polynomial, name: str) -> Polynomial:
    """Return the terms that a variable has no part in."""
    return {monomial: factor for monomial, factor in one.items() if name not in dict(monomial)}


def value_at(one: Polynomial, values: Mapping[str, int]) -> float:
    """Return the value where the variables have these values."""
    total = 0.0
    for monomial, factor in one.items():
        total += factor * prod(values[name] ** power for name, power in monomial)
    return total
