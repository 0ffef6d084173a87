"""Quantised formats that we know by name and do not read: what of a model they hold, and how many parameters that is.

Their tensors come in groups (codes, scales, zero points, ...). Each group becomes one tensor of the name and shape that
the weight has unquantised, marked as unread with the format's name; so it is listed, and counts what it stands for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.naming import EMBEDDINGS, HEADS, canonical, why_no_parameter
from analysis.scales import quantization
from analysis.tensors import NO_PARAMETER, TensorInfo

HOW_TO_GO_ON = "Compare the unquantised weights: the repository it was made from, or the model dequantised and saved"
LEAST_READABLE_PERCENT = 5  # of the parameters, embeddings and head aside

_INTEGERS = ("U8", "I8", "I16", "U16", "I32", "U32")
_AMOUNT_UNKNOWN = "the parameters are those of the packed numbers as stored"

Group = Mapping[str, TensorInfo]  # the tensors beside the codes, by what their names add to the weight's
ShapeOf = Callable[[TensorInfo, Group, Mapping[str, object]], "tuple[int, ...] | None"]


@dataclass(frozen=True)
class _Format:
    """How a format is told: what stands behind the module's name for the codes, and for what comes with them."""

    title: str
    codes: str
    beside: tuple[str, ...]
    shape: ShapeOf
    weight: str = ".weight"  # what stands there unquantised
    needs: tuple[str, ...] = ()  # of `beside`: without one of these it is something else
    dtypes: tuple[str, ...] = _INTEGERS


def without_quantised(tensors: Sequence[TensorInfo], config: Mapping[str, object]) -> list[TensorInfo]:
    """The tensors, groups of a quantised format as one unread tensor each, and what came with the codes set aside."""
    announced = quantization(config)
    method = announced.get("quant_method")
    of_name = {tensor.name: tensor for tensor in tensors}
    replaced: dict[str, TensorInfo] = {}
    for tensor in tensors:
        for known in _FORMATS:
            if group := _group(tensor, known, of_name):
                replaced |= _one_for(tensor, known, group, announced)
                break
        else:
            if isinstance(method, str) and _is_unknown(tensor):
                replaced.setdefault(tensor.name, dataclasses.replace(tensor, unread=_unknown(method)))
    return [replaced.get(tensor.name, tensor) for tensor in tensors]


def unreadable(tensors: Iterable[TensorInfo]) -> str:
    """Why next to nothing of these can be compared; '' where something can. Embeddings, heads and norms, which
    quantised models keep, say little about an update."""
    parameters = [tensor for tensor in tensors if not why_no_parameter(tensor)]
    unread = [tensor for tensor in parameters if tensor.unread]
    inner = [t for t in parameters if not t.unread and canonical(t.name) not in (*HEADS, *EMBEDDINGS)]
    whole, readable = (sum(tensor.parameters for tensor in some) for some in (parameters, inner))
    if not unread or 100 * readable >= LEAST_READABLE_PERCENT * whole:
        return ""
    return max(unread, key=lambda tensor: tensor.parameters).unread


def _group(codes: TensorInfo, known: _Format, of_name: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors that lie beside `codes` if it is of this format, by suffix; empty if it is not."""
    if not codes.name.endswith(known.codes) or codes.dtype not in known.dtypes:
        return {}
    stem = codes.name.removesuffix(known.codes)
    beside = {suffix: of_name[stem + suffix] for suffix in known.beside if stem + suffix in of_name}
    return beside if any(suffix in beside for suffix in known.needs or known.beside) else {}


def _one_for(
    codes: TensorInfo, known: _Format, beside: Group, announced: Mapping[str, object]
) -> dict[str, TensorInfo]:
    """What the group becomes, by the names of its tensors."""
    shape = known.shape(codes, beside, announced)
    title = known.title
    if title == _GPTQ and announced.get("quant_method") in ("awq", "gptq"):
        title = str(announced["quant_method"]).upper()
    reason = f"quantised as {title}, which is not read" + ("" if shape else f"; {_AMOUNT_UNKNOWN}")
    name = codes.name.removesuffix(known.codes) + known.weight
    weight = dataclasses.replace(codes, name=name, shape=shape or codes.shape, unread=reason)
    aside = f"part of a weight quantised as {title}; {NO_PARAMETER}"
    return {codes.name: weight} | {t.name: dataclasses.replace(t, aside=aside) for t in beside.values()}


def _is_unknown(tensor: TensorInfo) -> bool:
    return tensor.dtype in _INTEGERS and not tensor.unread and not why_no_parameter(tensor)


def _unknown(method: str) -> str:
    shown = "".join(char for char in method[:40] if char.isalnum() or char in "-_. ")
    return f"quantised as '{shown}' (so config.json says), which is not read; {_AMOUNT_UNKNOWN}"


def _packed_in_words(codes: TensorInfo, beside: Group, announced: Mapping[str, object]) -> tuple[int, ...] | None:
    """GPTQ packs the inputs of (inputs, outputs) into 32-bit words, AWQ the outputs. The zero points, which both pack
    along the outputs, tell the bits; without them the config may."""
    zeros, scales = beside.get(".qzeros"), beside.get(".scales")
    if not scales or any(len(t.shape) != 2 or not t.parameters for t in (codes, scales)):
        return None
    outputs, said = scales.shape[1], announced.get("bits")
    if zeros and len(zeros.shape) == 2:
        bits, rest = divmod(32 * zeros.shape[1], outputs)
    else:
        bits, rest = (said if type(said) is int else 0), 0
    if rest or not 1 <= bits <= 8:
        return None
    return (outputs, codes.shape[0] * 32 // bits if codes.shape[1] == outputs else codes.shape[0])


def _in_words_of_config(codes: TensorInfo, _: Group, announced: Mapping[str, object]) -> tuple[int, ...] | None:
    """compressed-tensors packs a row's entries into 32-bit words; its config holds the bits, by group."""
    groups = announced.get("config_groups")
    bits = {_bits(group) for group in groups.values()} if isinstance(groups, Mapping) else set()
    if len(bits) != 1 or (n := bits.pop()) is None or len(codes.shape) < 2:
        return None
    return *codes.shape[:-1], codes.shape[-1] * 32 // n


def _bits(group: object) -> int | None:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
    return bits if type(bits) is int and 1 <= bits <= 8 else None


def _two_a_byte(codes: TensorInfo, _: Group, __: Mapping[str, object]) -> tuple[int, ...] | None:
    return (*codes.shape[:-1], 2 * codes.shape[-1]) if codes.shape else None


def _two_a_byte_in_a_column(codes: TensorInfo, _: Group, __: Mapping[str, object]) -> tuple[int, ...] | None:
    """bitsandbytes writes (bytes, 1), whatever the weight's shape: its own description of it is no plain tensor."""
    return (2 * codes.parameters,)


def _blocks_of_two_a_byte(codes: TensorInfo, _: Group, __: Mapping[str, object]) -> tuple[int, ...] | None:
    """MXFP4: (..., rows, groups, 16 bytes)."""
    return (*codes.shape[:-2], 2 * math.prod(codes.shape[-2:])) if len(codes.shape) > 2 else None


def _as_stored(codes: TensorInfo, _: Group, __: Mapping[str, object]) -> tuple[int, ...] | None:
    return codes.shape


def _not_known(_: TensorInfo, __: Group, ___: Mapping[str, object]) -> tuple[int, ...] | None:
    return None


_GPTQ = "GPTQ or AWQ"
_BNB = ".weight.quant_state.bitsandbytes__"
_FORMATS = (
    _Format("MXFP4", "_blocks", ("_scales",), _blocks_of_two_a_byte, weight="", dtypes=("U8",)),
    _Format(_GPTQ, ".qweight", (".qzeros", ".scales", ".g_idx"), _packed_in_words, needs=(".scales", ".qzeros")),
    _Format(
        "bitsandbytes 4-bit", ".weight",
        (".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map",
         f"{_BNB}nf4", f"{_BNB}fp4"),
        _two_a_byte_in_a_column, needs=(".weight.absmax",),
    ),
    _Format("bitsandbytes 8-bit", ".weight", (".SCB", ".weight_format"), _as_stored, needs=(".SCB",)),
    _Format(
        "compressed-tensors, packed", ".weight_packed",
        (".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx"),
        _in_words_of_config, dtypes=("I32",),
    ),
    _Format(
        "NVFP4", ".weight_packed", (".weight_scale", ".weight_global_scale", ".input_global_scale"), _two_a_byte,
        dtypes=("U8",),
    ),
    _Format("NVFP4", ".weight", (".weight_scale", ".weight_scale_2", ".input_scale"), _two_a_byte,
            needs=(".weight_scale_2",), dtypes=("U8",)),
    _Format("8-bit integers with scales", ".weight", (".weight_scale", ".weight_scales", ".weight_zero_point"),
            _as_stored, needs=(".weight_scale", ".weight_scales"), dtypes=("I8",)),
    _Format("HQQ", ".W_q", (".scale", ".zero", ".meta", ".shape", ".nbits", ".group_size", ".axis", ".packing",
            ".view_as_float", ".unpack_view_dtype", ".quant_scale", ".quant_zero", ".channel_wise",
            ".compute_dtype", ".encoded_state_dict", ".offload_meta", ".optimize", ".round_zero",
            ".stores_quant_config"), _not_known, needs=(".scale", ".zero")),
    _Format("AQLM", ".codes", (".codebooks", ".scales"), _not_known, needs=(".codebooks",)),
)  # fmt: skip
