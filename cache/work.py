"""The two kinds of job, step by step: find the holes, bring the files, feed a child, store what it reports."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from analysis.cost import seconds
from analysis.errors import MasksMissing, NothingToCompare, WorkerDied
from analysis.measurements import Gap, MaskRule, Regions
from analysis.models import Pair, PinnedModel
from analysis.plan import Hole, Plan
from analysis.tensors import Alignment
from cache.backends.child import Child
from cache.masks import MaskFile, enforce_quota
from cache.progress import Meter
from cache.settings import Settings
from cache.store import Store

_COST_OF_REGIONS = 0.01  # seconds, only the ratio to what is done matters
_CRASHES_ALLOWED = 2  # on one tensor, before it becomes a gap

ToCount = tuple[str, MaskRule, tuple[MaskFile, ...]]  # a tensor's name, a rule, one mask a model


class Cancelled(Exception):
    """Somebody cancelled the job; no failure."""


@dataclass
class Job:
    """A job at work: what it is, how far, and the child that works for it now."""

    id: str
    kind: str
    pairs: tuple[Pair, ...]
    plan: Plan
    meter: Meter
    any_folder: bool
    keys_in_use: Callable[[], set[str]]  # pairs that any job works for: their masks stay
    finished: threading.Event = field(default_factory=threading.Event)
    _child: Child | None = None
    _cancelled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self, module: str, request: Mapping[str, Any], on_message: Callable[[dict[str, Any]], None], *, network: bool
    ) -> None:
        """Feeds every message of a new child to `on_message`. Raises Cancelled, the child's error, or WorkerDied."""
        with self._lock:
            self.raise_if_cancelled()
            self._child = Child(module, request, network=network)
        try:
            with closing(self._child.messages()) as messages:  # ends the child also where `on_message` raises
                for message in messages:
                    on_message(message)
        except WorkerDied:
            self.raise_if_cancelled()
            raise
        finally:
            with self._lock:
                self._child = None

    def cancel(self) -> None:
        """Ends the child at once; what it had reported stays."""
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                self._child.kill()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled


def compare(job: Job, store: Store, settings: Settings) -> None:
    """Measures what is asked of the job's pair and not stored yet. Raises the errors of its children."""
    fill(job, job.pairs[0], job.plan, store, settings)
    _keep_quota(job, store, settings)


def overlap(job: Job, store: Store, settings: Settings) -> None:
    """Counts the regions of the job's models, or draws the maps that its plan names, after measuring again what has no
    masks of the plan's rules."""
    for pair in job.pairs:
        fill(job, pair, job.plan, store, settings, masks_too=True)
    base, tuned = job.pairs[0].base.key, tuple(pair.tuned.key for pair in job.pairs)
    wanted = _masks_to_count(job.pairs, job.plan, store)
    missing = _not_counted(wanted, base, tuned, job.plan, store)
    job.meter.plan(done=len(wanted) - len(missing), planned=len(wanted), cost_left=len(missing) * _COST_OF_REGIONS)
    job.meter.enter("overlap")
    written: list[Future[Any]] = []
    lost: list[str] = []

    def on_message(message: dict[str, Any]) -> None:
        job.meter.measured(_COST_OF_REGIONS)
        name, found = message["name"], message["measurement"]
        if isinstance(found, Gap):
            lost.append(name)
        else:
            put = store.put_regions if isinstance(found, Regions) else store.put_consensus
            written.append(put(base, tuned, name, found))

    if missing:
        job.run("cache.backends.overlap", _counting(job, missing, store, settings), on_message, network=False)
    _wait_for(written)
    if lost:
        store.forget_masks([pair.key for pair in job.pairs]).result()
        raise MasksMissing(
            f"The stored update masks of {len(lost)} tensors, '{lost[0]}' among them, cannot be read any more",
            do="Start the overlap again: the masks are then taken anew from the weights",
        )
    _keep_quota(job, store, settings)


def _counting(job: Job, missing: Sequence[ToCount], store: Store, settings: Settings) -> dict[str, Any]:
    """The request to the child that counts; with the matrices' shapes where maps are wanted."""
    alignment = store.alignment(job.pairs[0].key)
    return {
        "masks": missing,
        "shapes": {pair.name: pair.shape for pair in alignment.pairs if pair.name in job.plan.maps},
        "masks_dir": settings.masks_dir,
        "threads": settings.threads,
        "memory_budget": settings.memory_budget,
    }


def _masks_to_count(pairs: Sequence[Pair], plan: Plan, store: Store) -> list[ToCount]:
    """Every tensor of the plan that all models have a mask of, in one size, by each of its rules."""
    wanted: list[ToCount] = []
    for rule in plan.mask_rules:
        masks = [store.masks_for(pair.key, rule) for pair in pairs]
        for name in masks[0]:
            files = tuple(of_model[name] for of_model in masks if name in of_model)
            is_whole = len(files) == len(pairs) and len({file.entries for file in files}) == 1
            if is_whole and (not plan.maps or name in plan.maps):
                wanted.append((name, rule, files))
    return wanted


def _not_counted(wanted: list[ToCount], base: str, tuned: tuple[str, ...], plan: Plan, store: Store) -> list[ToCount]:
    if plan.maps:
        return [entry for entry in wanted if store.consensus(base, tuned, entry[0], entry[1]) is None]
    stored = {rule: store.regions(base, tuned, rule) for rule in plan.mask_rules}
    return [entry for entry in wanted if entry[0] not in stored[entry[1]]]


def fill(job: Job, pair: Pair, plan: Plan, store: Store, settings: Settings, *, masks_too: bool = False) -> None:
    """Fetches and measures until no hole of `pair` is left; a tensor that keeps killing its worker becomes a gap."""
    with _alone(job, pair.key):
        _fill(job, pair, plan, store, settings, masks_too=masks_too)


def _fill(job: Job, pair: Pair, plan: Plan, store: Store, settings: Settings, *, masks_too: bool) -> None:
    alignment = store.alignment(pair.key)
    if not alignment.pairs:
        raise NothingToCompare(
            f"'{pair.tuned.title}' and '{pair.base.title}' have no tensor in common",
            expected="Two models of one architecture, one tuned from the other",
            do="Check both ids; the model card of the tuned model names its base",
        )
    folders: Mapping[str, str] | None = None
    crashes: Counter[Hole | None] = Counter()
    while holes := store.holes(pair.key, plan, masks_too=masks_too):
        folders = folders or _folders(job, pair, alignment, holes)
        feed = _Feed(job, pair, alignment, holes, store, settings)
        job.meter.plan(
            done=feed.n_planned(plan) - len(holes),
            planned=feed.n_planned(plan),
            cost_left=sum(feed.cost_of_hole.values()),
        )
        try:
            job.run("cache.backends.measure", feed.request(folders), feed.on_message, network=False)
            return
        except WorkerDied as death:
            crashes[feed.current] += 1
            if crashes[feed.current] >= _CRASHES_ALLOWED:
                _give_up(feed.current, pair, store, death, masks_too=masks_too)
        finally:
            _wait_for(feed.written)


_lock_of_key: dict[str, threading.Lock] = {}


@contextmanager
def _alone(job: Job, key: str) -> Iterator[None]:
    """No other job measures this pair meanwhile; the second one then finds what the first has left."""
    lock = _lock_of_key.setdefault(key, threading.Lock())
    while not lock.acquire(timeout=0.2):
        job.raise_if_cancelled()
    try:
        yield
    finally:
        lock.release()


def _give_up(hole: Hole | None, pair: Pair, store: Store, death: WorkerDied, *, masks_too: bool) -> None:
    """A gap in the hole's place. Where only the masks are missed, the tally is there, and the overlap has the gap."""
    if hole is None:
        raise death
    kind = "overlap" if masks_too and hole.kind == "tally" else hole.kind
    store.put(pair.key, hole.name, Gap(kind, f"measuring it ended the worker process twice: {death.saw}")).result()


@dataclass
class _Feed:
    """One child's share of the work: its request, and what becomes of its messages."""

    job: Job
    pair: Pair
    alignment: Alignment
    holes: Sequence[Hole]
    store: Store
    settings: Settings
    current: Hole | None = None
    written: list[Future[Any]] = field(default_factory=list)
    cost_of_hole: dict[Hole, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pair_of_name = {pair.name: pair for pair in self.alignment.pairs}
        threads = self.settings.threads
        self.cost_of_hole = {h: seconds(h, pair_of_name[h.name], threads=threads) for h in self.holes}

    def n_planned(self, plan: Plan) -> int:
        return sum(1 for _ in plan.wanted(self.alignment))

    def request(self, folders: Mapping[str, str]) -> dict[str, Any]:
        names = {hole.name for hole in self.holes}
        return {
            "base_folder": folders["base"],
            "tuned_folder": folders["tuned"],
            "pairs": [pair for pair in self.alignment.pairs if pair.name in names],
            "holes": self.holes,
            "pair_key": self.pair.key,
            "masks": self.job.plan.mask_rules if self.job.plan.masks else (),
            "masks_dir": self.settings.masks_dir,
            "device": self.settings.device,
            "threads": self.settings.threads,
            "memory_budget": self.settings.memory_budget,
        }

    def on_message(self, message: dict[str, Any]) -> None:
        if message["event"] == "device":
            self.job.meter.runs_on(message["device"])
        elif message["event"] == "begin":
            self.current = message["hole"]
            self.job.meter.begin(message["hole"].name, "tallies" if message["hole"].kind == "tally" else "spectra")
        elif message["event"] == "measured":
            hole, cost = message["hole"], self.cost_of_hole[message["hole"]]
            written = self.store.put(self.pair.key, hole.name, message["measurement"], masks=message["masks"])
            written.add_done_callback(lambda done: None if done.exception() else self.job.meter.measured(cost))
            self.written = [*_not_yet(self.written), written]
            self.current = None


def _folders(job: Job, pair: Pair, alignment: Alignment, holes: Sequence[Hole]) -> Mapping[str, str]:
    """Where both models' files lie, after fetching those that the holes need and that are not here yet."""
    names = {hole.name for hole in holes}
    needed = [entry for entry in alignment.pairs if entry.name in names]
    request = {
        "base": str(pair.base),
        "tuned": str(pair.tuned),
        "any_folder": job.any_folder,
        "files": {
            "base": tuple(dict.fromkeys(entry.base.file for entry in needed)),
            "tuned": tuple(dict.fromkeys(entry.tuned.file for entry in needed)),
        },
    }
    found: dict[str, str] = {}

    def on_message(message: dict[str, Any]) -> None:
        if message["event"] == "planned":
            job.meter.enter("fetching", bytes_planned=message["bytes"])
        elif message["event"] == "bytes":
            job.meter.fetched(message["bytes"])
        elif message["event"] == "fetched":
            found.update(base=message["base"], tuned=message["tuned"])

    job.run("cache.backends.fetch", request, on_message, network=True)
    return found


def _keep_quota(job: Job, store: Store, settings: Settings) -> None:
    gone = enforce_quota(settings.masks_dir, settings.mask_quota, job.keys_in_use())
    if gone:
        store.forget_masks(gone).result()


def _not_yet(written: list[Future[Any]]) -> list[Future[Any]]:
    """Those still on their way to the disk. Raises what one of the others met, so that no work goes on in vain."""
    _wait_for([future for future in written if future.done()])
    return [future for future in written if not future.done()]


def _wait_for(written: list[Future[Any]]) -> None:
    for future in written:
        future.result()


def titled(base: PinnedModel, tuned: Sequence[PinnedModel]) -> str:
    """A job's name for people."""
    return f"{base.title} → {', '.join(model.title for model in tuned)}"
