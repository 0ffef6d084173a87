"""What a comparison will take, worked by hand, and the refusals of machines that do not have it."""

from __future__ import annotations

import dataclasses

import pytest

from analysis import footprint
from analysis.alignment import align
from analysis.errors import DiskFull, TooLarge
from analysis.footprint import PROCESS, refusal, worker_bytes
from analysis.forecast import START_SECONDS, Forecast, Machine, forecast
from analysis.plan import Plan
from analysis.selection import select
from analysis.tensors import Alignment, TensorInfo
from tests.analysis.by_hand import small_model

GB = 10**9
WHOLE = Plan()
ROOMY = Machine(24 * GB, GB, 100 * GB, 100 * GB, one_disk=True, spare_disk=GB, threads=2)


def model_of(**shapes: tuple[int, ...]) -> Alignment:
    """Both sides with these tensors in bfloat16, each in a file of its own."""
    infos = []
    for name, shape in shapes.items():
        n = shape[0] * shape[1]
        infos.append(TensorInfo(f"model.layers.0.{name}.weight", "BF16", shape, f"{name}.safetensors", 0, 2 * n))
    return align(infos, infos)


def foretold(
    alignment: Alignment,
    plan: Plan = WHOLE,
    machine: Machine = ROOMY,
    to_fetch: int = 0,
) -> Forecast:
    """The forecast where nothing is stored and `to_fetch` bytes of every file are missing on the tuned side."""
    files = {pair.tuned.file: to_fetch for pair in alignment.pairs}
    return forecast(alignment, plan, list(plan.wanted(alignment)), {"tuned": files}, machine)


def test_bytes_and_counts_follow_the_selection():
    alignment = model_of(q_proj=(64, 64), up_proj=(128, 64))
    whole, part = foretold(alignment, to_fetch=5), foretold(alignment, Plan(selection=select("", "q_proj")), to_fetch=5)
    assert (whole.bytes_to_fetch, part.bytes_to_fetch) == (10, 5), "only files that hold a selected tensor"
    assert (whole.parameters, part.parameters) == (3 * 64 * 64, 64 * 64)
    assert (whole.tensors, part.tensors, part.tensors_whole) == (2, 1, 2)
    assert (whole.measurements, part.measurements) == (4, 2)
    assert part.mask_bytes == 2 * (64 * 64 // 8 + 1), "two rules, a bit an entry"
    assert part.seconds < whole.seconds
    assert part.row_bytes < whole.row_bytes


def test_without_spectra_it_is_faster_and_smaller():
    alignment = model_of(up_proj=(14_336, 4096))
    whole, tallies = foretold(alignment), foretold(alignment, Plan(spectra=False))
    assert whole.seconds_for_tallies == tallies.seconds == tallies.seconds_for_tallies < whole.seconds
    assert tallies.memory < whole.memory
    assert (whole.largest_kind, tallies.largest_kind) == ("spectrum", "tally")


def test_8_bit_codes_take_as_long_as_the_float32_that_they_become():
    codes = [TensorInfo("w", "F8_E4M3", (4096, 4096), "", 0, 1 << 24)]
    wide = [TensorInfo("w", "F32", (4096, 4096), "", 0, 4 << 24)]
    took = [foretold(align(tensors, tensors), Plan(spectra=False)).seconds for tensors in (codes, wide)]
    assert took[0] == took[1]


def test_nothing_is_needed_where_all_is_stored():
    alignment = small_model()
    found = forecast(alignment, Plan(), [], {}, dataclasses.replace(ROOMY, memory=1, disk_of_results=0))
    assert (found.measurements, found.memory, found.seconds, found.bytes_of_results) == (0, 0, 0, 0)
    assert found.refusals() == []


def test_the_memory_of_a_tall_matrix_over_the_budget_is_three_gram_matrices_of_its_short_side():
    [pair] = model_of(up_proj=(14_336, 4096)).pairs
    gram, budget = 3 * 8 * 4096**2, 230_000_000  # the matrix takes 235 MB
    block = footprint.CPU_BLOCK * footprint.BYTES_AN_ENTRY["cpu"]
    assert worker_bytes(pair, "spectrum", budget) == footprint.PROCESS + gram + 4 * block


def test_a_matrix_within_the_budget_is_put_together():
    [tall], [wide] = (model_of(w=shape).pairs for shape in ((14_336, 4096), (4096, 14_336)))
    extra = 2 * 4 * 4096 * 14_336
    assert worker_bytes(wide, "spectrum", GB) > worker_bytes(tall, "tally", GB) + extra
    assert worker_bytes(wide, "spectrum", GB) == pytest.approx(worker_bytes(tall, "spectrum", GB), rel=0.01)


@pytest.mark.parametrize(
    ("shape", "budget", "words"),
    [
        ((30_000, 30_000), GB, "its short side of 30,000 is over 20,480"),
        ((4096, 14_336), 100_000_000, "it needs 235 MB, the memory budget is 100 MB"),
        ((14_336, 4096), 100_000_000, ""),
        ((600, 100_000), 100_000_000, ""),
    ],
)
def test_spectra_that_the_budget_does_not_allow_are_left_out_with_their_reason(shape, budget, words):
    assert refusal(*shape, budget) == words
    alignment = model_of(w=shape)
    found = foretold(alignment, machine=dataclasses.replace(ROOMY, budget=budget))
    assert [reason for _, reason in found.left_out] == ([words] if words else [])
    assert found.refusals() == []


def test_too_little_memory_is_refused_with_the_figures():
    found = foretold(model_of(up_proj=(14_336, 4096)), machine=dataclasses.replace(ROOMY, memory=GB // 2))
    [error] = found.refusals()
    assert isinstance(error, TooLarge)
    assert error.exit_code == 8
    assert "'model.layers.0.up_proj.weight' need up to" in error.saw
    assert "a worker may take 500 MB here" in error.saw
    assert "without singular values" in error.do


def test_as_many_tensors_as_there_are_threads_are_counted_as_far_as_the_budget_goes():
    alignment = model_of(one=(4096, 4096), two=(4096, 4096), three=(4096, 4096))
    one, two, many = (
        foretold(alignment, Plan(spectra=False), machine=dataclasses.replace(ROOMY, threads=threads)).memory - PROCESS
        for threads in (1, 2, 64)
    )
    assert two == 2 * one
    tight = dataclasses.replace(ROOMY, threads=64, budget=5 * one // 2)
    assert many == 3 * one
    assert foretold(alignment, Plan(spectra=False), machine=tight).memory - PROCESS <= 5 * one // 2


def test_weights_that_stream_are_counted_where_they_are_held():
    alignment = model_of(small=(512, 512), large=(8192, 4096))
    both = 2 * 2 * 8192 * 4096
    for budget, held in ((GB, both), (both - 1, 2 * 2 * 512 * 512)):
        kept = dataclasses.replace(ROOMY, budget=budget, threads=1)
        streamed = dataclasses.replace(kept, keeps_files=False)
        assert foretold(alignment, machine=streamed).memory == foretold(alignment, machine=kept).memory + held


def test_too_little_disk_is_refused_with_what_it_is_for():
    machine = dataclasses.replace(ROOMY, disk_of_downloads=3 * GB, disk_of_results=3 * GB)
    alignment = model_of(up_proj=(14_336, 4096))
    assert foretold(alignment, machine=machine, to_fetch=GB).refusals() == []
    [error] = foretold(alignment, machine=machine, to_fetch=2 * GB).refusals()
    assert isinstance(error, DiskFull)
    assert "2 GB to download, up to 14.7 MB of masks" in error.saw
    assert "3 GB are free, of which 1 GB are to stay free" in error.saw
    assert "HF_HOME" in error.do
    assert (
        foretold(alignment, machine=dataclasses.replace(machine, keeps_files=False), to_fetch=2 * GB).refusals() == []
    )


def test_two_disks_are_judged_each_for_itself():
    alignment = model_of(up_proj=(14_336, 4096))
    small_results = dataclasses.replace(ROOMY, one_disk=False, disk_of_results=GB)
    [error] = foretold(alignment, machine=small_results).refusals()
    assert error.saw.startswith("Storing masks and numbers needs"), error.saw
    small_downloads = dataclasses.replace(ROOMY, one_disk=False, disk_of_downloads=2 * GB)
    [error] = foretold(alignment, machine=small_downloads, to_fetch=2 * GB).refusals()
    assert error.saw.startswith("The download needs 2 GB")


def test_the_words_name_what_decides():
    lines = {what: f"{value} {behind}" for what, value, behind in foretold(small_model()).in_words()}
    assert set(lines) == {"To measure", "To download", "To store", "Memory", "Time"}
    assert "10 of 10 tensors" in lines["To measure"]
    assert "a worker may take 24 GB" in lines["Memory"]


def test_several_gpus_share_the_time_and_each_takes_memory():
    alignment = model_of(q_proj=(4096, 4096), up_proj=(8192, 4096))
    one, two = (foretold(alignment, machine=dataclasses.replace(ROOMY, device="cuda", gpus=n)) for n in (1, 2))
    assert two.seconds - START_SECONDS == pytest.approx((one.seconds - START_SECONDS) / 2)
    assert two.memory > one.memory
    for found, words in ((one, "on the GPU"), (two, "on 2 GPUs")):
        assert words in {what: behind for what, _, behind in found.in_words()}["Time"]
    streamed = foretold(alignment, machine=dataclasses.replace(ROOMY, device="cuda", gpus=2, keeps_files=False))
    assert streamed.seconds == one.seconds, "what streams passes one of them"
