"""adapter_config.json -> Recipe: which kind of adapter it is, and what multiplies each module's product.

The file is a stranger's. What changes the arithmetic and is not known here is refused by its name, never passed over;
the rules are those of the library that writes these files (peft 0.21), given in docs/methods.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from analysis.errors import BadWeights, NoWeights
from analysis.labels import visible

Kind = Literal["lora", "adalora", "lokr", "loha", "ia3"]
V = TypeVar("V")

MERGE_IT = (
    "Merge it and compare the merged model: "
    "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)"
)
CONFIG_FILE = "adapter_config.json"

_KIND_OF_TYPE: dict[str, Kind] = {"LORA": "lora", "ADALORA": "adalora", "LOKR": "lokr", "LOHA": "loha", "IA3": "ia3"}
# What decides which modules were trained, and how: the tensors in the file already say it.
_WITHOUT_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "beta1", "beta2", "bias", "corda_config", "decompose_both",
    "decompose_factor", "deltaT", "ensure_weight_tying", "eva_config", "exclude_modules", "feedforward_modules",
    "inference_mode", "init_ia3_weights", "init_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "module_dropout",
    "modules_to_save", "orth_reg_weight", "peft_type", "peft_version", "qalora_group_size", "rank_dropout",
    "rank_dropout_scale", "revision", "runtime_config", "target_modules", "target_r", "task_type", "tfinal", "tinit",
    "total_step", "unsloth_fixed", "use_effective_conv2d",
})  # fmt: skip
_KNOWN = _WITHOUT_EFFECT | {
    "r", "init_r", "lora_alpha", "alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
    "init_lora_weights",
}  # fmt: skip
_STARTS_THAT_KEEP_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
_MAX_RANK = 1_000_000
_MAX_PATTERNS, _MAX_PATTERN, _MAX_REPEATS = 10_000, 300, 3


@dataclass(frozen=True)
class Recipe:
    """How the adapter's tensors become an update."""

    kind: Kind
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    root_of_rank: bool = False  # rsLoRA: alpha / sqrt(r)
    magnitudes: bool = False  # DoRA
    resized: frozenset[str] = frozenset()  # AdaLoRA: modules whose rank was set anew
    transposed: bool = False  # what the config says of weights that lie (in, out), as GPT-2's

    def rank_of(self, module: str) -> int:
        return _by_pattern(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        return _by_pattern(self.alpha_pattern, module, self.alpha)

    def scaling_of(self, module: str) -> float:
        """What multiplies the module's product. AdaLoRA divides by its rank at the start afterwards."""
        rank, alpha = self.rank_of(module), self.alpha_of(module)
        if self.kind == "adalora":
            return alpha
        return alpha / math.sqrt(rank) if self.root_of_rank else alpha / rank


def read_recipe(config: Mapping[str, object]) -> Recipe:
    """What the config says. Raises NoWeights for an adapter that is not compared, named with the reason, and BadWeights
    for a config that contradicts itself."""
    if not config:
        raise BadWeights(
            f"{CONFIG_FILE} is missing, or is no JSON object of at most 1 MB",
            expected="It says how the adapter's tensors are scaled",
            do="Choose another revision, or save the adapter again",
        )
    named = config.get("peft_type")
    kind = _KIND_OF_TYPE.get(named) if isinstance(named, str) else None
    if kind is None:
        raise _refused(f"of the kind {_quoted(named)}", "LoRA, DoRA, AdaLoRA, LoKr, LoHa and IA3 are")
    _refuse_what_changes_the_arithmetic(config)
    return Recipe(
        kind=kind,
        rank=_rank(config, kind),
        alpha=0.0 if kind == "ia3" else _number(config, "alpha" if kind in ("lokr", "loha") else "lora_alpha", 8),
        rank_pattern={} if kind == "adalora" else _pattern(config, "rank_pattern", _as_rank),
        alpha_pattern=_pattern(config, "alpha_pattern", _as_number),
        root_of_rank=_flag(config, "use_rslora"),
        magnitudes=_flag(config, "use_dora"),
        resized=_resized(config) if kind == "adalora" else frozenset(),
        transposed=_flag(config, "fan_in_fan_out"),
    )


def _refuse_what_changes_the_arithmetic(config: Mapping[str, object]) -> None:
    """A key that is not known and is switched off (null, false, empty) changes nothing."""
    for name, value in config.items():
        if value and name not in _KNOWN:
            raise _refused(f"with '{visible(name[:60])}' in its config", "Without it they are")
    start = config.get("init_lora_weights")
    if not any(start is known or (isinstance(known, str) and start == known) for known in _STARTS_THAT_KEEP_THE_BASE):
        raise _refused(
            f"that began as {_quoted(start)}, which changes the base's own weights",
            "Those that leave the base alone are",
        )


def _refused(what: str, which: str) -> NoWeights:
    return NoWeights(f"An adapter {what} is not compared", expected=which, do=MERGE_IT)


def _quoted(value: object) -> str:
    return f"'{visible(str(value)[:60])}'"


def _rank(config: Mapping[str, object], kind: Kind) -> int:
    if kind == "ia3":
        return 0
    name = "init_r" if kind == "adalora" else "r"
    return _as_rank(name, config.get(name, 12 if kind == "adalora" else 8))


def _as_rank(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_RANK:
        raise _bad(name, value, f"A whole number from 1 to {_MAX_RANK:,}")
    return value


def _number(config: Mapping[str, object], name: str, default: float) -> float:
    return _as_number(name, config.get(name, default))


def _as_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:
        raise _bad(name, value, "A number")
    return float(value)


def _flag(config: Mapping[str, object], name: str) -> bool:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(name, value, "true or false")
    return bool(value)


def _pattern(config: Mapping[str, object], name: str, read: Callable[[str, object], V]) -> dict[str, V]:
    """Amounts by regular expressions on the modules' names. Those that could take for ever are refused."""
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS:
        raise _bad(name, value, f"An object of at most {_MAX_PATTERNS:,} names with their values")
    for pattern in value:
        if len(pattern) > _MAX_PATTERN or re.search(r"\)\s*[*+{?]", pattern) or _repeats(pattern) > _MAX_REPEATS:
            raise _refused(f"whose '{name}' holds {_quoted(pattern)}", "Names and simple patterns are")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise _bad(name, pattern, "Regular expressions of module names") from error
    return {pattern: read(name, one) for pattern, one in value.items()}


def _resized(config: Mapping[str, object]) -> frozenset[str]:
    """The modules of AdaLoRA's own rank_pattern, 'module.lora_E' -> which ranks are left."""
    value = config.get("rank_pattern") or {}
    if not isinstance(value, dict) or not all(isinstance(kept, list) for kept in value.values()):
        raise _bad("rank_pattern", value, "An object of names with lists of true and false")
    return frozenset(name.removesuffix(".default").removesuffix(".lora_E") for name in value)


def _repeats(pattern: str) -> int:
    return sum(pattern.count(sign) for sign in "*+{")


def _by_pattern(values: Mapping[str, V], module: str, otherwise: V) -> V:
    """The value of the first pattern that the module's name ends with, at a dot."""
    return next((value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def _bad(name: str, value: object, expected: str) -> BadWeights:
    return BadWeights(
        f"'{visible(name)}' in {CONFIG_FILE} is {_quoted(value)}",
        expected=expected,
        do="Choose another revision, or save the adapter again",
    )
