"""On a machine with an NVIDIA GPU: every path counts the same integers there as on the CPU, from blocks to a Tally, and
the singular values are those of a float64 SVD. `benchmarks/gpu.py` shows how fast.

Where only torch and Triton are installed: pytest -c /dev/null --rootdir . --noconftest tests/test_cuda.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.elementwise import Geometry, geometry, tally, tally_stack, torch_blocks, triton_start
from analysis.elementwise.triton_start import differing
from analysis.elementwise.triton_table import FARTHEST, table_reach
from analysis.measure import Engine, devices, measure_tally
from analysis.measurements import RULES, Tally
from analysis.spectral import spectra, spectrum
from analysis.tensors import Place, TensorInfo, TensorPair
from tests.analysis import interpreted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")

CUDA = torch.device("cuda")
CASES = interpreted.cases()


def by_torch(before: torch.Tensor, after: torch.Tensor) -> tuple[Tally, dict[str, np.ndarray]]:
    """On the CPU, without numba, which may not be there."""
    block = torch_blocks.tally_block(before, after, 0, Geometry(*before.shape))
    ready = {"exact": block.packed_exact, "mukherjee": block.packed_mukherjee}
    masks = {rule: ready[rule] if rule in ready else torch_blocks.packed_mask(before, after, rule) for rule in RULES}
    return block.as_tally(block.row_changes), masks


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", ["triton", "torch"])
def test_every_path_counts_the_same(name: str, way: str):
    before, after, rows = CASES[name]
    shape = geometry(tuple(before.shape))
    expected = torch_blocks.tally_block(before, after, 0, shape)
    there = before.to(CUDA), after.to(CUDA)
    if way == "triton":
        assert triton_start.fits(*there)
        found = interpreted.passed(*there, rows)
    else:
        found = torch_blocks.tally_block(*there, 0, shape)
    assert differing(found, expected) == []


@pytest.mark.parametrize("reach", [1, interpreted.REACH, FARTHEST])
@pytest.mark.parametrize("name", interpreted.by_steps())
def test_tables_of_any_number_of_steps_count_the_same(name: str, reach: int):
    before, after, rows = interpreted.by_steps()[name]
    expected = torch_blocks.tally_block(before, after, 0, geometry(tuple(before.shape)))
    assert differing(interpreted.passed(before.to(CUDA), after.to(CUDA), rows, reach), expected) == []


def test_a_matrix_that_is_large_enough_for_a_table_counts_the_same():
    before, after = interpreted.trained(2100, 1032)
    shape = geometry(tuple(before.shape))
    assert table_reach(shape) > 1
    expected = torch_blocks.tally_block(before, after, 0, shape)
    assert differing(interpreted.passed(before.to(CUDA), after.to(CUDA), 700), expected) == []


def test_each_of_many_experts_has_its_own_table():
    sides = [side.to(CUDA) for side in interpreted.many()]
    for found, *pair in zip(interpreted.passed_together(*sides, 4), *interpreted.many(), strict=True):
        assert differing(found, torch_blocks.tally_block(*pair, 0, geometry(tuple(pair[0].shape)))) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("device", devices("cuda") if torch.cuda.is_available() else ())
def test_a_tensor_that_arrives_in_many_blocks_is_tallied_as_on_the_cpu(dtype: torch.dtype, device: str):
    """The reader's buffer is overwritten by every read, while blocks before are on their way."""
    rows, columns = 3000, 1024
    before = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).mul_(0.02).to(dtype)
    after = (before.double() + 1e-4 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(2))).to(dtype)
    info = TensorInfo("w", "", (rows, columns), "", 0, 0)
    pair = TensorPair(info, info, Place(None, "", "w"))

    buffers = torch.empty_like(before), torch.empty_like(after)

    def read(side: torch.Tensor, buffer: torch.Tensor, first: int, last: int) -> torch.Tensor:
        return buffer[: last - first].copy_(side[first:last])

    readers = [lambda i, j, s=s, b=b: read(s, b, i, j) for s, b in zip((before, after), buffers, strict=True)]
    found, masks = measure_tally(pair, *readers, Engine(device, budget=20 << 20), masks=RULES)
    expected, expected_masks = by_torch(before, after)

    for name, value in vars(expected).items():
        if isinstance(value, float):
            assert getattr(found, name) == pytest.approx(value, rel=1e-11, abs=1e-7), name
        else:
            assert np.array_equal(getattr(found, name), value), name
    for rule in RULES:
        assert np.array_equal(masks[rule], expected_masks[rule]), rule


def test_a_stack_of_experts_is_tallied_as_each_one_is():
    before, after = (side.to(CUDA) for side in interpreted.stack())
    for (found, masks), *pair in zip(tally_stack(before, after, rules=RULES), before, after, strict=True):
        alone = tally([tuple(pair)], Geometry(*before.shape[1:]))
        assert all(np.array_equal(getattr(found, n), v) for n, v in vars(alone).items() if not isinstance(v, float))
        _, expected = by_torch(*(side.cpu() for side in pair))
        assert all(np.array_equal(masks[rule], expected[rule]) for rule in RULES)


@pytest.mark.parametrize("shape", [(700, 1500), (1024, 1024)], ids=str)
def test_singular_values_of_a_stack_are_those_of_each(shape: tuple[int, int]):
    generator = torch.Generator().manual_seed(4)
    before = (torch.randn(5, *shape, generator=generator) * 0.02).bfloat16().to(CUDA)
    after = (before.float().cpu() + torch.randn(5, *shape, generator=generator) * 1.76e-5).bfloat16().to(CUDA)
    for found, *pair in zip(spectra(before, after), before, after, strict=True):
        alone = spectrum(lambda pair=pair: iter([tuple(pair)]), Geometry(*shape))
        assert (found.rank, found.method) == (alone.rank, alone.method)
        assert np.abs(found.singular_values - alone.singular_values).max() <= 1e-7 * alone.singular_values[0]


@pytest.mark.parametrize("shape", [(1024, 4096), (2048, 2048), (4096, 1024)], ids=str)
def test_singular_values_are_those_of_a_float64_svd(shape: tuple[int, int]):
    generator = torch.Generator().manual_seed(3)
    before = (torch.randn(shape, generator=generator) * 0.02).bfloat16()
    after = (before.float() + torch.randn(shape, generator=generator) * 1.76e-5).bfloat16()
    exact = torch.linalg.svdvals((after.double() - before.double()).T).numpy()

    found = spectrum(lambda: iter([(before.to(CUDA), after.to(CUDA))]), Geometry(*shape))

    assert np.abs(found.singular_values - exact).max() <= 1e-5 * exact[0]
    assert found.rank_low is not None
    assert found.rank_low <= int(torch.linalg.matrix_rank(after.float() - before.float())) <= (found.rank_high or 0)
