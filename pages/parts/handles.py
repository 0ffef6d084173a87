"""The process-wide store and queue, for pages to ask."""

from __future__ import annotations

from cache import instance
from cache.access import Access
from cache.jobs import Jobs
from cache.settings import Settings
from cache.store import Store


def store() -> Store:
    """The one store. Raises StoreBusy where another process has it open."""
    return instance.current().store


def jobs() -> Jobs:
    return instance.current().jobs


def access() -> Access:
    return instance.current().access


def settings() -> Settings:
    return instance.current().settings
