"""What a comparison will take, from headers alone: bytes, disk, memory, seconds; and whether this machine has it.

Everything is rounded up: masks as if they did not compress, memory as if the largest tensors took the longest way, as
many of them at once as there are threads, within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.cost import seconds
from analysis.errors import DiskFull, ResourceError, TooLarge
from analysis.footprint import LANES_OF_A_GPU, PROCESS, held_bytes, refusal, worker_bytes
from analysis.labels import count, duration, rough_count, shorten, size
from analysis.plan import Hole, Plan
from analysis.tensors import SIDES, Alignment, TensorPair

START_SECONDS = 5.0  # until a worker has loaded torch and begins
_TALLY_BYTES = 12_000  # of a stored tally without its rows, columns and map
_MOST_BLOCKS = 128 * 128  # of a tally's map
KIND_TITLES = {
    "tally": "the entries",
    "preview": "the previews of singular values",
    "spectrum": "the singular values",
}

Files = Mapping[str, Mapping[str, int]]  # side -> file -> bytes that are not here yet


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes. `one_disk`: downloads and results lie on the same. `budget` is what a worker may use for
    blocks and copies (SUBNETSCOPE_MEMORY), `memory` what it may take at all, `spare_disk` what stays free."""

    memory: int
    budget: int
    disk_of_downloads: int
    disk_of_results: int
    one_disk: bool
    spare_disk: int
    threads: int
    device: str = "cpu"
    gpus: int = 0  # that measure side by side
    keeps_files: bool = True  # downloads stay on the disk; streamed weights need none, but memory

    @property
    def in_words(self) -> str:
        """What measures: '8 threads', 'the GPU', '2 GPUs'."""
        if self.device == "cpu":
            return f"{self.threads} threads"
        return f"{self.at_work} GPUs" if self.at_work > 1 else "the GPU"

    @property
    def at_work(self) -> int:
        """Devices that a comparison uses: what streams passes one of them."""
        return max(1, self.gpus) if self.keeps_files else 1


@dataclass(frozen=True)
class Forecast:
    """What is still to be done of a plan, and what that takes. `largest` is the tensor that takes `memory`; `left_out`
    the spectra, with reasons, that this memory budget doesn't allow."""

    machine: Machine
    tensors: int
    tensors_whole: int
    parameters: int
    measurements: int
    bytes_to_fetch: int
    mask_bytes: int
    row_bytes: int
    memory: int
    largest: str
    largest_kind: str
    seconds_for_tallies: float
    seconds: float
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def bytes_of_results(self) -> int:
        return self.mask_bytes + self.row_bytes

    def in_words(self) -> list[tuple[str, str, str]]:
        """What it takes as (what, how much, what stands behind it), for a page and the terminal."""
        has, on = self.machine, self.machine.in_words
        memory = f"at most, for {KIND_TITLES[self.largest_kind]} of '{shorten(self.largest, 27)}'; a worker may take "
        tallies = f"{_rough(self.seconds_for_tallies)} for what changed and where, "
        tallies += f"{_rough(self.seconds - self.seconds_for_tallies)} for singular values"
        return [
            (
                "To measure",
                f"{rough_count(self.parameters)} parameters",
                f"{count(self.tensors)} of {count(self.tensors_whole)} tensors; {count(self.measurements)} "
                "measurements that are not stored yet",
            ),
            (
                "To download",
                size(self.bytes_to_fetch) if self.bytes_to_fetch else "nothing",
                f"{size(has.disk_of_downloads)} free on that disk"
                if has.keeps_files or not self.bytes_to_fetch
                else "streamed: measured as it arrives, and not kept",
            ),
            (
                "To store",
                size(self.bytes_of_results),
                f"at most: update masks {size(self.mask_bytes)}, numbers {size(self.row_bytes)}; "
                f"{size(has.disk_of_results)} free on {'the same' if has.one_disk else 'that'} disk",
            ),
            ("Memory", size(self.memory), f"{memory}{size(has.memory)}") if self.largest else ("Memory", "none", ""),
            ("Time", duration(self.seconds), f"roughly, on {on}, after the download: {tallies}"),
        ]

    def refusals(self) -> list[ResourceError]:
        """Why this machine cannot do it, with the figures and what to do; [] where it can."""
        return [*self._disk(), *self._memory()] if self.measurements else []

    def _disk(self) -> list[ResourceError]:
        has, spare = self.machine, f", of which {size(self.machine.spare_disk)} are to stay free"
        do = "Make room, or select fewer layers or modules"
        kept = self.bytes_to_fetch if has.keeps_files else 0
        if has.one_disk:
            needed = {"the comparison": (kept + self.bytes_of_results, has.disk_of_results)}
        else:
            needed = {
                "the download": (kept, has.disk_of_downloads),
                "storing masks and numbers": (self.bytes_of_results, has.disk_of_results),
            }
        parts = f" ({size(kept)} to download, up to {size(self.mask_bytes)} of masks, about "
        parts += f"{size(self.row_bytes)} of results)" if has.one_disk else ""
        return [
            DiskFull(
                f"{what[0].upper()}{what[1:]} needs {size(n)} of disk{parts if has.one_disk else ''}; "
                f"{size(free)} are free{spare}",
                do=f"{do}, or set HF_HOME to a larger disk" if kept else do,
            )
            for what, (n, free) in needed.items()
            if n and n + has.spare_disk > free
        ]

    def _memory(self) -> list[ResourceError]:
        if self.memory <= self.machine.memory:
            return []
        do = "Measure without singular values, or select modules without it" if self.largest_kind != "tally" else ""
        return [
            TooLarge(
                f"{KIND_TITLES[self.largest_kind].capitalize()} of '{shorten(self.largest, 120)}' need up to "
                f"{size(self.memory)} of memory; a worker may take {size(self.machine.memory)} here",
                do=f"{do or 'Select modules without it'}, or raise SUBNETSCOPE_MEMORY_LIMIT on a machine that has more",
            )
        ]


def _rough(seconds: float) -> str:
    return duration(seconds) if seconds >= 0.5 else "under 1 s"


def forecast(alignment: Alignment, plan: Plan, holes: Sequence[Hole], to_fetch: Files, machine: Machine) -> Forecast:
    """What filling `holes`, those of `plan` that are still open, takes on this machine."""
    pair_of_name = {pair.name: pair for pair in alignment.pairs}
    chosen = [pair for pair in alignment.pairs if plan.chooses(pair)]
    work = [(hole, pair_of_name[hole.name]) for hole in holes]
    left_out = tuple((h.name, why) for h, pair in work if h.kind == "spectrum" and (why := _refusal(pair, machine)))
    spent = {"tally": START_SECONDS if work else 0.0, "preview": 0.0, "spectrum": 0.0}
    passing = 0 if machine.keeps_files else _held_at_once([pair for _, pair in work], machine.budget)
    memory, largest = 0, Hole("tally", "")
    every: list[int] = []
    for hole, pair in work:
        spent[hole.kind] += seconds(hole, pair, threads=machine.threads, device=machine.device) / machine.at_work
        needed = worker_bytes(pair, hole.kind, machine.budget) + passing
        every.append(needed - PROCESS - passing)
        if needed > memory:
            memory, largest = needed, hole
    memory = max(memory, PROCESS + _side_by_side(every, machine)) if work else 0
    tallied = [pair for hole, pair in work if hole.kind == "tally"]
    masked = [pair for hole, pair in work if (hole.kind, hole.of) == ("tally", "update")]
    return Forecast(
        machine=machine,
        tensors=len(chosen),
        tensors_whole=len(alignment.pairs),
        parameters=sum(pair.entries for pair in chosen),
        measurements=len(work),
        bytes_to_fetch=_bytes_to_fetch([pair for _, pair in work], to_fetch),
        mask_bytes=sum(len(plan.mask_rules) * (pair.entries // 8 + 1) for pair in masked) if plan.masks else 0,
        row_bytes=sum(map(_row_bytes, tallied)) + sum(4 * min(p.shape) for h, p in work if h.kind == "spectrum"),
        memory=memory,
        largest=largest.name,
        largest_kind=largest.kind,
        seconds_for_tallies=spent["tally"],
        seconds=sum(spent.values()),
        left_out=left_out,
    )


def _side_by_side(every: Sequence[int], machine: Machine) -> int:
    """Bytes of as many measurements at once as there are lanes, as far as the budget lets them begin; on each device
    one may take more, by itself."""
    if not machine.keeps_files or not every:
        return 0
    if machine.device == "cpu":
        return min(sum(sorted(every)[-machine.threads :]), machine.budget)
    return machine.gpus * min(sum(sorted(every)[-LANES_OF_A_GPU:]), max(machine.budget, *every, 0))


def _held_at_once(pairs: Sequence[TensorPair], budget: int) -> int:
    """Bytes of the weights that a worker keeps while they pass: each side's memory is that of its largest tensor."""
    held = [pair for pair in pairs if held_bytes(pair, budget)]
    of_side = ([getattr(pair, side) for pair in held] for side in SIDES)
    return sum(max((tensor.end - tensor.begin for tensor in tensors), default=0) for tensors in of_side)


def _refusal(pair: TensorPair, machine: Machine) -> str:
    return refusal(pair.shape[0], pair.shape[1], machine.budget)


def _bytes_to_fetch(pairs: Sequence[TensorPair], to_fetch: Files) -> int:
    """Of the files that hold a tensor of these pairs; no other file is fetched."""
    needed = {(side, file) for pair in pairs for side in SIDES for file in pair.files(side)}
    return sum(to_fetch.get(side, {}).get(file, 0) for side, file in needed)


def _row_bytes(pair: TensorPair) -> int:
    columns = pair.shape[-1] if pair.shape else 1
    rows = pair.entries // max(columns, 1)
    return _TALLY_BYTES + 4 * (rows + columns + min(_MOST_BLOCKS, pair.entries))
