"""The one store and the one queue of this process, made when first asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from cache.access import Access
from cache.jobs import Jobs
from cache.settings import Settings
from cache.store import Store


@dataclass(frozen=True)
class Instance:
    settings: Settings
    store: Store
    jobs: Jobs
    access: Access


_lock = threading.Lock()
_current: Instance | None = None


def current() -> Instance:
    """This process's instance. Raises StoreBusy where another process has the store open."""
    global _current
    with _lock:
        if _current is None:
            settings = Settings.from_environment()
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            store = Store.open(settings.store_path)
            jobs = Jobs(store, settings)
            jobs.start()
            _current = Instance(settings, store, jobs, Access(store, settings))
        return _current


def close() -> None:
    """Ends the children and lets go of the store; unfinished jobs go on at the next start."""
    global _current
    with _lock:
        if _current is not None:
            _current.access.stop()
            _current.jobs.stop()
            _current.store.close()
            _current = None
