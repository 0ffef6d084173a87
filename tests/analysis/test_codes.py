"""8-bit codes by table: every code of every type, against torch's own conversion, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.elementwise.codes import values_of_codes, widen

DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("blocks", "width"), [(1, 256), (2, 128), (3, 100), (256, 1)], ids=str)
def test_every_code_times_its_scale_is_torchs(dtype: torch.dtype, blocks: int, width: int):
    codes = torch.arange(256, dtype=torch.uint8).expand(4, 256)
    scales = torch.tensor(np.random.default_rng(0).lognormal(size=(2, blocks)), dtype=torch.float32)
    row_of_scales = torch.tensor([0, 0, 1, 1])
    of_entry = scales.repeat_interleave(width, dim=1)[:, :256][row_of_scales]
    expected = codes.contiguous().view(dtype).float() * of_entry
    found = np.empty((4, 256), np.float32)

    widen(codes.numpy(), values_of_codes(dtype), scales.numpy(), row_of_scales.numpy(), width, found)

    assert np.array_equal(found.view(np.int32), expected.numpy().view(np.int32))
