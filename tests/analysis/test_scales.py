"""Which scale is for which codes, from names and shapes."""

from __future__ import annotations

import pytest

from analysis.scales import APPLIED, OF_ACTIVATIONS, with_scales
from analysis.tensors import Scales, TensorInfo

BLOCKS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 32]}}
ANNOUNCED = {"quantization_config": {"quant_method": "fbgemm_fp8"}}


def tensor(name: str, shape: tuple[int, ...], dtype: str = "F8_E4M3") -> TensorInfo:
    size = {"F8_E4M3": 1, "F32": 4, "U8": 1}[dtype]
    entries = 1
    for side in shape:
        entries *= side
    return TensorInfo(name, dtype, shape, "f", 0, entries * size)


@pytest.mark.parametrize(
    ("codes", "scales", "config", "block"),
    [
        pytest.param((300, 200), (3, 2), {}, (128, 128), id="blocks of 128, the last cut off"),
        pytest.param((300, 200), (5, 7), BLOCKS, (64, 32), id="blocks as the config says"),
        pytest.param((300, 200), (), {}, (300, 200), id="a scalar"),
        pytest.param((300, 200), (1,), {}, (300, 200), id="one number"),
        pytest.param((300, 200), (300, 1), BLOCKS, (1, 200), id="one a row, whatever the config says"),
        pytest.param((300, 200), (300,), {}, (1, 200), id="one a row, as a vector"),
        pytest.param((300, 200), (1, 200), {}, (300, 1), id="one a column"),
        pytest.param((96, 192), (3, 6), {}, (32, 32), id="blocks that only the shapes tell"),
        pytest.param((4, 300, 200), (4, 3, 2), {}, (128, 128), id="blocks of each slice"),
        pytest.param((4, 300, 200), (4, 300, 1), {}, (1, 200), id="one a row of each slice"),
        pytest.param((4, 300, 200), (4,), {}, (300, 200), id="one a slice"),
        pytest.param((300,), (1,), {}, (1, 300), id="a vector"),
        pytest.param((300, 200), (7, 2), {}, None, id="no block fits"),
        pytest.param((300, 200), (2, 3, 2), {}, None, id="too many sides"),
    ],
)
def test_which_codes_one_scale_is_for(codes, scales, config, block):
    found, aside = with_scales([tensor("a.weight", codes), tensor("a.weight_scale", scales, "F32")], config)
    if block is None:
        assert found.scales is None
        assert "cannot be told which scale" in found.unread
        assert not aside.aside
    else:
        assert found.scales is not None
        assert found.scales.block == block
        assert aside.aside == APPLIED


@pytest.mark.parametrize("name", ["a.weight_scale_inv", "a.weight_scale", "a.scale", "a.qscale_weight"])
def test_what_scales_are_called(name):
    found, _ = with_scales([tensor("a.weight", (8, 8)), tensor(name, (1,), "F32")], {})
    assert found.scales
    assert found.scales.info.name == name


def test_scales_of_activations_are_no_parameters():
    names = ("a.input_scale", "layers.0.self_attn.k_scale")
    model = [tensor("a.weight", (8, 8)), *(tensor(name, (1,), "F32") for name in names)]
    assert [t.aside for t in with_scales(model, {})[1:]] == [OF_ACTIVATIONS, OF_ACTIVATIONS]


def test_codes_without_scales_are_refused_only_where_the_config_announces_some():
    [said], [not_said] = (with_scales([tensor("a.weight", (8, 8))], config) for config in (ANNOUNCED, {}))
    assert "without the scales" in said.unread
    assert not_said == tensor("a.weight", (8, 8))


def test_zero_points_are_not_applied():
    others = [tensor("a.weight_scale", (1,), "F32"), tensor("a.weight_zero_point", (1,))]
    assert "zero points" in with_scales([tensor("a.weight", (8, 8)), *others], {})[0].unread


def test_rows_of_a_matrix_keep_its_table_of_scales_and_remember_where_they_begin():
    [whole, scales] = with_scales([tensor("a.weight", (300, 200)), tensor("a.weight_scale", (3, 2), "F32")], {})
    view = whole.rows(100, 300).rows(50, 90)
    assert view.scales == Scales(tensor("a.weight_scale", (3, 2), "F32"), (128, 128), first_row=150)
    assert view.parts[0].scales is None
    assert view.parts[1].shape == scales.shape


def test_one_slice_of_a_stack_takes_its_slice_of_the_scales():
    [stack, _] = with_scales([tensor("a", (4, 300, 200)), tensor("a_scale_inv", (4, 3, 2), "F32")], {})
    view = stack.rows(2, 3, (300, 200))
    assert view.scales is not None
    assert (view.scales.info.shape, view.scales.info.begin, view.scales.info.end) == ((3, 2), 48, 72)
    assert view.rows(128, 300).scales.first_row == 128
