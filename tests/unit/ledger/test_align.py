from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from meshflow.ledger.align import common_order, pair_up

NODES = st.lists(st.sampled_from("abc"), max_size=12)


def test_a_node_that_ran_as_often_is_paired_time_for_time() -> None:
    assert pair_up("nnn", [1, 2, 3], "nnn", [2, 3, 4]) == [(0, 0), (1, 1), (2, 2)]


def test_a_step_more_is_found_by_what_the_others_did() -> None:
    assert pair_up("fffw", [0, 0, 1, 5], "ffw", [0, 1, 5]) == [(0, 0), (2, 1), (3, 2)]


def test_a_step_more_is_found_by_its_neighbours_where_all_did_something_else() -> None:
    assert pair_up("nxn", [1, 2, 3], "xn", [2, 4]) == [(1, 0), (2, 1)]


def test_parallel_nodes_in_another_order_are_paired_all_the_same() -> None:
    assert pair_up("xy", [1, 2], "yx", [2, 1]) == [(0, 1), (1, 0)]


@given(a=NODES, b=NODES, data=st.data())
def test_pairs_join_one_node_each_use_no_step_twice_and_of_one_node_never_cross(
    a: list[str], b: list[str], data: st.DataObject
) -> None:
    deeds_a = [data.draw(st.integers(0, 2)) for _ in a]
    deeds_b = [data.draw(st.integers(0, 2)) for _ in b]
    pairs = pair_up(a, deeds_a, b, deeds_b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    for node in "abc":
        mine = [(i, j) for i, j in pairs if a[i] == node]
        fewer = min(a.count(node), b.count(node))
        assert min(fewer, 1) <= len(mine) <= fewer
        assert len(mine) == fewer or a.count(node) != b.count(node)
        assert mine == sorted(mine)
        assert [j for _, j in mine] == sorted(j for _, j in mine)


def longest(a: str, b: str) -> int:
    row = [0] * (len(b) + 1)
    for one in a:
        above = row
        row = [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if one == other else max(above[j + 1], row[j]))
    return row[-1]


@given(a=st.text("abcdefgh", max_size=14), b=st.text("abcdefgh", max_size=8))
def test_the_common_order_is_as_long_as_can_be(a: str, b: str) -> None:
    pairs = common_order(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert pairs == sorted(set(pairs))
    assert len({j for _, j in pairs}) == len(pairs)
    assert len(pairs) == longest(a, b)


def test_a_hundred_thousand_repetitions_are_paired_in_linear_time() -> None:
    count = 100_000
    began = time.process_time()
    pairs = pair_up(
        ["n"] * count, [i % 7 for i in range(count)], ["n"] * (count - 1), [i * 3 % 7 for i in range(count - 1)]
    )
    assert len(pairs) > count * 0.4
    assert time.process_time() - began < 5
