"""Everything that a GPU is to show, in one command of under eight minutes on an H200:

    PYTHONPATH=. python benchmarks/gpu.py [--device cuda] [--seconds 480] [--out gpu.md] [--only agreement copies ...]
    PYTHONPATH=. python benchmarks/gpu.py --device cpu --small      # the same steps, tiny, where there is no GPU

Needs torch and Triton, nothing else of the app. Each section runs in a process of its own, since CUDA gives one up in
which anything failed: a section that fails, crashes or hangs is named, and the next one runs. What is printed is also
written to `--out`, as it comes. Once `--seconds` are over, what is left is named and skipped. A time is the median of
its repeats, by the device's own clock, after a warm-up that compiles the kernels. Bandwidths count each byte that must
be read or written once: both sides, and both masks.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise import Geometry, geometry, tally, tally_stack, torch_blocks, triton_pass, triton_start, way_on
from analysis.elementwise.triton_start import differing
from analysis.elementwise.triton_table import table_reach
from analysis.footprint import BYTES_AN_ENTRY, LANES_OF_A_GPU
from analysis.measure import Engine, devices, measure_tallies, measure_tally
from analysis.measurements import MASK_RULES
from analysis.spectral import spectra as spectra_together
from analysis.spectral import spectrum
from analysis.tensors import Place, TensorInfo, TensorPair
from cache.backends.lanes import Lanes
from tests.analysis import interpreted

SIGMA_OF_SHARE = {0.2: 1.76e-5, 0.96: 1e-3}  # share of bfloat16 weights of 0.02 that change: the update that does it
LAYERS = {
    "Llama-8B": (32, {(4096, 4096): 2, (1024, 4096): 2, (14336, 4096): 3}),
    "Llama-70B": (80, {(8192, 8192): 2, (1024, 8192): 2, (28672, 8192): 3}),
}
IN_A_ROW = 5  # passes timed together, so that the host's launching is hidden behind the device's work
PARAMETERS = {"Llama-8B": 8.03e9, "Llama-70B": 70.6e9}


@dataclasses.dataclass(frozen=True)
class Bench:
    device: torch.device
    small: bool
    ends: float  # by time.monotonic()

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        return (rows // 32, columns // 32) if self.small else (rows, columns)

    def seconds(self, work: Callable[[], object], repeats: int = 7, warm_up: int = 2) -> float:
        """The median of the repeats."""
        for _ in range(warm_up):
            work()
        return statistics.median(self._once(work) for _ in range(repeats))

    def _once(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            began = time.perf_counter()
            work()
            return time.perf_counter() - began
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def pair(self, rows: int, columns: int, share: float, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
        """Weights, and what an update that changes this share of them made of them."""
        generator = torch.Generator(self.device).manual_seed(rows + columns)
        base = torch.empty(rows, columns, device=self.device).normal_(0, 0.02, generator=generator).to(dtype)
        update = torch.empty(rows, columns, device=self.device).normal_(0, SIGMA_OF_SHARE[share], generator=generator)
        if dtype != torch.bfloat16:  # whose steps are so narrow that every update would change an entry
            update *= torch.empty_like(update).uniform_(generator=generator) < share
        return base, update.add_(base).to(dtype)


def agreement(bench: Bench) -> None:
    """Every path's integers, on the cases of tests/analysis/interpreted.py and on a matrix of ordinary size."""
    ordinary = [side.cpu() for side in bench.pair(*bench.shape(4096, 4096), 0.2)]
    stepped = interpreted.by_steps() if triton_start.works_on(bench.device.type) else {}
    every = interpreted.cases() | stepped | {"ordinary": (ordinary[0], ordinary[1], 512)}
    wrong = []
    for name, (before, after, rows) in every.items():
        shape = geometry(tuple(before.shape))
        there = before.to(bench.device), after.to(bench.device)
        expected = torch_blocks.tally_block(before, after, 0, shape)
        found = {"torch": torch_blocks.tally_block(*there, 0, shape)}
        if triton_start.fits(*there):
            found["triton"] = interpreted.passed(*there, rows)
        if name in stepped:
            found["triton by steps"] = interpreted.passed(*there, rows, interpreted.REACH)
        wrong += [f"{name}, {way}: {what}" for way, one in found.items() for what in differing(one, expected)]
    paths = "Triton, torch here" if triton_start.works_on(bench.device.type) else "torch here"
    print(f"{len(every)} cases; {paths} and torch on the CPU differ in: {'; '.join(wrong) or 'nothing'}")


@cache
def copy_rate(bench: Bench) -> float:
    """Bytes a second of a copy within the device, read and written."""
    source = torch.randint(0, 255, (1 << (24 if bench.small else 32),), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / bench.seconds(lambda: target.copy_(source))


@cache
def upload_rate(bench: Bench, pinned: bool) -> float:
    """Bytes a second from the host's memory to the device."""
    there = torch.empty(1 << (24 if bench.small else 30), dtype=torch.uint8, device=bench.device)
    here = torch.ones(len(there), dtype=torch.uint8, pin_memory=pinned and bench.device.type == "cuda")
    return here.nbytes / bench.seconds(lambda: there.copy_(here, non_blocking=True))


def copies(bench: Bench) -> None:
    table("copy", "GB/s")
    row("within the device, read and written", f"{copy_rate(bench) / 1e9:,.0f}")
    row("host to device, pinned", f"{upload_rate(bench, True) / 1e9:.1f}")
    row("host to device, pageable", f"{upload_rate(bench, False) / 1e9:.1f}")


def fused(bench: Bench) -> None:
    """The pass alone: both sides, and the masks, on the device."""
    table("pass on the device", "changed", "GB/s", "of the copy rate", "first launch alone")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for share in SIGMA_OF_SHARE:
            before, after = bench.pair(*bench.shape(32768, 32768), share, dtype)
            name = str(dtype).removeprefix("torch.")
            row(f"{way_on(bench.device.type)}, {name}", changed(before, after), *pass_figures(bench, before, after))
    before, after = bench.pair(*bench.shape(32768, 32768), 0.2)
    row(
        f"{way_on(bench.device.type)}, bfloat16, the same model twice",
        "0%",
        *pass_figures(bench, before, before.clone()),
    )
    if triton_start.works_on(bench.device.type):
        for reach in (0, 1, 4, 8, 16, 32, 64):
            name = f"triton, bfloat16, {f'table of {reach} steps' if reach else 'without a table'}"
            row(name, changed(before, after), *pass_figures(bench, before, after, reach))
        usual = triton_pass.TILE, triton_pass.WARPS
        for tile, warps in ((1024, 4), (2048, 8), (4096, 4), (4096, 8), (8192, 8)):
            triton_pass.TILE, triton_pass.WARPS = tile, warps
            name = f"triton, bfloat16, without a table, {tile} entries on {warps} warps"
            row(name, changed(before, after), *pass_figures(bench, before, after, 0))
        triton_pass.TILE, triton_pass.WARPS = usual
    shape = Geometry(*bench.shape(2048, 32768))
    part = before[: shape.rows], after[: shape.rows]
    took = bench.seconds(lambda: torch_blocks.tally_block(*part, 0, shape), repeats=3, warm_up=1)
    row("torch, bfloat16", changed(*part), *rates(bench, part[0], part[1], took), "")


def changed(before: Tensor, after: Tensor) -> str:
    return f"{float((before != after).float().mean()):.0%}"


def rates(bench: Bench, before: Tensor, after: Tensor, took: float) -> tuple[str, str]:
    rate = (before.nbytes + after.nbytes + before.numel() / 4) / took
    return f"{rate / 1e9:,.1f}", f"{rate / copy_rate(bench):.1%}"


def pass_figures(bench: Bench, before: Tensor, after: Tensor, reach: int | None = None) -> tuple[str, str, str]:
    shape = geometry(tuple(before.shape))
    if not triton_start.fits(before, after):
        return *rates(bench, before, after, bench.seconds(lambda: tally([(before, after)], shape), repeats=3)), ""

    def work(kind: type[Staying]) -> None:
        for _ in range(IN_A_ROW):
            counting = kind(shape, before.device, table_reach(shape) if reach is None else reach)
            counting.add(before, after)
            counting._empty_table()

    whole, first = (bench.seconds(lambda kind=kind: work(kind)) / IN_A_ROW for kind in (Staying, First))
    return *rates(bench, before, after, whole), rates(bench, before, after, first)[1]


class Staying(triton_pass.TritonPass):
    """The pass whose masks stay on the device."""

    def _keep(self, *_: object) -> None: ...


class First(Staying):
    """The same without its other launches."""

    def _visit(self, *_: object) -> None: ...

    def _gather(self, *_: object) -> None: ...

    def _empty_table(self) -> None: ...


def host_to_result(bench: Bench) -> None:
    """From both sides in the host's ordinary memory to the Tally and its masks, through the worker's own function."""
    before, after = (side.cpu() for side in bench.pair(*bench.shape(16384, 32768), 0.2))
    info = [TensorInfo("w", "BF16", tuple(before.shape), "", 0, before.nbytes) for _ in range(2)]
    pair = TensorPair(*info, Place(None, "", "w"))
    limit = upload_rate(bench, True)
    table("host to result", "GB/s", "of the pinned rate")
    for megabytes in (256, 1024, 4096):
        engine = Engine(str(bench.device), os.cpu_count() or 1, megabytes << 20)

        def work(on: Engine = engine) -> None:
            measure_tally(pair, lambda i, j: before[i:j], lambda i, j: after[i:j], on, masks=MASK_RULES)

        rate = 2 * before.nbytes / bench.seconds(work, repeats=3, warm_up=1)
        row(f"budget of {megabytes} MB", f"{rate / 1e9:.1f}", f"{rate / limit:.1%}")


def side_by_side(bench: Bench) -> None:
    """The same of many matrices in as many lanes as a worker has, or fewer, or more; each lane one thread of the host.
    On all devices there are, too."""
    every = devices("cuda") if bench.device.type == "cuda" else (str(bench.device),)
    before, after = (side.cpu() for side in bench.pair(*bench.shape(4096, 8192), 0.2))
    info = [TensorInfo("w", "BF16", tuple(before.shape), "", 0, before.nbytes) for _ in range(2)]
    pair = TensorPair(*info, Place(None, "", "w"))
    limit = upload_rate(bench, True)
    table(f"lanes a device (a worker has {LANES_OF_A_GPU})", "devices", "GB/s", "of one device's pinned rate")
    for n_devices in sorted({1, len(every)}):
        for lanes in (1, 2, 4, 8):
            engines = [Engine(device, 1, (4 << 30) // lanes) for device in every[:n_devices]]
            n_matrices = 4 * lanes * n_devices

            def one(on: Engine) -> None:
                torch.set_num_threads(1)
                measure_tally(pair, lambda i, j: before[i:j], lambda i, j: after[i:j], on, masks=MASK_RULES)

            def work(of: tuple[Engine, ...] = tuple(engines), n: int = lanes, count: int = n_matrices) -> None:
                side = Lanes(dict.fromkeys(of, n), 1 << 40)
                for _ in range(count):
                    side.run(one, 1)
                side.wait()

            work()  # warm
            began = time.perf_counter()
            work()
            rate = n_matrices * 2 * before.nbytes / (time.perf_counter() - began)
            row(str(lanes), str(n_devices), f"{rate / 1e9:.1f}", f"{rate / limit:.1%}")


def experts(bench: Bench) -> None:
    """Many small matrices in one launch, and one by one: on the device, from the host, and their singular values."""
    rows, columns = bench.shape(768, 2048)
    shape = Geometry(rows, columns)
    pairs = [bench.pair(rows, columns, 0.2) for _ in range(8 if bench.small else 64)]
    before, after = (torch.stack(sides) for sides in zip(*pairs, strict=True))
    table(f"{len(pairs)} experts of {rows} x {columns}", "one by one, s", "together, s")

    def compared(what: str, apart: Callable[[], object], together: Callable[[], object]) -> None:
        seconds = (bench.seconds(work, repeats=3, warm_up=1) for work in (apart, together))
        row(what, *(f"{took:.4f}" for took in seconds))

    compared(
        "entries, on the device",
        lambda: [tally([pair], shape) for pair in pairs],
        lambda: tally_stack(before, after, rules=MASK_RULES),
    )
    info = [TensorInfo("w", "BF16", (rows, columns), "", 0, pairs[0][0].nbytes) for _ in range(2)]
    here = [[reader(side.cpu()) for side in pair] for pair in pairs]
    engine, place = Engine(str(bench.device), 1, 1 << 30), Place(None, "", "w")
    compared(
        "entries, from the host, as a worker does",
        lambda: [measure_tally(TensorPair(*info, place), *sides, engine, masks=MASK_RULES) for sides in here],
        lambda: measure_tallies(shape, [(left, right) for left, right in here], engine, masks=MASK_RULES),
    )
    compared(
        "singular values",
        lambda: [spectrum(lambda pair=pair: iter([pair]), shape) for pair in pairs[:16]],
        lambda: spectra_together(before[:16], after[:16]),
    )
    print("\n(singular values of 16 of them)")


def reader(side: Tensor) -> Callable[[int, int], Tensor]:
    return lambda first, last: side[first:last]


@cache
def product_rate(bench: Bench, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product in this precision."""
    n = 512 if bench.small else 8192
    left = torch.randn(n, n, device=bench.device, dtype=torch.float32).to(dtype)
    return 2 * n**3 / bench.seconds(lambda: left @ left, repeats=3)


def spectra(bench: Bench) -> None:
    """All singular values of the update, from two blocks in bfloat16 to the rank."""
    for dtype in (torch.float64, torch.float32):
        print(f"matrix products in {str(dtype)[6:]}: {product_rate(bench, dtype) / 1e12:.2f} TFLOP/s")
    table("update", "seconds", "of it the Gram matrix", "of float64 products' rate", "rank", "method")
    for model, (layers, count_of_shape) in LAYERS.items():
        total = 0.0
        for shape, count in count_of_shape.items():
            if out_of_time(bench, f"spectra of {model}"):
                return
            total += layers * count * spectrum_row(bench, *bench.shape(*shape))
        print(f"\n**{model}**: spectra of {layers} layers {total:.0f} s", end="")
        print(f", tallies {4 * PARAMETERS[model] / upload_rate(bench, True):.0f} s at the pinned rate\n")


def spectrum_row(bench: Bench, rows: int, columns: int) -> float:
    before, after = bench.pair(rows, columns, 0.2)
    shape = Geometry(rows, columns)

    def whole() -> object:
        return spectrum(lambda: iter([(before, after)]), shape, budget=1 << 32)

    took = bench.seconds(whole, repeats=3, warm_up=1)
    tall = (after.double() - before.double()) if rows >= columns else (after.double() - before.double()).T
    gram = bench.seconds(lambda: tall.T @ tall, repeats=3)
    short, long = sorted((rows, columns))
    share = (2 * short**2 * long + 4 / 3 * short**3) / took / product_rate(bench, torch.float64)
    found = spectrum(lambda: iter([(before, after)]), shape, budget=1 << 32)
    row(f"{rows} x {columns}", f"{took:.3f}", f"{gram:.3f}", f"{share:.1%}", f"{found.rank:,}", found.method)
    return took


def errors(bench: Bench) -> None:
    """Against float64 SVD on the CPU, and next to what torch's own SVD takes on the device."""
    table("update", "off by, of the largest", "rank, and by float64 SVD", "ours, s", "torch.linalg.svdvals, s")
    for rows, columns in ((1024, 4096), (4096, 4096)):
        if out_of_time(bench, f"errors at {rows} x {columns}"):
            return
        rows, columns = bench.shape(rows, columns)
        before, after = bench.pair(rows, columns, 0.2)
        update = after.float() - before.float()
        found = spectrum(lambda sides=(before, after): iter([sides]), Geometry(rows, columns), budget=1 << 32)
        ours = bench.seconds(lambda s=(before, after): spectrum(lambda: iter([s]), Geometry(*s[0].shape)), 3, 0)
        tall = update if rows >= columns else update.T
        exact = torch.linalg.svdvals(tall.double().cpu()).numpy()
        off = np.abs(found.singular_values - exact).max() / exact[0]
        rank = int((exact > max(rows, columns) * np.finfo(np.float32).eps * exact[0]).sum())
        peer = bench.seconds(lambda tall=tall: torch.linalg.svdvals(tall), repeats=1, warm_up=0)
        row(f"{rows} x {columns}", f"{off:.1e}", f"{found.rank:,}, {rank:,}", f"{ours:.3f}", f"{peer:.3f}")


SECTIONS = {f.__name__: f for f in (agreement, copies, fused, host_to_result, side_by_side, experts, spectra, errors)}
SECONDS_OF_ONE = 150  # what hangs is ended then; the longest is expected to take half of it


def out_of_time(bench: Bench, what: str) -> bool:
    late = time.monotonic() > bench.ends
    if late:
        print(f"\nLeft out, the time is over: {what}", flush=True)
    return late


def table(*titles: str) -> None:
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def machine(device: torch.device) -> Iterator[str]:
    yield f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores"
    if device.type == "cuda":
        import triton

        card = torch.cuda.get_device_properties(device)
        yield f"{card.name}, {card.total_memory / 1e9:.0f} GB, {card.multi_processor_count} multiprocessors"
        yield f"Triton {triton.__version__}, CUDA {torch.version.cuda}"
    yield f"{BYTES_AN_ENTRY[way_on(device.type)]} bytes an entry by {way_on(device.type)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--small", action="store_true", help="a 1,024th of the entries")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="a file for all that is printed")
    parser.add_argument("--here", action="store_true", help="in this process; for the processes of the sections")
    options = parser.parse_args()
    if options.here:
        measure(options)
        return 0
    ends, failed = time.monotonic() + options.seconds, []
    with options.out.open("w", encoding="utf-8") as out:
        for name in options.only:
            left = ends - time.monotonic()
            told = run(name, options, min(left, SECONDS_OF_ONE), out) if left > 0 else "was left out, the time is over"
            if told:
                failed.append(name)
                tell(f"\n**{name} {told}**\n", out)
        tell(f"\n{len(options.only) - len(failed)} of {len(options.only)} sections are whole", out)
    return bool(failed)


def run(name: str, options: argparse.Namespace, seconds: float, out: TextIO) -> str:
    """Runs a section in a process of its own and passes on what it says; what became of it, '' where all is well."""
    command = [sys.executable, __file__, "--here", "--only", name, "--device", options.device]
    command += ["--seconds", str(seconds), *(["--small"] if options.small else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        end = threading.Timer(seconds + 20, process.kill)
        end.start()
        for line in process.stdout:
            tell(line.rstrip("\n"), out)
        code = process.wait()
        end.cancel()
    return f"failed (exit code {code})" if code else ""


def tell(line: str, out: TextIO) -> None:
    print(line, flush=True)
    print(line, file=out, flush=True)


def measure(options: argparse.Namespace) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    bench = Bench(torch.device(options.device), options.small, time.monotonic() + options.seconds)
    for name in options.only:
        print(f"\n### {name}\n", flush=True)
        print("; ".join(machine(bench.device)) + "\n", flush=True)
        began = time.monotonic()
        SECTIONS[name](bench)
        print(f"\n({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
