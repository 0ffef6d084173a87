"""What is kept in memory is bounded by the tensors it is of, not by the number of results."""

from __future__ import annotations

from cache.remembered import remembered


def test_a_large_result_pushes_the_least_recently_used_out():
    computed = []

    @remembered(most=10)
    def names(n: int) -> list[int]:
        computed.append(n)
        return list(range(n))

    for n in (2, 3, 2, 5):  # 2 was used after 3, which has to go for 5
        names(n)
    assert names(2) == [0, 1]
    assert computed == [2, 3, 5]
    names(3)
    assert computed == [2, 3, 5, 3]


def test_empty_results_are_dropped_too():
    computed = []

    @remembered(most=10)
    def nothing(n: int) -> list[int]:
        computed.append(n)
        return []

    for n in (*range(11), 0):
        nothing(n)
    assert computed == [*range(11), 0]


def test_the_last_result_is_kept_however_large():
    computed = []

    @remembered(most=10)
    def names(n: int) -> list[int]:
        computed.append(n)
        return list(range(n))

    assert len(names(1000)) == len(names(1000)) == 1000
    assert computed == [1000]
    names.cache_clear()  # type: ignore[attr-defined]
    names(1000)
    assert computed == [1000, 1000]
