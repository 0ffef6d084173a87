"""Results kept in memory by their arguments, the least recently used dropped first, up to a number of tensors.

`functools.lru_cache` counts results; one of a mixture with 50,000 tensors weighs as much as 200 of a small model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sized
from threading import Lock
from typing import Any, TypeVar

Result = TypeVar("Result", bound=Sized)


def remembered(*, most: int) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """A decorator: results are kept while their lengths, and one for each, sum to `most`; the last one always is.
    `cache_clear` forgets them all, as that of `lru_cache` does."""

    def decorate(compute: Callable[..., Result]) -> Callable[..., Result]:
        kept: OrderedDict[Hashable, Result] = OrderedDict()
        lock = Lock()

        def recall(*arguments: Any) -> Result:
            with lock:
                if arguments in kept:
                    kept.move_to_end(arguments)
                    return kept[arguments]
            found = compute(*arguments)
            with lock:
                kept[arguments] = found
                kept.move_to_end(arguments)
                while len(kept) > 1 and sum(len(one) + 1 for one in kept.values()) > most:
                    kept.popitem(last=False)
            return found

        recall.cache_clear = kept.clear  # type: ignore[attr-defined]
        return recall

    return decorate
