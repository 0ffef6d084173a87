"""The queue of jobs. It lives in the process that owns the store, survives it in the ledger, and never computes.

Three lanes, each one job at a time: comparisons, which keep the device busy; overlaps, which are short and need not
wait for them; and runs of checkpoints, which are long and must not hold up either. Two people who ask for the same
share one job.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from analysis.bases import another_declared
from analysis.errors import BadReference, DiskFull, HubBusy, HubUnreachable, SubnetscopeError, WorkerDied
from analysis.forecast import Files, Forecast, forecast
from analysis.links import pinned
from analysis.measurements import MASK_RULES, MOST_MODELS, MaskRule
from analysis.models import Pair, PinnedModel, parse_model
from analysis.plan import Plan
from analysis.series import Series, read_lines
from analysis.tensors import Alignment
from cache import machine
from cache.backends.ahead import Ahead
from cache.backends.child import Child
from cache.following import PLAN as FOLLOWING
from cache.following import follow
from cache.patience import PATIENT, Patience
from cache.progress import ENDED, Meter, Progress, State
from cache.records import JobKind, JobRecord, ModelCard, now
from cache.settings import Settings
from cache.store import KINDS_OF, Store
from cache.work import Cancelled, Job, compare, overlap, titled

log = logging.getLogger(__name__)

_WORK_OF_KIND = {"compare": compare, "overlap": overlap, "dynamics": follow}
_PREPARED_AT_ONCE = 4
_PREPARE_SECONDS = 180
_KEPT_ENDED = 200  # jobs whose last progress is still answered from memory


@dataclass(frozen=True)
class Preparation:
    """What is known before a comparison starts, from headers alone. Without a base only `suggested_base` is set."""

    pair: Pair | None
    base: ModelCard | None
    tuned: ModelCard | None
    alignment: Alignment | None
    suggested_base: str | None
    to_fetch: Files = field(default_factory=dict)
    downloads_dir: str = "/"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeriesPreparation:
    """What is known of a run of checkpoints before it is followed, from headers alone."""

    series: Series
    labels: tuple[str, ...]
    compared: tuple[int, ...]  # parameters of each checkpoint that are compared with the base
    parameters: tuple[int, ...]  # of each checkpoint
    bytes_to_fetch: int
    disk_free: int
    seconds_estimated: float
    notes: tuple[str, ...] = ()


class Jobs:
    """The process-wide queue over one store. Safe to call from any thread. `any_folder` is for the terminal."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        any_folder: bool = False,
        patience: Patience = PATIENT,
    ) -> None:
        self._store, self._settings, self._any_folder, self._patience = store, settings, any_folder, patience
        self._lock = threading.Lock()
        self._job_of_id: dict[str, Job] = {}
        self._record_of_id: dict[str, JobRecord] = {}
        self._queue_of_kind: dict[str, queue.SimpleQueue[Job | None]] = {k: queue.SimpleQueue() for k in _WORK_OF_KIND}
        self._lanes: list[threading.Thread] = []
        self._preparing = threading.BoundedSemaphore(_PREPARED_AT_ONCE)
        self._alarm_of_id: dict[str, threading.Timer] = {}  # of jobs that wait for the Hub
        self._ahead = Ahead()
        self._stopping = False

    def start(self, *, resume: bool = True) -> None:
        """Opens the lanes; with `resume`, takes up what an earlier process left unfinished."""
        for kind in _WORK_OF_KIND:
            lane = threading.Thread(target=self._run_lane, args=(kind,), name=f"jobs-{kind}", daemon=True)
            lane.start()
            self._lanes.append(lane)
        for record in self._store.ledger.unfinished() if resume else ():
            self._resume(record)

    def stop(self) -> None:
        """Ends the children and closes the lanes. What was at work stays unfinished in the ledger."""
        self._stopping = True
        for kind_queue in self._queue_of_kind.values():
            kind_queue.put(None)
        for alarm in list(self._alarm_of_id.values()):
            alarm.cancel()
        for job in list(self._job_of_id.values()):
            job.cancel()
        self._ahead.end()
        for lane in self._lanes:
            lane.join(timeout=10)

    def prepare(self, base: str, tuned: str, *, then: Plan | None = None) -> Preparation:
        """Pins both models, reads their headers and aligns them, in a child; registers the pair. Takes about a second.
        With an empty `base`, looks up what the tuned model says of its base. `then` is what will be asked of the pair
        at once: the child that measures is started meanwhile.

        Raises the model and weights errors."""
        if not tuned.strip():
            raise BadReference("No fine-tuned model was named", do="Paste its id, and that of its base")
        for text in (base, tuned):
            if text.strip() and not self._any_folder:
                parse_model(text)  # a slip of the pen is answered without a child
        request = {"base": base, "tuned": tuned, "any_folder": self._any_folder}
        if then is not None and base.strip() and self._is_to_measure(base, tuned, then):
            self._ahead.begin()
        message = self._looked_up(request)
        if "alignment" not in message:
            return Preparation(None, None, None, None, message["suggested_base"])
        pair = Pair(message["base"], message["tuned"])
        base_card, tuned_card = (_as_stored(message[f"{side}_card"]) for side in ("base", "tuned"))
        alignment = message["alignment"]
        self._store.register(pair, base_card, tuned_card, alignment).result()
        return Preparation(
            pair=pair,
            base=base_card,
            tuned=tuned_card,
            alignment=alignment,
            suggested_base=None,
            to_fetch=message["to_fetch"],
            downloads_dir=message["downloads_dir"],
            notes=(*_notes(pair, tuned_card), *message["notes"]),
        )

    def _is_to_measure(self, base: str, tuned: str, plan: Plan) -> bool:
        """Whether a child that is started now will have work, as far as names tell. It has no pipes for weights that
        stream, and where a pair of these names is stored whole, at whatever commits, most likely nothing is left to do:
        if there is, the child is started later."""
        if self._settings.stream or not plan.keep_files:
            return False
        return all(self._store.holes(key, plan) for key in self._store.pairs_called(base, tuned))

    def forecast(self, wanted: Preparation | Pair, plan: Plan) -> Forecast:
        """What is still to be done of this plan, what it takes, and whether this machine has it. Of a pair alone, what
        is to be downloaded isn't known, and not counted. Raises BadSelection for a plan that names no tensor."""
        known = wanted if isinstance(wanted, Preparation) else Preparation(wanted, None, None, None, None)
        if known.pair is None:
            raise BadReference("No base was named", do="Name the model that the tuned one was trained from")
        key = known.pair.key
        alignment, holes = self._store.alignment(key), self._store.holes(key, plan)
        if alignment.pairs and not any(map(plan.chooses, alignment.pairs)):
            raise plan.selection.names_nothing(alignment.pairs)
        kept = machine.seen(self._settings, known.downloads_dir)
        streamed = replace(kept, keeps_files=False)
        exact = [hole for hole in holes if hole.kind != "preview"]  # no preview of what streams
        if self._settings.stream or not plan.keep_files:
            return forecast(alignment, plan, exact, known.to_fetch, streamed)
        found = forecast(alignment, plan, holes, known.to_fetch, kept)
        is_full = any(isinstance(refusal, DiskFull) for refusal in found.refusals())
        return forecast(alignment, plan, exact, known.to_fetch, streamed) if is_full else found

    def prepare_series(self, base: str, checkpoints: str) -> SeriesPreparation:
        """Finds the checkpoints that the lines of `checkpoints` name (see `analysis.series`), pins and aligns them;
        registers every pair, and the series. Raises the model and weights errors."""
        if not base.strip():
            raise BadReference("No base was named", do="Name the model that the run started from")
        lines = [line.strip() for line in checkpoints.splitlines() if line.strip()]
        for text in (base, *(asked.text for asked in read_lines(checkpoints))):
            if not self._any_folder:
                parse_model(text)  # a slip of the pen is answered without a child
        request = {"base": base, "lines": lines, "any_folder": self._any_folder}
        found, *aligned, sized = self._all_looked_up("cache.backends.checkpoints", request)
        series = Series(found["base"], found["models"])
        for message in aligned:
            pair = Pair(message["base"], message["tuned"])
            base_card, tuned_card = (_as_stored(message[f"{side}_card"]) for side in ("base", "tuned"))
            self._store.register(pair, base_card, tuned_card, message["alignment"]).result()
        self._store.series.register(series, found["labels"]).result()
        left = sum(self.forecast(pair, FOLLOWING).seconds for pair in series.pairs)
        against_base = [message["alignment"] for message in aligned][: len(series.checkpoints)]
        return SeriesPreparation(
            series=series,
            labels=found["labels"],
            compared=tuple(one.compared_of("tuned") for one in against_base),
            parameters=tuple(one.tuned_parameters for one in against_base),
            bytes_to_fetch=sized["bytes_to_fetch"],
            disk_free=sized["disk_free"],
            seconds_estimated=left,
            notes=found["notes"],
        )

    def _looked_up(self, request: dict[str, Any]) -> dict[str, Any]:
        [message] = self._all_looked_up("cache.backends.prepare", request)
        return message

    def _all_looked_up(self, module: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        """What a preparing child answers. A few run at a time, and none for ever: anybody may ask."""
        with self._preparing:
            child = Child(module, request, network=True)
            deadline = threading.Timer(_PREPARE_SECONDS, child.kill)
            deadline.start()
            try:
                return list(child.messages())
            except WorkerDied as death:
                if deadline.is_alive():
                    raise
                saw = f"Looking up the models took longer than {_PREPARE_SECONDS} seconds"
                raise HubUnreachable(saw, do="Try again; if it stays so, the Hub or a disk is slow") from death
            finally:
                deadline.cancel()

    def submit(self, wanted: Preparation | Pair, plan: Plan | None = None) -> str:
        """The id of the job that measures this pair: a new one, or the one that is at it already. Raises ResourceError
        where this machine cannot do it, BadSelection where the plan names no tensor."""
        plan = plan or Plan()
        for refusal in self.forecast(wanted, plan).refusals():
            raise refusal
        pair = wanted.pair if isinstance(wanted, Preparation) else wanted
        assert pair is not None, "the forecast was of one"
        self._forget_gaps(pair.key)
        return self._submit("compare", (pair,), plan)

    def submit_overlap(
        self,
        base: PinnedModel,
        tuned: Sequence[PinnedModel],
        rules: Sequence[MaskRule] = MASK_RULES,
        *,
        maps: Sequence[str] = (),
    ) -> str:
        """The id of the job that counts how the updates of `tuned` overlap under `rules`; with `maps`, of the job that
        draws these matrices' consensus maps. Each pair must be registered."""
        pairs = tuple(Pair(base, model) for model in tuned)
        n_models = len({pair.key for pair in pairs})
        if n_models < 2 or n_models < len(pairs):
            raise BadReference("An overlap needs at least two different tuned models of one base, each named once")
        if n_models > MOST_MODELS:
            expected = f"At most {MOST_MODELS}: the regions double with each"
            raise BadReference(f"{n_models} tuned models were named", expected=expected)
        return self._submit("overlap", pairs, Plan(spectra=False, mask_rules=tuple(rules), maps=tuple(maps)))

    def submit_series(self, series: Series) -> str:
        """The id of the job that follows this run of checkpoints. Each of its pairs must be registered."""
        for pair in series.pairs:
            self._forget_gaps(pair.key)
        return self._submit("dynamics", series.pairs, FOLLOWING)

    def progress(self, job_id: str) -> Progress | None:
        """How far the job is; None for one that this process has not seen."""
        job = self._job_of_id.get(job_id)
        return job.meter.read() if job else None

    def active(self) -> list[Progress]:
        """Jobs that are queued or at work, the oldest first."""
        return [progress for job in self._known() if not (progress := job.meter.read()).ended]

    def of_pair(self, pair_key: str) -> Progress | None:
        """The job that works for this pair now, or else the last that did; None if there was none."""
        jobs = [job.meter.read() for job in self._known() if any(pair.key == pair_key for pair in job.pairs)]
        return next((p for p in jobs if not p.ended), jobs[-1] if jobs else None)

    def cancel(self, job_id: str) -> None:
        """Ends the job at once; what it measured stays. No effect on one that has ended."""
        job = self._job_of_id.get(job_id)
        if job is None or job.meter.state in ENDED:
            return
        job.cancel()
        if job.meter.drop():
            self._ended(job, "cancelled")

    def wait(self, job_id: str, timeout: float | None = None) -> Progress:
        """Blocks until the job has ended, or `timeout` seconds are over; for the terminal and tests."""
        job = self._job_of_id[job_id]
        job.finished.wait(timeout)
        return job.meter.read()

    def _known(self) -> list[Job]:
        with self._lock:
            return list(self._job_of_id.values())

    def _forget_gaps(self, pair_key: str) -> None:
        """Asked for anew: what failed is tried again, whatever it was of."""
        if not self._is_working(pair_key) and any(self._store.gaps(pair_key, of) for of in KINDS_OF):
            self._store.forget_gaps(pair_key).result()

    def _is_working(self, pair_key: str) -> bool:
        return pair_key in self._keys_in_use()

    def _keys_in_use(self) -> set[str]:
        return {key for progress in self.active() for key in progress.pair_keys}

    def _submit(self, kind: JobKind, pairs: tuple[Pair, ...], plan: Plan) -> str:
        with self._lock:
            for job in self._job_of_id.values():
                if (job.kind, job.pairs, job.plan) == (kind, pairs, plan) and job.meter.state not in ENDED:
                    return job.id
            job_id = secrets.token_hex(8)
            request = json.dumps({"pairs": [_pair_text(pair) for pair in pairs], "plan": asdict(plan)})
            record = JobRecord(job_id, kind, request, "queued", now())
            job = self._remember(record, pairs, plan)
        try:
            for pair in pairs:
                self._store.ask(pair.key, plan).result()
            self._store.ledger.put(record).result()  # before the lane sees it, whose own entries must come later
        except SubnetscopeError:
            with self._lock:
                del self._job_of_id[job_id], self._record_of_id[job_id]
            raise
        self._queue_of_kind[kind].put(job)
        return job_id

    def _remember(self, record: JobRecord, pairs: tuple[Pair, ...], plan: Plan) -> Job:
        title = titled(pairs[0].base, [pair.tuned for pair in pairs])
        if record.kind == "dynamics":
            run = Series.of_pairs(pairs).checkpoints
            title = f"{len(run)} checkpoints from {pairs[0].base.title} to {run[-1].title}"
        meter = Meter(record.id, record.kind, title, tuple(pair.key for pair in pairs))
        job = Job(
            *(record.id, record.kind, pairs, plan, meter),
            any_folder=self._any_folder,
            keys_in_use=self._keys_in_use,
            patience=self._patience,
            ahead=self._ahead,
        )
        self._job_of_id[record.id], self._record_of_id[record.id] = job, record
        for old in [i for i, j in self._job_of_id.items() if j.meter.state in ENDED][:-_KEPT_ENDED]:
            self._job_of_id.pop(old)
            self._record_of_id.pop(old)
        return job

    def _resume(self, record: JobRecord) -> None:
        try:
            request = json.loads(record.request)
            pairs, plan = tuple(_pair_of_text(texts) for texts in request["pairs"]), Plan.from_dict(request["plan"])
        except (ValueError, TypeError, KeyError, SubnetscopeError):
            log.warning("job %s was written by another version and is given up", record.id)
            self._store.ledger.put(replace(record, state="failed", ended_at=now())).result()
            return
        with self._lock:
            job = self._remember(replace(record, state="queued"), pairs, plan)
        self._queue_of_kind[record.kind].put(job)

    def _run_lane(self, kind: str) -> None:
        while (job := self._queue_of_kind[kind].get()) is not None and not self._stopping:
            if job.meter.start():
                self._run(job)

    def _run(self, job: Job) -> None:
        self._record(job, state="running", started_at=now())
        try:
            _WORK_OF_KIND[job.kind](job, self._store, self._settings)
        except Cancelled:
            if not self._stopping:
                self._ended(job, "cancelled")
        except HubBusy as error:
            self._postpone(job, error)
        except SubnetscopeError as error:
            self._ended(job, "failed", error)
        except Exception:
            # The lane must outlive a fault of ours: it is logged whole, and the reader gets a number to quote.
            log.exception("job %s failed", job.id)
            fault = SubnetscopeError(
                f"Something unforeseen went wrong (job {job.id})", do="The server's log has the details"
            )
            self._ended(job, "failed", fault)
        else:
            self._ended(job, "done")

    def _postpone(self, job: Job, error: HubBusy) -> None:
        """The job leaves its lane to others and comes back when the Hub may answer again; it fails when it has come
        back in vain too often."""
        seconds_to_wait = job.seconds_to_wait(error)
        if seconds_to_wait is None:
            self._ended(job, "failed", error)
            return
        self._record(job, state="waiting", message=json.dumps(error.as_dict()))
        job.meter.leave_lane(error.saw, time.time() + seconds_to_wait)
        alarm = threading.Timer(seconds_to_wait, self._queue_of_kind[job.kind].put, args=(job,))
        alarm.daemon = True
        self._alarm_of_id[job.id] = alarm
        alarm.start()
        if job.cancelled and not self._stopping:  # meanwhile
            self.cancel(job.id)

    def _ended(self, job: Job, state: State, error: SubnetscopeError | None = None) -> None:
        job.meter.end(state, error)
        if alarm := self._alarm_of_id.pop(job.id, None):
            alarm.cancel()
        progress = job.meter.read()
        message = json.dumps(error.as_dict()) if error else ""
        self._record(
            job, state=state, message=message, ended_at=now(), measured=progress.done, planned=progress.planned
        )
        job.finished.set()

    def _record(self, job: Job, **changes: object) -> None:
        record = replace(self._record_of_id[job.id], **changes)  # type: ignore[arg-type]
        self._record_of_id[job.id] = record
        try:
            self._store.ledger.put(record).result()
        except SubnetscopeError:
            log.exception("the ledger could not take job %s", job.id)


def _notes(pair: Pair, tuned: ModelCard) -> tuple[str, ...]:
    notes = []
    if pair.is_one_model:
        notes.append("Base and tuned are the same model, with the same files: nothing can have changed.")
    for alert in another_declared(pair.base, tuned.declared):
        named = ", ".join(f"'{name}'" for name in alert.models)
        notes.append(f"The tuned model says that it was made from {named}, not from '{pair.base.title}'.")
    return tuple(notes)


def _as_stored(card: ModelCard) -> ModelCard:
    """The card as it comes back from the store, so that the same again is recognised."""
    return replace(card, config=json.loads(json.dumps(card.config)))


def _pair_text(pair: Pair) -> list[str]:
    return [str(pair.base), str(pair.tuned)]


def _pair_of_text(texts: Sequence[str]) -> Pair:
    base, tuned = (pinned(text) for text in texts)
    return Pair(base, tuned)
