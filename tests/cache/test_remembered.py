"""What is kept in memory is bounded by the tensors it is of, not by the number of results."""

from __future__ import annotations

from cache.remembered import remembered


def test_a_large_result_pushes_the_least_recently_used_out():
    computed = []

    @remembered(most=10)
    def names(n: int) -> list[int]:
        computed.append(n)
        return list(range(n))

    for n in (3, 4, 3, 5):  # 3 was used after 4, which has to go for 5
        names(n)
    assert names(3) == [0, 1, 2]
    assert computed == [3, 4, 5]
    names(4)
    assert computed == [3, 4, 5, 4]


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
