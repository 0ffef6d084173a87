"""What a folder without readable weights holds instead, and what to do about it: from the names of its files alone.

Weights that lie in folders below, the pieces that training writes (each with the command that puts them together), and
formats of other kinds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from analysis.errors import NoWeights

_WEIGHTS_BELOW = re.compile(r"(?P<at>.+)/(?:[^/]+\.safetensors|pytorch_model(?:-\d{5}-of-\d{5})?\.bin)")
_MOST_LISTED = 8
_PICKLE = re.compile(r"pytorch_model[^/]*\.bin")
ALLOW_PICKLES = (
    "set SUBNETSCOPE_PICKLES=1 (--allow-pickles in the terminal), which lists their tensors and runs nothing"
)

# What else weights come in, by the end of the file's name; the first that is found names the reason.
_OTHER_FORMATS = {
    ".gguf": "GGUF files",
    ".bin": "PyTorch pickles (.bin), which can run code and are not opened",
    ".pt": "PyTorch pickles (.pt), which can run code and are not opened",
    ".pth": "PyTorch pickles (.pth), which can run code and are not opened",
    ".ckpt": "checkpoint files (.ckpt), which can run code and are not opened",
    ".h5": "TensorFlow files (.h5)",
    ".msgpack": "Flax files (.msgpack)",
    ".onnx": "ONNX files",
}


@dataclass(frozen=True)
class _Pieces:
    """A layout that training writes. `told_by` matches one of its files; its group 'at' is the folder that `do` names
    as {at}. Placed in order: the more special ones first."""

    title: str
    told_by: re.Pattern[str]
    do: str


_PIECES = (
    _Pieces(
        "verl's FSDP checkpoint, in pieces",
        re.compile(r"(?P<at>(?:.*/)?)model_world_size_\d+_rank_\d+\.pt"),
        "python -m verl.model_merger merge --backend fsdp --local_dir {at} --target_dir OUT",
    ),
    _Pieces(
        "verl's Megatron checkpoint, in pieces",
        re.compile(r"(?P<at>(?:.*/)?)dist_ckpt/[^/]+\.distcp"),
        "python -m verl.model_merger merge --backend megatron --local_dir {at} --target_dir OUT",
    ),
    _Pieces(
        "Megatron's checkpoint, in pieces",
        re.compile(r"(?P<at>(?:.*/)?(?:iter_\d+|release)/)(?:mp_rank_\d+(?:_\d+)*/[^/]+\.pt|[^/]+\.distcp)"),
        "",
    ),
    _Pieces(
        "Accelerate's FSDP checkpoint, in pieces",
        re.compile(r"(?P<at>(?:.*/)?pytorch_model_fsdp_\d+/)[^/]+\.distcp"),
        "accelerate merge-weights {at} OUT",
    ),
    _Pieces(
        "DeepSpeed's ZeRO checkpoint, in pieces",
        re.compile(r"(?P<at>(?:.*/)?)[^/]+/(?:(?:bf16_|fp16_)?zero_pp_rank_\d+_mp_|mp_)rank_\d+_\w+_states\.pt"),
        "python {at}zero_to_fp32.py {at} OUT --safe_serialization",
    ),
    _Pieces(
        "one step of DeepSpeed's ZeRO checkpoint, in pieces",
        re.compile(r"(?P<at>)(?:(?:bf16_|fp16_)?zero_pp_rank_\d+_mp_|mp_)rank_\d+_\w+_states\.pt"),
        "python zero_to_fp32.py . OUT --safe_serialization, in the folder above, which has that script",
    ),
    _Pieces(
        "a distributed checkpoint of PyTorch (DCP), in pieces",
        re.compile(r"(?P<at>(?:.*/)?)[^/]+\.distcp"),
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {at} OUT/pytorch_model.bin; then "
        f"{ALLOW_PICKLES}",
    ),
    _Pieces("a checkpoint of Orbax (JAX)", re.compile(r"(?P<at>(?:.*/)?)(?:_CHECKPOINT_METADATA|manifest\.ocdbt)"), ""),
)
_EXPORT = "Export it as a Hugging Face model with the framework that wrote it, and compare that"


def no_weights(names: Collection[str]) -> NoWeights:
    """Why there is nothing to read among these files (relative to the model's folder), and what to do."""
    if "adapter_model.bin" in names:
        return NoWeights(
            "This adapter is a PyTorch pickle (adapter_model.bin), which can run code and is not opened",
            expected="Adapters are read from adapter_model.safetensors",
            do="Merge it into its base model, and compare the merged model",
        )
    if any(_PICKLE.fullmatch(name) for name in names):
        return pickles_not_allowed()
    folders = {found["at"] for name in names if (found := _WEIGHTS_BELOW.fullmatch(name))}
    if folders:
        return NoWeights(
            f"The weights lie in folders: {_some(sorted(folders, key=_by_number))}",
            do="Put the folder's name behind the model's, with a '/'",
        )
    for pieces in _PIECES:
        places = {found["at"] for name in names if (found := pieces.told_by.fullmatch(name))}
        if places:
            return _of_pieces(pieces, sorted(places, key=_by_number))
    ends = {ending for name in names for ending in _OTHER_FORMATS if name.endswith(ending)}
    instead = next((text for ending, text in _OTHER_FORMATS.items() if ending in ends), "")
    return NoWeights(
        f"No safetensors weights here, only {instead}" if instead else "No safetensors weights here",
        expected="Models are read from .safetensors files only",
        do="Choose a revision or a repository that holds them, or convert the model",
    )


def pickles_not_allowed() -> NoWeights:
    return NoWeights(
        "No safetensors weights here, only PyTorch pickles (.bin), which can run code and are not opened",
        expected="Pickles are read only where the operator allows it",
        do=f"Choose a revision with safetensors; or, if this server is yours, {ALLOW_PICKLES}",
    )


def _of_pieces(pieces: _Pieces, places: list[str]) -> NoWeights:
    where = "" if places == [""] else f" (in {_some([place.rstrip('/') or '.' for place in places])})"
    command = pieces.do.format(at=places[-1] or "./")
    return NoWeights(
        f"No whole weights here, but {pieces.title}{where}",
        expected="Weights are read from whole files",
        do=f"Put them together with: {command}" if command else _EXPORT,
    )


def _by_number(folder: str) -> list[tuple[int, str]]:
    """'checkpoint-1000' after 'checkpoint-500'."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", folder)]


def _some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    rest = len(listed) - _MOST_LISTED
    return ", ".join(name[:120] for name in listed[:_MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")
