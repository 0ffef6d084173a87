"""Which tensor holds the scales of which 8-bit tensor, and over which blocks they reach: from names and shapes alone.

An 8-bit code means little without its scale. Each maker of checkpoints has a name for it, and they all multiply: the
value is float32(code) * scale, also where the name ends in `_inv` (DeepSeek-V3's names the inverse of what was
divided by).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from analysis.tensors import NO_PARAMETER, Scales, TensorInfo

EIGHT_BIT = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
APPLIED = f"scales, applied to their weights; {NO_PARAMETER}"
OF_ACTIVATIONS = f"scales of activations; {NO_PARAMETER}"

_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E8M0")
_USUAL_BLOCK = 128  # DeepSeek-V3's, and everybody's since
_ACTIVATIONS = (
    "input_scale", "input_scale_ub", "activation_scale", "output_scale", "q_scale", "k_scale", "v_scale", "prob_scale",
    "qscale_act",
)  # fmt: skip


def with_scales(tensors: Sequence[TensorInfo], config: Mapping[str, object]) -> list[TensorInfo]:
    """The tensors, 8-bit ones with their scales, and these set aside. 8-bit codes whose scales are missing although
    the config announces them, or cannot be told, have their reason in `unread`; without an announcement, codes are
    values."""
    if not any(tensor.dtype in EIGHT_BIT for tensor in tensors):
        return list(tensors)
    tensor_of_name = {tensor.name: tensor for tensor in tensors}
    announced = quantization(config)
    scaled = {t.name: _scaled(t, tensor_of_name, announced) for t in tensors if t.dtype in EIGHT_BIT}
    applied = {tensor.scales.info.name for tensor in scaled.values() if tensor.scales}
    return [scaled.get(tensor.name) or _set_aside(tensor, applied) for tensor in tensors]


def quantization(config: Mapping[str, object]) -> Mapping[str, object]:
    """What config.json says of quantisation, empty where it says nothing."""
    nested = config.get("text_config")
    for place in (config, nested if isinstance(nested, Mapping) else {}):
        for name in ("quantization_config", "compression_config"):
            if isinstance(said := place.get(name), Mapping):
                return said
    return {}


def _scaled(tensor: TensorInfo, others: Mapping[str, TensorInfo], announced: Mapping[str, object]) -> TensorInfo:
    found = next((others[name] for name in _names(tensor.name) if name in others), None)
    if found is None:
        missing = "8-bit codes without the scales that config.json announces"
        return dataclasses.replace(tensor, unread=missing) if announced else tensor
    block = _block(tensor.shape, found.shape, _wanted_block(announced))
    if block is None or found.dtype not in _DTYPES:
        shapes = f"{list(found.shape)} of type {found.dtype} for codes {list(tensor.shape)}"
        return dataclasses.replace(tensor, unread=f"it cannot be told which scale is for which code: {shapes}")
    if f"{tensor.name}_zero_point" in others:
        return dataclasses.replace(tensor, unread="8-bit codes with zero points, which are not applied")
    return dataclasses.replace(tensor, scales=Scales(found, block))


def _names(name: str) -> Iterator[str]:
    """What the scales of this tensor may be called."""
    yield from (f"{name}_scale_inv", f"{name}_scale")
    if name.endswith(".weight"):
        stem = name.removesuffix("weight")
        yield from (f"{stem}scale", f"{stem}scale_inv", f"{stem}qscale_weight")


def _wanted_block(announced: Mapping[str, object]) -> tuple[int, int] | None:
    said = announced.get("weight_block_size")
    if isinstance(said, list | tuple) and len(said) == 2 and all(type(side) is int and side > 0 for side in said):
        return said[0], said[1]
    return None


def _block(codes: tuple[int, ...], scales: tuple[int, ...], wanted: tuple[int, int] | None) -> tuple[int, int] | None:
    """(rows, columns) that one scale is for, or None where the shapes do not tell."""
    if all(side == 1 for side in scales):
        return _whole(codes)
    if len(codes) == 3 and scales[0] == codes[0]:
        return _block(codes[1:], scales[1:], wanted)  # each slice has its own
    if len(codes) != 2 or len(scales) > 2:
        return None
    n_rows, n_columns = scales if len(scales) == 2 else (scales[0], 1)
    rows = _side(codes[0], n_rows, wanted[0] if wanted else None)
    columns = _side(codes[1], n_columns, wanted[1] if wanted else None)
    return (rows, columns) if rows and columns else None


def _whole(codes: Iterable[int]) -> tuple[int, int]:
    rows, columns = (1, 1, *codes)[-2:]
    return max(rows, 1), max(columns, 1)


def _side(codes: int, scales: int, wanted: int | None) -> int | None:
    """How many codes of a side one scale is for; the last one's may be fewer."""
    if scales == codes:
        return 1
    if scales == 1:
        return codes
    for size in (wanted, _USUAL_BLOCK):
        if size and -(-codes // size) == scales:
            return size
    return codes // scales if scales and codes % scales == 0 else None


def _set_aside(tensor: TensorInfo, applied: set[str]) -> TensorInfo:
    if tensor.name in applied:
        return dataclasses.replace(tensor, aside=APPLIED)
    if tensor.parameters == 1 and tensor.name.rpartition(".")[2] in _ACTIVATIONS:
        return dataclasses.replace(tensor, aside=OF_ACTIVATIONS)
    return tensor
