"""The two kinds of job, step by step: find the holes, bring the files, feed a child, store what it reports."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.cost import seconds
from analysis.errors import HubBusy, MasksMissing, NothingToCompare, WorkerDied
from analysis.measurements import Gap, MaskRule, Regions
from analysis.models import Pair, PinnedModel
from analysis.plan import Hole, Plan
from analysis.tensors import SIDES, Alignment, TensorPair
from cache.backends.ahead import MEASURE, Ahead
from cache.backends.child import Child
from cache.masks import MaskFile, enforce_quota
from cache.patience import PATIENT, Patience
from cache.progress import Meter
from cache.records import architecture_of
from cache.settings import Settings
from cache.store import Store
from cache.supply import NoRoom, bring_and_measure

_COST_OF_REGIONS = 0.01  # seconds, only the ratio to what is done matters
_CRASHES_ALLOWED = 2  # on one tensor, before it becomes a gap; of the child that brings weights, in a row
_LOSSES_ALLOWED = 2  # of one device in a job, before it is left out
_DAMAGES_ALLOWED = 2  # of one streamed file, before its tensors become gaps

File = tuple[str, str]  # side and name
ToCount = tuple[str, MaskRule, tuple[MaskFile, ...]]  # a tensor's name, a rule, one mask a model


class Cancelled(Exception):
    """Somebody cancelled the job; no failure."""


@dataclass
class Job:
    """A job at work: what it is, how far, and the children that work for it now."""

    id: str
    kind: str
    pairs: tuple[Pair, ...]
    plan: Plan
    meter: Meter
    any_folder: bool
    keys_in_use: Callable[[], set[str]]  # pairs that any job works for: their masks stay
    patience: Patience = PATIENT  # with the Hub
    ahead: Ahead = field(default_factory=Ahead)  # started while the models were looked up
    finished: threading.Event = field(default_factory=threading.Event)
    children: list[Child] = field(default_factory=list)
    _cancelled: bool = False
    _waited: int = 0  # times in a row that the job left its lane without having come further
    _reached: tuple[int, int] | None = None  # measurements and bytes at the last of them
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self,
        module: str,
        request: Mapping[str, Any],
        on_message: Callable[[dict[str, Any]], None],
        *,
        network: bool,
    ) -> None:
        """Feeds every message of a new child to `on_message`. Raises Cancelled, the child's error, or WorkerDied."""
        child = self.start(module, request, network=network)
        try:
            self.hear(child, on_message)
        finally:
            self.forget(child)

    def hear(self, child: Child, on_message: Callable[[dict[str, Any]], None]) -> None:
        """The same of a child that was started before."""
        try:
            with closing(child.messages()) as messages:  # ends the child also where `on_message` raises
                for message in messages:
                    on_message(message)
        except WorkerDied:
            self.raise_if_cancelled()
            raise

    def start(self, module: str, request: Mapping[str, Any], *, network: bool, pass_fds: Sequence[int] = ()) -> Child:
        """A child that `cancel` ends, until it is forgotten. Raises Cancelled."""
        return self._joined(lambda: Child(module, request, network=network, pass_fds=pass_fds))

    @contextmanager
    def worker(self, pass_fds: Sequence[int]) -> Iterator[Child]:
        """A measuring child that waits to be told its request; ended with the block."""
        ready = Ahead() if pass_fds else self.ahead
        child = self._joined(lambda: ready.take() or Child(MEASURE, None, network=False, pass_fds=pass_fds))
        try:
            yield child
        finally:
            child.kill()
            child.close()
            self.forget(child)

    def _joined(self, child_of: Callable[[], Child]) -> Child:
        with self._lock:
            self.raise_if_cancelled()
            child = child_of()
            self.children.append(child)
            return child

    def forget(self, child: Child) -> None:
        with self._lock:
            self.children.remove(child)

    def cancel(self) -> None:
        """Ends the children at once; what they had reported stays."""
        with self._lock:
            self._cancelled = True
            for child in self.children:
                child.kill()

    def seconds_to_wait(self, error: HubBusy) -> float | None:
        """Until the Hub is asked again: as it says, and longer each time in a row that nothing came of it; None when it
        has been often enough."""
        progress = self.meter.read()
        reached = progress.done, progress.bytes_done
        self._waited = self._waited + 1 if reached == self._reached else 0
        self._reached = reached
        if self._waited >= len(self.patience.later):
            return None
        return max(error.until - time.time(), self.patience.later[self._waited])

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
            put = store.overlaps.put_regions if isinstance(found, Regions) else store.overlaps.put_consensus
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
        return [entry for entry in wanted if store.overlaps.consensus(base, tuned, entry[0], entry[1]) is None]
    stored = {rule: store.overlaps.regions(base, tuned, rule) for rule in plan.mask_rules}
    return [entry for entry in wanted if entry[0] not in stored[entry[1]]]


def fill(job: Job, pair: Pair, plan: Plan, store: Store, settings: Settings, *, masks_too: bool = False) -> None:
    """Fetches and measures until no hole of `pair` is left. A tensor that keeps killing its worker becomes a gap, and
    so do those of a file that keeps arriving damaged."""
    with _alone(job, pair.key):
        _fill(job, pair, plan, store, settings, masks_too=masks_too)


def _described(pair: Pair, store: Store) -> str:
    """Both models with their architectures, as far as their configs tell: what they are compared by."""
    known = store.find_pair(pair.key)
    cards = {pair.tuned: known and known.tuned, pair.base: known and known.base}
    words = [(model.title, architecture_of(card.config) if card else "") for model, card in cards.items()]
    return " and ".join(f"'{title}'" + (f" ({what})" if what else "") for title, what in words)


def _fill(job: Job, pair: Pair, plan: Plan, store: Store, settings: Settings, *, masks_too: bool) -> None:
    alignment = store.alignment(pair.key)
    if not alignment.pairs:
        raise NothingToCompare(
            f"{_described(pair, store)} have no tensor in common",
            expected="Two models of one architecture, one tuned from the other",
            do="Check both ids; the model card of the tuned model names its base",
        )
    streamed = _sides_of_the_hub(pair) if settings.stream or not plan.keep_files else ()
    crashes: Counter[Hole | None] = Counter()
    losses = _Losses()
    unsound: Counter[File] = Counter()
    while holes := store.holes(pair.key, plan := _planned(plan, streamed), masks_too=masks_too):
        alone = tuple(hole for hole in holes if crashes[hole])
        feed = _Feed(job, pair, alignment, holes, store, settings, alone, losses)
        job.meter.plan(
            done=feed.n_planned(plan) - len(holes),
            planned=feed.n_planned(plan),
            cost_left=sum(feed.cost_of_hole.values()),
        )
        try:
            bring_and_measure(job, feed, streamed)
            if not feed.n_measured and not feed.damaged:
                return
        except NoRoom:
            streamed = _sides_of_the_hub(pair)
            job.meter.say("the disk does not hold the download, so the weights are streamed and not kept")
        except WorkerDied as death:
            suspects = [] if feed.device_failed else _suspects(feed)
            for hole in suspects:
                crashes[hole] = 1 + (0 if feed.supply_died and feed.n_measured else crashes[hole])
            if len(suspects) == 1 and crashes[suspects[0]] >= _CRASHES_ALLOWED:
                _give_up(suspects[0], pair, plan, store, death)
        finally:
            _wait_for(feed.written)
            feed.take_back()
            unsound.update(feed.unsound)
            gone = {*feed.damaged, *(file for file, times in unsound.items() if times >= _DAMAGES_ALLOWED)}
            _give_up_files(gone, feed, plan)


def _suspects(feed: _Feed) -> list[Hole | None]:
    """On which holes the measuring child may have died: all that it had begun and not reported; None: on no hole."""
    return [None] if feed.supply_died or not feed.begun else list(feed.begun)


def _sides_of_the_hub(pair: Pair) -> tuple[str, ...]:
    return tuple(side for side in ("base", "tuned") if getattr(pair, side).where == "hub")


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


def _give_up(hole: Hole | None, pair: Pair, plan: Plan, store: Store, death: WorkerDied) -> None:
    """A gap in the hole's place. Raises `death` where no hole is to blame."""
    if hole is None:
        raise death
    _put_gaps([hole], pair, plan, store, f"measuring it ended the worker process twice: {death.saw}")


def _give_up_files(files: Collection[File], feed: _Feed, plan: Plan) -> None:
    """Gaps in the place of all that the feed wanted of these files."""
    for side, file in files:
        title = getattr(feed.pair, side).title
        reason = f"'{file}' of '{title}' arrived damaged twice: its bytes are not those that the Hub lists"
        _put_gaps(feed.holes_of({(side, file)}), feed.pair, plan, feed.store, reason)


def _planned(plan: Plan, streamed: Collection[str]) -> Plan:
    """The plan itself; of weights that pass once, without previews: the spectra come at the same moment."""
    return replace(plan, previews=False) if streamed else plan


def _put_gaps(holes: Sequence[Hole], pair: Pair, plan: Plan, store: Store, reason: str) -> None:
    """Where only the masks are missed, the tally is there, and the overlap has the gap."""
    unmeasured = set(store.holes(pair.key, plan))
    gaps = {hole: Gap(hole.kind if hole in unmeasured else "overlap", reason) for hole in holes}
    _wait_for([store.put(pair.key, hole.name, gap, of=hole.of) for hole, gap in gaps.items()])


@dataclass
class _Losses:
    """The devices that failed, how often, and what they were measuring then, which is measured on the CPU."""

    times: Counter[str] = field(default_factory=Counter)
    on_cpu: set[Hole] = field(default_factory=set)

    def add(self, device: str, holes: Sequence[Hole]) -> None:
        self.times[device] += 1
        self.on_cpu |= set(holes)

    @property
    def left_out(self) -> tuple[str, ...]:
        """A matrix may have been to blame the first time."""
        return tuple(device for device, times in self.times.items() if times >= _LOSSES_ALLOWED)

    @property
    def in_words(self) -> str:
        if self.left_out:
            return f"{' and '.join(self.left_out)} failed twice and is left out"
        return f"{' and '.join(self.times)} failed; what it was measuring is measured on the CPU"


@dataclass
class _Feed:
    """One child's share of the work: its request, and what becomes of its messages."""

    job: Job
    pair: Pair
    alignment: Alignment
    holes: Sequence[Hole]
    store: Store
    settings: Settings
    alone: tuple[Hole, ...] = ()  # a worker died while it had begun them: nothing else is measured beside
    losses: _Losses = field(default_factory=_Losses)  # of this job; grows
    device_failed: bool = False
    begun: dict[Hole, None] = field(default_factory=dict)  # and not reported
    n_measured: int = 0
    starved: bool = False
    supply_died: bool = False
    unsound: list[File] = field(default_factory=list)  # streamed, and measured meanwhile
    damaged: list[File] = field(default_factory=list)  # twice, and so not there
    written: list[Future[Any]] = field(default_factory=list)
    cost_of_hole: dict[Hole, float] = field(default_factory=dict)
    needed: tuple[TensorPair, ...] = ()

    def __post_init__(self) -> None:
        names = {hole.name for hole in self.holes}
        self.needed = tuple(pair for pair in self.alignment.pairs if pair.name in names)
        pair_of_name = {pair.name: pair for pair in self.needed}
        threads = self.settings.threads
        self.cost_of_hole = {h: seconds(h, pair_of_name[h.name], threads=threads) for h in self.holes}

    def n_planned(self, plan: Plan) -> int:
        return sum(1 for _ in plan.wanted(self.alignment))

    def wanted(self) -> dict[str, Any]:
        """For the child that brings the weights."""
        return {
            "base": str(self.pair.base),
            "tuned": str(self.pair.tuned),
            "any_folder": self.job.any_folder,
            "patience": self.job.patience,
            "pairs": self.needed,
            "holes": self.holes,
            "memory_budget": self.settings.memory_budget,
        }

    def request(self) -> dict[str, Any]:
        """For the child that measures them."""
        return {
            "pairs": self.needed,
            "holes": self.holes,
            "alone": self.alone,
            "pair_key": self.pair.key,
            "masks": self.job.plan.mask_rules if self.job.plan.masks else (),
            "masks_dir": self.settings.masks_dir,
            "device": self.settings.device,
            "lost": self.losses.left_out,
            "on_cpu": tuple(hole for hole in self.holes if hole in self.losses.on_cpu),
            "threads": self.settings.threads,
            "memory_budget": self.settings.memory_budget,
        }

    def on_supplied(self, message: dict[str, Any]) -> None:
        if message["event"] == "planned" and message["fits"]:
            self.job.meter.fetching(message["bytes"])
        elif message["event"] == "bytes":
            self.job.meter.fetched(message["bytes"])
        elif message["event"] == "waiting":
            self.job.meter.waits(message["reason"], message["until"])
        elif message["event"] == "unsound":
            self.unsound.append((message["side"], message["file"]))
        elif message["event"] == "damaged":
            self.damaged.append((message["side"], message["file"]))

    def on_message(self, message: dict[str, Any]) -> None:
        if message["event"] == "device":
            self.job.meter.runs_on(message["device"])
        elif message["event"] == "idle":
            self.job.meter.enter("fetching")
        elif message["event"] == "starved":
            self.starved = True
        elif message["event"] == "lost":
            self.device_failed = True
            self.losses.add(message["device"], message["holes"])
            self.job.meter.say(self.losses.in_words)
        elif message["event"] == "begin":
            self.begun |= dict.fromkeys(message["holes"])
            first = message["holes"][0]
            self.job.meter.begin(first.name, "tallies" if first.kind == "tally" else "spectra")
        elif message["event"] == "measured":
            for result in message["results"]:
                self._store(result)
            self.written = _not_yet(self.written)

    def _store(self, result: dict[str, Any]) -> None:
        hole = result["hole"]
        cost = self.cost_of_hole[hole]
        written = self.store.put(self.pair.key, hole.name, result["measurement"], masks=result["masks"], of=hole.of)
        written.add_done_callback(lambda done: None if done.exception() else self.job.meter.measured(cost))
        self.written.append(written)
        self.begun.pop(hole, None)
        self.n_measured += 1

    def take_back(self) -> None:
        """What was measured from bytes that turned out not to be the file's is a hole again."""
        if holes := self.holes_of(set(self.unsound)):
            self.store.forget_measurements(self.pair.key, holes).result()

    def holes_of(self, files: Set[File]) -> list[Hole]:
        """Those whose tensors lie in one of these files, or partly."""
        names = {pair.name for pair in self.needed for s in SIDES if any((s, file) in files for file in pair.files(s))}
        return [hole for hole in self.holes if hole.name in names]


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
