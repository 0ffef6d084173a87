"""The child that does the arithmetic: holes in, measurements out. No network, no database.

Run as `python -m cache.backends.measure`. Weights come from files, each read as soon as the parent says that it is
there, or step by step out of pipes that another child fills. From files, as many holes are filled at once as there are
threads, one thread each, so that one reads or compresses while another counts, of small matrices a handful in turn; on
GPUs a few on each, and small matrices that are alike in one go. Each measurement is announced before it is begun, so
that the parent knows on which a crash may have happened; what was suspected once is measured alone. Masks are on disk,
whole, before their tally is reported.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis.elementwise import load
from analysis.errors import WorkerDied
from analysis.footprint import PROCESS, worker_bytes
from analysis.measure import Engine, pick_device
from analysis.plan import Hole
from analysis.stacks import Ready, bytes_of_each, handful, largest_first, likeness, most_in_turn, most_together
from cache.backends import devices
from cache.backends.child import Send, heard, nudge, serve
from cache.backends.devices import DeviceLost, attempt
from cache.backends.filling import Filling, Result
from cache.backends.lanes import Keeper, Lanes
from cache.backends.sides import Rows
from cache.masks import settle
from cache.streams import Step, kept_aside
from cache.weights.passing import PassingWeights, StreamCut
from cache.weights.shelf import Shelf

_NICENESS = 10  # the page stays quick while a job runs on the same cores


def measure(request: dict[str, Any], send: Send) -> None:
    """Sends 'device' once, then 'begin' and later 'measured', each for one hole or several, until all are filled;
    'idle' where all files that are here are measured, 'starved' before the error if a pipe ends too early, 'lost'
    before it with the device that failed and the holes that it was filling."""
    os.nice(_NICENESS)
    engines = devices.engines(request)
    send({"event": "device", "device": devices.in_words(engines)})
    try:
        with suppress(MemoryError):  # then each hole finds out by itself
            attempt(lambda: devices.warm_up(engines[0], {hole.kind for hole in request["holes"]}), engines[0])
        _measure(request, engines, send)
    except DeviceLost as lost:
        send({"event": "lost", "device": lost.device, "holes": lost.holes})
        raise WorkerDied(f"{lost.device} failed", do="Start the job again: what was measured is kept") from lost


def _measure(request: dict[str, Any], engines: tuple[Engine, ...], send: Send) -> None:
    def report(results: Sequence[Result]) -> None:
        settle([begun for result in results for begun in result.begun])
        ready = [
            {"hole": hole, "measurement": measurement, "masks": [each.mask for each in begun]}
            for hole, measurement, begun in results
        ]
        if ready:
            send({"event": "measured", "results": ready})

    with Shelf(request["pairs"]) as shelf, Keeper(report, on_error=nudge) as keeper:
        for side, file, folder in request["files"]:
            shelf.put(side, file, Path(folder))
        filling = Filling(request, engines, shelf, keeper, send)
        if request["steps"]:
            _measure_passing(request, filling)
        else:
            _measure_arriving(largest_first(request["holes"], filling.pair_of_name), filling)


def _measure_arriving(holes: tuple[Hole, ...], filling: Filling) -> None:
    """In this order, side by side; of small ones those that are alike together, or a handful in turn."""
    pair_of_name = filling.pair_of_name
    engine = filling.engines[0]  # the others are like it
    lanes_of = {one: devices.lanes(one) for one in filling.engines}
    lanes = Lanes(lanes_of, engine.budget, on_change=nudge)
    in_turn = most_in_turn(len(holes), sum(lanes_of.values()))

    def together(hole: Hole) -> tuple[Hashable, int]:
        if hole in filling.alone or hole in filling.on_cpu:
            return None, 1
        pair, budget = pair_of_name[hole.name], devices.share(engine, hole.kind).budget // 2
        if not engine.stacks(hole.kind):
            return handful(hole, pair), in_turn
        like = likeness(hole, pair)
        return like, 1 if like is None else most_together(hole, pair, budget)

    def begin(group: tuple[Hole, ...], *, alone: bool) -> None:
        first = group[0]
        if alone:
            lanes.wait()
        if len(group) > 1 and engine.stacks(first.kind):
            n_bytes = len(group) * bytes_of_each(first, pair_of_name[first.name])
            lanes.run(lambda on: filling.fill_together(group, devices.share(on, first.kind)), n_bytes)
        else:
            budget = devices.share(engine, first.kind).budget
            n_bytes = max(worker_bytes(pair_of_name[hole.name], hole.kind, budget) for hole in group) - PROCESS
            lanes.run(lambda on: filling.fill_in_turn(group, devices.share(on, first.kind), not alone), n_bytes)
        if alone:
            lanes.wait()

    try:
        for group in _arriving(Ready(holes, together), holes, filling, lanes):
            begin(group, alone=group[0] in filling.alone)
        lanes.wait()
        while not filling.crowded.empty():
            begin((filling.crowded.get(),), alone=True)
    except DeviceLost:
        raise
    except Exception:
        lanes.finish()  # what the other lanes are about to find out is kept
        raise


def _arriving(
    ready: Ready, holes: tuple[Hole, ...], filling: Filling, lanes: Lanes[Engine]
) -> Iterator[tuple[Hole, ...]]:
    """The holes as `ready` hands them out, among those whose files are here; ends when no more files come. Raises what
    work under way meets while the next file is waited for."""
    shelf, pair_of_name = filling.shelf, filling.pair_of_name
    absent = dict(enumerate(holes))
    n_files, more = -1, True
    while ready or (absent and more):
        if more:
            lanes.check()
            filling.keeper.check()
            if not ready and lanes.is_idle:
                filling.send({"event": "idle"})
            more = _put_what_came(shelf, wait=not ready and n_files >= 0)
        if shelf.n_files != n_files:
            n_files = shelf.n_files
            for position in [at for at, hole in absent.items() if shelf.has(pair_of_name[hole.name])]:
                ready.add(position)
                del absent[position]
        if ready:
            yield ready.take()


def _put_what_came(shelf: Shelf, *, wait: bool) -> bool:
    """Puts the files on the shelf that the parent has spoken of; whether more may come. Returns also when something
    has happened in a lane."""
    message = heard(wait=wait)
    while message is not None and message["event"] != "all":
        if message["event"] == "ready":
            shelf.put(message["side"], message["file"], Path(message["folder"]))
        message = heard(wait=False)
    return message is None


def _measure_passing(request: dict[str, Any], filling: Filling) -> None:
    """Fills the holes step by step, while the bytes of both sides pass."""
    pipe_of_side = {side: PassingWeights(descriptor) for side, descriptor in request["pipes"].items()}
    try:
        for side, pipe in pipe_of_side.items():
            for tensor in kept_aside(request["steps"], side, filling.pair_of_name):
                pipe.keep(tensor)
        for step in request["steps"]:
            filling.begin(step.holes[0])  # before memory is taken for it
            _take(step, pipe_of_side, filling)
    except StreamCut as cut:
        filling.send({"event": "starved"})
        raise WorkerDied("The weights stopped coming", do="Start the job again: what was measured is kept") from cut


def _take(step: Step, pipe_of_side: Mapping[str, PassingWeights], filling: Filling) -> None:
    pair, shelf = filling.pair_of_name[step.name], filling.shelf
    passing = [(side, pipe_of_side[side]) for side in ("base", "tuned") if getattr(step, side) == "stream"]
    for side, pipe in passing:
        pipe.begin(getattr(pair, side), held=step.held)
    base: Rows = pipe_of_side["base"] if step.base == "stream" else shelf.side("base")
    of_tuned: dict[str, Rows | None] = {"base": None, "file": shelf.side("tuned")}
    tuned = pipe_of_side["tuned"] if step.tuned == "stream" else of_tuned[step.tuned]
    for hole in step.holes:
        filling.begin(hole)
        filling.fill(hole, base, tuned, filling.engines[0])
    for _, pipe in passing:
        pipe.end()


def load_kernels() -> None:
    """Where the CPU will measure: a GPU's worker does without numba."""
    if pick_device("auto") == "cpu":
        load()


if __name__ == "__main__":
    serve(measure, meanwhile=load_kernels)
