"""What a refusal must be: ours, within seconds, naming the file and the reason, in words that are safe to show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analysis.errors import SubnetscopeError, error_from_dict
from analysis.models import parse_model
from analysis.tensors import TensorInfo
from cache import catalog
from cache.backends.wire import from_line, to_line
from cache.settings import Settings

SECONDS = 5.0
LONGEST_TEXT = 2_000
_MARKS_OF_FOREIGN_TEXT = ("Traceback", 'File "', "onerror", "X-Amz-Signature", "Errno")


@contextmanager
def soon() -> Iterator[None]:
    """Fails a block that takes longer than a visitor may be kept waiting by a malformed file."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < SECONDS


def open_model(text: str | Path, settings: Settings) -> list[TensorInfo]:
    """The model's tensors through the doors that the prepare child goes through."""
    found = catalog.find(parse_model(str(text)), settings)
    return catalog.list_tensors(found, settings)


def assert_refused(door: Callable[[], object], kind: type[SubnetscopeError], *words: str) -> None:
    """`door` raises exactly `kind`, soon, and its text holds all `words`."""
    with soon(), pytest.raises(SubnetscopeError) as caught:
        door()
    assert type(caught.value) is kind, caught.value
    assert_words(caught.value, *words)


def assert_words(error: SubnetscopeError, *words: str) -> None:
    """The text holds all `words`, nothing of anybody else's, and crosses a pipe and a page unharmed."""
    text = str(error)
    assert all(word in text for word in words), text
    assert text.isprintable()
    assert len(text) < LONGEST_TEXT
    assert not any(mark in text for mark in _MARKS_OF_FOREIGN_TEXT), text
    assert str(error_from_dict(from_line(to_line(error.as_dict())))) == text
